//! Units, programs, whether they are well, and the way back.

use std::fs;

use super::job::{Job, assert_untouched, everything};
use crate::kit::Scratch;
use crate::kit::node::NodeBuilder;

#[test]
fn each_unit_is_told_once_in_order_after_the_last_file_is_in_place() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    for unit in ["a.service", "b.service", "c.service", "d.service", "e.service"] {
        node.add_unit(unit);
    }
    node.add_unit_in_state("off.service", "inactive");
    node.add_unit_in_state("stopped.service", "inactive");
    // It sees both files, or fails.
    node.on_restart("a.service", "test -s /etc/secrets/one && test -s /etc/secrets/two");
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", ", restart: [b, a], reload: c, run_after: [[touch, '/srv/ran it']], settle: 1");
    job.add(
        "two",
        "/etc/secrets/two",
        ", restart: [a, stopped], try_restart: [d.service, off], reload: [c], settle: 0",
    );
    job.add("three", "/etc/secrets/three", ", restart: e, settle: 0");
    job.rotate().expect_code(0);
    let acts = [
        "restart -- b.service",
        "restart -- a.service",
        "reload -- c.service",
        "restart -- stopped.service",
        "try-restart -- d.service",
        "restart -- e.service",
    ];
    assert_eq!(node.acts(), acts);
    assert!(node.at("/srv/ran it").exists());
    job.assert_in_place(&node);

    // Nothing changed: nothing is told.
    node.forget_acts();
    let before = everything(&node);
    job.rotate().expect_code(0);
    assert_eq!(node.acts(), [""; 0]);
    assert_untouched(&node, &before);
    job.change("three").rotate().expect_code(0);
    assert_eq!(node.acts(), ["restart -- e.service"]);
}

#[test]
fn a_unit_that_fails_with_the_new_value_gets_the_old_one_back() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    node.add_unit("b.service");
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", ", restart: [a, b], run_after: [[sh, -c, 'echo x >> /srv/ran']], settle: 0");
    job.add("two", "/etc/secrets/two", "");
    job.rotate().expect_code(0);
    let old = fs::read(node.at("/etc/secrets/one")).unwrap();
    fs::copy(node.at("/etc/secrets/one"), node.at("/srv/good")).unwrap();
    node.on_restart("b.service", "cmp -s /srv/good /etc/secrets/one");
    fs::write(node.at("/srv/journal/b.service"), "one\nthe token is wrong\n").unwrap();
    node.forget_acts();
    job.change("one").add("new", "/etc/made/new", "");
    job.rotate()
        .expect_code(1)
        .expect_error("b.service could not be restarted: the old files are back")
        .expect_error("the token is wrong")
        .expect_error("1 failed and was rolled back");
    assert_eq!(job.states(&node), ["old", "new", "none"]);
    assert_eq!(fs::read(node.at("/etc/secrets/one")).unwrap(), old);
    assert!(!node.at("/etc/made").exists());
    assert_eq!(
        node.acts(),
        [
            "restart -- a.service",
            "restart -- b.service",
            "reset-failed -- a.service",
            "restart -- a.service",
            "reset-failed -- b.service",
            "restart -- b.service"
        ]
    );
    node.assert_clean();

    // With --no-rollback they stay, and that is no success.
    job.deaddrop(&["rotate", "node1", "--no-rollback"]).run().expect_code(4).expect_error("the new files stay");
    job.assert_in_place(&node);
}

#[test]
fn a_unit_that_dies_while_it_is_watched_is_noticed() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    node.add_unit("b.service");
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", ", restart: a, settle: 30");
    // It is active, and systemd has to start it again after a second.
    node.on_restart("a.service", "(sleep 1; sed -i s/NRestarts=0/NRestarts=1/ /srv/units/a.service) >/dev/null 2>&1 &");
    job.rotate().expect_code(1).expect_error("a.service ended after the change, and was started again");
    assert_eq!(job.states(&node), ["none"]);
    node.assert_clean();
}

