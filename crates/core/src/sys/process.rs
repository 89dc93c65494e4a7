//! Settings of this process and its children: core dumps, the allocator, limits.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sys::signal::{self, SigHandler, Signal};
use nix::sys::{prctl, resource};

/// Disables core dumps for this process. Called first in `main`, before any value can be in memory.
pub fn harden() {
    // Best effort: the program also works on a system that refuses these, and docs/safety.md does not promise more.
    let _ = resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = prctl::set_dumpable(false);
    // At a file size limit, a write must fail with an error that can be reported, instead of a signal that kills the
    // process.
    // SAFETY: ignoring a signal installs no handler.
    let _ = unsafe { signal::signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Makes glibc's allocator keep freed memory for later requests of any thread: a run is short, and requesting memory
/// from the kernel again and again costs much of its time. Does nothing with another C library.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        // One arena: the threads take turns.
        (libc::M_ARENA_MAX, 1),
        (libc::M_TOP_PAD, 512 << 10),
        (libc::M_TRIM_THRESHOLD, 16 << 20),
        (libc::M_MMAP_THRESHOLD, 1 << 20),
    ] {
        // SAFETY: sets a number in the allocator. Called before there are threads.
        let _ = unsafe { libc::mallopt(option, value) };
    }
}

/// The page size, in bytes.
pub fn page_size() -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|page| u64::try_from(page).ok()).unwrap_or(4096)
}

/// Makes a child process terminate when this process does, for whatever reason. The thread that starts it must live as
/// long as the child.
pub fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl(2) with numbers only, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
    }
}

/// Raises the limit of open files of this process to the maximum. Best effort.
pub fn raise_open_files_limit() {
    if let Ok((_, most)) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE) {
        let _ = resource::setrlimit(resource::Resource::RLIMIT_NOFILE, most, most);
    }
}

/// What a child process may take, at most.
#[derive(Debug, Clone, Copy)]
pub struct ChildLimits {
    /// Bytes of address space.
    pub address_space: u64,
    /// Bytes of the stack of each thread.
    pub stack: u64,
    /// Seconds of the processor's time.
    pub seconds: u64,
    /// Bytes of a file that it writes.
    pub file_size: u64,
}

/// Limits a child process from its start. A limit that is lower already stays.
pub fn limit_child(command: &mut Command, limits: ChildLimits) {
    use resource::Resource::{RLIMIT_AS, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_STACK};
    let ChildLimits { address_space, stack, seconds, file_size } = limits;
    let limits = [(RLIMIT_AS, address_space), (RLIMIT_STACK, stack), (RLIMIT_CPU, seconds), (RLIMIT_FSIZE, file_size)];
    // SAFETY: getrlimit(2) and setrlimit(2) with numbers only, which are system calls and nothing else.
    unsafe {
        command.pre_exec(move || {
            for (resource, most) in limits {
                let (_, hard) = resource::getrlimit(resource)?;
                let most = most.min(hard);
                resource::setrlimit(resource, most, most)?;
            }
            Ok(())
        });
    }
}
