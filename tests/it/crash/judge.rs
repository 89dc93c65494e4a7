//! What must hold in every state that a cut leaves.

use std::sync::Arc;

use deaddrop_image::ext4::format::features::RoCompat;
use deaddrop_image::ext4::format::superblock::{SIZE, Superblock};

use super::bench::{Case, Desk, NEW, OLD, count, open, others, read, run};
use super::log::{Op, State};

/// Which values an image shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    Old,
    New,
}

/// Which values all of `image` shows; an error when some are old and some new, or anything else is wrong.
pub fn side(case: &Case, image: &Arc<Vec<u8>>) -> Result<Side, String> {
    let ext4 = open(Arc::clone(image)).map_err(|e| format!("opening it: {e}"))?;
    ext4.check_writable().map_err(|e| format!("writing to it: {e}"))?;
    others(&ext4)?;
    let mut old = Vec::new();
    for value in &case.values {
        let content = read(&ext4, &value.path)?.map(|(content, _)| content);
        old.push(match content {
            content if content == value.old => true,
            content if content == value.new => false,
            _ => return Err(format!("{} is neither old nor new", value.path)),
        });
    }
    if let Some((before, after)) = case.modes {
        let mode = read(&ext4, "/etc/file-3")?.map(|(_, stat)| stat.mode);
        old.push(mode == Some(before));
        if mode != Some(before) && mode != Some(after) {
            return Err(format!("the mode of /etc/file-3 is {mode:?}"));
        }
    }
    match (old.iter().all(|old| *old), old.iter().any(|old| *old)) {
        (true, _) => Ok(Side::Old),
        (false, false) => Ok(Side::New),
        (false, true) => Err(format!("{} of {} are old", old.iter().filter(|old| **old).count(), old.len())),
    }
}

/// How much is tried of a state.
#[derive(Clone, Copy, PartialEq)]
pub enum Depth {
    /// Our reader.
    Glance,
    /// Our reader, our recovery without e2fsck, and e2fsck's.
    Light,
    /// Also e2fsck on our recovery, and a second run.
    Full,
    /// Also a second run after e2fsck's recovery.
    Deep,
}

/// Everything about one state. `expected` is the side that it must be on.
pub fn judge(case: &Case, log: &[Op], state: &State, expected: Side, depth: Depth, desk: &Desk) -> Result<(), String> {
    let image = Arc::new(state.image(&case.base, log));
    if case.in_journal(&image, NEW) {
        return Err("a new value is in the journal".into());
    }
    if !case.old_in_journal && case.in_journal(&image, OLD) {
        return Err("an old value is in the journal".into());
    }
    let expect = |image: &Arc<Vec<u8>>, what: &str| match side(case, image) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(format!("{what}: all values are {found:?}, and should be {expected:?}")),
        Err(e) => Err(format!("{what}: {e}")),
    };
    expect(&image, "by our reader")?;
    if state.is_done {
        fsck(&image, desk).map_err(|e| format!("after the commit came back: {e}"))?;
        settled(case, &image)
            .and_then(|()| zeroed(case, &image))
            .map_err(|e| format!("after the commit came back: {e}"))?;
    }

    if depth == Depth::Glance {
        return Ok(());
    }
    let mut ours = Arc::clone(&image);
    case.recover(&mut ours)?;
    if depth != Depth::Light {
        fsck(&ours, desk).map_err(|e| format!("after our recovery: {e}"))?;
    }
    expect(&ours, "after our recovery")?;
    drop(ours);
    if !is_torn(&image) {
        let theirs = Arc::new(preen(&image, desk)?);
        fsck(&theirs, desk).map_err(|e| format!("after e2fsck -p: {e}"))?;
        expect(&theirs, "after e2fsck -p")?;
        if expected == Side::New {
            // Nobody but e2fsck has to come for the old values to be gone.
            settled(case, &theirs).map_err(|e| format!("after e2fsck -p: {e}"))?;
        }
        if expected == Side::Old && depth == Depth::Deep {
            let mut again = theirs;
            second_run(case, &mut again, expected, desk).map_err(|e| format!("second run after e2fsck -p: {e}"))?;
        }
    }
    if depth == Depth::Light {
        return Ok(());
    }
    let mut again = image;
    second_run(case, &mut again, expected, desk).map_err(|e| format!("second run: {e}"))
}

