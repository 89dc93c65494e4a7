//! Damaged file systems are opened, described and walked. What waits in a journal is replayed as e2fsprogs do it.

use std::fs;
use std::sync::Arc;

use deaddrop_core::tree::walk::{resolve, walk};
use deaddrop_core::tree::{FileKind, Stat, Tree};
use deaddrop_image::ext4::{Ext4, probe};
use tempfile::TempDir;

use super::base::replay;
use super::engine::{Target, write_anew};
use super::ext4::Damage;
use super::input::{Input, Pages};
use super::rng::Rng;
use super::seal::Part;
use super::table::first_words;

/// The longest file that is read: no base has one of more, but an inode may say so.
const LONGEST: u64 = 1 << 24;

pub struct Reader {
    damage: Damage,
    directory: TempDir,
}

impl Reader {
    pub fn new() -> Self {
        Self { damage: Damage::new(), directory: TempDir::new().expect("making a directory") }
    }

    /// The replay of e2fsprogs brings the same.
    fn assert_replayed_alike(&self, input: &Input, image: &Pages, ext4: &Ext4) {
        let path = self.directory.path().join("image");
        write_anew(&path, &image.whole());
        let said = replay(&path);
        let theirs = fs::read(&path).expect("reading a file of ours");
        let mut ours = vec![0; theirs.len()];
        ext4.device().read_exact_at(0, &mut ours).expect("reading memory");
        // Superblock and journal are left in each one's own way.
        let is_own = |at: &usize| {
            let parts = &self.damage.base(input).layout.parts;
            (1024..2048).contains(at)
                || parts.iter().any(|part| {
                    let end = part.start() + part.size().max(1024);
                    matches!(part, Part::Journal { .. } | Part::Log { .. }) && (part.start()..end).contains(at)
                })
        };
        let differs = ours.iter().zip(&theirs).enumerate().filter(|(_, (one, other))| one != other).map(|(at, _)| at);
        let differs: Vec<usize> = differs.filter(|at| !is_own(at)).take(4).collect();
        // Where it gives up, it says so, and leaves the rest.
        assert!(differs.is_empty() || !said.is_empty(), "debugfs replays to something else, at {differs:#x?}");
    }
}

impl Target for Reader {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        self.damage.generate(rng)
    }

    fn run(&mut self, input: &Input) -> String {
        let image = Arc::new(self.damage.image(input));
        let facts = probe(image.as_ref());
        let ext4 = match Ext4::open(image.clone()) {
            Ok(ext4) => ext4,
            Err(error) => return format!("not opened: {}", first_words(&error.to_string())),
        };
        assert!(facts.is_ok_and(|facts| facts.is_some()), "opened, but not found by the probe");
        let shown = ext4.summary();
        assert!(!shown.features.is_empty() || shown.kind == "ext2");
        let found = walk_tree(&ext4);
        let is_dirty = image.u32(1024 + 0x60) & 4 != 0;
        if is_dirty && ext4.root().is_ok() && (input.choice >> 32).is_multiple_of(32) {
            self.assert_replayed_alike(input, &image, &ext4);
        }
        let writable = if ext4.check_writable().is_ok() { "" } else { ", not to be written" };
        match found {
            0 => format!("nothing found{writable}"),
            _ => format!("walked{writable}"),
        }
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        self.damage.image(input).whole()
    }
}

/// Looks at all that the bases hold, and at what they do not; counts what is there.
fn walk_tree(ext4: &Ext4) -> usize {
    let Ok(root) = ext4.root() else { return 0 };
    let mut found = 0;
    let mut queue = vec![(root, 0)];
    while let Some((node, depth)) = queue.pop() {
        for name in ["etc", "secrets", "big", "nix", "store", "lib", "var", "passwd", "short", "long", "x"] {
            let Ok(Some((child, stat))) = ext4.child(&node, name.as_bytes()) else { continue };
            found += 1;
            look(ext4, &child, stat);
            if depth < 3 && stat.kind == FileKind::Directory {
                queue.push((child, depth + 1));
            }
        }
    }
    for path in [
        "/etc/secrets/old-large",
        "/etc/secrets/old-small",
        "/etc/secrets/linked",
        "/etc/secrets/standing-11",
        "/etc/long/x",
        "/etc/short/../secrets",
        "/big/a-rather-long-name-for-a-file-00149",
        "/big/a-rather-long-name-for-a-file-00000",
        "/big/not-there",
        "/lost+found",
    ] {
        let _ = walk(ext4, path).map_err(|error| error.to_string());
        let _ = resolve(ext4, path).map_err(|error| error.to_string());
        let mut node = ext4.root().ok();
        for name in path.split('/').skip(1) {
            let child = node.as_ref().and_then(|node| ext4.child(node, name.as_bytes()).ok().flatten());
            if let Some((child, stat)) = &child {
                found += 1;
                look(ext4, child, *stat);
            }
            node = child.map(|(child, _)| child);
        }
    }
    found
}

fn look(ext4: &Ext4, node: &<Ext4 as Tree>::Node, stat: Stat) {
    let link = ext4.read_link(node);
    assert!(link.is_err() || stat.kind == FileKind::Symlink, "a target of what is no link");
    assert!(link.is_err() || link.is_ok_and(|link| link.len() <= 65536));
    match ext4.read(node, LONGEST) {
        Ok(Some(content)) => {
            assert!(stat.kind == FileKind::File, "content of what is no file");
            assert_eq!(content.len() as u64, stat.size, "as many bytes as its size says");
        }
        Ok(None) => assert!(stat.size > LONGEST),
        Err(_) => {}
    }
}
