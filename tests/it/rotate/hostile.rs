//! Other users of the node, the owner of a directory first of all: a real process of another user tries in a tight
//! loop, for a bounded time, while runs go on. And what root's own login brings along.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::job::{Job, each_shell, mode_and_owner};
use crate::kit::node::Node;
use crate::kit::{Scratch, tool, write_program};

/// The user who tries.
const OTHER: u32 = 65534;

/// A process of another user, which ends with the test.
struct Racer(Child);

impl Racer {
    fn start(attack: &str, directory: &Path, victim: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/rotate/racer.py");
        let text = fs::read_to_string(program).unwrap();
        let id = OTHER.to_string();
        let mut child = Command::new("setpriv")
            .args([
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
                "--pdeathsig",
                "KILL",
                "/usr/bin/python3",
                "-c",
                &text,
            ])
            .arg(attack)
            .arg(directory)
            .args(["60", victim])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        // Byte by byte, so that nothing else of it is taken.
        let mut output = BufReader::with_capacity(1, child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child.stdout = Some(output.into_inner());
        Self(child)
    }

    /// Ends it; what it has read.
    fn end(mut self) -> String {
        let _ = self.0.kill();
        let mut read = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut read).unwrap();
        self.0.wait().unwrap();
        read
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory of the node that is another user's; the way there from outside must be open to him.
fn others_directory(scratch: &Scratch, node: &Node) -> std::path::PathBuf {
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    let directory = node.at("/srv/app");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(OTHER), Some(OTHER)).unwrap();
    directory
}

#[test]
fn an_owner_who_swaps_names_for_links_has_nothing_overwritten() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let directory = others_directory(scratch, &node);
        let mut job = Job::new(scratch);
        for number in 0..20 {
            job.add(&format!("s{number}"), &format!("/srv/app/s{number}"), ", owner: 65534, group: 65534");
        }
        job.rotate().expect_code(0);
        let victim = node.at("/srv/victim");
        for _ in 0..6 {
            fs::write(&victim, "root's own, important\n").unwrap();
            fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
            let racer = Racer::start("links", &directory, victim.to_str().unwrap());
            // It may be refused, which is the owner's own doing; it may not be told to be done where it is not.
            let run = job.change_all().rotate();
            racer.end();
            assert_eq!(fs::read(&victim).unwrap(), b"root's own, important\n", "{}", run.stderr());
            assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o7777, 0o600);
            if run.code() == Some(0) {
                assert!(job.states(&node).iter().all(|state| *state == "new"));
            }
            // What the owner has moved away with his own names is his to clear up.
            clear(&directory);
            let _ = fs::remove_dir_all(node.at("/var/lib/deaddrop"));
        }
    });
}

/// Takes away everything in a directory but the secrets.
fn clear(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            let path = entry.path();
            let _ = if entry.file_type().unwrap().is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

#[test]
fn an_owner_who_makes_fifos_or_reads_everything_gets_no_value_of_roots() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let directory = others_directory(scratch, &node);
        let mut job = Job::new(scratch);
        job.add("own", "/srv/app/own", ", owner: 65534, group: 65534");
        for number in 2..8 {
            job.add(&format!("roots{number}"), &format!("/srv/app/roots{number}"), "");
        }
        job.rotate().expect_code(0);
        for attack in ["fifos", "reads", "fifos", "reads"] {
            let racer = Racer::start(attack, &directory, "");
            let run = job.change_all().rotate();
            let read = racer.end();
            let roots = job.planted.iter().filter(|value| value.text().starts_with("roots"));
            for value in roots {
                assert!(value.found_in(read.as_bytes()).is_none(), "{attack}: {read}\n{}", run.stderr());
            }
            assert!(run.code() == Some(0) || run.code() == Some(1), "{attack}: {}", run.stderr());
            clear(&directory);
        }
    });
}

#[test]
fn a_fifo_in_the_place_of_a_file_stops_nobody() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let directory = others_directory(scratch, &node);
        let mut job = Job::new(scratch);
        job.add("own", "/srv/app/own", ", owner: 65534, group: 65534");
        job.add("set", "/srv/app/set", ", owner: 65534, group: 65534, mode: '0440'");
        job.rotate().expect_code(0);
        let racer = Racer::start("flips", &directory, "set");
        for at in 0..6 {
            let path = node.at("/srv/app/set");
            let _ = fs::set_permissions(&path, Permissions::from_mode(0o400));
            // Looking, and changing mode or content, while it is now a FIFO and now a file.
            match at % 2 {
                0 => job.deaddrop(&["verify", "@node1", "--timeout", "20"]).run(),
                _ => job.change("own").deaddrop(&["rotate", "node1", "--timeout", "20"]).run(),
            };
        }
        racer.end();
        clear(&directory);
        let path = node.at("/srv/app/set");
        if !fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) {
            let _ = fs::remove_file(&path);
        }
        // Nothing holds the lock.
        job.rotate().expect_code(0);
        job.assert_in_place(&node);
        assert_eq!(mode_and_owner(&node, "/srv/app/set"), (0o100_440, OTHER, OTHER));
    });
}

