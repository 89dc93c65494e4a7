//! What an old value leaves: nothing, whoever wrote it, and wherever the kernel kept it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::bench::{Case, Desk, NEW, OLD, Value, count, mounted_with, open, plant, time, tool, value};
use super::judge::{Depth, Side, fsck, settled, side};
use super::log::prefixes;
use super::states::check;
use crate::kit::shout;

/// How the old values were written.
struct Way {
    name: &'static str,
    arguments: &'static str,
    /// For mount.
    options: &'static str,
    /// Lines of the values.
    lines: &'static [usize],
    /// Whether that leaves them in the journal, too: else the test would prove less than it says.
    in_journal: bool,
}

const WAYS: &[Way] = &[
    Way {
        name: "by the kernel",
        arguments: "-t ext4 -b 4096 -J size=4",
        options: "loop",
        lines: &[1, 40, 300],
        in_journal: false,
    },
    Way {
        name: "mounted with data=journal",
        arguments: "-t ext4 -b 4096 -J size=4",
        options: "loop,data=journal",
        lines: &[1, 40, 300],
        in_journal: true,
    },
    Way {
        name: "mounted with data=journal, ext3",
        arguments: "-t ext3 -b 1024",
        options: "loop,data=journal",
        lines: &[0, 3, 60],
        in_journal: true,
    },
    Way {
        name: "inline",
        arguments: "-t ext4 -b 4096 -J size=4 -O inline_data -I 512",
        options: "loop",
        lines: &[0, 1, 5],
        in_journal: true,
    },
];

/// The image with its old values; `None` without mounts.
fn written(way: &Way) -> Option<Case> {
    let values: Vec<Value> = way
        .lines
        .iter()
        .enumerate()
        .map(|(number, lines)| Value {
            path: format!("/etc/secrets/value-{number}"),
            old: Some(value(OLD, number, *lines)),
            // The last one is removed.
            new: (number + 1 < way.lines.len()).then(|| value(NEW, number, lines / 2 + 1)),
        })
        .collect();
    let desk = Desk::new();
    let tree = desk.directory().join("tree");
    plant(&tree, &[]);
    let image = desk.image.to_str().unwrap();
    let mut arguments = vec!["-q", "-F"];
    arguments.extend(way.arguments.split_whitespace());
    arguments.extend(["-d", tree.to_str().unwrap(), image, "12M"]);
    tool("mke2fs", &arguments);
    mounted_with(&desk.image, way.options, |root| write_old(&values, root))
        .then(|| Case::new(way.name, fs::read(&desk.image).unwrap(), values, None))
}

fn write_old(values: &[Value], root: &Path) {
    for value in values {
        let path = root.join(&value.path[1..]);
        fs::write(&path, "").unwrap();
        // Not over an older content: what the kernel frees of that is not ours to know.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(value.old.as_ref().unwrap()).unwrap();
        file.sync_all().unwrap();
    }
}

#[test]
fn old_values_are_nowhere_whoever_wrote_them() {
    for way in WAYS {
        let Some(case) = written(way) else {
            return shout("SKIPPED: only root can mount an image: old values of the kernel were not tried");
        };
        assert_eq!(case.old_in_journal, way.in_journal, "{}: in the journal", way.name);
        let log = case.log();
        let desk = Desk::new();
        let states = prefixes(&log);
        let step = states.len().div_ceil(30);
        for (place, state) in states.iter().enumerate() {
            if place % step == 0
                || state.is_done
                || state.applied.last().is_some_and(|(i, _)| *i > case.commit_point(&log))
            {
                check(&case, &log, state, Depth::Full, &desk)
                    .unwrap_or_else(|e| panic!("{}: {state:?}: {e}", way.name));
            }
        }
    }
}

#[test]
fn a_copy_that_is_changed_has_no_old_value_in_its_journal_either() {
    for way in WAYS {
        let Some(case) = written(way) else { return };
        let mut image = Arc::new(case.base.clone());
        let mut ext4 = open(Arc::clone(&image)).unwrap();
        ext4.apply(&case.changes(), time()).unwrap();
        let (dirty, stale) = (ext4.dirty().unwrap(), ext4.stale_log().unwrap());
        drop(ext4);
        let bytes = Arc::make_mut(&mut image);
        for (offset, block) in dirty {
            bytes[offset as usize..][..block.len()].copy_from_slice(&block);
        }
        for offset in stale {
            bytes[offset as usize..][..case.block_size].fill(0);
        }
        assert_eq!(side(&case, &image), Ok(Side::New), "{}", way.name);
        settled(&case, &image).unwrap_or_else(|e| panic!("{}: {e}", way.name));
        fsck(&image, &Desk::new()).unwrap_or_else(|e| panic!("{}: {e}", way.name));
        assert_eq!(count(&image, OLD.as_bytes()), 0, "{}", way.name);
    }
}
