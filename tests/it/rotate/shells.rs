//! Whatever people's shells are, and whoever logs in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::job::{Job, assert_untouched, everything};
use crate::kit::canary::{Canary, search_files};
use crate::kit::node::{Node, NodeBuilder};
use crate::kit::{Scratch, tool};

/// Makes, leaves alone, replaces and rolls back with a node.
#[track_caller]
fn whole_life(scratch: &Scratch, node: &Node) {
    node.add_unit("a.service");
    let mut job = Job::new(scratch);
    job.add("one", "/etc/secrets/one", ", restart: a, settle: 0, health: { command: [test, -e, '/srv/it''s well'] }");
    job.add("two", "/srv/made here/$two", ", owner: admin, mode: '0440', run_after: [[touch, '/srv/a  b']]");
    fs::write(node.at("/srv/it's well"), "").unwrap();
    job.rotate().expect_code(0);
    job.assert_in_place(node);
    assert!(node.at("/srv/a  b").exists());
    let before = everything(node);
    job.rotate().expect_code(0).expect_error("node1   ✓ nothing to do");
    assert_untouched(node, &before);
    job.change_all().rotate().expect_code(0);
    job.assert_in_place(node);
    node.on_restart("a.service", "exit 1");
    job.change_all().rotate().expect_code(1).expect_error("1 failed and was rolled back");
    assert_eq!(job.states(node), ["old", "old"]);
    node.assert_clean();
}

#[test]
fn sh_may_be_bash() {
    let scratch = Scratch::new();
    whole_life(&scratch, &NodeBuilder::new("node1").shell("/usr/bin/bash").start(&scratch));
}

#[test]
fn sh_may_be_dash() {
    let scratch = Scratch::new();
    whole_life(&scratch, &NodeBuilder::new("node1").shell("/usr/bin/dash").start(&scratch));
}

#[test]
fn a_node_may_have_busybox_and_nothing_else() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").busybox().start(&scratch);
    assert!(!node.at("/usr/bin/flock").exists(), "this busybox has flock: the other lock is not tested");
    whole_life(&scratch, &node);
}

#[test]
fn people_may_log_in_with_fish() {
    let scratch = Scratch::new();
    whole_life(&scratch, &NodeBuilder::new("node1").login_shell("/usr/bin/fish").start(&scratch));
}

#[test]
fn people_may_log_in_with_csh() {
    let scratch = Scratch::new();
    whole_life(&scratch, &NodeBuilder::new("node1").login_shell("/usr/bin/bsd-csh").start(&scratch));
}

#[test]
fn what_a_login_shell_says_is_passed_over() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").login_shell("/bin/bash").sshd("Banner /etc/banner\n").start(&scratch);
    fs::write(node.at("/etc/banner"), "AUTHORIZED USE ONLY\n.\n=\nend done\n").unwrap();
    // bash reads this for a command of sshd; the last line has no end.
    let noise = "echo 'Welcome!'\nprintf 'm 0\\n.\\nrefused locked\\nend done\\n'\nhead -c 300000 /dev/urandom\n\
                 printf 'no end'\n";
    fs::write(node.at("/root/.bashrc"), noise).unwrap();
    whole_life(&scratch, &node);
}

/// An admin who may use sudo or doas.
fn admin(scratch: &Scratch, sudoers: &str, password: &str) -> Node {
    let node = NodeBuilder::new("node1").start(scratch);
    let write = |path: &str, text: &str, mode: u32| {
        fs::write(node.at(path), text).unwrap();
        fs::set_permissions(node.at(path), Permissions::from_mode(mode)).unwrap();
    };
    write("/etc/sudoers", &format!("Defaults logfile=/var/log/sudo.log,!fqdn\n{sudoers}\n"), 0o440);
    let hash = tool(std::process::Command::new("mkpasswd").args(["-m", "sha512crypt", password])).stdout;
    let hash = String::from_utf8_lossy(&hash).trim().to_owned();
    write("/etc/shadow", &format!("root:*:19000::::::\nadmin:{hash}:19000::::::\n"), 0o600);
    // Every second counts in a test: no pause after a wrong password.
    for service in ["sudo", "doas"] {
        write(
            &format!("/etc/pam.d/{service}"),
            "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n",
            0o644,
        );
    }
    node
}