#[test]
fn a_health_command_decides_where_there_is_one() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    let mut job = Job::new(&scratch);
    let health = |command: &str, timeout: u32| {
        format!(", restart: a, settle: 3000, health: {{ command: [sh, -c, '{command}'], timeout: {timeout} }}")
    };
    // It succeeds at its third try.
    job.add("one", "/etc/secrets/one", &health("echo >> /srv/tries; test $(wc -l < /srv/tries) -ge 3", 60));
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_eq!(fs::read(node.at("/srv/tries")).unwrap().len(), 3);
    job.with("one", &health("echo no luck; exit 7", 1)).change("one");
    job.rotate().expect_code(1).expect_error("`sh` of `health` did not succeed within 1 s").expect_error("no luck");
    assert_eq!(job.states(&node), ["old"]);
    job.with("one", &health("exec sleep 1000", 1));
    let run = job.rotate().expect_code(1);
    // Its sentence comes once, also if it printed nothing.
    assert_eq!(run.stderr().matches("`sh` of `health` did not end within 1 s").count(), 1, "{}", run.stderr());
    assert_eq!(job.states(&node), ["old"]);
    node.assert_clean();
}

#[test]
fn a_unit_that_goes_down_ends_the_wait_for_health_and_its_log_is_shown_beside_the_output() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    fs::write(node.at("/srv/journal/a.service"), "cannot read the new token\n").unwrap();
    let mut job = Job::new(&scratch);
    let health = |command: &str, timeout: u32| {
        format!(", restart: a, health: {{ command: [sh, -c, '{command}'], timeout: {timeout} }}")
    };
    // Two checks, of which the second fails.
    job.add("first", "/etc/secrets/first", ", health: { command: [\"true\"] }");
    job.add("one", "/etc/secrets/one", &health("echo connection refused; exit 1", 3600));
    // It is started, and ends at once.
    let dies = "(sleep 0.5; sed -i s/ActiveState=active/ActiveState=failed/ /srv/units/a.service) >/dev/null 2>&1 &";
    node.on_restart("a.service", dies);
    let run = job.rotate().expect_code(1);
    let run = run.expect_error("a.service is failed after the change, and `sh` of `health` does not succeed");
    let run = run.expect_error("last lines of its log:").expect_error("cannot read the new token");
    run.expect_error("last lines of the output of `health`:").expect_error("connection refused");
    assert_eq!(job.states(&node), ["none", "none"]);
    // One that is starting again may yet succeed: it is waited for, and its log is shown as well.
    node.on_restart("a.service", &dies.replace("=failed", "=activating"));
    job.with("one", &health("echo connection refused; exit 1", 3));
    let run = job.rotate().expect_code(1).expect_error("`sh` of `health` did not succeed within 3 s");
    let run = run.expect_error("last lines of its output:").expect_error("connection refused");
    run.expect_error("last lines of the log of a.service:").expect_error("cannot read the new token");
    node.assert_clean();
}

#[test]
fn a_program_that_fails_takes_the_files_back_and_runs_again_with_the_old_ones() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add(
        "one",
        "/etc/secrets/one",
        ", run_after: [[sh, -c, 'cat /etc/secrets/one > /srv/seen; test ! -e /srv/bad']]",
    );
    job.rotate().expect_code(0);
    fs::write(node.at("/srv/bad"), "").unwrap();
    let old = fs::read(node.at("/etc/secrets/one")).unwrap();
    job.change("one").rotate().expect_code(1).expect_error("`sh` of `run_after` ended with status 1");
    assert_eq!(fs::read(node.at("/srv/seen")).unwrap(), old);
    assert_eq!(job.states(&node), ["old"]);
    node.assert_clean();
}

#[test]
fn a_unit_that_is_not_there_is_named_before_anything_is_written() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    node.add_unit("a.service");
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", ", restart: [a, nope]");
    let before = everything(&node);
    job.rotate().expect_code(1).expect_error("there is no unit nope.service");
    job.deaddrop(&["rotate", "node1", "--dry-run"]).run().expect_code(1).expect_error("there is no unit nope.service");
    assert_untouched(&node, &before);
}

#[test]
fn a_node_without_systemd_takes_files_but_no_units() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").without_systemd().start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", ", restart: a");
    let before = everything(&node);
    job.rotate().expect_code(1).expect_error("it has no systemd, and the manifest names units");
    assert_untouched(&node, &before);
    job.with("one", ", run_after: [[touch, /srv/ran]]").rotate().expect_code(0);
    assert!(node.at("/srv/ran").exists());
}

#[test]
fn what_takes_more_than_a_file_is_warned_about() {
    let scratch = Scratch::new();
    let _node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("token", "/etc/secrets/token", ", kind: k3s-token");
    job.add("admin", "/etc/secrets/admin", ", hash: yescrypt, used_by: users.users.admin.hashedPasswordFile");
    job.deaddrop(&["rotate", "node1", "--dry-run"]).run().expect_code(0).expect_error("NX113").expect_error("DD501");
}
