//! A disk on which a `rotate` was cut off: `plan` and `verify` tell it, `inject` finishes it in the same step, in an image and in a
//! directory alike.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::images::Image;
use crate::common::mount::{assert_fsck_clean, debugfs};
use crate::common::run::{Deaddrop, Finished};
use crate::common::tree::{Kind, Tree};
use crate::common::{Scratch, is_root, tool};

const RUN: &str = "0123456789abcdef";

/// A root with what a run has left, in `scratch/root`. Old values are `old NAME`, new ones `new NAME`.
struct Disk {
    scratch: Scratch,
    items: Vec<String>,
    written: String,
}

impl Disk {
    fn new() -> Self {
        assert!(is_root(), "run the tests as root: files are given away");
        let disk = Self { scratch: Scratch::new(), items: Vec::new(), written: String::new() };
        for directory in ["etc/secrets", "usr", "var/lib/deaddrop", "srv"] {
            fs::create_dir_all(disk.at(directory)).unwrap();
        }
        fs::set_permissions(disk.at("var/lib/deaddrop"), fs::Permissions::from_mode(0o700)).unwrap();
        disk
    }

    fn at(&self, path: &str) -> PathBuf {
        self.scratch.join("root").join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.at(path), content).unwrap();
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o400)).unwrap();
    }

    /// The name of a file of the run beside item `number`.
    fn beside(number: usize, letter: char) -> String {
        format!("etc/secrets/.deaddrop-{RUN}-{number}{letter}")
    }

    fn item(&mut self, kind: char, more: &str, path: &str) -> usize {
        self.items.push(format!("{kind} {more} {path}"));
        self.items.len()
    }

    /// Notes how a new file is known.
    fn note(&mut self, path: &Path) {
        let data = fs::metadata(path).unwrap();
        self.written.push_str(&format!("{}:{}:{}\n", data.ino(), data.len(), data.mtime()));
    }

    /// A file that was replaced, or (`committed` false) that was to be.
    fn replaced(&mut self, name: &str, committed: bool) {
        let path = format!("/etc/secrets/{name}");
        self.write(&path, &format!("old {name}"));
        let inode = fs::metadata(self.at(&path)).unwrap().ino();
        let number = self.item('r', &format!("400 377 0 0 8 p 1:{inode}:8:1"), &path);
        fs::hard_link(self.at(&path), self.at(&Self::beside(number, 'o'))).unwrap();
        let new = self.at(&Self::beside(number, 'n'));
        self.write(&Self::beside(number, 'n'), &format!("new {name}"));
        self.note(&new);
        if committed {
            fs::rename(new, self.at(&path)).unwrap();
        }
    }

    /// A file that was made.
    fn created(&mut self, name: &str, committed: bool) {
        let path = format!("/etc/secrets/{name}");
        let number = self.item('c', "400 377 0 0 8 p -", &path);
        let new = self.at(&Self::beside(number, 'n'));
        self.write(&Self::beside(number, 'n'), &format!("new {name}"));
        self.note(&new);
        if committed {
            fs::hard_link(new, self.at(&path)).unwrap();
        }
    }

    fn list(&self, done: bool, whole: bool) {
        let end = if whole { "end\n" } else { "" };
        let list = format!("run {RUN}\n{}\n{end}", self.items.join("\n"));
        self.write("var/lib/deaddrop/list", &list);
        self.write("var/lib/deaddrop/new", &self.written);
        if done {
            self.write("var/lib/deaddrop/done", "");
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

    /// The root as an image.
    fn image(&self) -> Image {
        let path = self.scratch.join("root.img");
        let _ = fs::remove_file(&path);
        tool(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).args([&self.at(""), &path]).arg("20M"));
        Image::new(&path, 0)
    }

    /// Injects into an image of the root and into the root, and hands each to `look`: what a path holds, none where nothing stands.
    #[track_caller]
    fn injected(&self, look: impl Fn(&str, &dyn Fn(&str) -> Option<String>, &Finished)) {
        let image = self.image();
        // The numbers of inodes are those of the image.
        let noted: String = fs::read_to_string(self.at("var/lib/deaddrop/new")).unwrap_or_default();
        let mut script = String::new();
        let mut translated = String::new();
        let files: Vec<String> =
            Tree::of(&image).0.keys().filter(|path| path.starts_with("/etc/secrets/")).cloned().collect();
        for line in noted.lines() {
            let inode: u64 = line.split(':').next().unwrap().parse().unwrap();
            let same = files.iter().find(|path| fs::metadata(self.at(path)).is_ok_and(|data| data.ino() == inode));
            let Some(path) = same else {
                translated.push_str("0:0:0\n");
                continue;
            };
            let number = Tree::of(&image).at(path).inode;
            let (_, rest) = line.split_once(':').unwrap();
            translated.push_str(&format!("{number}:{rest}\n"));
        }
        if !noted.is_empty() {
            let list = self.scratch.write("new", &translated);
            script.push_str(&format!("rm /var/lib/deaddrop/new\nwrite {} /var/lib/deaddrop/new\n", list.display()));
            debugfs_write(&image, &script);
        }
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

fn debugfs_write(image: &Image, script: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script");
    fs::write(&file, script).unwrap();
    tool(Command::new("debugfs").args(["-w", "-f"]).arg(&file).arg(&image.path));
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
    disk.write("/etc/secrets/mode", "value");
    let inode = fs::metadata(disk.at("/etc/secrets/mode")).unwrap().ino();
    // Numbers of inodes differ from file system to file system: the image has the one of the directory, so that it is left alone there.
    disk.item('m', &format!("440 400 5 6 400:0:0 0 1:{inode}:5:1"), "/etc/secrets/mode");
    chown(disk.at("/etc/secrets/mode"), Some(5), Some(6)).unwrap();
    fs::set_permissions(disk.at("/etc/secrets/mode"), fs::Permissions::from_mode(0o440)).unwrap();
    let number = disk.item('x', "0 - 0 0 - 0 1:2:3:4", "/etc/secrets/gone");
    disk.write(&Disk::beside(number, 'o'), "old gone");
    disk.item('d', "700 - 0 0 - 0 -", "/srv/made");
    disk.item('d', "700 - 0 0 - 0 -", "/srv/made/deep");
    fs::create_dir_all(disk.at("/srv/made/deep")).unwrap();
    disk.item('d', "700 - 0 0 - 0 -", "/srv/used");
    fs::create_dir_all(disk.at("/srv/used")).unwrap();
    disk.write("/srv/used/by-somebody", "x");
    disk.list(false, true);
    disk.declare(&[]);
    disk.injected(|what, read, _| {
        assert_eq!(read("/etc/secrets/gone").as_deref(), Some("old gone"), "{what}");
        assert_eq!(read("/srv/made"), None, "{what}");
        assert_eq!(read("/srv/used/by-somebody").as_deref(), Some("x"), "{what}");
    });
    let data = fs::metadata(disk.at("/etc/secrets/mode")).unwrap();
    assert_eq!((data.mode() & 0o7777, data.uid(), data.gid()), (0o400, 0, 0));
}

#[test]
fn a_list_without_an_end_is_forgotten_and_one_that_is_not_ours_is_refused() {
    let mut disk = Disk::new();
    disk.replaced("a", false);
    disk.list(false, false);
    // Before the list is whole nothing of the run is made: what looks like it is not touched.
    for letter in ['n', 'o'] {
        fs::remove_file(disk.at(&Disk::beside(1, letter))).unwrap();
    }
    disk.declare(&[]);
    disk.injected(|what, read, _| assert_eq!(read("/etc/secrets/a").as_deref(), Some("old a"), "{what}"));

    for (name, list, owner, want) in [
        ("another's", "run 0a\nend\n", 1000, "is not root's"),
        ("no line of ours", "run 0a\nr 400\nend\n", 0, "line 2 is none of ours"),
        ("a path with steps up", "run 0a\nr 400 377 0 0 8 p 1:2:3:4 /etc/../x\nend\n", 0, "line 2 is none of ours"),
        ("a name with a slash", "run ../x\nend\n", 0, "the run has no name"),
        (
            "a directory that is not there",
            "run 0a\nr 400 377 0 0 8 p 1:2:3:4 /mnt/data/x\nend\n",
            0,
            "/mnt/data, which it names, is not there",
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
