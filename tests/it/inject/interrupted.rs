//! A disk on which a `rotate` was cut off: `plan` and `verify` tell it, `inject` finishes it in the same step, in an
//! image and in a directory alike.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use crate::kit::images::Image;
use crate::kit::mount::{assert_fsck_clean, debugfs, debugfs_write};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::tree::{Kind, Tree};
use crate::kit::{Scratch, is_root, tool};

const RUN: &str = "0123456789abcdef";
const MARK: &str = "fedcba9876543210";

/// A root with what a run has left, in `scratch/root`. Old values are `old NAME`, new ones `new NAME`. Inodes are
/// written as `@INODE@` until it is known in which file system the list is read.
struct Disk {
    scratch: Scratch,
    directories: Vec<String>,
    items: Vec<String>,
    written: String,
}

impl Disk {
    fn new() -> Self {
        assert!(is_root(), "run the tests as root: files are given away");
        let scratch = Scratch::new();
        let mut disk = Self { scratch, directories: Vec::new(), items: Vec::new(), written: String::new() };
        for directory in ["etc/secrets", "usr", "var/lib/deaddrop", "srv"] {
            fs::create_dir_all(disk.at(directory)).unwrap();
        }
        fs::set_permissions(disk.at("var/lib/deaddrop"), fs::Permissions::from_mode(0o700)).unwrap();
        disk.enter("/etc/secrets");
        disk.enter("/srv");
        disk
    }

    fn at(&self, path: &str) -> PathBuf {
        self.scratch.join("root").join(path.trim_start_matches('/'))
    }