#[test]
fn what_a_default_acl_names_cannot_read_a_new_file() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
        let directory = node.at("/srv/app");
        fs::create_dir(&directory).unwrap();
        tool(Command::new("setfacl").args(["-d", "-m", "u:65534:r,o::-"]).arg(&directory));
        let mut job = Job::new(scratch);
        job.add("a", "/srv/app/a", ", mode: '0440'").add(
            "b",
            "/srv/app/below/b",
            ", mode: '0440', directory_mode: '0755'",
        );
        let racer = Racer::start("reads", &directory, "");
        let run = job.rotate();
        let read = racer.end();
        assert!(job.planted.iter().all(|value| value.found_in(read.as_bytes()).is_none()), "{read}");
        if node.at("/usr/bin/setfacl").exists() || !node.at("/usr/bin/busybox").exists() {
            run.expect_code(0);
            job.assert_in_place(&node);
            let acl = tool(Command::new("getfacl").arg("-cpn").arg(node.at("/srv/app/a"))).stdout;
            assert_eq!(String::from_utf8_lossy(&acl).trim(), "user::r--\ngroup::r--\nother::---");
        } else {
            run.expect_code(1).expect_error("does not get the mode that it is made with");
            assert_eq!(job.states(&node), ["none", "none"]);
            node.assert_clean();
        }
    });
}

#[test]
fn a_link_or_a_directory_of_the_owners_under_a_new_name_is_not_written_through() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let directory = others_directory(scratch, &node);
        let mut job = Job::new(scratch);
        job.add("own", "/srv/app/own", ", owner: 65534, group: 65534");
        // Between the look and the change: the node's own sync is slow, and somebody lays a link.
        let laid = directory.join("own");
        fs::create_dir(node.at("/srv/trap")).unwrap();
        node.wrap_program("sync", "[ -e /srv/app/own ] || ln -s /srv/trap /srv/app/own");
        job.rotate().expect_code(1).expect_error("/srv/app/own changed while");
        assert_eq!(fs::read_dir(node.at("/srv/trap")).unwrap().count(), 0);
        assert_eq!(fs::read_link(&laid).unwrap(), Path::new("/srv/trap"));
        node.assert_clean();
    });
}

#[test]
fn what_somebody_writes_up_to_the_exchange_is_kept() {
    let writes = ["echo mine >/etc/secrets/a", "echo mine >/etc/secrets/.n && mv /etc/secrets/.n /etc/secrets/a"];
    for write in writes {
        each_shell(|scratch, builder| {
            let node = builder.start(scratch);
            let mut job = Job::new(scratch);
            job.add("a", "/etc/secrets/a", "").add("b", "/etc/secrets/b", "");
            job.rotate().expect_code(0);
            // The second sync is that of the new files: after the comparison, before the first name changes.
            let at_the_second = format!("[ \"$(wc -l </srv/syncs)\" != 2 ] || {{ sleep 1.1 || sleep 2; {write}; }}");
            node.wrap_program("sync", &format!("echo x >>/srv/syncs\n{at_the_second}"));
            job.change_all().rotate().expect_code(1).expect_error("/etc/secrets/a changed while");
            assert_eq!(fs::read(node.at("/etc/secrets/a")).unwrap(), b"mine\n");
            assert_eq!(job.secrets.len(), 2);
            assert!(job.planted.iter().any(|value| value.bytes() == fs::read(node.at("/etc/secrets/b")).unwrap()));
            node.assert_clean();
        });
    }
}

