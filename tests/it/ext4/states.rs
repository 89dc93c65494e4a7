//! Everything that a superblock, a journal, an orphan list or an orphan file can say of a mount or of an error: what we
//! answer, and what e2fsck answers beside it.
//!
//! A file system in which e2fsck finds nothing is written to; what e2fsck replays is replayed as it does, or refused.

use std::fs;
use std::process::Command;

use deaddrop_core::tree::Tree;
use deaddrop_image::ext4::Ext4;

use super::dirty::{first_block, leave_transaction};
use crate::kit::ext4::{Image, find, time, tree, write};

/// What we do with an image in a state.
enum Answer {
    /// It is written to, and e2fsck finds nothing afterwards.
    Written,
    /// It is refused in these words, and inspect says the same.
    Refused(&'static str),
}
use Answer::{Refused, Written};

struct State {
    name: &'static str,
    /// For mke2fs.
    arguments: &'static str,
    make: fn(&Image),
    /// e2fsck -fn: its exit code.
    looks: i32,
    /// e2fsck -fp: its exit code. 0: nothing was wrong, or the journal was replayed. 1: something was put right. 4: a
    /// person has to decide.
    preens: i32,
    answer: Answer,
}

fn super_value(image: &Image, name: &str, value: u32) {
    image.debugfs_write(&format!("set_super_value {name} {value}"));
}

/// Patches a field of the journal's superblock, which has no checksum.
fn journal(image: &Image, at: u64, value: u32) {
    let start = first_block(image, "<8>") * image.open().unwrap().summary().block_size;
    assert_eq!(image.bytes()[start as usize + 0x28] & 0x18, 0, "the journal has checksums");
    image.patch(start + at, &value.to_be_bytes());
}

/// A journal field, as it is.
fn journal_field(image: &Image, at: u64) -> u32 {
    let start = first_block(image, "<8>") * image.open().unwrap().summary().block_size + at;
    u32::from_be_bytes(image.bytes()[start as usize..start as usize + 4].try_into().unwrap())
}

fn dirty(image: &Image) {
    leave_transaction(image, "jo", image.open().unwrap().summary().block_size as usize);
}

/// Changes byte `at` of block `index` of the log.
fn spoil_log(image: &Image, index: u64, at: u64) {
    let size = image.open().unwrap().summary().block_size;
    let offset = (first_block(image, "<8>") + 1 + index) * size + at;
    let byte = image.bytes()[offset as usize];
    image.patch(offset, &[byte ^ 1]);
}

/// Makes the journal one with a crc32 in its commit blocks, the log's one transaction among them.
fn seal_commit(image: &Image) {
    journal(image, 0x24, 1);
    let size = image.open().unwrap().summary().block_size as usize;
    let start = (first_block(image, "<8>") as usize + 1) * size;
    // A descriptor, a block, the commit block.
    let sum = image.bytes()[start..start + 2 * size].iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(*byte) << 24), |crc, _| {
            if crc & 1 << 31 != 0 { (crc << 1) ^ 0x04C1_1DB7 } else { crc << 1 }
        })
    });
    let commit = (start + 2 * size) as u64;
    image.patch(commit + 12, &[1, 4]);
    image.patch(commit + 16, &sum.to_be_bytes());
}

/// Leaves the superblock of before in the journal, with an error recorded since.
fn error_after_the_log(image: &Image, then: fn(&Image)) {
    let size = image.open().unwrap().summary().block_size;
    let number = 1024 / size;
    image.leave_transaction("jo", number, &image.bytes()[(number * size) as usize..((number + 1) * size) as usize]);
    then(image);
}

/// Puts an inode into the first place of the orphan file.
fn orphan_in_file(image: &Image, inode: u32) {
    let file = u32::from_le_bytes(image.bytes()[1024 + 0x280..1024 + 0x284].try_into().unwrap());
    let block = first_block(image, &format!("<{file}>")) * image.open().unwrap().summary().block_size;
    image.patch(block, &inode.to_le_bytes());
}

fn set_bits(image: &Image, at: u64, bits: u32) {
    let word = u32::from_le_bytes(image.bytes()[1024 + at as usize..1028 + at as usize].try_into().unwrap());
    image.patch(1024 + at, &(word | bits).to_le_bytes());
}

const ORPHANS: &str = "files that were deleted while open still take space (orphans)";
const ERRORS: &str = "the ext4 file system has errors recorded";
const PLAIN: &str = "-t ext4 -O ^metadata_csum";