    fn inode(&self, path: &str) -> u64 {
        fs::symlink_metadata(self.at(path)).unwrap().ino()
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.at(path), content).unwrap();
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o400)).unwrap();
    }

    /// The run's own directory in this one.
    fn own(directory: &str) -> String {
        format!("{directory}/.deaddrop-{RUN}")
    }

    /// A directory that the list tells of.
    fn enter(&mut self, directory: &str) {
        self.directories.push(format!("in @{}@ {directory}", self.inode(directory)));
    }

    /// The run's own name of a file: `n` its new one, `o` its old one. Their directory is made and marked.
    fn own_name(&self, path: &str, kind: &str) -> String {
        let (directory, name) = path.rsplit_once('/').unwrap();
        let own = Self::own(directory);
        if !self.at(&own).exists() {
            for made in [own.clone(), format!("{own}/n"), format!("{own}/o")] {
                fs::create_dir(self.at(&made)).unwrap();
                fs::set_permissions(self.at(&made), fs::Permissions::from_mode(0o700)).unwrap();
            }
            self.write(&format!("{own}/{MARK}"), "");
            self.write(&format!("{own}/probe"), "");
        }
        format!("{own}/{kind}/{name}")
    }

    fn item(&mut self, kind: char, more: &str, path: &str) {
        self.items.push(format!("{kind} {more} {path}"));
    }

    /// Notes how a new file is known.
    fn note(&mut self, path: &str) {
        let data = fs::metadata(self.at(path)).unwrap();
        self.written.push_str(&format!("@{}@:{}:{}\n", data.ino(), data.len(), data.mtime()));
    }

    /// A file that was replaced, or (`committed` false) that was to be.
    fn replaced(&mut self, name: &str, committed: bool) {
        let path = format!("/etc/secrets/{name}");
        self.write(&path, &format!("old {name}"));
        self.item('r', &format!("400 377 0 0 8 p 1:@{}@:8:1:1", self.inode(&path)), &path);
        fs::hard_link(self.at(&path), self.at(&self.own_name(&path, "o"))).unwrap();
        let new = self.own_name(&path, "n");
        self.write(&new, &format!("new {name}"));
        self.note(&new);
        if committed {
            fs::rename(self.at(&new), self.at(&path)).unwrap();
        }
    }

    /// A file that was made.
    fn created(&mut self, name: &str, committed: bool) {
        let path = format!("/etc/secrets/{name}");
        self.item('c', "400 377 0 0 8 p -", &path);
        let new = self.own_name(&path, "n");
        self.write(&new, &format!("new {name}"));
        self.note(&new);
        if committed {
            fs::hard_link(self.at(&new), self.at(&path)).unwrap();
        }
    }

    fn list(&self, done: bool, whole: bool) {
        let end = if whole { "end\n" } else { "" };
        let (directories, items) = (self.directories.join("\n"), self.items.join("\n"));
        self.write("var/lib/deaddrop/list", &format!("run {RUN}\nmark {MARK}\n{directories}\n{items}\n{end}"));
        self.write("var/lib/deaddrop/new", &self.written);
        self.write(if done { "var/lib/deaddrop/done" } else { "var/lib/deaddrop/mark" }, "");
    }

    /// The inodes of the root in its list.
    fn number(&self) {
        for name in ["list", "new"] {
            let path = format!("var/lib/deaddrop/{name}");
            let text = fs::read_to_string(self.at(&path)).unwrap();
            self.write(&path, &text.replace('@', ""));
        }
    }

    /// Declares one file that has nothing to do with the run, and these.
    fn declare(&self, names: &[&str]) {
        let more: String = names
            .iter()
            .map(|name| format!("  {name}: {{ path: /etc/secrets/{name}, from: 'file:value' }}\n"))
            .collect();
        self.scratch.write("value", "declared");
        self.scratch.write(
            "secrets.yaml",
            format!("version: 1\nsecrets:\n  other: {{ path: /etc/secrets/other, from: 'file:value' }}\n{more}"),
        );
    }

    fn run(&self, args: &[&str]) -> Finished {
        Deaddrop::new(&self.scratch).args(args).run()
    }

    /// The root as an image, with its inodes in the list; and the root's own in the root's.
    fn image(&self) -> Image {
        let path = self.scratch.join("root.img");
        let _ = fs::remove_file(&path);
        tool(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).args([&self.at(""), &path]).arg("20M"));
        let image = Image::new(&path, 0);
        let tree = Tree::of(&image);
        let numbers: HashMap<u64, u64> = tree
            .0
            .iter()
            .filter_map(|(path, node)| Some((fs::symlink_metadata(self.at(path)).ok()?.ino(), node.inode)))
            .collect();
        let mut script = String::new();
        for name in ["list", "new"] {
            let text = fs::read_to_string(self.at(&format!("var/lib/deaddrop/{name}"))).unwrap();
            let translated: String = text
                .split('@')
                .enumerate()
                .map(|(at, part)| match part.parse::<u64>() {
                    // One that is gone has a number that nothing has.
                    Ok(number) if at % 2 == 1 => numbers.get(&number).copied().unwrap_or(4_000_000).to_string(),
                    _ => part.to_owned(),
                })
                .collect();
            let file = self.scratch.write(name, &translated);
            script
                .push_str(&format!("rm /var/lib/deaddrop/{name}\nwrite {} /var/lib/deaddrop/{name}\n", file.display()));
        }
        debugfs_write(&image, &script);
        self.number();
        image
    }

    /// Injects into an image of the root and into the root, and hands each to `look`: what a path holds, none where
    /// nothing stands.
    #[track_caller]
    fn injected(&self, look: impl Fn(&str, &dyn Fn(&str) -> Option<String>, &Finished)) {
        let image = self.image();
        self.run(&["plan", "root.img"]).expect_code(0).expect_output("DD504");
        let verify = self.run(&["verify", "root.img", "--json"]).json();
        let codes = verify["warnings"].as_array().unwrap();
        assert!(codes.iter().any(|w| w["code"] == "DD504" && w["secret"].is_null()), "{verify}");
        let done = self.run(&["inject", "root.img"]).expect_code(0).expect_error("a rotate that was cut off was");
        assert_fsck_clean(&image);
        let tree = Tree::of(&image);
        let read = |path: &str| {
            let node = tree.0.get(path)?;
            match node.kind {
                Kind::File { .. } => Some(debugfs(&image, &[format!("cat {path}")]).concat()),
                _ => Some("a directory".to_owned()),
            }
        };
        look("image", &read, &done);
        let left: Vec<&String> = tree.0.keys().filter(|path| path.contains("deaddrop")).collect();
        assert!(left.is_empty(), "image: {left:?}");
        self.run(&["verify", "root.img"]).expect_code(0);
        let again = self.run(&["inject", "root.img"]).expect_code(0);
        assert!(!again.stderr().contains("DD504"), "{}", again.stderr());

        self.run(&["plan", "root"]).expect_code(0).expect_output("DD504");
        let done = self.run(&["inject", "root"]).expect_code(0).expect_error("a rotate that was cut off was");
        let read = |path: &str| match fs::metadata(self.at(path)) {
            Err(_) => None,
            Ok(data) if data.is_dir() => Some("a directory".to_owned()),
            Ok(_) => Some(fs::read_to_string(self.at(path)).unwrap()),
        };
        look("directory", &read, &done);
        let left: Vec<String> =
            Tree::of_directory(&self.at("")).0.keys().filter(|path| path.contains("deaddrop")).cloned().collect();
        assert!(left.is_empty(), "directory: {left:?}");
    }
}

