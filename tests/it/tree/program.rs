//! A program that is given a tree in memory: what it sees, and what is left.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::{Case, listing};
use crate::kit::nixos::NixosRoot;
use crate::kit::{is_root, skipped_without_root, tool};

/// Does with the words what nixos-anywhere does with them, up to the machine: a tar of the tree, and the pairs for
/// `chown` through `pr`. They are left in $OUT, with what it has seen.
const STAND_IN: &str = r#"#!/bin/bash
set -eu
declare -A owners=()
tree=
while [[ $# -gt 0 ]]; do
  case $1 in
    --extra-files) tree=$2; shift 2 ;;
    --chown) owners["$2"]=$3; shift 3 ;;
    --flake) flake=$2; shift 2 ;;
    *) machine=$1; shift ;;
  esac
done
echo "$flake $machine"
stat -f -c %T "$tree" > "$OUT/seen"
stat -c %a "$tree" >> "$OUT/seen"
env > "$OUT/environment"
(umask 077; mkdir "$OUT/sent")
mount_point=$OUT/sent
tar -C "$tree" -cpf "$mount_point/tar" .
: > "$OUT/pairs"
if [[ ${#owners[@]} -gt 0 ]]; then
  printf '%s\n' "${!owners[@]}" "${owners[@]}" | pr -2t > "$OUT/pairs"
fi
"#;

/// What the machine that is installed does with both, as root.
fn arrive(case: &Case, target: &Path) {
    let tar = case.scratch.join("sent/tar");
    tool(Command::new("tar").arg("-C").arg(target).arg("-xf").arg(tar).arg("--no-same-owner"));
    tool(Command::new("chmod").arg("755").arg(target));
    let script = r#"while read file ownership; do chown -R "$ownership" "$1/$file"; done < "$2""#;
    tool(Command::new("bash").args(["-c", script, "-"]).arg(target).arg(case.scratch.join("pairs")));
}

/// The same manifest by `inject` into one root and by `tree` into another of the same system.
fn arrives_as_by_inject(as_nobody: bool) {
    let case = Case::new(
        "secrets:
  a: { path: /etc/secrets/a, from: env:A }
  b: { path: /var/lib/app/b, from: env:A, owner: admin, group: users, mode: \"0440\" }
  c: { path: /srv/own/c, from: env:A, owner: 7, group: 8, directory_owner: '7:8', directory_mode: '0750' }
hosts: { node1: {} }
",
    );
    let root = NixosRoot::new(&case.scratch);
    let target = NixosRoot::at(&case.scratch.join("target"));
    fs::set_permissions(target.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = case.program("nixos-anywhere", "");
    crate::kit::write_program(Path::new(&program), STAND_IN);
    let inject = crate::kit::run::Deaddrop::new(&case.scratch).args(["inject", "root", "--host", "node1"]);
    inject.env("A", case.value.text()).plant(&case.value).run().expect_code(0);
    let injected = listing(root.path());
    let words =
        ["--for", "nixos-anywhere", "--closure", "target", "--", &program, "--flake", ".#node1", "root@192.0.2.7"];
    let out = case.scratch.path().to_owned();
    let run = if as_nobody { case.tree_of_nobody(&words) } else { case.tree(&words) };
    let run = run.env("OUT", out).env("KEPT", "yes").run().expect_code(0);
    assert_eq!(run.stdout(), ".#node1 root@192.0.2.7\n", "what the program prints, and nothing else");
    assert_eq!(case.trees(), Vec::<std::path::PathBuf>::new(), "the tree is gone");
    assert_eq!(fs::read_to_string(case.scratch.join("seen")).unwrap(), "tmpfs\n700\n");
    let environment = fs::read_to_string(case.scratch.join("environment")).unwrap();
    assert!(environment.contains("KEPT=yes") && !environment.contains("\nA="), "what the manifest reads is not there");
    if is_root() && as_nobody {
        // The scratch directory was given away with both roots in it.
        tool(Command::new("chown").args(["-hR", "0:0"]).arg(target.path()));
    }
    arrive(&case, target.path());
    assert_eq!(listing(target.path()), injected);
}

#[test]
fn what_nixos_anywhere_brings_is_as_inject_would_have_made_it() {
    if skipped_without_root("giving files away") {
        return;
    }
    arrives_as_by_inject(false);
    arrives_as_by_inject(true);
}

#[test]
fn the_exit_code_is_the_programs_and_the_tree_is_wiped_whatever_it_is() {
    let case = Case::one("path: /etc/a");
    for (text, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("rm -rf \"$2\"", 1)]
    {
        let program = case.program("tool", &format!("test -r \"$2/etc/a\" || exit 99\n{text}\n"));
        let run = case.tree_of_nobody(&["--for", "nixos-anywhere", "--", &program]).run();
        if text.starts_with("rm") {
            // Nothing is left to wipe, and that is said.
            let run = run.expect_code(5);
            run.expect_error("the tree could not be wiped");
        } else {
            run.expect_code(code);
        }
        assert_eq!(case.trees().len(), 0, "{text}");
    }
    // What it leaves in the tree goes too, and what it made unwritable.
    let text =
        "mkdir \"$2/more\" && ln -s / \"$2/more/link\" && mkfifo \"$2/more/pipe\" && chmod 0 \"$2/more\" \"$2/etc\"";
    let program = case.program("tool", text);
    case.tree_of_nobody(&["--for", "nixos-anywhere", "--", &program]).run().expect_code(0);
    assert_eq!(case.trees().len(), 0);
    let run = case.tree(&["--for", "nixos-anywhere", "--", "no-such-program"]).unprivileged().run();
    run.expect_refusal("not there", 1, &["no-such-program: there is no such program", "is it installed, and in PATH?"]);
    let junk = case.scratch.write("junk", "#!/no/such/interpreter\n").display().to_string();
    fs::set_permissions(&junk, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let run = case.tree(&["--for", "nixos-anywhere", "--", &junk]).unprivileged().run();
    run.expect_code(1).expect_error(&format!("{junk}: not run")).expect_error("is it a program for this machine?");
    assert_eq!(case.trees().len(), 0);
}

#[test]
fn the_line_of_the_manual_runs_as_it_stands() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tree.md")).unwrap();
    let line = crate::kit::block_below(&page, "tree");
    let words = line.trim().strip_prefix("deaddrop tree ").expect("a line for a shell").split(' ');
    let case = Case::one("path: /etc/a, owner: admin, group: users");
    let root = NixosRoot::new(&case.scratch);
    std::os::unix::fs::symlink(root.host(root.toplevel()), case.scratch.join("result")).unwrap();
    fs::create_dir(case.scratch.join("bin")).unwrap();
    case.program("bin/nixos-anywhere", "echo \"$1 $2 $3 $4\"; shift 5; echo \"$@\"");
    let path = format!("{}:/usr/bin:/bin", case.path("bin"));
    let words: Vec<&str> = words.filter(|word| !["--host", "node1"].contains(word)).collect();
    let run = case.tree_of_nobody(&words).env("PATH", path).run().expect_code(0);
    let stdout = run.stdout();
    assert!(stdout.starts_with("--flake .#node1 root@192.0.2.7 --extra-files\n--chown /etc/a 1000:100\n"), "{stdout}");
}

#[test]
fn with_json_the_object_alone_is_on_standard_output() {
    let case = Case::one("path: /etc/a");
    let program = case.program("tool", "echo \"says $3\"");
    let run = case.tree_of_nobody(&["--json", "--for", "nixos-anywhere", "--", &program, "word"]).run().expect_code(0);
    let object = run.json();
    let tree = object["target"].as_str().unwrap();
    assert!(tree.starts_with(case.memory.path().to_str().unwrap()), "{tree}");
    assert_eq!(object["words"], serde_json::json!(["--extra-files", tree]));
    run.expect_error(&format!("says {tree}"));
}

#[test]
fn no_file_of_the_tree_is_on_a_disk() {
    // What forbids core dumps hides names from anybody else's strace, too.
    if skipped_without_root("reading names of a process that is not dumped") {
        return;
    }
    let case = Case::one("path: /etc/a");
    let run = case.tree_of_nobody(&["--for", "nixos-anywhere", "--", "true"]);
    let run = run.traced("open,openat,openat2,creat,mkdir,mkdirat").run().expect_code(0);
    let memory = case.memory.path().to_str().unwrap();
    let made: Vec<&str> = ["open", "openat", "openat2", "creat", "mkdir", "mkdirat"]
        .iter()
        .flat_map(|call| run.trace().calls(call))
        .filter(|line| ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TMPFILE", "mkdir"].iter().any(|word| line.contains(word)))
        .collect();
    assert!(made.iter().any(|line| line.contains("O_TMPFILE")), "the value was written somewhere");
    let elsewhere: Vec<&&str> =
        made.iter().filter(|line| !line.contains(memory) && !line.contains("\"/dev/null\"")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

#[test]
fn without_a_tmpfs_it_is_refused_before_a_value_is_read() {
    let case = Case::one("path: /etc/a");
    let run = case.tree_of_nobody(&["--for", "nixos-anywhere", "--", "true"]).tampered("fstatfs:error=ENOSYS").run();
    let texts = ["no tmpfs is here for the tree", "looked at", "/dev/shm", "XDG_RUNTIME_DIR"];
    run.expect_refusal("no tmpfs", 1, &texts);
    assert_eq!(case.trees().len(), 0);
}

#[test]
fn while_the_program_runs_deaddrop_has_no_value_in_its_memory() {
    if skipped_without_root("reading another process's memory") {
        return;
    }
    let case = Case::new("secrets:\n  a: { path: /etc/a, from: file:value }\nhosts: { node1: {} }\n");
    case.scratch.write_private("value", case.value.bytes());
    let program = case.program(
        "tool",
        "echo $PPID > parent.new\nmv parent.new parent\nfor i in $(seq 600); do test -e go && break; sleep 0.1; done",
    );
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let words = ["tree", "--host", "node1", "--for", "nixos-anywhere", "--", &program];
            let run = crate::kit::run::Deaddrop::new(&case.scratch).args(words).plant(&case.value);
            run.env("XDG_RUNTIME_DIR", case.memory.path()).run().expect_code(0)
        });
        crate::kit::wait_until("the program runs", || case.scratch.join("parent").exists());
        let parent = fs::read_to_string(case.scratch.join("parent")).unwrap();
        let (searched, found) = search_memory(parent.trim(), &case);
        case.scratch.write("go", "");
        run.join().unwrap();
        assert!(searched > 100_000, "{searched} bytes were searched");
        assert_eq!(found, Vec::<String>::new());
    });
}

/// Searches the writable memory of a process; gives the number of bytes, and the finds.
fn search_memory(process: &str, case: &Case) -> (usize, Vec<String>) {
    let memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let (mut searched, mut found) = (0, Vec::new());
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, rest) = line.split_once('-').unwrap();
        let at = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (at(start), at(rest.split(' ').next().unwrap()));
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            searched += bytes.len();
            found.extend(case.value.found_in(&bytes).map(|find| format!("{line}: {find}")));
        }
    }
    (searched, found)
}