#[test]
fn no_variable_of_the_login_gets_a_value_and_five_stay_for_programs() {
    each_shell(|scratch, builder| {
        let names = ["line", "rest", "script", "item_1", "nonce", "entry", "path", "state", "known"];
        let exported: String = names.iter().map(|name| format!(" {name}=exported")).collect();
        let sshd = format!("SetEnv TZ=Europe/Berlin LANG=de_DE.UTF-8 LC_ALL=C.UTF-8 OTHER=other{exported}\n");
        let node = builder.sshd(&sshd).start(scratch);
        fs::create_dir(node.at("/srv/seen")).unwrap();
        // A program of the script's own notes what it is given.
        node.wrap_program("chown", "cat /proc/$$/environ >>/srv/seen/environ");
        let mut job = Job::new(scratch);
        job.add("a", "/etc/secrets/a", ", owner: 1000");
        job.add(
            "b",
            "/etc/secrets/b",
            ", owner: 1000, run_after: [[sh, -c, 'cat /proc/$$/environ >/srv/seen/program; umask >/srv/seen/umask']]",
        );
        job.rotate().expect_code(0);
        job.assert_in_place(&node);
        let read = |name: &str| fs::read(node.at("/srv/seen").join(name)).unwrap();
        let environ = read("environ");
        assert!(job.planted.iter().all(|value| value.found_in(&environ).is_none()), "{environ:?}");
        assert!(!environ.windows(8).any(|at| at == b"exported"), "{}", String::from_utf8_lossy(&environ));
        let program = read("program");
        let mut given: Vec<String> =
            program.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
        given.retain(|entry| !entry.is_empty() && !entry.starts_with("PATH="));
        given.sort();
        assert_eq!(given, ["HOME=/root", "LANG=de_DE.UTF-8", "LC_ALL=C.UTF-8", "TZ=Europe/Berlin"]);
        assert_eq!(String::from_utf8_lossy(&read("umask")).trim().trim_start_matches('0'), "22");
    });
}

#[test]
fn no_program_of_anybody_elses_is_run_whatever_the_path_of_root_says() {
    each_shell(|scratch, builder| {
        let path = "SetEnv PATH=.:/srv/app:/srv/linked:/srv/below/bin:/srv/roots:/usr/bin:/bin\n";
        let node = builder.sshd(path).start(scratch);
        let directory = others_directory(scratch, &node);
        fs::create_dir_all(node.at("/srv/below/bin")).unwrap();
        chown(node.at("/srv/below"), Some(OTHER), Some(OTHER)).unwrap();
        symlink("/srv/app", node.at("/srv/linked")).unwrap();
        fs::create_dir(node.at("/srv/roots")).unwrap();
        for place in [directory.as_path(), &node.at("/srv/below/bin"), &node.at("/root"), &node.at("/srv/roots")] {
            for program in ["stat", "cat", "base64", "helper"] {
                let text = format!("#!/bin/sh\necho {program} >>/srv/ran\nexec /usr/bin/{program} \"$@\"\n");
                write_program(&place.join(program), &text);
            }
        }
        let mut job = Job::new(scratch);
        job.add("a", "/srv/app/a", ", run_after: [[sh, -c, 'echo \"$PATH\" >/srv/path']]");
        job.rotate().expect_code(0);
        assert!(!node.at("/srv/ran").exists(), "{:?}", fs::read_to_string(node.at("/srv/ran")));
        let path = fs::read_to_string(node.at("/srv/path")).unwrap();
        assert!(path.ends_with("/sbin:/bin:/srv/roots\n"), "{path}");
        assert!(path.starts_with("/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:"), "{path}");
    });
}

/// A program of the node's that runs Debian's of this name, and once the file /srv/armed is there something after it.
fn add_armed(node: &Node, program: &str, after: &str) {
    let text = format!(
        "#!/bin/sh\n/usr/bin/{program} \"$@\"\nstatus=$?\nif [ -e /srv/armed ]; then {after}; fi\nexit $status\n"
    );
    node.add_program(program, &text);
}

#[test]
fn a_file_that_grows_while_it_is_read_is_not_taken_for_the_next_one() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let mut job = Job::new(scratch);
        // His own files, in directories of root's: one before /etc/group and /etc/passwd, one behind them. Once their
        // sizes are known, the first gets what the two should hold, and the last is as much shorter: the sum is as it
        // was.
        let group = fs::read(node.at("/etc/group")).unwrap().len();
        let forged = format!("{}\nadmin:x:65534:65534::/:/bin/sh\n", "#".repeat(group - 1));
        fs::write(node.at("/srv/forged"), format!("0123456789{forged}")).unwrap();
        for (name, length) in [("/app-token", 10), ("/srv/token", 10 + forged.len())] {
            fs::write(node.at(name), "0123456789".repeat(100).get(..length).unwrap()).unwrap();
            fs::set_permissions(node.at(name), Permissions::from_mode(0o400)).unwrap();
            chown(node.at(name), Some(OTHER), Some(OTHER)).unwrap();
        }
        job.add("first", "/app-token", ", owner: 65534, group: 65534");
        job.add("last", "/srv/token", ", owner: 65534, group: 65534");
        job.add("admins", "/etc/secrets/admins", ", owner: admin");
        add_armed(&node, "stat", "cat /srv/forged >/app-token; printf 0123456789 >/srv/token");
        fs::write(node.at("/srv/armed"), "").unwrap();
        // Refused, or looked at again.
        let run = job.rotate();
        if run.code() == Some(0) {
            assert_eq!(mode_and_owner(&node, "/etc/secrets/admins").1, 1000);
        } else {
            assert!(!node.at("/etc/secrets/admins").exists());
        }
        fs::remove_file(node.at("/srv/armed")).unwrap();
        job.rotate().expect_code(0);
        job.assert_in_place(&node);
        assert_eq!(mode_and_owner(&node, "/etc/secrets/admins").1, 1000);
    });
}