#[test]
fn what_a_run_had_begun_is_taken_back_but_for_what_is_declared() {
    let mut disk = Disk::new();
    disk.replaced("committed", true);
    disk.replaced("begun", false);
    disk.replaced("declared", true);
    disk.created("made", true);
    disk.created("staged", false);
    disk.list(false, true);
    disk.declare(&["declared"]);
    disk.injected(|what, read, _| {
        for (name, want) in [
            ("committed", Some("old committed")),
            ("begun", Some("old begun")),
            ("declared", Some("declared")),
            ("made", None),
            ("staged", None),
            ("other", Some("declared")),
        ] {
            assert_eq!(read(&format!("/etc/secrets/{name}")).as_deref(), want, "{what}: {name}");
        }
    });
}

#[test]
fn a_run_that_had_come_to_its_end_is_cleared_up() {
    let mut disk = Disk::new();
    disk.replaced("committed", true);
    disk.created("made", true);
    disk.list(true, true);
    disk.declare(&[]);
    disk.injected(|what, read, done| {
        assert_eq!(read("/etc/secrets/committed").as_deref(), Some("new committed"), "{what}");
        assert_eq!(read("/etc/secrets/made").as_deref(), Some("new made"), "{what}");
        assert!(done.stderr().contains("its new files stay"), "{what}: {}", done.stderr());
    });
}

#[test]
fn a_file_that_somebody_has_written_since_is_left_and_named() {
    let mut disk = Disk::new();
    disk.replaced("a", true);
    disk.replaced("b", true);
    disk.list(false, true);
    fs::remove_file(disk.at("/etc/secrets/a")).unwrap();
    disk.write("/etc/secrets/a", "of somebody else");
    disk.declare(&[]);
    disk.injected(|what, read, done| {
        assert_eq!(read("/etc/secrets/a").as_deref(), Some("of somebody else"), "{what}");
        assert_eq!(read("/etc/secrets/b").as_deref(), Some("old b"), "{what}");
        assert!(done.stderr().contains("! DD503"), "{what}: {}", done.stderr());
    });
}

