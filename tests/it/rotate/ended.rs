//! Nothing hangs on the node, and nothing stays there: programs whose time is over, sessions that are gone, a mark that
//! cannot be set.

use std::fs;
use std::process::{Command, Stdio};

use super::job::{Job, each_shell};
use crate::kit::node::Node;
use crate::kit::{Scratch, wait_until};

/// Processes of this machine, nodes' included, with this text in their arguments.
fn running(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(text) {
            found.push(arguments);
        }
    }
    found
}

/// A number of seconds that nobody else on this machine sleeps for.
fn own_number(offset: u32) -> String {
    format!("{}{offset}", 100_000 + std::process::id())
}

#[test]
fn a_check_whose_time_is_over_is_ended_with_all_its_children() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let mut job = Job::new(scratch);
        let sleep = own_number(1);
        // One that goes on in the background, one that is deaf, and one in a session of its own.
        let script = format!(
            "sleep {sleep} & (trap \"\" TERM; sleep {sleep}; sleep {sleep}) & setsid sleep {sleep} & sleep {sleep}"
        );
        let health = format!(", health: {{ command: [sh, -c, '{script}'], timeout: 1 }}");
        job.add("a", "/etc/secrets/a", &health);
        job.rotate().expect_code(1).expect_error("`sh` of `health` did not end within 1 s");
        assert_eq!(running(&format!("sleep {sleep}")), Vec::<String>::new());
        assert_eq!(job.states(&node), ["none"]);
        node.assert_clean();
    });
}

#[test]
fn a_program_whose_time_is_over_is_ended_with_all_its_children() {
    // The limit is 900 s: here the script's own `run` has a shorter one.
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/src/place/node/units.sh");
    for shell in [&["dash"][..], &["bash", "--posix"], &["busybox", "sh"]] {
        let scratch = Scratch::new();
        let sleep = own_number(2);
        let program = format!("'sh' '-c' 'sleep {sleep} & sleep {sleep}; true'");
        let script = format!(
            "set -C; set -f; had_locale=; state={}; . {units}; run \"$(printf %s \"$1\" | base64)\" 1; echo \
             \"hung=$hung\"",
            scratch.path().display()
        );
        let output = Command::new(shell[0]).args(&shell[1..]).args(["-c", &script, "sh", &program]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hung=yes\n", "{shell:?}: {output:?}");
        assert_eq!(running(&format!("sleep {sleep}")), Vec::<String>::new(), "{shell:?}");
    }
}

/// How many shells of the script run on a node, seen from outside.
fn shells(node: &Node) -> usize {
    let root = node.root.display().to_string();
    let is_ours = |entry: &fs::DirEntry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let at = fs::read_link(entry.path().join("root")).unwrap_or_default();
        arguments.contains("while read -r s") && at.display().to_string() == root
    };
    fs::read_dir("/proc").unwrap().flatten().filter(is_ours).count()
}

