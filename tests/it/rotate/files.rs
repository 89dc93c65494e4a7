//! Files on one node: made, left alone, replaced, set right, removed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::job::{Job, assert_untouched, everything, mode_and_owner};
use crate::kit::Scratch;
use crate::kit::node::NodeBuilder;

#[test]
fn a_first_run_puts_files_in_place_and_the_next_one_writes_nothing() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("one", "/etc/secrets/one", "").add("two", "/srv/a/b/two", ", owner: admin, group: keys, mode: '0440'");
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_eq!(mode_and_owner(&node, "/etc/secrets/one"), (0o100_400, 0, 0));
    assert_eq!(mode_and_owner(&node, "/srv/a/b/two"), (0o100_440, 1000, 96));
    assert_eq!(mode_and_owner(&node, "/srv/a/b"), (0o040_711, 0, 0));
    assert_eq!(mode_and_owner(&node, "/srv/a"), (0o040_755, 0, 0));

    let before = everything(&node);
    job.rotate().expect_code(0).expect_error("node1   ✓ nothing to do");
    job.deaddrop(&["verify", "@node1"]).run().expect_code(0);
    assert_untouched(&node, &before);
}

#[test]
fn one_value_changed_touches_one_file_and_all_changed_touch_all() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    for name in ["a", "b", "c"] {
        job.add(name, &format!("/etc/secrets/{name}"), "");
    }
    job.rotate().expect_code(0);
    let inode = |name: &str| fs::metadata(node.at(&format!("/etc/secrets/{name}"))).unwrap().ino();
    let (a, b) = (inode("a"), inode("b"));
    job.change("b").rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_eq!(inode("a"), a);
    assert_ne!(inode("b"), b);
    job.change_all().rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_ne!(inode("a"), a);
}

#[test]
fn a_wrong_mode_or_owner_is_set_right_by_a_new_file() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "");
    job.rotate().expect_code(0);
    let path = node.at("/etc/secrets/a");
    let inode = fs::metadata(&path).unwrap().ino();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(96)).unwrap();
    job.deaddrop(&["verify", "@node1"]).run().expect_code(3).expect_output("mode 0644 → 0400");
    job.rotate().expect_code(0);
    assert_eq!(mode_and_owner(&node, "/etc/secrets/a"), (0o100_400, 0, 0));
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    job.assert_in_place(&node);
}

#[test]
fn a_directory_that_others_may_write_to_is_warned_about() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    fs::create_dir(node.at("/srv/app")).unwrap();
    std::os::unix::fs::chown(node.at("/srv/app"), Some(1000), Some(0)).unwrap();
    let mut job = Job::new(&scratch);
    job.add("a", "/srv/app/a", "").add("b", "/srv/app/b", ", owner: admin");
    let run = job.rotate().expect_code(0).expect_error("/srv/app belongs to admin, who can replace /srv/app/a");
    assert_eq!(run.stderr().matches("DD210").count(), 1, "{}", run.stderr());
}

#[test]
fn an_absent_file_goes_and_its_other_names_keep_their_content() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/secrets/a", "").add("b", "/etc/secrets/b", "");
    job.rotate().expect_code(0);
    fs::hard_link(node.at("/etc/secrets/b"), node.at("/root/b")).unwrap();
    let kept = fs::read(node.at("/root/b")).unwrap();
    scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, absent: true }\n  \
         b: { path: /etc/secrets/b, absent: true }\n  \
         c: { path: /etc/none/c, absent: true }\nhosts:\n  node1: { ssh: node1 }\n",
    );
    job.deaddrop(&["rotate", "node1"]).run().expect_code(0).expect_error("DD101");
    assert_eq!(job.states(&node), ["none", "none"]);
    assert_eq!(fs::read(node.at("/root/b")).unwrap(), kept);
    assert!(!node.at("/etc/none").exists());
    node.assert_clean();
}

#[test]
fn paths_and_values_of_any_kind_arrive_as_they_are() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let long = "n".repeat(255);
    let paths = [
        "/etc/secrets/with space ".to_owned(),
        "/etc/secrets/ 'quotes\" and $(touch x) `y` \\ *".to_owned(),
        "/etc/secrets/ÄÈ-ÿ-秘密-🔑".to_owned(),
        "/etc/secrets/-n".to_owned(),
        "/etc/secrets/-rf/--".to_owned(),
        format!("/etc/secrets/{long}"),
        "/etc/secrets/.".to_owned() + "deaddrop",
    ];
    let all: Vec<u8> = (0..=255).collect();
    let mut values: Vec<Vec<u8>> = vec![
        all.clone(),
        b"\0\0\0\n\n".to_vec(),
        b"\n.\ngo deaddrop\nend done\n".to_vec(),
        b"-n".to_vec(),
        (0..(1 << 20)).map(|at: u32| all[usize::try_from(at * 7 % 251).unwrap()]).collect(),
        vec![b'x'; 3072],
        Vec::new(),
    ];
    values.push(vec![b'\n'; 50_000]);
    let mut text = String::from("version: 1\nsecrets:\n");
    fs::create_dir(scratch.join("values")).unwrap();
    for (at, value) in values.iter().enumerate() {
        let path = paths.get(at).cloned().unwrap_or("/etc/secrets/last".into());
        let path = serde_json::to_string(&path).unwrap();
        text.push_str(&format!("  s{at}: {{ path: {path}, from: 'file:values/{at}', allow_empty: true }}\n"));
        scratch.write(format!("values/{at}"), value);
    }
    text.push_str("hosts:\n  node1: { ssh: node1 }\n");
    scratch.write("secrets.yaml", text);
    let job = Job::new(&scratch);
    job.deaddrop(&["rotate", "node1"]).run().expect_code(0);
    for (at, value) in values.iter().enumerate() {
        let path = paths.get(at).cloned().unwrap_or("/etc/secrets/last".into());
        assert_eq!(&fs::read(node.at(&path)).unwrap(), value, "{path}");
    }
    job.deaddrop(&["rotate", "node1"]).run().expect_code(0).expect_error("node1   ✓ nothing to do");
}