fn job<'a>(scratch: &'a Scratch, keys: &str) -> Job<'a> {
    let mut job = Job::new(scratch);
    job.host(&format!("ssh: admin@node1{keys}"));
    job.add("one", "/etc/secrets/one", "").add("two", "/etc/secrets/two", "");
    job
}

/// Nothing that was planted stands anywhere on the node but in the secrets' own files.
#[track_caller]
fn assert_kept_secret(job: &Job<'_>, node: &Node) {
    let finds = search_files(&node.root, &job.planted);
    let others: Vec<&String> = finds.iter().filter(|find| !find.contains("/etc/secrets/")).collect();
    assert!(others.is_empty(), "{others:?}");
    let log = node.log();
    assert!(job.planted.iter().all(|canary| canary.found_in(log.as_bytes()).is_none()), "sshd logged a value");
}

#[test]
fn sudo_without_a_password() {
    let scratch = Scratch::new();
    let node = admin(&scratch, "admin ALL=(ALL) NOPASSWD: ALL", "x");
    let mut job = job(&scratch, ", become: sudo");
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
    job.change_all().rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_kept_secret(&job, &node);
    assert!(fs::read_to_string(node.at("/var/log/sudo.log")).unwrap().contains("COMMAND"));
}

#[test]
fn sudo_that_records_the_session_is_warned_of() {
    let scratch = Scratch::new();
    let rule = "admin ALL=(ALL) NOPASSWD: ALL";
    let node = admin(&scratch, rule, "x");
    let mut job = job(&scratch, ", become: sudo");
    let sudoers = |text: &str| {
        fs::write(
            node.at("/etc/sudoers"),
            format!("Defaults logfile=/var/log/sudo.log,!fqdn,iolog_dir=/tmp/io\n{text}\n"),
        )
        .unwrap();
    };
    let codes = |finished: &serde_json::Value| -> Vec<(String, bool)> {
        let host = finished.get("hosts").map_or(finished, |hosts| &hosts[0]);
        let warnings = host["warnings"].as_array().unwrap();
        warnings.iter().map(|one| (one["code"].as_str().unwrap().to_owned(), one["secret"].is_null())).collect()
    };
    for (text, what) in [
        (format!("Defaults log_output\n{rule}"), "`log_output` on"),
        (format!("Defaults:admin log_input\n{rule}"), "`log_input` on"),
        (
            "Defaults log_input,log_output\nDefaults:admin !log_input\nadmin ALL=(ALL) NOPASSWD: ALL".to_owned(),
            "`log_output` on",
        ),
        ("admin ALL=(ALL) NOPASSWD: LOG_INPUT: LOG_OUTPUT: ALL".to_owned(), "`log_input` and `log_output` on"),
    ] {
        sudoers(&text);
        for args in
            [&["plan", "@node1"][..], &["rotate", "node1", "--dry-run"], &["rotate", "node1"], &["verify", "@node1"]]
        {
            let finished = job.deaddrop(args).run().expect_code(0);
            assert!((finished.stdout() + &finished.stderr()).contains("DD601"), "{args:?}");
            let json = job.deaddrop(args).args(["--json"]).run().expect_code(0).json();
            let found = codes(&json);
            assert!(found.contains(&("DD601".to_owned(), true)) && json.to_string().contains(what), "{args:?}: {json}");
        }
        job.deaddrop(&["verify", "--all"]).run().expect_code(0).expect_output("DD601");
        job.change_all();
    }
    for text in [
        rule,
        "Defaults log_output\nDefaults:admin !log_output\nDefaults:root log_input\nadmin ALL=(ALL) NOPASSWD: ALL",
    ] {
        sudoers(text);
        let json = job.deaddrop(&["rotate", "node1", "--json"]).run().expect_code(0).json();
        assert_eq!(codes(&json), [], "{text}");
    }
    // With a password as well; and where sudo says nothing at all, nothing is warned of.
    scratch.write("password", "x");
    job.host("ssh: admin@node1, become: sudo, become_password: 'file:password'");
    sudoers("Defaults log_output\nadmin ALL=(ALL) ALL");
    job.change_all().rotate().expect_code(0).expect_error("DD601");
    job.assert_in_place(&node);
}