const STATES: &[State] = &[
    State { name: "clean", arguments: "-t ext4", make: |_| {}, looks: 0, preens: 0, answer: Written },
    // s_state and the fields of errors.
    State {
        name: "not unmounted",
        arguments: "-t ext4",
        make: |image| super_value(image, "state", 0),
        looks: 0,
        preens: 1,
        answer: Refused("was not unmounted cleanly"),
    },
    State {
        name: "errors in the state",
        arguments: "-t ext4",
        make: |image| super_value(image, "state", 3),
        looks: 0,
        preens: 0,
        answer: Refused(ERRORS),
    },
    State {
        name: "orphans being recovered, in the state",
        arguments: "-t ext4",
        make: |image| super_value(image, "state", 5),
        looks: 0,
        preens: 0,
        answer: Written,
    },
    State {
        name: "errors counted, and the state clean again",
        arguments: "-t ext4",
        make: |image| super_value(image, "error_count", 3),
        looks: 0,
        preens: 0,
        answer: Written,
    },
    // The journal.
    State { name: "dirty", arguments: "-t ext4", make: dirty, looks: 0, preens: 0, answer: Written },
    State {
        name: "dirty, without needs_recovery",
        arguments: PLAIN,
        make: |image| {
            dirty(image);
            image.debugfs_write("feature -needs_recovery");
        },
        looks: 0,
        preens: 4,
        answer: Refused("its journal holds transactions, and its superblock says that none wait"),
    },
    State {
        name: "needs_recovery, and an empty log",
        arguments: "-t ext4",
        make: |image| image.debugfs_write("feature needs_recovery"),
        looks: 0,
        preens: 0,
        answer: Written,
    },
    State {
        name: "needs_recovery, and no journal",
        arguments: "-t ext4 -O ^has_journal,^metadata_csum",
        make: |image| set_bits(image, 0x60, 4),
        looks: 12,
        preens: 1,
        answer: Refused("it needs recovery, but has no journal"),
    },
    State {
        name: "a transaction without its commit block",
        arguments: PLAIN,
        make: |image| {
            dirty(image);
            spoil_log(image, 2, 0);
        },
        looks: 0,
        preens: 0,
        answer: Written,
    },
    State {
        name: "a commit block whose checksum is wrong",
        arguments: "-t ext4",
        make: |image| {
            leave_transaction(image, "jo -c -v 3", image.open().unwrap().summary().block_size as usize);
            spoil_log(image, 2, 17);
        },
        looks: 0,
        preens: 0,
        answer: Refused("the journal is damaged inside a committed transaction"),
    },
    State {
        name: "a block in the log whose checksum is wrong",
        arguments: "-t ext4",
        make: |image| {
            leave_transaction(image, "jo -c -v 3", image.open().unwrap().summary().block_size as usize);
            spoil_log(image, 1, 17);
        },
        looks: 0,
        preens: 1,
        answer: Refused("the journal is damaged inside a committed transaction"),
    },
    State {
        name: "checksums of version 1",
        arguments: PLAIN,
        make: |image| {
            dirty(image);
            seal_commit(image);
        },
        looks: 0,
        preens: 0,
        answer: Written,
    },
    State {
        name: "checksums of version 1, a wrong one",
        arguments: PLAIN,
        make: |image| {
            dirty(image);
            seal_commit(image);
            spoil_log(image, 1, 17);
        },
        looks: 0,
        preens: 0,
        answer: Refused("the journal is damaged inside a committed transaction"),
    },
    State {
        name: "an error number, dirty",
        arguments: PLAIN,
        make: |image| {
            dirty(image);
            journal(image, 0x20, 5);
        },
        looks: 0,
        preens: 0,
        answer: Refused("the journal records an error of an earlier mount"),
    },
    State {
        name: "an error number, clean",
        arguments: PLAIN,
        make: |image| journal(image, 0x20, 5),
        looks: 0,
        preens: 0,
        answer: Refused("the journal records an error of an earlier mount"),
    },
    State {
        name: "async commit, dirty",
        arguments: PLAIN,
        make: |image| {
            dirty(image);
            journal(image, 0x28, journal_field(image, 0x28) | 4);
        },
        looks: 0,
        preens: 0,
        answer: Refused("the journal is dirty and uses async commit"),
    },
    State {
        name: "async commit, clean",
        arguments: PLAIN,
        make: |image| journal(image, 0x28, 4),
        looks: 0,
        preens: 0,
        answer: Written,
    },
    State {
        name: "a superblock in the log of before an error",
        arguments: "-t ext4",
        make: |image| error_after_the_log(image, |image| super_value(image, "state", 3)),
        looks: 0,
        preens: 0,
        answer: Refused(ERRORS),
    },
    State {
        name: "a superblock in the log of before an error was counted",
        arguments: "-t ext4",
        make: |image| error_after_the_log(image, |image| super_value(image, "error_count", 3)),
        looks: 0,
        preens: 0,
        answer: Written,
    },
    // Orphans.
    State {
        name: "an orphan list",
        arguments: "-t ext4",
        make: |image| super_value(image, "last_orphan", 12),
        looks: 0,
        preens: 0,
        answer: Written,
    },
    State {
        name: "an orphan list behind a journal",
        arguments: "-t ext4",
        make: |image| {
            super_value(image, "last_orphan", 12);
            dirty(image);
        },
        looks: 0,
        preens: 0,
        answer: Written,
    },
    State {
        name: "an orphan list that leads nowhere",
        arguments: "-t ext4",
        make: |image| super_value(image, "last_orphan", 4_000_000),
        looks: 0,
        preens: 1,
        answer: Refused(ORPHANS),
    },
    State {
        name: "a mark of orphans, and none",
        arguments: "-t ext4 -O orphan_file,^metadata_csum",
        make: |image| set_bits(image, 0x64, 1 << 16),
        looks: 4,
        preens: 1,
        answer: Written,
    },
    State {
        name: "orphans in the orphan file",
        arguments: "-t ext4 -O orphan_file,^metadata_csum",
        make: |image| {
            set_bits(image, 0x64, 1 << 16);
            orphan_in_file(image, 12);
        },
        looks: 4,
        preens: 1,
        answer: Written,
    },
    State {
        name: "orphans in the orphan file without their mark",
        arguments: "-t ext4 -O orphan_file,^metadata_csum",
        make: |image| orphan_in_file(image, 12),
        looks: 4,
        preens: 1,
        answer: Written,
    },
    State {
        name: "a mark of orphans, and no orphan file",
        arguments: PLAIN,
        make: |image| set_bits(image, 0x64, 1 << 16),
        looks: 4,
        preens: 1,
        answer: Written,
    },
    // Others who may be there.
    State {
        name: "multiple mount protection",
        arguments: "-t ext4 -O mmp",
        make: |_| {},
        looks: 0,
        preens: 0,
        answer: Refused("`mmp`"),
    },
    State {
        name: "multiple mount protection, in use",
        arguments: "-t ext4 -O mmp",
        make: |image| image.debugfs_write("set_mmp_value seq 0xE24D4D50"),
        looks: 0,
        preens: 0,
        answer: Refused("`mmp`"),
    },
];

