//! Writes and flushes in their order, and what a cut leaves of them.

use std::{fmt, io};

use deaddrop_image::journal::commit::Medium;

use crate::kit::splitmix64;

/// What the medium was asked for.
#[derive(Clone)]
pub enum Op {
    /// Bytes at an offset.
    Write(u64, Vec<u8>),
    /// All before this is on the medium.
    Flush,
}

/// A medium that only notes what it is asked for.
#[derive(Default)]
pub struct Recorder(pub Vec<Op>);

impl Medium for Recorder {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.push(Op::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.push(Op::Flush);
        Ok(())
    }
}

/// A whole image in memory.
pub struct Memory<'a>(pub &'a mut Vec<u8>);

impl Medium for Memory<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        put(self.0, offset, bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(image: &mut [u8], offset: u64, bytes: &[u8]) {
    let at = offset as usize;
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// How much of a write arrived.
#[derive(Clone, Copy, PartialEq)]
pub enum Part {
    All,
    /// The first so many bytes.
    Head(usize),
    /// All but the first so many bytes.
    Tail(usize),
}

/// What is on the medium after a cut: these writes of a log, in this order.
#[derive(Clone)]
pub struct State {
    pub applied: Vec<(usize, Part)>,
    /// Every write and flush had come back: the commit was done.
    pub is_done: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.applied.iter().map(|(index, _)| *index).max();
        let (mut cut, mut missing) = (Vec::new(), Vec::new());
        for index in 0..=last.unwrap_or(0) {
            match self.applied.iter().find(|(at, _)| *at == index) {
                None => missing.push(index),
                Some((_, Part::All)) => {}
                Some((_, Part::Head(bytes))) => cut.push(format!("{index}[..{bytes}]")),
                Some((_, Part::Tail(bytes))) => cut.push(format!("{index}[{bytes}..]")),
            }
        }
        let done = if self.is_done { ", done" } else { "" };
        // Flushes are never applied, so they are among the missing.
        write!(f, "state up to operation {last:?}{done}; without {missing:?}; cut {cut:?}")
    }
}

impl State {
    /// The image after the cut.
    pub fn image(&self, base: &[u8], log: &[Op]) -> Vec<u8> {
        let mut image = base.to_vec();
        for (index, part) in &self.applied {
            let Op::Write(offset, bytes) = &log[*index] else { unreachable!("only writes are applied") };
            match *part {
                Part::All => put(&mut image, *offset, bytes),
                Part::Head(length) => put(&mut image, *offset, &bytes[..length]),
                Part::Tail(from) => put(&mut image, offset + from as u64, &bytes[from..]),
            }
        }
        image
    }

    /// True when the write `index` arrived, as far as its first sector.
    pub fn has(&self, index: usize) -> bool {
        self.applied.iter().any(|(at, part)| *at == index && !matches!(part, Part::Tail(_)))
    }
}

/// A small generator of random numbers (splitmix64), so that a seed tells all.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        (splitmix64(&mut self.0) % end.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

/// Bytes that a medium writes as one, at least.
const SECTOR: usize = 512;

/// How many flushes a log has.
pub fn flushes(log: &[Op]) -> usize {
    log.iter().filter(|op| matches!(op, Op::Flush)).count()
}

fn writes(log: &[Op]) -> Vec<(usize, usize)> {
    let length = |op: &Op| match op {
        Op::Write(_, bytes) => Some(bytes.len()),
        Op::Flush => None,
    };
    log.iter().enumerate().filter_map(|(index, op)| Some((index, length(op)?))).collect()
}

/// Every prefix of the log.
pub fn prefixes(log: &[Op]) -> Vec<State> {
    (0..=log.len())
        .filter(|end| *end == 0 || *end == log.len() || matches!(log[*end - 1], Op::Write(..)))
        .map(|end| State {
            applied: writes(&log[..end]).into_iter().map(|(index, _)| (index, Part::All)).collect(),
            is_done: end == log.len(),
        })
        .collect()
}

/// Every prefix with its last write cut in two, both halves tried, at every sector. Of more than `most` cuts only so
/// many, but always those of the writes to the places `always`.
pub fn torn(log: &[Op], always: &[u64], most: usize, random: &mut Random) -> Vec<State> {
    let (mut chosen, mut others) = (Vec::new(), Vec::new());
    let all = writes(log);
    for (place, (index, length)) in all.iter().enumerate() {
        for at in (SECTOR..*length).step_by(SECTOR) {
            for part in [Part::Head(at), Part::Tail(at)] {
                let mut applied: Vec<_> = all[..place].iter().map(|(index, _)| (*index, Part::All)).collect();
                applied.push((*index, part));
                let state = State { applied, is_done: false };
                let is_always = matches!(&log[*index], Op::Write(offset, _) if always.contains(offset));
                if is_always { &mut chosen } else { &mut others }.push(state);
            }
        }
    }
    random.shuffle(&mut others);
    others.truncate(most.saturating_sub(chosen.len()));
    chosen.extend(others);
    chosen
}

/// Random states: all writes before some flush, any of those after it up to the next one, in any order, at times one of
/// them cut in two.
pub fn subsets(log: &[Op], count: usize, random: &mut Random) -> Vec<State> {
    let mut windows: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    for (index, op) in log.iter().enumerate() {
        if matches!(op, Op::Flush) {
            windows.push((start, index));
            start = index + 1;
        }
    }
    // What follows the last flush may be missing although the commit came back.
    windows.push((start, log.len()));
    windows.retain(|(start, end)| end > start);
    (0..count)
        .map(|round| {
            let (start, end) = windows[round % windows.len()];
            let mut applied: Vec<_> = writes(&log[..start]).into_iter().map(|(index, _)| (index, Part::All)).collect();
            let mut window: Vec<(usize, usize)> =
                writes(log).into_iter().filter(|(index, _)| (start..end).contains(index)).collect();
            random.shuffle(&mut window);
            // From none to all of them, and often nearly all or nearly none.
            let keep = match random.below(4) {
                0 => random.below(3).min(window.len()),
                1 => window.len().saturating_sub(random.below(3)),
                _ => random.below(window.len() + 1),
            };
            window.truncate(keep);
            let cut = (random.below(3) == 0).then(|| random.below(window.len()));
            for (place, (index, length)) in window.into_iter().enumerate() {
                let part = match (cut == Some(place), length / SECTOR) {
                    (true, sectors @ 2..) => {
                        let at = (1 + random.below(sectors - 1)) * SECTOR;
                        if random.below(2) == 0 { Part::Head(at) } else { Part::Tail(at) }
                    }
                    _ => Part::All,
                };
                applied.push((index, part));
            }
            State { applied, is_done: end == log.len() }
        })
        .collect()
}