/// A second run makes all of it new, and leaves nothing behind.
fn second_run(case: &Case, image: &mut Arc<Vec<u8>>, now: Side, desk: &Desk) -> Result<(), String> {
    match now {
        Side::Old => case.change(image)?,
        Side::New => case.recover(image)?,
    }
    if side(case, image)? != Side::New {
        return Err("it is not new".into());
    }
    fsck(image, desk)?;
    settled(case, image)?;
    if now == Side::Old { zeroed(case, image) } else { Ok(()) }
}

/// After a whole run: no old value anywhere, each new one once, nothing of either in the journal, and no mark of a
/// mount.
pub fn settled(case: &Case, image: &[u8]) -> Result<(), String> {
    let old = count(image, OLD.as_bytes());
    if old > 0 {
        return Err(format!("{old} pieces of old values are left"));
    }
    let want: usize =
        case.values.iter().filter_map(|value| value.new.as_ref()).map(|new| count(new, NEW.as_bytes())).sum();
    let found = count(image, NEW.as_bytes());
    if found != want {
        return Err(format!("{found} pieces of new values, and not {want}"));
    }
    if case.in_journal(image, NEW) {
        return Err("a new value is in the journal".into());
    }
    if superblock(image).raw[0x60] & 4 != 0 {
        return Err("needs_recovery is set".into());
    }
    let start = case.journal_at() as usize + 0x1C;
    if image[start..start + 4] != [0; 4] {
        return Err("the journal still points at its log".into());
    }
    Ok(())
}

/// What a run used of the log is zero.
fn zeroed(case: &Case, image: &[u8]) -> Result<(), String> {
    let first = case.journal[1] as usize * case.block_size;
    let is_zero = image[first..first + case.block_size].iter().all(|byte| *byte == 0);
    if is_zero { Ok(()) } else { Err("the log is not zeroed".into()) }
}

fn superblock(image: &[u8]) -> Superblock {
    let raw: [u8; SIZE] = image[1024..1024 + SIZE].try_into().unwrap();
    Superblock::parse(&raw).expect("no cut removes the magic")
}

/// True when the superblock's checksum does not hold: neither e2fsck nor the kernel takes such a one.
pub fn is_torn(image: &[u8]) -> bool {
    let superblock = superblock(image);
    superblock.has_checksums() && superblock.checksum != Superblock::checksum_of(&superblock.raw)
}

/// `e2fsck -p`, which must have nothing to say but that it recovers the journal, and releases orphans. A mark of
/// orphans, as a mount leaves it, is only seen with `-f` (1.47.0).
pub fn preen(image: &[u8], desk: &Desk) -> Result<Vec<u8>, String> {
    desk.lay(image);
    let has_mark = superblock(image).features.ro_compat.has(RoCompat::ORPHAN_PRESENT);
    let output = run("e2fsck", &[if has_mark { "-pf" } else { "-p" }, desk.image.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let ordinary = |line: &str| {
        let summary = line.contains(": clean, ") || (has_mark && line.contains(" files ("));
        let mark = has_mark
            && (line.contains("orphan_present is set but orphan file is clean")
                || line.contains("Orphan file (inode ")
                || line == "CLEARED.");
        let orphan = line.contains(": Clearing orphaned inode ");
        line.ends_with(": recovering journal") || summary || mark || orphan || line.is_empty()
    };
    if !matches!(output.status.code(), Some(0 | 1)) || !said.lines().all(ordinary) {
        return Err(format!("e2fsck -p: {}: {said}", output.status));
    }
    Ok(desk.take())
}

/// `e2fsck -fn`, which must have nothing to say at all.
pub fn fsck(image: &[u8], desk: &Desk) -> Result<(), String> {
    desk.lay(image);
    let output = run("e2fsck", &["-fn", desk.image.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout);
    let ordinary = |line: &str| line.is_empty() || line.starts_with("Pass ") || line.contains(" files (");
    if output.status.success() && said.lines().all(ordinary) {
        Ok(())
    } else {
        Err(format!("e2fsck -fn: {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}
