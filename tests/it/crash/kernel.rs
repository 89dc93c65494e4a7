//! The kernel's word: what it makes of a cut when it mounts it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::bench::{Case, Desk, mounted};
use super::judge::{Side, fsck, is_torn, side};
use super::log::{Op, Random, State, prefixes, subsets, torn};
use super::states::{is_thorough, layouts, number, random_of_each, seed};
use crate::kit::shout;

/// The layouts that the kernel is asked about in an ordinary run.
const SOME: [&str; 5] =
    ["1 KiB, no checksums, first", "4 KiB, as mounted", "2 KiB, v3, no 64bit", "live copy, 1 KiB", "ext3, 1 KiB"];

#[test]
fn the_kernel_mounts_what_a_cut_leaves_and_sees_all_old_or_all_new() {
    let mut all = 0;
    let thorough = is_thorough();
    for layout in layouts().into_iter().filter(|layout| thorough || SOME.contains(&layout.name)) {
        let name = layout.name;
        let case = layout.make();
        let log = case.log();
        let desk = Desk::new();
        desk.lay(&case.base);
        if !mounted(&desk.image, |_| {}) {
            return shout("SKIPPED: only root can mount an image: the kernel was not asked about cuts");
        }
        let random = if thorough { random_of_each() } else { number("DEADDROP_CRASH_STATES", 1200) / 120 };
        // All prefixes of two layouts, a part of the others'.
        let step = if thorough || all == 0 || name.starts_with("4 KiB") { 1 } else { 5 };
        let mut states: Vec<State> = prefixes(&log).into_iter().step_by(step).collect();
        let mut source = Random(seed());
        if thorough {
            states.extend(torn(&log, &case.superblocks(), 40, &mut source));
        }
        states.extend(subsets(&log, random, &mut source));
        let mut tried = 0;
        for state in states {
            tried += usize::from(one(&case, &log, &state, &desk).unwrap_or_else(|e| {
                panic!("{name}, seed {}: {state:?}: {e}", seed());
            }));
        }
        eprintln!("{name}: {tried} states mounted by the kernel");
        all += tried;
    }
    eprintln!("{all} states mounted by the kernel");
}

/// False for a state that the kernel does not take, as it is known not to.
fn one(case: &Case, log: &[Op], state: &State, desk: &Desk) -> Result<bool, String> {
    let image = state.image(&case.base, log);
    if is_torn(&image) {
        return Ok(false);
    }
    let want = if state.has(case.commit_point(log)) { Side::New } else { Side::Old };
    desk.lay(&image);
    let mut seen = Err("it does not mount".to_owned());
    mounted(&desk.image, |root| {
        seen = side_in(case, root);
        let written = fs::write(root.join("written-by-the-kernel"), "after the cut");
        // Some layouts are as good as full.
        let full = written.as_ref().is_err_and(|e| e.kind() == ErrorKind::StorageFull);
        assert!(full || written.is_ok(), "writing to a mount: {written:?}");
    });
    if seen? != want {
        return Err(format!("the kernel does not see all as {want:?}"));
    }
    let after = Arc::new(desk.take());
    fsck(&after, desk)?;
    match side(case, &after)? {
        found if found == want => Ok(true),
        found => Err(format!("after the kernel all is {found:?}")),
    }
}

fn side_in(case: &Case, root: &Path) -> Result<Side, String> {
    let mut old = 0;
    for value in &case.values {
        let content = fs::read(root.join(&value.path[1..])).ok();
        match content {
            content if content == value.old => old += 1,
            content if content == value.new => {}
            _ => return Err(format!("the kernel sees {} as neither old nor new", value.path)),
        }
    }
    match old {
        0 => Ok(Side::New),
        all if all == case.values.len() => Ok(Side::Old),
        _ => Err(format!("the kernel sees {old} of {} values as old", case.values.len())),
    }
}