#[test]
fn what_a_files_owner_writes_before_it_is_taken_from_him_is_not_in_the_new_file() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let mut job = Job::new(scratch);
        job.add("a", "/etc/secrets/a", "");
        job.rotate().expect_code(0);
        chown(node.at("/etc/secrets/a"), Some(OTHER), Some(OTHER)).unwrap();
        // As many bytes, and the time as it was.
        let evil = "n=$(/usr/bin/stat -c %s /etc/secrets/a); touch -r /etc/secrets/a /srv/time; head -c $n /dev/zero \
                    >/etc/secrets/a; \
                    touch -r /srv/time /etc/secrets/a; rm -f /srv/armed";
        // (Not at the lock, where there is no flock.)
        add_armed(&node, "ln", &format!("[ \"$1\" = -s ] || {{ {evil}; }}"));
        fs::write(node.at("/srv/armed"), "").unwrap();
        job.rotate().expect_code(0);
        assert!(!node.at("/srv/armed").exists(), "nothing was written");
        job.assert_in_place(&node);
        assert_eq!(mode_and_owner(&node, "/etc/secrets/a"), (0o100_400, 0, 0));
    });
}

#[test]
fn a_directory_that_goes_away_during_a_run_is_named_and_keeps_no_list_of_what_was_made() {
    each_shell(|scratch, builder| {
        let node = builder.start(scratch);
        let mut job = Job::new(scratch);
        job.add("other", "/etc/secrets/other", "");
        // One that the run makes itself: nothing old is in it.
        job.add("made", "/srv/made/a", ", run_after: [[sh, -c, 'rm -rf /srv/made']]");
        job.rotate();
        assert!(!node.at("/var/lib/deaddrop").exists());
        job.with("made", "").rotate().expect_code(0);
        job.assert_in_place(&node);
        // One that stood, and holds old values.
        job.with("made", ", run_after: [[mv, /srv/made, /srv/moved]]");
        job.change("made")
            .rotate()
            .expect_code(4)
            .expect_error("what is left of the run in /srv/made could not be removed");
        job.with("made", "");
        job.deaddrop(&["rotate", "node1", "--only", "other"])
            .run()
            .expect_code(1)
            .expect_error("/srv/made is not there");
        fs::rename(node.at("/srv/moved"), node.at("/srv/made")).unwrap();
        job.deaddrop(&["rotate", "node1", "--only", "other"]).run().expect_code(0).expect_error("DD502");
        job.assert_in_place(&node);
    });
}

#[test]
fn old_values_that_cannot_be_removed_are_told_and_removed_by_the_next_run() {
    each_shell(|scratch, builder| {
        let mounts = "mkdir -p \"$root/srv/d\"; mount -t tmpfs -o mode=755 tmpfs \"$root/srv/d\"\n";
        let node = builder.mounts(mounts).start(scratch);
        let mut job = Job::new(scratch);
        job.add("a", "/srv/d/a", "").add("other", "/etc/secrets/other", "");
        job.rotate().expect_code(0);
        job.with("a", ", run_after: [[mount, -o, 'remount,ro', /srv/d]]");
        job.change("a").rotate().expect_code(4).expect_error("what is left of the run in /srv/d could not be removed");
        job.with("a", ", run_after: [[sh, -c, 'ls -A /srv/d >/srv/left']]");
        let refused = job.deaddrop(&["rotate", "node1", "--only", "other"]).run().expect_code(1);
        assert!(refused.stderr().contains("/srv/d"), "{}", refused.stderr());
        job.with("other", ", run_after: [[sh, -c, 'ls -A /srv/d >/srv/left']]");
        // Somebody makes it writable again; here the node's own lock program does.
        node.wrap_program("stat", "if [ -e /srv/armed ]; then mount -o remount,rw /srv/d; rm -f /srv/armed; fi");
        fs::write(node.at("/srv/armed"), "").unwrap();
        job.change("other")
            .deaddrop(&["rotate", "node1", "--only", "other"])
            .run()
            .expect_code(0)
            .expect_error("DD502");
        assert_eq!(fs::read_to_string(node.at("/srv/left")).unwrap(), "a\n");
        node.assert_clean();
    });
}
