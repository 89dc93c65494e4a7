//! Damaged file systems are written to, with the read-back on. Whatever is accepted is what was asked for, and e2fsck
//! likes it no less than before, in either way of writing it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;

use deaddrop_core::tree::{Tree, TreeChange};
use deaddrop_image::ext4::Ext4;
use deaddrop_image::ext4::format::features::Incompat;
use deaddrop_image::ext4::format::superblock::Superblock;
use tempfile::TempDir;

use super::base::{Cut, TIME, changes, replay, time};
use super::engine::{Target, write_anew};
use super::ext4::Damage;
use super::input::{Input, Pages};
use super::rng::Rng;
use super::table::first_words;

pub struct Inject {
    damage: Damage,
    directory: TempDir,
}

impl Inject {
    pub fn new() -> Self {
        Self { damage: Damage::new(), directory: TempDir::new().expect("making a directory") }
    }

    /// e2fsck's exit code, and what it says: without numbers, which a change may change.
    fn fsck(&self, image: &Pages) -> (i32, BTreeSet<String>, String) {
        let path = self.directory.path().join("image");
        let mut bytes = image.whole();
        write_anew(&path, &bytes);
        // With -n it looks at what lies under a dirty journal; only replayed is that what it would be.
        let ext4 = Ext4::open(Arc::new(image.clone())).expect("it opened before");
        if ext4.was_replayed() {
            let superblock =
                |bytes: &[u8]| Superblock::parse(bytes[1024..2048].try_into().unwrap()).expect("it opened");
            let raw: [u8; 1024] = bytes[1024..2048].try_into().unwrap();
            let is_torn =
                superblock(&bytes).has_checksums() && superblock(&bytes).checksum != Superblock::checksum_of(&raw);
            replay(&path);
            let left = superblock(&fs::read(&path).expect("reading a file of ours"));
            if is_torn || left.features.incompat.has(Incompat::NEEDS_RECOVERY) {
                // debugfs mends no torn superblock, and opens nothing whose bitmaps are damaged, although the log may
                // hold sound ones. Else ours does the same as it, see the target `reader`.
                ext4.device().read_exact_at(0, &mut bytes).expect("reading memory");
                write_anew(&path, &bytes);
            }
        }
        let output = Command::new("e2fsck").args(["-fn"]).arg(&path).output().expect("e2fsck");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let plain = |line: &str| -> String { line.chars().filter(|c| c.is_ascii_alphabetic() || *c == ' ').collect() };
        let complaints = said
            .lines()
            .filter(|line| !line.starts_with("Pass ") && !line.contains(" files (") && !line.contains("clean,"))
            // debugfs puts the time of its replay in the place of one that lies. Ours is none of its own. e2fsck says
            // it in two lines, and asks.
            .filter(|line| !line.contains("is in the future") && !line.contains("by less than a day"))
            .filter(|line| !line.starts_with("Superblock last ") && *line != "Fix? no")
            .map(|line| plain(line).split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        (output.status.code().unwrap_or(99), complaints, said + &String::from_utf8_lossy(&output.stderr))
    }

    fn assert_no_worse(&self, before: &Pages, after: &Pages, how: &str) {
        let (code_before, said_before, text_before) = self.fsck(before);
        // Nobody should write to what it cannot even open. (Where it gives up later, it has found something by then.)
        // A compat feature that it does not know is another matter: writers need not know it.
        let was_opened = text_before.contains("Pass 1: ") || text_before.contains("unsupported feature");
        assert!(was_opened, "{how}: written, but e2fsck could not open it before: {said_before:?}");
        let (code, said, text) = self.fsck(after);
        let new: Vec<&String> = said.difference(&said_before).collect();
        assert!(
            code <= code_before && (new.is_empty() || code_before != 0),
            "{how}: e2fsck is less content than before, {code_before} became {code}: {new:?}\n{text}"
        );
    }
}

impl Target for Inject {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        self.damage.generate(rng)
    }