#[test]
fn sudo_with_a_password_from_a_source_also_where_it_is_not_wanted() {
    let scratch = Scratch::new();
    let password = Canary::new("password");
    let node = admin(&scratch, "admin ALL=(ALL) ALL", password.text());
    scratch.write("password", password.bytes());
    let mut job = job(&scratch, ", become: sudo, become_password: 'file:password'");
    job.planted.push(password.clone());
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
    // Not wanted: it must not become a line of the script, nor of a value.
    fs::write(node.at("/etc/sudoers"), "Defaults logfile=/var/log/sudo.log,!fqdn\nadmin ALL=(ALL) NOPASSWD: ALL\n")
        .unwrap();
    job.change_all().rotate().expect_code(0);
    job.assert_in_place(&node);
    // A ticket that is good for everybody and for ever.
    fs::write(
        node.at("/etc/sudoers"),
        "Defaults logfile=/var/log/sudo.log,!fqdn,timestamp_type=global,timestamp_timeout=-1\nadmin ALL=(ALL) ALL\n",
    )
    .unwrap();
    tool(
        std::process::Command::new("sh")
            .args(["-c", "ssh -F \"$1\" admin@node1 'sudo -S -p \"\" -v && sudo -n true' < \"$2\"", "sh"])
            .arg(scratch.join("ssh/config"))
            .arg(scratch.write("line", format!("{}\n", password.text()))),
    );
    job.change_all().rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_kept_secret(&job, &node);
}

#[test]
fn a_wrong_password_for_sudo_is_told_and_nothing_else_is_sent() {
    let scratch = Scratch::new();
    let (password, wrong) = (Canary::new("password"), Canary::new("wrong"));
    let node = admin(&scratch, "admin ALL=(ALL) ALL", password.text());
    scratch.write("password", wrong.bytes());
    let mut job = job(&scratch, ", become: sudo, become_password: 'file:password'");
    job.planted.push(wrong);
    job.rotate().expect_code(1).expect_error("sudo did not take the password");
    assert_eq!(job.states(&node), ["none", "none"]);
    // And none at all.
    job.host("ssh: admin@node1, become: sudo");
    job.rotate().expect_code(1).expect_error("sudo did not start a shell").expect_error("set `become_password`");
    // A user who may not.
    fs::write(node.at("/etc/sudoers"), "root ALL=(ALL) ALL\n").unwrap();
    scratch.write("password", password.bytes());
    job.host("ssh: admin@node1, become: sudo, become_password: 'file:password'");
    job.rotate().expect_code(1).expect_error("sudo");
    assert_kept_secret(&job, &node);
}

#[test]
fn doas_without_a_password() {
    let scratch = Scratch::new();
    let node = admin(&scratch, "", "x");
    let mut job = job(&scratch, ", become: doas");
    job.rotate().expect_code(1).expect_error("permit nopass");
    fs::write(node.at("/etc/doas.conf"), "permit nopass admin\n").unwrap();
    fs::set_permissions(node.at("/etc/doas.conf"), Permissions::from_mode(0o400)).unwrap();
    job.rotate().expect_code(0);
    job.change_all().rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_kept_secret(&job, &node);
}
