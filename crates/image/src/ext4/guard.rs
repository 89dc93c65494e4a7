//! Runs third-party file-system code on hostile images: in its own thread, with limits on its time and its steps, and
//! with its panics caught and not printed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use deaddrop_core::contain::contain;
use deaddrop_core::error::StorageError;
use deaddrop_core::sys::ThreadClock;

/// Name of the threads.
const THREAD: &str = "deaddrop-guarded";
/// Interval of the watchdog.
const TICK: Duration = Duration::from_millis(50);
/// Without one step in this processor time, the code is in a loop. Processor time, not wall-clock time: a busy machine
/// must not make an image look hostile.
const STALL: Duration = Duration::from_secs(3);
/// In wall-clock time the limits are this many times longer: for code that waits forever.
const PATIENCE: u32 = 20;

/// Counts the steps (device calls) of guarded code, up to a limit.
pub(super) struct Steps {
    taken: AtomicU64,
    most: u64,
}

impl Steps {
    /// Allows `most` steps.
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { taken: AtomicU64::new(0), most })
    }

    /// Takes one step; false if no more are allowed. The code must then get an error from its device.
    pub fn take(&self) -> bool {
        self.taken.fetch_add(1, Ordering::SeqCst) < self.most
    }

    /// Allows no further step: code that is still running gets only errors from its device.
    fn stop(&self) {
        self.taken.store(u64::MAX / 2, Ordering::SeqCst);
    }

    fn count(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

/// Runs `work` and returns its result. `what` names it in errors ("the ext4 writer").
///
/// # Errors
/// As [`Guarded::wait`].
pub(super) fn run<T: Send + 'static>(
    what: &'static str,
    steps: &Arc<Steps>,
    longest: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StorageError> {
    start(what, steps, longest, work)?.wait()
}

/// Guarded work, running in its thread.
pub(super) struct Guarded<T> {
    what: &'static str,
    steps: Arc<Steps>,
    longest: Duration,
    start: Instant,
    /// The thread's processor time; set by the thread.
    clock: Arc<OnceLock<ThreadClock>>,
    result: mpsc::Receiver<Option<T>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts `work`. `what` names it in errors.
///
/// # Errors
/// [`StorageError::Io`] if no thread can be started.
pub(super) fn start<T: Send + 'static>(
    what: &'static str,
    steps: &Arc<Steps>,
    longest: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Guarded<T>, StorageError> {
    let (sender, result) = mpsc::channel();
    let clock = Arc::new(OnceLock::new());
    let inside = Arc::clone(&clock);
    let thread = thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || {
            // Set once: this is the only place.
            let _ = inside.set(ThreadClock::of_this_thread());
            // The receiver may have been dropped: then the result is not needed.
            let _ = sender.send(contain(work));
        })
        .map_err(|error| StorageError::io(format!("starting a thread for {what}"), error))?;
    let steps = Arc::clone(steps);
    Ok(Guarded { what, steps, longest, start: Instant::now(), clock, result, thread: Some(thread) })
}

impl<T> Guarded<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if the work panics, exceeds its processor time or its steps, or makes no step for some
    /// seconds. A thread that does not end is abandoned; its device returns only errors.
    pub fn wait(mut self) -> Result<T, StorageError> {
        let (mut seen, mut moved) = (self.steps.count(), Duration::ZERO);
        let result = loop {
            match self.result.recv_timeout(TICK) {
                Ok(Some(result)) => break result,
                Ok(None) | Err(RecvTimeoutError::Disconnected) => return Err(self.gone("failed inside")),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let worked = self.clock.get().and_then(ThreadClock::time).unwrap_or_default();
            let count = self.steps.count();
            if count != seen {
                (seen, moved) = (count, worked);
            }
            let stalled = worked.saturating_sub(moved) > STALL;
            if stalled || worked > self.longest || self.start.elapsed() > self.longest.saturating_mul(PATIENCE) {
                return Err(self.gone("did not come to an end"));
            }
        };
        // The thread has sent its result, and ends immediately.
        let _ = self.thread.take().map(JoinHandle::join);
        if self.steps.count() <= self.steps.most { Ok(result) } else { Err(self.gone("did not come to an end")) }
    }

    fn gone(&self, why: &str) -> StorageError {
        StorageError::Corrupt(format!("{} {why}; the file system may be damaged (try e2fsck -f)", self.what))
    }
}

impl<T> Drop for Guarded<T> {
    /// The result is no longer needed: a thread that is still running gets only errors from its device.
    fn drop(&mut self) {
        self.steps.stop();
    }
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