/// What inject would say.
fn ours(image: &Image) -> Result<Ext4, String> {
    let mut ext4 = image.open().map_err(|error| error.to_string())?;
    let before = ext4.check_writable().map_err(|error| error.to_string());
    let hint = ext4.check_writable().err().map(|error| deaddrop::run::remedy::hint(&error));
    let replayed = ext4.dirty().unwrap().len();
    let applied = ext4.apply(&[write("/etc/secrets/x", b"value", 0o400, 0, 0)], time());
    assert_eq!(before, applied.as_ref().map_err(ToString::to_string).copied(), "inspect and inject do not agree");
    // A feature that is refused has a hint of its own.
    assert!(hint.is_none_or(|hint| hint.contains("e2fsck") || before.clone().is_err_and(|what| what.contains('`'))));
    match applied {
        Ok(()) => Ok(ext4),
        Err(error) => {
            assert_eq!(ext4.dirty().unwrap().len(), replayed, "it would write all the same");
            Err(error.to_string())
        }
    }
}

#[test]
fn every_state_has_its_answer_beside_that_of_e2fsck() {
    let tree = tree(0);
    let mut wrong = Vec::new();
    for state in STATES {
        let name = state.name;
        let image = Image::make(state.arguments, "32M", Some(tree.path()));
        (state.make)(&image);
        let (looks, said) = image.fsck();
        let other = Image::empty();
        fs::copy(&image.path, &other.path).unwrap();
        let output = Command::new("e2fsck").arg("-fp").arg(&other.path).output().unwrap();
        let preens = output.status.code().unwrap();
        let preened = String::from_utf8_lossy(&output.stdout).into_owned();
        if (looks, preens) != (state.looks, state.preens) {
            wrong.push(format!("{name}: e2fsck -fn {looks} {said:?}, -fp {preens} {preened:?}"));
        }
        match (ours(&image), &state.answer) {
            (Err(what), Refused(want)) if what.contains(want) => {}
            (Ok(ext4), Written) => {
                image.commit(&ext4);
                let after = image.fsck();
                if after != (0, vec![]) {
                    wrong.push(format!("{name}: after us e2fsck says {after:?}"));
                }
                // What e2fsck replayed we did too.
                if image.dump("/etc/file-20") != other.dump("/etc/file-20") {
                    wrong.push(format!("{name}: another content than e2fsck's"));
                }
                // `s_error_count`: kept, whatever the log holds.
                assert!(name.contains("counted") == (image.bytes()[1024 + 0x194] == 3), "{name}");
                let again = image.open().unwrap();
                assert!(find(&again, "/etc/secrets/x").is_some() && again.root().is_ok());
            }
            (Ok(_), Refused(want)) => wrong.push(format!("{name}: written, and not refused: {want}")),
            (Err(what), _) => wrong.push(format!("{name}: refused: {what}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
