//! Tars with a root file system: read as a tree, changed, and read again.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::SystemTime;

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::whole::WholeTree;
use deaddrop_core::tree::{FileKind, Stat, Tree, TreeChange};
use deaddrop_image::output::Destination;
use deaddrop_image::progress::quiet;
use deaddrop_image::tar::{Archive, TarRoot};
use tempfile::TempDir;

use super::engine::{Target, write_anew};
use super::input::Input;
use super::rng::Rng;
use super::table::first_words;
use super::text::edits;
use crate::kit::{Scratch, tool};

pub struct Tars {
    bases: Vec<Vec<u8>>,
    directory: TempDir,
}

impl Tars {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let root = scratch.join("root");
        fs::create_dir_all(root.join("etc/deep").join("d".repeat(130))).unwrap();
        fs::write(root.join("etc/token"), "old").unwrap();
        fs::hard_link(root.join("etc/token"), root.join("etc/other")).unwrap();
        fs::hard_link(root.join("etc/token"), root.join("third")).unwrap();
        std::os::unix::fs::symlink("/etc/deep", root.join("link")).unwrap();
        let sparse = fs::File::create(root.join("hole")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        for at in 0..30 {
            std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", at * 32_768).unwrap();
        }
        let forms: [&[&str]; 5] = [
            &["gnu", "-S"],
            &["pax", "-S"],
            &["pax", "-S", "--sparse-version=0.1"],
            &["v7"],
            &["pax", "-S", "--sparse-version=0.0"],
        ];
        let tar = |form: &&[&str]| {
            let to = scratch.join("x.tar");
            let mut command = Command::new("tar");
            command.arg(format!("--format={}", form[0])).args(&form[1..]).args([
                "--owner=0",
                "--group=0",
                "-b1",
                "-cf",
            ]);
            // What v7 has no room for.
            let parts: &[&str] = if form[0] == "v7" { &["etc/token", "etc/other", "link"] } else { &["."] };
            tool(command.arg(&to).args(parts).current_dir(&root));
            fs::read(to).unwrap()
        };
        Self { bases: forms.iter().map(tar).collect(), directory: TempDir::new().expect("making a directory") }
    }
}

impl Target for Tars {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let base = rng.below(self.bases.len());
        let mut input = Input { base, edits: edits(rng, &self.bases[base], WORDS), ..Input::default() };
        // Nothing behind a wrong checksum is read.
        input.sealed = !rng.one_in(8);
        if rng.one_in(2) {
            for edit in &mut input.edits {
                // Into fields of a header: sizes, types, names, maps.
                edit.at = edit.at / 512 * 512 + [0, 100, 124, 135, 156, 157, 257, 345, 386, 482, 483][edit.at % 11];
                edit.remove = edit.insert.len();
            }
        }
        input
    }

    fn run(&mut self, input: &Input) -> String {
        let (path, out) = (self.directory.path().join("x.tar"), self.directory.path().join("out.tar"));
        write_anew(&path, &self.bytes(input));
        let _ = fs::remove_file(&out);
        let destination = Destination::File { path: out.clone(), format: None, force: false, overlay: false };
        let refused = |error: &dyn std::fmt::Display, what: &str| {
            format!("{what}: {}", first_words(&error.to_string().replace(path.to_str().unwrap(), "x.tar")))
        };
        let mut root = match TarRoot::open(&path, Some(&destination), &quiet) {
            Ok(root) => root,
            Err(error) => return refused(&error, "refused"),
        };
        let before = all(root.tree());
        let Some(changes) = changes(&before) else { return "read".to_owned() };
        match root.apply(&changes, SystemTime::UNIX_EPOCH) {
            Err(error) => {
                assert!(!out.exists());
                refused(&error, "read, and not changed")
            }
            Ok(_) => {
                let root = TarRoot::open(&out, None, &quiet).expect("what was written is read");
                let mut after = all(root.tree());
                let (stat, content) = after.remove("/etc/token").expect("the new file");
                assert!(content == b"new value" && (stat.mode, stat.uid, stat.gid) == (0o400, 7, 70_000_000));
                for (path, (stat, content)) in &before {
                    if path == "/etc/token" {
                        continue;
                    }
                    let (new, new_content) = after.get(path).unwrap_or_else(|| panic!("{path} is gone"));
                    assert_eq!(
                        (new.kind, new.mode, new.uid, new.gid, new.size),
                        (stat.kind, stat.mode, stat.uid, stat.gid, stat.size),
                        "{path}"
                    );
                    assert!(new_content == content, "{path} has another content");
                }
                "changed".to_owned()
            }
        }
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        let mut bytes = input.bytes(&self.bases[input.base]);
        if input.sealed {
            seal(&mut bytes, input.base == 3);
        }
        bytes
    }
}

/// Makes the checksums of all headers right. Those of v7 have no magic.
pub(super) fn seal(bytes: &mut [u8], v7: bool) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" || (v7 && block[155] == b' ') {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// A new value for /etc/token, if that is a file or nothing.
fn changes(tree: &BTreeMap<String, (Stat, Vec<u8>)>) -> Option<Vec<TreeChange>> {
    let kind = |path: &str| tree.get(path).map(|(stat, _)| stat.kind);
    let is_fit = kind("/etc") == Some(FileKind::Directory) && matches!(kind("/etc/token"), None | Some(FileKind::File));
    let content = Secret::new(b"new value".to_vec());
    let path = "/etc/token".to_owned();
    is_fit.then(|| vec![TreeChange::WriteFile { path, content, mode: 0o400, uid: 7, gid: 70_000_000, label: None }])
}

/// Everything in a tree, with contents of up to 4 MiB and targets of links.
fn all(tree: &Archive) -> BTreeMap<String, (Stat, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(tree.root().unwrap(), String::new())];
    while let Some((directory, path)) = todo.pop() {
        for child in tree.children(&directory, 10_000).unwrap() {
            let path = format!("{path}/{}", child.name.escape_ascii());
            let content = match child.stat.kind {
                FileKind::Symlink => tree.read_link(&child.node).unwrap(),
                FileKind::File => {
                    let content = tree.read(&child.node, 4 << 20).unwrap();
                    if let Some(content) = &content {
                        let mut seen = vec![0; content.len()];
                        tree.read_pieces(&child.node, &mut vec![0; 64 << 10], &mut |at, piece| {
                            seen[at as usize..][..piece.len()].copy_from_slice(piece);
                        })
                        .unwrap();
                        assert!(seen == content.expose(), "{path}: two readings differ");
                    }
                    content.map(|content| content.expose().to_vec()).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            let _ = tree.label(&child.node);
            if child.stat.kind == FileKind::Directory {
                let _ = tree.acl_lets_write(&child.node);
                todo.push((child.node, path.clone()));
            }
            found.insert(path, (child.stat, content));
        }
    }
    found
}

const WORDS: &[&str] = &[
    "ustar\0",
    "ustar  \0",
    "../",
    "/etc/token",
    "etc/token",
    "30 path=etc/token/../../x.....\n",
    "22 GNU.sparse.major=1\n",
    "22 GNU.sparse.minor=0\n",
    "00000000000",
    "77777777777",
    "00001000000",
    "\u{0}\u{0}\u{0}\u{0}",
    "x",
    "L",
    "S",
    "1",
    "5",
    "6",
];
