//! Key derivations: their cost is bounded before they run, and the user is told when one takes long. An encrypted file
//! chooses its own cost, so a hostile one could ask for days.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use deaddrop_core::limits::MIB;
use deaddrop_core::sys;
use nix::sys::resource::{Resource, getrlimit};

use crate::spec::KdfLimit;

/// Maximum memory of one key derivation, in bytes: 1 GiB.
pub(crate) const MAX_MEMORY: u64 = 1 << 30;
/// Maximum memory that one key derivation fills in all its passes, in bytes: 100 GiB, some minutes.
const MAX_FILLED: u64 = 100 << 30;

/// Hint for a derivation that costs too much.
pub(crate) const LIFT: &str = "`kdf_limit: none` at this source lifts the limit: the file then takes what it says";

/// Hint for a derivation that takes more memory than there is.
const MORE_MEMORY: &str = "run it on a machine with more memory, or with a larger `ulimit -v` if that is the limit";

/// A derivation that is refused: what it would cost, to be printed after the file's path, and a hint.
pub(crate) type Refusal = (String, &'static str);

/// How long a derivation may take before the user is told of it.
const PATIENCE: Duration = Duration::from_secs(2);

impl KdfLimit {
    /// True if a derivation may cost anything.
    pub(crate) fn is_lifted(self) -> bool {
        self == Self::Lifted
    }

    /// Checks a derivation that fills `memory` bytes in each of `passes` passes. A failed allocation would abort the
    /// process without a message, so this also checks that the process can have the memory.
    ///
    /// # Errors
    /// It costs too much, or the process cannot have the memory.
    pub(crate) fn check_memory(self, memory: u64, passes: u64) -> Result<(), Refusal> {
        let filled = u128::from(memory).saturating_mul(u128::from(passes));
        if !self.is_lifted() && memory > MAX_MEMORY {
            let most = mib(MAX_MEMORY);
            let what = format!(
                "deriving its key takes {} MiB of memory, over {most} MiB, the most that is taken",
                mib(memory)
            );
            return Err((what, LIFT));
        }
        if !self.is_lifted() && filled > u128::from(MAX_FILLED) {
            let what = format!(
                "deriving its key fills {} MiB of memory {passes} times, {} GiB in all, over {} GiB, the most that is \
                 taken",
                mib(memory),
                filled.div_ceil(1 << 30),
                MAX_FILLED >> 30
            );
            return Err((what, LIFT));
        }
        fits(memory).map_err(|what| (what, MORE_MEMORY))
    }
}

fn mib(bytes: u64) -> u64 {
    bytes / u64::try_from(MIB).unwrap_or(1)
}

/// Checks that this process can allocate `memory` bytes.
fn fits(memory: u64) -> Result<(), String> {
    // `ulimit -v` bounds the address space; the first field of statm is its size in pages (proc(5)).
    let limit = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft);
    // Without /proc the size is unknown and taken as 0: the check only replaces an abort by a message.
    let used = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = used.split(' ').next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    let used = pages.saturating_mul(sys::page_size());
    // Reserve 16 MiB for everything else.
    if used.saturating_add(memory).saturating_add(16 << 20) > limit {
        return Err(format!(
            "deriving its key takes {} MiB of memory, more than this process may have (`ulimit -v`)",
            mib(memory)
        ));
    }
    // What is within the limit is tried; what a user has lifted it for may end the machine's memory.
    if memory > MAX_MEMORY && available().is_some_and(|available| memory > available) {
        return Err(format!("deriving its key takes {} MiB of memory, more than this machine has free", mib(memory)));
    }
    Ok(())
}

/// The memory that can be had without swapping, in bytes: `MemAvailable` of /proc/meminfo (proc(5)).
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The key derivation of one file: its limit, and who is told when it takes long.
#[derive(Debug, Clone)]
pub(crate) struct Derivation {
    /// The source, or the file of identities.
    pub whose: String,
    /// How much it may cost.
    pub limit: KdfLimit,
    /// Receives a line for the user; see [`crate::Sources::tell`].
    pub tell: Option<fn(&str)>,
}

impl Derivation {
    /// Runs `work`. If it takes over 2 s, the user is told of it, with `cost`.
    pub(crate) fn run<T>(&self, cost: &str, work: impl FnOnce() -> T) -> T {
        let Some(tell) = self.tell else { return work() };
        let line = format!("{}: deriving the key: {cost} …", self.whose);
        thread::scope(|scope| {
            let (ended, waiting) = mpsc::channel::<()>();
            let wait = move || {
                if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    tell(&line);
                }
            };
            // Without a thread the user is not told, and the key is derived all the same.
            let _ = thread::Builder::new().spawn_scoped(scope, wait);
            let result = work();
            drop(ended);
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derivation_is_refused_for_its_memory_and_for_what_it_fills_in_all() {
        let bounded = |memory, passes| KdfLimit::Bounded.check_memory(memory, passes);
        assert_eq!(bounded(MAX_MEMORY - 1, 1), Ok(()));
        assert_eq!(bounded(MAX_MEMORY, 100), Ok(()));
        assert_eq!(bounded(1 << 20, 102_400), Ok(()));
        let in_all = "fills 1 MiB of memory 102401 times, 101 GiB in all, over 100 GiB, the most that is taken";
        assert!(bounded(1 << 20, 102_401).unwrap_err().0.ends_with(in_all));
        assert!(bounded(MAX_MEMORY, 101).unwrap_err().0.contains("1024 MiB of memory 101 times, 101 GiB in all"));
        assert!(bounded(MAX_MEMORY + 1, 1).unwrap_err().0.contains("over 1024 MiB"));
        assert!(bounded(u64::MAX, u64::MAX).is_err());
        assert_eq!(KdfLimit::Lifted.check_memory(1 << 20, u64::MAX), Ok(()));
        assert!(KdfLimit::Lifted.check_memory(u64::MAX, 1).unwrap_err().0.contains("more than this"));
    }
}