#[test]
fn links_on_the_way_are_followed_inside_the_node_and_what_stands_at_the_path_is_not() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/link/a", "");
    fs::create_dir(node.at("/srv/real")).unwrap();
    std::os::unix::fs::symlink("../srv/real", node.at("/etc/link")).unwrap();
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
    assert!(node.at("/srv/real/a").exists());

    fs::write(node.at("/srv/target"), "mine").unwrap();
    fs::remove_file(node.at("/srv/real/a")).unwrap();
    std::os::unix::fs::symlink("/srv/target", node.at("/srv/real/a")).unwrap();
    job.rotate().expect_code(1).expect_error("is a symbolic link");
    assert_eq!(fs::read(node.at("/srv/target")).unwrap(), b"mine");
    fs::remove_file(node.at("/srv/real/a")).unwrap();
    fs::create_dir(node.at("/srv/real/a")).unwrap();
    job.rotate().expect_code(1).expect_error("is a directory");
    fs::remove_dir(node.at("/srv/real/a")).unwrap();
    tool_mkfifo(&node.at("/srv/real/a"));
    job.rotate().expect_code(1).expect_error("is a FIFO");
    node.assert_clean();
}

fn tool_mkfifo(path: &std::path::Path) {
    crate::kit::tool(std::process::Command::new("mkfifo").arg(path));
}

#[test]
fn names_that_nixos_makes_at_boot_are_refused_on_a_node_too() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let store = node.at("/nix/store/aaa-etc/etc");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("managed"), "").unwrap();
    std::os::unix::fs::symlink("/nix/store/aaa-etc/etc", node.at("/etc/static")).unwrap();
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/managed", "");
    job.rotate().expect_code(1).expect_error("NX004");
    let mut job = Job::new(&scratch);
    job.add("a", "/etc/free", "");
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
}

#[test]
fn hundreds_of_secrets_go_in_one_session() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let mut job = Job::new(&scratch);
    // More than the node looks at, or gives one program, at once.
    for at in 0..230 {
        let directory = if at % 7 == 0 { "/srv/made" } else { "/etc/secrets" };
        job.add(&format!("s{at}"), &format!("{directory}/s{at}"), "");
    }
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
    job.rotate().expect_code(0).expect_error("node1   ✓ nothing to do");
    job.change_all().rotate().expect_code(0);
    job.assert_in_place(&node);
    assert_eq!(node.log().matches("Starting session").count(), 3, "one session a run");
}

#[test]
fn directories_below_a_home_are_its_users_and_a_users_link_is_not_followed() {
    let scratch = Scratch::new();
    let node = NodeBuilder::new("node1").start(&scratch);
    let home = fs::metadata(node.at("/home/admin")).unwrap();
    let mut job = Job::new(&scratch);
    job.add("key", "/home/admin/.config/app/key", ", owner: admin");
    job.add("asked", "/srv/app/asked", ", directory_owner: 'admin:96', directory_mode: '0750'");
    job.rotate().expect_code(0);
    job.assert_in_place(&node);
    let group = fs::metadata(node.at("/home/admin/.config")).unwrap().gid();
    assert_eq!(mode_and_owner(&node, "/home/admin/.config"), (0o040_700, 1000, group));
    assert_eq!(mode_and_owner(&node, "/home/admin/.config/app"), (0o040_700, 1000, group));
    assert_eq!(mode_and_owner(&node, "/srv/app"), (0o040_750, 1000, 96));
    assert_eq!(home.uid(), 1000);

    fs::create_dir(node.at("/srv/rootdir")).unwrap();
    fs::write(node.at("/srv/rootdir/key"), "of root").unwrap();
    fs::rename(node.at("/home/admin/.config/app"), node.at("/home/admin/.config/away")).unwrap();
    std::os::unix::fs::symlink("/srv/rootdir", node.at("/home/admin/.config/app")).unwrap();
    let run = job.change("key").rotate().expect_code(1);
    assert!(run.stderr().contains("/home/admin/.config/app -> /srv/rootdir is not followed"), "{}", run.stderr());
    assert_eq!(fs::read(node.at("/srv/rootdir/key")).unwrap(), b"of root");
}

#[test]
fn an_acl_on_the_way_to_a_link_is_asked_for_on_the_node() {
    for (busybox, entry, followed) in
        [(false, "u:1000:rwx", false), (false, "u:1000:rx", true), (true, "u:1000:rx", false)]
    {
        let scratch = Scratch::new();
        let builder = NodeBuilder::new("node1");
        let node = if busybox { builder.busybox() } else { builder }.start(&scratch);
        let mut job = Job::new(&scratch);
        job.add("key", "/srv/app/conf/key", "");
        fs::create_dir_all(node.at("/srv/app")).unwrap();
        std::os::unix::fs::symlink("/etc/secrets", node.at("/srv/app/conf")).unwrap();
        fs::set_permissions(node.at("/srv/app"), fs::Permissions::from_mode(0o775)).unwrap();
        crate::kit::tool(std::process::Command::new("setfacl").args(["-m", entry]).arg(node.at("/srv/app")));
        let run = job.rotate();
        // Where nothing can tell of ACLs, there may be one.
        assert_eq!(run.code(), Some(if followed { 0 } else { 1 }), "busybox: {busybox}, {entry}: {}", run.stderr());
    }
}
