//! Runs other people's file-system code on hostile images: on a thread of its own, with a bound on its time and its
//! steps, and with its panics caught and kept off standard error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::contain::contain;
use crate::image::error::ImageError;
use crate::sys::ThreadClock;

/// Name of the threads.
const THREAD: &str = "deaddrop-guarded";
/// How often the watch looks.
const TICK: Duration = Duration::from_millis(50);
/// Without one step in this time of the processor, the code is in a loop. Not of the clock: a machine that is busy with
/// other things makes nobody hostile.
const STALL: Duration = Duration::from_secs(3);
/// By the clock, the bounds are so many times longer: for code that waits for something that never comes.
const PATIENCE: u32 = 20;

/// Counts the steps (device calls) of guarded code, and says when they are used up.
pub(super) struct Steps {
    taken: AtomicU64,
    most: u64,
}

impl Steps {
    /// Allows `most` steps.
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { taken: AtomicU64::new(0), most })
    }

    /// Takes one step; false when no more are allowed. The code must then get an error from its device.
    pub fn take(&self) -> bool {
        self.taken.fetch_add(1, Ordering::SeqCst) < self.most
    }

    /// Allows no further step: what runs on is cut off from its device.
    fn stop(&self) {
        self.taken.store(u64::MAX / 2, Ordering::SeqCst);
    }

    fn count(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

/// Runs `work` and returns what it returns. `what` names it in errors ("the ext4 writer").
///
/// # Errors
/// [`ImageError::Corrupt`] when `work` panics, takes more of the processor's time than `longest`, takes too many steps, or makes none for some
/// seconds. A thread that does not end is left behind, cut off from its device.
pub(super) fn run<T: Send + 'static>(
    what: &str,
    steps: &Arc<Steps>,
    longest: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImageError> {
    let (sender, receiver) = mpsc::channel();
    let clock = Arc::new(OnceLock::new());
    let inside = Arc::clone(&clock);
    let gone = |why: &str| ImageError::Corrupt(format!("{what} {why}; the file system may be damaged (try e2fsck -f)"));
    let thread = thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || {
            // Set once: this is the only place.
            let _ = inside.set(ThreadClock::of_this_thread());
            // The receiver may have given up: then nobody wants the result.
            let _ = sender.send(contain(work));
        })
        .map_err(|error| ImageError::io(format!("starting a thread for {what}"), error))?;
    let start = Instant::now();
    let (mut seen, mut moved) = (steps.count(), Duration::ZERO);
    let result = loop {
        match receiver.recv_timeout(TICK) {
            Ok(Some(result)) => break Ok(result),
            Ok(None) | Err(RecvTimeoutError::Disconnected) => break Err(gone("failed inside")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let worked = clock.get().and_then(ThreadClock::time).unwrap_or_default();
        let count = steps.count();
        if count != seen {
            (seen, moved) = (count, worked);
        }
        let stalled = worked.saturating_sub(moved) > STALL;
        if stalled || worked > longest || start.elapsed() > longest.saturating_mul(PATIENCE) {
            steps.stop();
            return Err(gone("did not come to an end"));
        }
    };
    // The thread has sent its result: it ends at once.
    let _ = thread.join();
    if result.is_err() || steps.count() <= steps.most { result } else { Err(gone("did not come to an end")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(longest: Duration, work: impl FnOnce(&Steps) -> u32 + Send + 'static) -> Result<u32, String> {
        let steps = Steps::new(10);
        let inside = Arc::clone(&steps);
        run("the test", &steps, longest, move || work(&inside)).map_err(|error| error.to_string())
    }

    #[test]
    fn results_come_through_and_failures_are_told_apart() {
        let second = Duration::from_secs(1);
        assert_eq!(outcome(second, |_| 7), Ok(7));
        assert!(outcome(second, |_| panic!("inside")).unwrap_err().contains("failed inside"));
        assert!(
            outcome(Duration::from_millis(100), |_| {
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(20) {}
                1
            })
            .unwrap_err()
            .contains("did not come to an end")
        );
        assert!(
            outcome(second, |steps| {
                while steps.take() {}
                1
            })
            .unwrap_err()
            .contains("did not come to an end")
        );
    }
}