    fn run(&mut self, input: &Input) -> String {
        let image = Arc::new(self.damage.image(input));
        let mut ext4 = match Ext4::open(image.clone()) {
            Ok(ext4) => ext4,
            Err(error) => return format!("not opened: {}", first_words(&error.to_string())),
        };
        let wanted = changes(input.choice);
        if let Err(error) = ext4.apply(&wanted, time()) {
            let error = error.to_string();
            return match ["failed inside", "did not come to an end"].iter().find(|why| error.contains(**why)) {
                Some(why) => format!("CAUGHT in a dependency: {} {why}", error.split(" failed").next().unwrap_or("")),
                None if error.starts_with("internal check") => "refused by the check before the commit".into(),
                None if error.contains("gave up") => "refused by the writer".into(),
                None => format!("refused: {}", first_words(&error)),
            };
        }
        let dirty = ext4.dirty().expect("an image in memory can be read");
        assert!(!dirty.is_empty(), "changes that change nothing");
        let mut after = (*image).clone();
        for (offset, bytes) in &dirty {
            after.put(*offset as usize, bytes);
        }
        assert_applied(&after, &wanted, "as a copy");
        // Both ways of writing, each in its turn.
        let sampled = input.choice >> 32;
        let transaction = match ext4.transaction() {
            Ok(transaction) => transaction,
            // It looks at bitmaps that nothing else had to look at. Nothing is written yet.
            Err(error) => return format!("refused for a transaction: {}", first_words(&error.to_string())),
        };
        match transaction {
            Some(transaction) if transaction.fits() => {
                let mut medium = Cut { pages: (*image).clone(), flushes: usize::MAX };
                transaction.commit(&mut medium, 0, TIME).expect("writing in memory");
                assert_applied(&medium.pages, &wanted, "in place");
                if sampled.is_multiple_of(4) {
                    self.assert_no_worse(&image, &medium.pages, "in place");
                }
            }
            _ => {}
        }
        if sampled.is_multiple_of(4) {
            self.assert_no_worse(&image, &after, "as a copy");
        }
        "written".into()
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        self.damage.image(input).whole()
    }
}

/// The image opens, is clean, and holds what was asked for.
fn assert_applied(image: &Pages, changes: &[TreeChange], how: &str) {
    let ext4 = Ext4::open(Arc::new(image.clone())).unwrap_or_else(|error| panic!("{how}: it no longer opens: {error}"));
    ext4.check_writable().unwrap_or_else(|error| panic!("{how}: it can no longer be written: {error}"));
    for change in changes {
        let path = change.path();
        let mut found = Some((ext4.root().expect("the root"), None));
        for name in path.split('/').skip(1) {
            let (node, _) = found.unwrap_or_else(|| panic!("{how}: {path}: no directory on the way"));
            let child = ext4.child(&node, name.as_bytes()).unwrap_or_else(|error| panic!("{how}: {path}: {error}"));
            found = child.map(|(child, stat)| (child, Some(stat)));
        }
        if matches!(change, TreeChange::RemoveFile { .. }) {
            assert!(found.is_none(), "{how}: {path} is still there");
            continue;
        }
        let (node, stat) = found.unwrap_or_else(|| panic!("{how}: {path} is not there"));
        let stat = stat.expect("a path has a name");
        match change {
            TreeChange::WriteFile { content, mode, .. } => {
                let read = ext4.read(&node, 1 << 24).unwrap_or_else(|error| panic!("{how}: {path}: {error}"));
                assert!(read.is_some_and(|read| read == *content), "{how}: {path} has other content");
                assert_eq!(stat.mode, *mode, "{how}: {path}");
            }
            TreeChange::SetMetadata { mode, gid, .. } => {
                assert_eq!((stat.mode, stat.gid), (*mode, *gid), "{how}: {path}")
            }
            TreeChange::MakeDirectory { .. } => assert_eq!(stat.mode, 0o700, "{how}: {path}"),
            TreeChange::RemoveFile { .. } | TreeChange::RemoveDirectory { .. } => {}
        }
    }
}
