//! A medium that fails at each write and each flush in turn.

use std::io;
use std::sync::Arc;

use deaddrop_core::error::CommitError;
use deaddrop_image::journal::commit::Medium;

use super::bench::{Case, Desk, TIME};
use super::judge::{Side, fsck, side};
use super::log::{Memory, Op};
use super::states::LAYOUTS;

/// Memory whose operation number `fails` is refused, once or for ever.
struct Failing<'a> {
    memory: Memory<'a>,
    fails: usize,
    for_ever: bool,
    done: usize,
    passed: bool,
}

impl Failing<'_> {
    fn step(&mut self) -> io::Result<()> {
        let fails = self.done == self.fails || (self.for_ever && self.done > self.fails);
        self.done += 1;
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Medium for Failing<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        self.memory.write_at(offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.step()
    }

    fn pass_commit_point(&mut self) {
        self.passed = true;
    }
}

#[test]
fn an_error_at_any_moment_is_told_apart_by_what_the_image_is() {
    for name in ["1 KiB, v3, longer", "4 KiB, as mounted", "pending, v3, 4 KiB"] {
        let case = LAYOUTS.iter().find(|layout| layout.name == name).unwrap().make();
        let log = case.log();
        let point = case.commit_point(&log);
        let desk = Desk::new();
        for fails in 0..log.len() {
            // In the middle of a long row of writes one is like another.
            let near = fails.abs_diff(point) < 8 || matches!(log[fails], Op::Flush) || fails % 9 == 0;
            for for_ever in [false, true].into_iter().filter(|_| near) {
                let what = format!("{name}: operation {fails} of {} fails, for ever: {for_ever}", log.len());
                one(&case, fails, for_ever, point, &desk).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        }
    }
}

fn one(case: &Case, fails: usize, for_ever: bool, point: usize, desk: &Desk) -> Result<(), String> {
    let mut image = case.base.clone();
    let transaction = case.transaction(&Arc::new(image.clone())).map_err(|e| e.to_string())?;
    let mut medium = Failing { memory: Memory(&mut image), fails, for_ever, done: 0, passed: false };
    let error = transaction.commit(&mut medium, 0, TIME).err().ok_or("the commit does not notice")?;
    let passed = medium.passed;
    // The write that commits and its flush: taken back if the medium still takes writes.
    let want_after = fails > point + 1 || (fails >= point && for_ever);
    match &error {
        CommitError::Before(_) if want_after => return Err("it says that nothing is changed".into()),
        CommitError::After(_) if !want_after => return Err("it says that the commit point is passed".into()),
        CommitError::Before(_) if passed => return Err("what was written could not be taken back any more".into()),
        CommitError::After(_) if !passed => return Err("what was written might be taken back".into()),
        _ => {}
    }
    let mut image = Arc::new(image);
    let found = side(case, &image)?;
    // The write that commits may have failed before or after it reached the medium.
    let want = if matches!(error, CommitError::Before(_)) || fails == point { Side::Old } else { Side::New };
    if found != want {
        return Err(format!("all is {found:?} after {error:?}"));
    }
    match found {
        Side::Old => case.change(&mut image)?,
        Side::New => case.recover(&mut image)?,
    }
    fsck(&image, desk)?;
    if side(case, &image)? == Side::New { Ok(()) } else { Err("a second run does not make it new".into()) }
}