#[test]
fn modes_removed_files_and_directories_come_back_too() {
    let mut disk = Disk::new();
    // A file that got another mode and owner, by being replaced.
    disk.write("/etc/secrets/mode", "value");
    disk.item('r', &format!("440 337 5 6 5 = 1:@{}@:5:1:1", disk.inode("/etc/secrets/mode")), "/etc/secrets/mode");
    fs::rename(disk.at("/etc/secrets/mode"), disk.at(&disk.own_name("/etc/secrets/mode", "o"))).unwrap();
    disk.write("/etc/secrets/mode", "value");
    chown(disk.at("/etc/secrets/mode"), Some(5), Some(6)).unwrap();
    fs::set_permissions(disk.at("/etc/secrets/mode"), fs::Permissions::from_mode(0o440)).unwrap();
    disk.note("/etc/secrets/mode");
    disk.item('x', "0 - 0 0 - 0 1:@2@:3:4:4", "/etc/secrets/gone");
    disk.write(&disk.own_name("/etc/secrets/gone", "o"), "old gone");
    // What a program has made for a key, and had no time to take away.
    disk.item('c', "400 377 0 0 - g -", "/etc/secrets/key");
    disk.write(&format!("{}/key", Disk::own("/etc/secrets")), "a key");
    disk.write(&format!("{}/key.pub", Disk::own("/etc/secrets")), "its public part");
    disk.item('d', "700 - 0 0 - 0 -", "/srv/made");
    disk.item('d', "700 - 0 0 - 0 -", "/srv/made/deep");
    fs::create_dir_all(disk.at("/srv/made/deep")).unwrap();
    disk.item('c', "400 377 0 0 8 p -", "/srv/made/deep/file");
    disk.write(&disk.own_name("/srv/made/deep/file", "n"), "new");
    disk.item('d', "700 - 0 0 - 0 -", "/srv/used");
    fs::create_dir_all(disk.at("/srv/used")).unwrap();
    disk.write("/srv/used/by-somebody", "x");
    // Nothing was begun there.
    disk.item('d', "700 - 0 0 - 0 -", "/srv/to-make");
    disk.item('c', "400 377 0 0 8 p -", "/srv/to-make/file");
    disk.list(false, true);
    disk.declare(&[]);
    disk.injected(|what, read, done| {
        assert_eq!(read("/etc/secrets/gone").as_deref(), Some("old gone"), "{what}");
        assert_eq!(read("/srv/made"), None, "{what}");
        assert_eq!(read("/srv/to-make"), None, "{what}");
        assert_eq!(read("/srv/used/by-somebody").as_deref(), Some("x"), "{what}");
        assert!(!done.stderr().contains("DD503"), "{what}: {}", done.stderr());
    });
    let data = fs::metadata(disk.at("/etc/secrets/mode")).unwrap();
    assert_eq!((data.mode() & 0o7777, data.uid(), data.gid()), (0o400, 0, 0));
    let tree = Tree::of(&Image::new(disk.scratch.join("root.img"), 0));
    let data = tree.at("/etc/secrets/mode");
    assert_eq!((data.mode & 0o7777, data.uid, data.gid), (0o400, 0, 0));
}

#[test]
fn a_directory_without_the_runs_mark_goes_only_if_it_is_empty() {
    let mut disk = Disk::new();
    disk.replaced("a", true);
    let own = Disk::own("/etc/secrets");
    fs::remove_file(disk.at(&format!("{own}/{MARK}"))).unwrap();
    disk.item('c', "400 377 0 0 8 p -", "/srv/b");
    // One that was made, and not marked yet.
    fs::create_dir_all(disk.at(&format!("{}/n", Disk::own("/srv")))).unwrap();
    disk.list(false, true);
    disk.declare(&[]);
    disk.image();
    for target in ["root.img", "root"] {
        // What is in it is not the run's: it brings nothing back, and is not looked after.
        disk.run(&["inject", target]).expect_code(0).expect_error("/etc/secrets/a is neither the old nor the new");
    }
    let image = Tree::of(&Image::new(disk.scratch.join("root.img"), 0));
    for tree in [image, Tree::of_directory(&disk.at(""))] {
        assert!(tree.0.contains_key(&format!("{own}/o/a")) && !tree.0.contains_key(&Disk::own("/srv")));
        assert!(!tree.0.contains_key("/var/lib/deaddrop"));
    }
    assert_eq!(fs::read_to_string(disk.at("/etc/secrets/a")).unwrap(), "new a");
}

