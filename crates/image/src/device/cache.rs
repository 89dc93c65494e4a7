//! A read cache: readers of a file system read the same few blocks again and again, and four of them run in one command
//! (the survey, the writer, the audit, the read-back).
//!
//! For a device that is not written to during the run. Cached data may be secret: it is zeroized on drop.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use deaddrop_core::bytes::length;
use deaddrop_core::secret::Wiped;

use crate::device::ReadAt;

/// Size of a cache line, in bytes.
const LINE: usize = 16 << 10;
/// The same as an offset type.
const STEP: u64 = 16 << 10;
/// Longer reads bypass the cache: they are scans of data that is not read again.
const LONGEST: usize = 4 * LINE;
/// Maximum number of lines: 8 MiB.
const MOST_LINES: usize = 512;

/// A device with a read cache.
pub(crate) struct Cached {
    base: Arc<dyn ReadAt>,
    /// By number: offset divided by [`LINE`]. All have that length except the last of the device.
    lines: Mutex<HashMap<u64, Wiped>>,
}

impl Cached {
    /// A device `base` with an empty cache.
    pub fn new(base: Arc<dyn ReadAt>) -> Self {
        Self { base, lines: Mutex::new(HashMap::new()) }
    }
}

impl ReadAt for Cached {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(length(buf)).filter(|end| *end <= self.size());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if buf.len() > LONGEST {
            return self.base.read_exact_at(offset, buf);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        while at < end {
            let number = at / STEP;
            if !lines.contains_key(&number) {
                // Cannot overflow: it starts at or before `at`, which is on the device.
                let start = number * STEP;
                let room = usize::try_from(self.size() - start).unwrap_or(LINE).min(LINE);
                let mut line = Wiped::zeros(room);
                if self.base.read_exact_at(start, &mut line).is_err() {
                    // The unreadable sector may be outside the requested range.
                    return self.base.read_exact_at(offset, buf);
                }
                if lines.len() >= MOST_LINES {
                    lines.clear();
                }
                lines.insert(number, line);
            }
            // Both fit: the first is below LINE, the second below the length of `buf`.
            let (inside, done) = (usize::try_from(at % STEP).unwrap_or(0), usize::try_from(at - offset).unwrap_or(0));
            let from = lines.get(&number).and_then(|line| line.get(inside..)).unwrap_or_default();
            let to = buf.get_mut(done..).unwrap_or_default();
            let count = from.len().min(to.len());
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // OK to index: `count` is at most the length of both.
            to[..count].copy_from_slice(&from[..count]);
            at = at.saturating_add(length(&from[..count]));
        }
        Ok(())
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.base.next_data(range)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts its reads, and fails those that touch its last byte but one.
    struct Counting {
        bytes: Vec<u8>,
        broken: bool,
        reads: AtomicU64,
    }

    impl ReadAt for Counting {
        fn size(&self) -> u64 {
            self.bytes.size()
        }

        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let broken = self.size() - 2;
            if self.broken && (offset..offset + length(buf)).contains(&broken) {
                return Err(io::Error::other("broken"));
            }
            self.bytes.read_exact_at(offset, buf)
        }
    }

    fn cached(size: usize, broken: bool) -> (Arc<Counting>, Cached) {
        let bytes = (0..size).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        let base = Arc::new(Counting { bytes, broken, reads: AtomicU64::new(0) });
        (base.clone(), Cached::new(base))
    }

    #[test]
    fn every_read_gives_what_the_device_holds_and_each_place_is_read_once() {
        let (base, cached) = cached(3 * LINE + 1000, false);
        let starts = [0, 1, 4096, LINE - 1, LINE, 2 * LINE + 5, 3 * LINE, 3 * LINE + 999];
        for _ in 0..3 {
            for start in starts {
                for size in [0, 1, 2, 512, 1000, 4096, LINE, LINE + 1, 2 * LINE + 1000] {
                    let mut got = vec![0; size];
                    let read = cached.read_exact_at(u64::try_from(start).unwrap(), &mut got);
                    match base.bytes.get(start..start + size) {
                        Some(want) => assert!(read.is_ok() && got == want, "{size} at {start}"),
                        None => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{size} at {start}"),
                    }
                }
            }
        }
        assert_eq!(base.reads.load(Ordering::SeqCst), 4);
        assert!(cached.read_exact_at(u64::MAX, &mut [0; 2]).is_err());
    }

    #[test]
    fn a_broken_place_only_stops_reads_that_touch_it() {
        let (_, cached) = cached(LINE, true);
        let end = u64::try_from(LINE).unwrap();
        let mut got = [0; 4];
        assert!(cached.read_exact_at(end - 6, &mut got).is_ok());
        assert!(cached.read_exact_at(end - 5, &mut got).is_err());
        assert!(cached.read_exact_at(end - 1, &mut got[..1]).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_what_was_dropped_is_read_again() {
        let (base, cached) = cached((MOST_LINES + 2) * LINE, false);
        let mut got = [0; 1];
        for line in 0..MOST_LINES + 2 {
            cached.read_exact_at(u64::try_from(line * LINE).unwrap(), &mut got).unwrap();
            assert!(cached.lines.lock().unwrap().len() <= MOST_LINES);
        }
        cached.read_exact_at(0, &mut got).unwrap();
        assert_eq!(base.reads.load(Ordering::SeqCst), u64::try_from(MOST_LINES + 3).unwrap());
    }
}
