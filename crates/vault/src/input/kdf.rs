//! Limits on key derivation. An encrypted file chooses its own cost, so a hostile one could ask for days.

use deaddrop_core::limits::MIB;
use deaddrop_core::sys;
use nix::sys::resource::{Resource, getrlimit};

/// Maximum memory of one key derivation, in bytes: 1 GiB.
pub(crate) const MAX_MEMORY: u64 = 1 << 30;

/// Checks that this process can allocate `memory` bytes, at most [`MAX_MEMORY`]. A failed allocation would abort the
/// process without a message.
///
/// # Errors
/// The message, to be printed after the file's path.
pub(crate) fn fits(memory: u64) -> Result<(), String> {
    let mib = u64::try_from(MIB).unwrap_or(1);
    if memory > MAX_MEMORY {
        return Err(format!(
            "deriving its key takes {} MiB of memory, over 1024 MiB, the most that is taken",
            memory / mib
        ));
    }
    // `ulimit -v` bounds the address space; the first field of statm is its size in pages (proc(5)).
    let limit = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(soft, _)| soft);
    // Without /proc the size is unknown and taken as 0: the check only replaces an abort by a message.
    let used = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = used.split(' ').next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    let page = sys::page_size();
    let used = pages.saturating_mul(page);
    // Reserve 16 MiB for everything else.
    match used.saturating_add(memory).saturating_add(16 * mib) <= limit {
        true => Ok(()),
        false => {
            let what = "deriving its key takes {} MiB of memory, more than this process may have (`ulimit -v`)";
            Err(what.replace("{}", &(memory / mib).to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gibibyte_is_taken_and_a_byte_more_is_not() {
        assert_eq!(fits(MAX_MEMORY - 1), Ok(()));
        assert_eq!(fits(MAX_MEMORY), Ok(()));
        assert!(fits(MAX_MEMORY + 1).unwrap_err().contains("over 1024 MiB"));
    }
}