#[test]
fn names_in_a_directory_that_is_not_there_are_refused_until_they_are_given_up() {
    let mut disk = Disk::new();
    disk.replaced("here", true);
    // Another disk was mounted there; one stood where nothing is now; a file that is nowhere.
    fs::create_dir(disk.at("/srv/data")).unwrap();
    for (directory, more) in [("/srv/data", "r 400 377 0 0 8 p 1:7:8:1:1"), ("/srv/none", "c 400 377 0 0 8 p -")] {
        disk.directories.push(format!("in 4000001 {directory}"));
        disk.items.push(format!("{more} {directory}/file"));
    }
    disk.item('x', "0 - 0 0 - 0 1:7:3:4:4", "/srv/lost");
    disk.list(false, true);
    disk.declare(&[]);
    let image = disk.image();
    for target in ["root.img", "root"] {
        let before = (Tree::of_directory(&disk.at("")), crate::kit::sha256_of(&image.path));
        for command in ["plan", "verify", "inject"] {
            let texts = ["it cannot be finished here: /srv/data is another directory", "hint: ", "--forget-list"];
            disk.run(&[command, target]).expect_refusal(target, 1, &texts);
        }
        before.0.assert_same(&Tree::of_directory(&disk.at("")), false);
        assert_eq!(before.1, crate::kit::sha256_of(&image.path));
        let mut run = disk.run(&["inject", target, "--forget-list"]).expect_code(0);
        for said in [
            "/srv/data/file was given up: /srv/data is another directory",
            "/srv/none/file was given up: /srv/none, which it names, is not there",
            "/srv/lost was given up: neither /srv/lost nor what the run has kept of it is there",
            "taken back: 1 file is as before it; 3 names were given up",
        ] {
            run = run.expect_error(said);
        }
        disk.run(&["verify", target]).expect_code(0);
        // It is no error where there is none.
        disk.run(&["inject", target, "--forget-list"]).expect_code(0).expect_error("no rotate that was cut off");
    }
    assert_eq!(debugfs(&image, &["cat /etc/secrets/here".to_owned()]).concat(), "old here");
    assert_eq!(fs::read_to_string(disk.at("/etc/secrets/here")).unwrap(), "old here");
}

#[test]
fn a_list_without_an_end_is_forgotten_and_one_that_is_not_ours_is_refused() {
    let mut disk = Disk::new();
    disk.replaced("a", false);
    disk.list(false, false);
    // Before the list is whole nothing of the run is made: what looks like it is not touched.
    fs::remove_dir_all(disk.at(&Disk::own("/etc/secrets"))).unwrap();
    disk.declare(&[]);
    disk.injected(|what, read, _| assert_eq!(read("/etc/secrets/a").as_deref(), Some("old a"), "{what}"));

    for (name, list, owner, want) in [
        ("another's", "run 0a\nmark 0b\nend\n", 1000, "is not root's"),
        ("no line of ours", "run 0a\nmark 0b\nr 400\nend\n", 0, "line 3 is none of ours"),
        (
            "a path with steps up",
            "run 0a\nmark 0b\nin 1 /etc\nr 400 377 0 0 8 p 1:2:3:4 /etc/../x\nend\n",
            0,
            "line 4 is none",
        ),
        ("a directory with steps up", "run 0a\nmark 0b\nin 1 /etc/..\nend\n", 0, "line 3 is none of ours"),
        ("a name with a slash", "run ../x\nmark 0b\nend\n", 0, "the run has no name"),
        ("a mark with a slash", "run 0a\nmark ../x\nend\n", 0, "the run has no name"),
        (
            "no directory",
            "run 0a\nmark 0b\nr 400 377 0 0 8 p 1:2:3:4 /etc/x\nend\n",
            0,
            "does not tell of the directory /etc",
        ),
    ] {
        let disk = Disk::new();
        disk.write("var/lib/deaddrop/list", list);
        chown(disk.at("var/lib/deaddrop/list"), Some(owner), Some(0)).unwrap();
        disk.declare(&[]);
        let before = Tree::of_directory(&disk.at(""));
        for command in ["plan", "verify", "inject"] {
            disk.run(&[command, "root"]).expect_refusal(
                name,
                1,
                &["a `rotate` that was cut off has left its list", want],
            );
        }
        before.assert_same(&Tree::of_directory(&disk.at("")), false);
    }
}

#[test]
fn an_old_value_of_a_run_that_was_cut_off_is_nowhere_afterwards() {
    let mut disk = Disk::new();
    disk.replaced("committed", true);
    disk.created("made", true);
    disk.list(false, true);
    disk.declare(&["committed"]);
    disk.injected(|what, _, _| {
        if what == "image" {
            let bytes = fs::read(disk.scratch.join("root.img")).unwrap();
            for value in ["old committed", "new committed", "new made"] {
                let found = memchr::memmem::find(&bytes, value.as_bytes());
                assert_eq!(found, None, "{value}");
            }
        }
    });
}