#[test]
fn the_script_ends_by_itself_when_the_session_is_gone() {
    // The node's own program stops where the session is to be cut: at the look, at the lock, and while values are
    // written.
    let text = "[ -e /srv/went ] || { : >/srv/went; until [ -e /srv/go ]; do sleep 0.1 || sleep 1; done; }";
    for program in ["stat", "flock", "chown"] {
        each_shell(|scratch, builder| {
            let node = builder.start(scratch);
            if program == "flock" && node.at("/usr/bin/busybox").exists() {
                // It has none.
                return;
            }
            let mut job = Job::new(scratch);
            job.add("a", "/etc/secrets/a", ", owner: 1000");
            // Much more than a pipe holds: not all of it is sent when the session goes.
            fs::write(scratch.join("values/big"), "x".repeat(4 << 20)).unwrap();
            let manifest = fs::read_to_string(scratch.join("secrets.yaml")).unwrap();
            let big = "  big: { path: /etc/secrets/big, from: 'file:values/big', owner: 1000 }\nhosts:";
            scratch.write("secrets.yaml", manifest.replace("hosts:", big));
            node.wrap_program(program, text);
            let mut run = Command::new(env!("CARGO_BIN_EXE_deaddrop"))
                .args(["rotate", "node1", "--ssh-config"])
                .arg(scratch.join("ssh/config"))
                .current_dir(scratch.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            wait_until("it never came so far", || node.at("/srv/went").exists());
            run.kill().unwrap();
            run.wait().unwrap();
            fs::write(node.at("/srv/go"), "").unwrap();
            wait_until("the script goes on without a session", || shells(&node) == 0);
            assert_eq!(job.states(&node), ["none"], "{program}");
            wait_until("something stays", || !node.at("/var/lib/deaddrop").exists());
            node.assert_clean();
        });
    }
}

#[test]
fn without_room_for_the_mark_the_old_files_come_back() {
    each_shell(|scratch, builder| {
        let node = builder.mounts("mount -t tmpfs -o mode=755,nr_inodes=20 tmpfs \"$root/var/lib\"\n").start(scratch);
        let mut job = Job::new(scratch);
        // Programs of the run take the rest of the inodes, but for fewer and fewer.
        let take = "i=0; while [ $i -lt 20 ]; do i=$((i + 1)); touch /var/lib/taken$i || break; done; exit 0";
        job.add("a", "/etc/secrets/a", &format!(", run_after: [[sh, -c, '{take}']]")).add("b", "/etc/secrets/b", "");
        fs::write(node.at("/etc/secrets/a"), "the old one").unwrap();
        let run = job.rotate().expect_code(1).expect_error("rolled back");
        run.expect_error("/var/lib/deaddrop/done, which says that the new files stay, cannot be written");
        assert_eq!(fs::read(node.at("/etc/secrets/a")).unwrap(), b"the old one");
        assert!(!node.at("/etc/secrets/b").exists());
        node.assert_clean();
    });
}

#[test]
fn a_disk_that_fails_to_sync_refuses_and_one_that_cannot_sync_single_files_does_not() {
    // (strerror(3) says it in the same words with every C library that is on such nodes, in the locale C.)
    for (words, code) in [("Input/output error", 1), ("Invalid argument", 0)] {
        for at in ["/etc/secrets/.deaddrop", "/var/lib/deaddrop"] {
            each_shell(|scratch, builder| {
                let node = builder.start(scratch);
                let mut job = Job::new(scratch);
                job.add("a", "/etc/secrets/a", "");
                job.rotate().expect_code(0);
                let fails = format!("echo \"sync: error syncing 'x': {words}\" >&2; exit 1");
                node.wrap_program("sync", &format!("case \"$PWD $*\" in *--*{at}* | *{at}*--*) {fails} ;; esac"));
                job.change_all().rotate().expect_code(code);
                assert_eq!(job.states(&node), [if code == 0 { "new" } else { "old" }], "{words} at {at}");
            });
        }
    }
}

#[test]
fn what_somebody_writes_while_units_are_watched_is_left_and_named() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        node.add_unit("a.service");
        let mut job = Job::new(scratch);
        job.add("a", "/etc/secrets/a", ", restart: a, settle: 0").add("b", "/etc/secrets/b", "");
        job.rotate().expect_code(0);
        node.on_restart(
            "a.service",
            "echo of somebody else >/etc/secrets/.new; mv /etc/secrets/.new /etc/secrets/b; exit 1",
        );
        let run = job.change_all().deaddrop(&["rotate", "node1", "--json"]).run().expect_code(1);
        let json = run.json();
        let warnings = json["hosts"][0]["warnings"].as_array().unwrap();
        let found = warnings.iter().find(|warning| warning["code"] == "DD503").expect("it is named");
        assert_eq!(found["secret"], "b");
        assert_eq!(fs::read(node.at("/etc/secrets/b")).unwrap(), b"of somebody else\n");
        let a = fs::read(node.at("/etc/secrets/a")).unwrap();
        assert!(job.planted.iter().any(|value| value.bytes() == a) && a != job.secrets[0].3.bytes());
        node.assert_clean();
    });
}

#[test]
fn without_flock_runs_that_meet_at_a_dead_runs_flag_are_never_inside_together() {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/src/place/node/lock.sh");
    for shell in [&["dash"][..], &["bash", "--posix"], &["busybox", "sh"]] {
        let scratch = Scratch::new();
        // A node that has no flock.
        let bin = scratch.join("bin");
        fs::create_dir(&bin).unwrap();
        for program in ["ln", "rm", "mkdir", "rmdir", "cat", "mv", "readlink", "sleep"] {
            std::os::unix::fs::symlink("/usr/bin/busybox", bin.join(program)).unwrap();
        }
        let script = format!(
            "say() {{ printf '%s\\n' \"$*\"; }}\nPATH={}\nset -f\nset -C\nstate=$1/deaddrop\n. {lock}\n\
             lock || exit 3\nmkdir $1/inside || exit 4\nsleep 0.0$(($$ % 10))\nrmdir $1/inside\n\
             [ \"$2\" != die ] || kill -9 $$\nunlock\n",
            bin.display()
        );
        for round in 0..2 {
            let directory = scratch.join(format!("round{round}"));
            fs::create_dir_all(directory.join("deaddrop.lock")).unwrap();
            // What two dead runs have left, one of them of another boot.
            for flag in ["4194304.1.x", "1.1.another-boot"] {
                std::os::unix::fs::symlink(".", directory.join("deaddrop.lock").join(flag)).unwrap();
            }
            let start = |how: &str| {
                let mut command = Command::new(if shell[0] == "busybox" { "/usr/bin/busybox" } else { shell[0] });
                command.args(&shell[1..]).args(["-c", &script, "sh"]).arg(&directory).arg(how);
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            };
            let mut runs: Vec<_> = ["die", "", "", "die"].into_iter().map(start).collect();
            let ends: Vec<Option<i32>> = runs.iter_mut().map(|run| run.wait().unwrap().code()).collect();
            assert_eq!(ends, [None, Some(0), Some(0), None], "{shell:?}");
        }
    }
}
