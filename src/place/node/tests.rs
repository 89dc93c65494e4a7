//! Surveys of hostile nodes: bounded in time and memory.

use std::time::Instant;

use super::*;
use deaddrop_core::path::TargetPath;

/// Answers surveys: `at(path)` returns the target of a link, or nothing for a directory.
const HOSTILE: &str = r#"echo; echo "$nonce hello"; echo .; exec busybox awk '
    function told(  i) {
        for (i = 0; i < n; i++) if (to[i] != "") print "l " i " " to[i]
        print "="
        for (i = 0; i < n; i++) {
            if (to[i] != "") print "a1ff 0 0 9 1 1 1 1 1"
            else if (size[i] != "") print "8100 0 0 " size[i] " 1 1 1 1 1"
            else print "41ed 0 0 9 2 1 1 1 1"
        }
        print ","
        n = 0
    }
    function many(text, times,  all) { while (times-- > 0) all = all text; return all }
    $0 == "survey" { next }
    $0 == "writers" { w = 1; next }
    $0 == "." { if (!w) told(); w = 0; print "."; fflush(); next }
    w { print "no"; next }
    { path = $2; size[n] = ""; to[n] = at(path); n++; if (n == 100) told() }
    function next_of(path) { sub(/.*[a-z]/, "", path); return path + 1 }
    function at(path) { AT }'
"#;

/// This many secrets, at the paths of `place`.
fn wanted(count: usize, place: impl Fn(usize) -> String) -> Vec<Wanted> {
    let one = |number| Wanted {
        path: TargetPath::parse(&place(number)).unwrap(),
        read_limit: 100,
        is_password: false,
        key: None,
    };
    (0..count).map(one).collect()
}

/// Surveys a node whose links are those of `at`.
fn survey_with(at: &str, wanted: &[Wanted]) -> Result<Survey, StorageError> {
    let login = Login::here(Duration::from_secs(60));
    let session = Session::start(&login, &HOSTILE.replace("AT", at)).unwrap();
    let (tree, on_contact) = (NodeTree::default(), || {});
    let mut node = NodePlace {
        session,
        login,
        tree,
        on_contact: &on_contact,
        greeted: false,
        loaded: false,
        unfinished: false,
        changed: None,
        makes_keys: false,
        persist_root: None,
        mounts: None,
        reads_system: false,
        knows_host_keys: false,
        system_tree: None,
        runs_tokens: false,
    };
    node.survey_paths(wanted).unwrap()
}

#[test]
fn ten_thousand_files_behind_links_of_a_system_are_found() {
    let links = r#"if (path == "/srv/secrets.d") return "/srv/now/secrets.d"
        if (path == "/srv/now") return "/persist/0123456789abcdfghijklmnpqrsvwxyz-srv/srv"
        if (path ~ /-srv.srv.secrets.d$/) return "/var/lib/a/place/of/secrets/that/is/not/so/short"
        if (path ~ /value$/) size[n] = 0"#;
    let wanted = wanted(10_000, |number| format!("/srv/secrets.d/service-{}/secret-{number}/value", number % 100));
    let survey = survey_with(links, &wanted).unwrap();
    let refused = survey.places.iter().find_map(|place| place.as_ref().err());
    assert!(refused.is_none(), "{refused:?}");
}

fn most_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn a_node_of_endless_links_is_refused_soon_and_costs_little() {
    let wanted = wanted(40, |number| format!("/s{number}/secrets/file"));
    for (name, at) in [
        (
            "new directories",
            r#"if (path ~ /(secrets|l[0-9]+)$/) return "/n" next_of(path) many("/a", 1000) "/l" next_of(path)"#,
        ),
        (
            "directories of its own for each secret",
            r#"if (path ~ /(secrets|l[0-9]+)$/) return substr(path, 1, 3) many("/a", 1900) "/l" next_of(path)"#,
        ),
        ("known directories", r#"if (path ~ /(secrets|l[0-9]+)$/) return many("/a", 1900) "/l" next_of(path)"#),
        ("back and forth", r#"if (path ~ /(secrets|l[0-9]+)$/) return "/" many("a/../", 800) "l" next_of(path)"#),
        (
            "long names",
            r#"if (path ~ /(secrets|l[0-9]+)$/) return "/" many("x", 200) many("/./", 1200) "l" next_of(path)"#,
        ),
        ("long users", r#"if (path == "/etc/passwd") size[n] = 2000000"#),
    ] {
        let (before, start) = (most_memory(), Instant::now());
        let surveyed = survey_with(at, &wanted);
        let (took, cost) = (start.elapsed(), most_memory().saturating_sub(before));
        eprintln!("{name}: {took:?}, {cost} bytes");
        match surveyed {
            // More than forty links.
            Ok(survey) => assert!(survey.places.iter().all(Result::is_err), "{name}"),
            Err(error) => {
                assert!(format!("{error:?}").contains("more than deaddrop follows"), "{name}: {error:?}");
            }
        }
        // Twice what is promised: tests are not optimised, and others run in parallel.
        assert!(cost < 32 << 20 && took < Duration::from_secs(60), "{name}: {cost} bytes, {took:?}");
    }
}
