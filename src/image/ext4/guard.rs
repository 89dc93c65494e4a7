//! Runs other people's file-system code on hostile images: on a thread of its own, with a bound on its time and its
//! steps, and with its panics caught and kept off standard error.

use std::panic;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::image::error::ImageError;

/// Name of the threads whose panics are not printed.
const THREAD: &str = "deaddrop-guarded";
/// How often the watch looks.
const TICK: Duration = Duration::from_millis(50);
/// Without one step in this time, the code is in a loop.
const STALL: Duration = Duration::from_secs(3);

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
/// [`ImageError::Corrupt`] when `work` panics, takes longer than `longest`, takes too many steps, or makes none for some
/// seconds. A thread that does not end is left behind, cut off from its device.
pub(super) fn run<T: Send + 'static>(
    what: &str,
    steps: &Arc<Steps>,
    longest: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImageError> {
    silence_guarded_panics();
    let (sender, receiver) = mpsc::channel();
    let gone = |why: &str| ImageError::Corrupt(format!("{what} {why}; the file system may be damaged (try e2fsck -f)"));
    let thread = thread::Builder::new()
        .name(THREAD.into())
        .spawn(move || {
            // The receiver may have given up: then nobody wants the result.
            let _ = sender.send(work());
        })
        .map_err(|error| ImageError::io(format!("starting a thread for {what}"), error))?;
    let start = Instant::now();
    let (mut seen, mut moved) = (steps.count(), start);
    let result = loop {
        match receiver.recv_timeout(TICK) {
            Ok(result) => break Ok(result),
            // The sender was dropped without a result: a panic.
            Err(RecvTimeoutError::Disconnected) => break Err(gone("failed inside")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let count = steps.count();
        if count != seen {
            (seen, moved) = (count, Instant::now());
        }
        if moved.elapsed() > STALL || start.elapsed() > longest {
            steps.stop();
            return Err(gone("did not come to an end"));
        }
    };
    // The thread has sent its result or is unwinding: it ends at once.
    let _ = thread.join();
    if result.is_err() || steps.count() <= steps.most { result } else { Err(gone("did not come to an end")) }
}

/// Panic messages of guarded threads could hold anything: they are not printed. All others are, as before.
fn silence_guarded_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() != Some(THREAD) {
                before(info);
            }
        }));
    });
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
            outcome(Duration::from_millis(100), |steps| {
                while steps.take() {
                    thread::sleep(Duration::from_millis(60));
                }
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
