//! Limits, and input that is mutated at random.

use super::*;

/// A manifest of `count` secrets and `hosts` hosts; each host has one tag of its own and one common tag.
fn large(count: usize, hosts: usize) -> String {
    let mut text = String::from("version: 1\nsecrets:\n");
    for at in 0..count {
        let host = at.checked_rem(hosts).map_or(String::new(), |host| format!(", hosts: [node{host}, \"tag:all\"]"));
        writeln!(text, "  s{at}: {{ path: /etc/secrets/s{at}, from: env:S{at}, mode: \"0440\"{host} }}").unwrap();
    }
    text.push_str("hosts:\n");
    for at in 0..hosts {
        writeln!(text, "  node{at}: {{ ssh: root@10.0.0.1, tags: [all, t{at}] }}").unwrap();
    }
    text
}

#[test]
fn ten_thousand_secrets_are_read_and_one_more_is_refused() {
    for count in [9_999, 10_000] {
        assert_eq!(parse(&large(count, 0)).unwrap().secrets.len(), count);
    }
    let want = ["10003:3+6 over 10,000 secrets, the limit of a manifest"];
    assert_eq!(complaints(&large(10_001, 0)), want);
    assert_eq!(complaints(&large(200_000, 0)), want);
    // Also through an alias.
    let hosts: String = (0..10_001).map(|at| format!("  h{at}:\n")).collect();
    let text = format!("version: 1\nhosts: &x\n{hosts}secrets: *x\n");
    assert!(complaints(&text).iter().any(|line| line.ends_with("over 10,000 secrets, the limit of a manifest")));
}

#[test]
fn a_hundred_thousand_hosts_are_read_and_one_more_is_refused() {
    assert_eq!(parse(&large(10, 100_000)).unwrap().hosts.len(), 100_000);
    assert_eq!(complaints(&large(0, 100_001)), ["100004:3+10 over 100,000 hosts, the limit of a manifest"]);
}

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = String::from("version: 1\nhosts:\n  a0: &a0 { tags: [x, x, x, x, x, x, x, x, x] }\n");
    for at in 1..30 {
        let before = at - 1;
        writeln!(bomb, "  a{at}: &a{at} [{}]", vec![format!("*a{before}"); 9].join(", ")).unwrap();
    }
    // A long list, used many times: each use is valid, but the total exceeds the budget.
    let tags = vec!["t"; 50_000].join(", ");
    let mut wide = format!("version: 1\nhosts:\n  h: {{ tags: &t [{tags}] }}\n");
    (0..1_000).for_each(|at| writeln!(wide, "  h{at}: {{ tags: *t }}").unwrap());
    // The same with one long text.
    let mut long = format!("version: 1\nhosts:\n  h: {{ ssh: &s {} }}\n", "x".repeat(1 << 20));
    (0..10_000).for_each(|at| writeln!(long, "  h{at}: {{ ssh: *s }}").unwrap());
    for (bomb, want) in [
        (
            bomb,
            "a host is a mapping (ssh, tags, become, become_password, ssh_options, persist_root, allow), and this is a list",
        ),
        (wide, "aliases repeat over 2,000,000 keys and values, the limit of a manifest"),
        (long, "aliases repeat over 2,000,000 keys and values, the limit of a manifest"),
    ] {
        let complaints = complaints(&bomb);
        assert!(complaints.iter().any(|line| line.ends_with(want)), "{:?}", complaints.first());
    }
}

#[test]
fn mutated_manifests_never_panic() {
    // splitmix64 with a fixed seed, which is printed with the case that fails.
    let mut state: u64 = 4;
    let mut next = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below).unwrap()).unwrap()
    };
    let pieces = [
        "\n", "\t", " ", ":", "#", "'", "\"", "[", "]", "{", "}", "&a ", "*a", "- ", "|\n", ">-\n", "%", "@", "!x ",
        "~", "<<: ", "? ", "---\n", "...\n", "\u{0}", "\u{1b}", "\u{feff}", "鍵", "\r", "0400", "true", "value: x",
        "\\", ", ",
    ];
    for case in 0..3_000 {
        let mut text = FULL.to_owned();
        for _ in 0..=next(4) {
            let mut from = next(text.len());
            let mut to = (from + next(12)).min(text.len());
            while !text.is_char_boundary(from) {
                from -= 1;
            }
            while !text.is_char_boundary(to) {
                to -= 1;
            }
            let to = to.max(from);
            match next(3) {
                0 => text.replace_range(from..to, ""),
                1 => text.insert_str(from, pieces[next(pieces.len())]),
                _ => {
                    let copy = text[from..to].to_owned();
                    let at = text.len() / 2;
                    let at = (at..).find(|at| text.is_char_boundary(*at)).unwrap();
                    text.insert_str(at, &copy);
                }
            }
            if text.is_empty() {
                text.push('a');
            }
        }
        let result = std::panic::catch_unwind(|| parse(&text).map(|_| ()).map_err(|errors| errors.to_string()));
        let shown = result.unwrap_or_else(|_| panic!("case {case} panicked:\n{text}"));
        if let Err(shown) = shown {
            assert!(!shown.contains(['\u{1b}', '\u{0}', '\r', '\t']), "case {case}: {shown:?}");
        }
    }
}
