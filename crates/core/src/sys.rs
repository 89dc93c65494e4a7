//! System calls that no safe crate covers. The only module where `unsafe` is allowed; one small safe function a call.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::termios::Termios;
use nix::sys::{mman, prctl, resource};
use nix::unistd::Pid;

/// Switches core dumps off for this process. Called first in `main`, before any value can be in memory.
pub fn harden() {
    // Best effort: a system that refuses these still runs us, and the manual does not promise more.
    let _ = resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = prctl::set_dumpable(false);
    // Over a file size limit, a write shall fail with an error that we can word, not end us without one.
    // SAFETY: ignoring a signal installs no handler.
    let _ = unsafe { signal::signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Tells the C library's allocator to keep what was freed for the next request, of any thread: a run is short, and asking the
/// kernel for memory again and again is a good part of its time. Elsewhere than with glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        // One arena: our threads take turns.
        (libc::M_ARENA_MAX, 1),
        (libc::M_TOP_PAD, 512 << 10),
        (libc::M_TRIM_THRESHOLD, 16 << 20),
        (libc::M_MMAP_THRESHOLD, 1 << 20),
    ] {
        // SAFETY: sets a number in the allocator. Called before there are threads.
        let _ = unsafe { libc::mallopt(option, value) };
    }
}

/// Bytes of a page of memory.
pub fn page_size() -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    page.and_then(|page| u64::try_from(page).ok()).unwrap_or(4096)
}

/// Makes `to` share all of `from`'s blocks, on a file system that can (btrfs, xfs, bcachefs, …). `to` becomes as
/// long as `from`; writes to one do not reach the other.
///
/// # Errors
/// What the system says; mostly that it cannot.
pub fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor by value, and no memory.
    let result = unsafe { libc::ioctl(to.as_fd().as_raw_fd(), libc::FICLONE, from.as_fd().as_raw_fd()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// True for a block device that the kernel lets nobody write to: a locked card, `blockdev --setro`.
///
/// # Errors
/// What the system says; that it is no block device.
pub fn is_read_only(device: &File) -> io::Result<bool> {
    /// `BLKROGET` of linux/fs.h: `_IO(0x12, 94)`.
    const BLKROGET: libc::Ioctl = nix::request_code_none!(0x12, 94);
    let mut read_only: c_int = 0;
    // SAFETY: BLKROGET writes one int, and there is a place for it.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BLKROGET, &raw mut read_only) };
    if result == 0 { Ok(read_only != 0) } else { Err(io::Error::last_os_error()) }
}

/// The signals that end us in the usual course of things.
const ENDING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// How far the run is, for the handler: one of the three below.
static STAGE: AtomicU8 = AtomicU8::new(BEFORE);
/// Nothing was changed: a signal ends us.
const BEFORE: u8 = 0;
/// Something is being changed: a signal waits.
const DURING: u8 = 1;
/// The change is made: what a signal would stop is done already.
const AFTER: u8 = 2;

/// The signal that waits for the end of [`DURING`]; 0 when there is none.
static WAITING: AtomicI32 = AtomicI32::new(0);

/// SIGTERM has come during [`DURING`], whatever came after it.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// True once SIGTERM waits for the end of a change ([`SignalsWait`]): what can be cut off without harm is cut off.
pub fn is_terminated() -> bool {
    TERMINATED.load(Ordering::SeqCst)
}

/// Makes a program end when we do, however we end. The thread that starts it has to live as long as it does.
pub fn ends_with_us(command: &mut Command) {
    // SAFETY: prctl(2) with numbers only, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
    }
}

/// The file that the signal handler removes; null when there is none.
static DOOMED: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// From here on SIGHUP, SIGINT and SIGTERM end us cleanly, until a change is made ([`SignalsWait`]): an unfinished file is
/// removed ([`RemoveOnSignal`]), a line says that nothing was changed, and the exit code is 129, 130 or 143. A signal that
/// is ignored (nohup) stays ignored.
pub fn end_cleanly_on_signals() {
    // SA_RESTART: where a signal only waits, no call of ours shall fail because of it.
    let action = SigAction::new(SigHandler::Handler(on_ending_signal), SaFlags::SA_RESTART, SigSet::all());
    for ending in ENDING {
        // SAFETY: the handler makes async-signal-safe calls only: see there.
        if let Ok(old) = unsafe { signal::sigaction(ending, &action) }
            && matches!(old.handler(), SigHandler::SigIgn)
        {
            // SAFETY: puts back what stood there.
            let _ = unsafe { signal::sigaction(ending, &old) };
        }
    }
}

/// While this lives, the signals of [`end_cleanly_on_signals`] wait: for the moment in which a change is made, so that
/// whoever sees us ended by a signal knows that nothing was changed. One at a time.
#[must_use]
pub struct SignalsWait(());

impl SignalsWait {
    /// From here on they wait.
    #[expect(clippy::new_without_default, reason = "it changes the whole process, which a default does not")]
    pub fn new() -> Self {
        STAGE.store(DURING, Ordering::SeqCst);
        Self(())
    }

    /// True when one waits already.
    #[must_use]
    pub fn has_come(&self) -> bool {
        WAITING.load(Ordering::SeqCst) != 0
    }

    /// The change is made. A signal that waited, or comes now, would stop what is done: it is passed over, and the run
    /// reports what it did. The next one ends it.
    pub fn committed(self) {
        STAGE.store(AFTER, Ordering::SeqCst);
    }
}

impl Drop for SignalsWait {
    /// Nothing was changed after all: a signal that waited ends us now.
    fn drop(&mut self) {
        // The stage first: a signal from here on ends us by itself.
        let unchanged = STAGE.compare_exchange(DURING, BEFORE, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let waiting = WAITING.swap(0, Ordering::SeqCst);
        if unchanged && waiting != 0 {
            end_by(waiting);
        }
    }
}

/// While this lives, a signal that ends us removes one file first. For file systems where an unfinished file needs a name.
/// Without [`end_cleanly_on_signals`] it does nothing.
pub struct RemoveOnSignal(());

impl RemoveOnSignal {
    /// Watches over `path`. `None` when another file is watched over already, or the path holds a NUL: then a signal
    /// may leave the file behind.
    #[must_use]
    pub fn new(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?.into_raw();
        if DOOMED.compare_exchange(ptr::null_mut(), path, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: `path` is from `into_raw` above, and nobody else has seen it.
            drop(unsafe { CString::from_raw(path) });
            return None;
        }
        Some(Self(()))
    }
}

impl Drop for RemoveOnSignal {
    fn drop(&mut self) {
        let path = DOOMED.swap(ptr::null_mut(), Ordering::SeqCst);
        if !path.is_null() {
            // SAFETY: from `into_raw` in `new`; the swap made us its only owner. Had the handler taken it, it were null.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

/// The terminal that does not show what is typed, for the signal handler; null when there is none.
static SILENT: AtomicPtr<Terminal> = AtomicPtr::new(ptr::null_mut());

/// A terminal and how it was.
struct Terminal {
    fd: RawFd,
    before: libc::termios,
    /// The process group that has it for the time being; 0 when it is ours.
    lent: libc::pid_t,
}

/// While this lives, a signal that ends us gives a terminal its old settings first: else a person who gives up at a
/// password's prompt is left with a shell that shows nothing. Without [`end_cleanly_on_signals`] it does nothing.
pub struct TerminalOnSignal(());

impl TerminalOnSignal {
    /// The terminal `terminal`, which stays open as long as this lives, and its settings `before`. One at a time: a second
    /// one takes the first one's place.
    #[must_use]
    pub fn new(terminal: &impl AsRawFd, before: &Termios) -> Self {
        Self::lent(terminal, before, Pid::from_raw(0))
    }

    /// The same of a terminal that a process group of ours has for the time being: it is ended, and the terminal is ours again.
    #[must_use]
    pub fn lent(terminal: &impl AsRawFd, before: &Termios, group: Pid) -> Self {
        let (fd, lent) = (terminal.as_raw_fd(), group.as_raw());
        let terminal = Box::new(Terminal { fd, before: before.clone().into(), lent });
        drop_terminal(SILENT.swap(Box::into_raw(terminal), Ordering::SeqCst));
        Self(())
    }
}

impl Drop for TerminalOnSignal {
    fn drop(&mut self) {
        drop_terminal(SILENT.swap(ptr::null_mut(), Ordering::SeqCst));
    }
}

fn drop_terminal(terminal: *mut Terminal) {
    if !terminal.is_null() {
        // SAFETY: from `into_raw` in `new`; the swap made us its only owner. Had the handler taken it, it were null.
        drop(unsafe { Box::from_raw(terminal) });
    }
}

extern "C" fn on_ending_signal(number: c_int) {
    match STAGE.load(Ordering::SeqCst) {
        DURING => {
            WAITING.store(number, Ordering::SeqCst);
            if number == libc::SIGTERM {
                TERMINATED.store(true, Ordering::SeqCst);
            }
        }
        // SAFETY: async-signal-safe.
        AFTER => drop(unsafe { libc::signal(number, libc::SIG_DFL) }),
        _ => end_by(number),
    }
}

/// Removes the unfinished file, says that nothing was changed, and ends us with 128 and the signal's number, as a shell
/// would show it (130, 143). Also called by the handler: async-signal-safe calls only (signal-safety(7)), and no allocation.
fn end_by(number: c_int) -> ! {
    const LAST_WORDS: &[u8] = b"\nerror: stopped by a signal: nothing was changed\n";
    let path = DOOMED.swap(ptr::null_mut(), Ordering::SeqCst);
    let terminal = SILENT.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: `terminal` is null or from `into_raw`, its file open, and nobody frees it once it was swapped out; `path` is null or a NUL-terminated string from `into_raw`, which nobody frees once it was swapped out; the set
    // is initialised before it is used; the words are valid memory of that length. All calls are async-signal-safe.
    unsafe {
        if !path.is_null() {
            libc::unlink(path);
        }
        if !terminal.is_null() {
            let lent = (*terminal).lent;
            if lent > 0 {
                libc::kill(-lent, libc::SIGKILL);
                // SIGTTOU waits in a handler of ours; else it would stop who is not in the foreground.
                let mut stop = std::mem::zeroed();
                libc::sigemptyset(&mut stop);
                libc::sigaddset(&mut stop, libc::SIGTTOU);
                libc::sigprocmask(libc::SIG_BLOCK, &stop, ptr::null_mut());
                if libc::tcgetpgrp((*terminal).fd) == lent {
                    libc::tcsetpgrp((*terminal).fd, libc::getpgrp());
                }
            }
            libc::tcsetattr((*terminal).fd, libc::TCSANOW, &raw const (*terminal).before);
        }
        // The default first, and the signal let through: a terminal that takes no words is left by a second signal.
        libc::signal(number, libc::SIG_DFL);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, number);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::write(libc::STDERR_FILENO, LAST_WORDS.as_ptr().cast(), LAST_WORDS.len());
        libc::_exit(number.saturating_add(128))
    }
}

/// Lets this process have as many open files as the system allows it. Best effort.
pub fn raise_open_files_limit() {
    if let Ok((_, most)) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE) {
        let _ = resource::setrlimit(resource::Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Asks the kernel to keep `bytes` out of swap. Best effort: RLIMIT_MEMLOCK may be small. Never unlocked, since
/// locks cover whole pages and a neighbour on the page may still need them; the process is short-lived.
pub fn lock_memory(bytes: &[u8]) {
    lock_all([bytes]);
}

/// [`lock_memory`] of many pieces: what lies on the same or adjacent pages is locked by one call. A call costs as much as
/// writing a block.
pub fn lock_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) {
    /// Where pages are larger, what is adjacent by this size is so as well.
    const PAGE: usize = 4096;
    let mut pieces: Vec<&[u8]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    pieces.sort_unstable_by_key(|piece| piece.as_ptr().addr());
    let end = |piece: &[u8]| piece.as_ptr().addr().saturating_add(piece.len());
    for run in pieces.chunk_by(|one, next| next.as_ptr().addr() / PAGE <= end(one).saturating_sub(1) / PAGE + 1) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let length = end(last).saturating_sub(first.as_ptr().addr());
        // SAFETY: mlock only changes residency. Each page of the range holds a byte of a piece, so that it is mapped.
        let _ = unsafe { mman::mlock(NonNull::from(*first).cast(), length) };
    }
}

/// A clock that runs while one thread has the processor.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The clock of the thread that calls.
    #[must_use]
    pub fn of_this_thread() -> Self {
        let mut clock = libc::CLOCK_MONOTONIC;
        // SAFETY: a live thread (our own), and a place for the answer. If it fails, time passes as for everybody.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        Self(clock)
    }

    /// How long the thread had the processor; none when it has ended.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a place for the answer. The clock of a thread that has ended is an error, not a wrong answer.
        if unsafe { libc::clock_gettime(self.0, &mut time) } != 0 {
            return None;
        }
        Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
    }
}

/// Begins to set up a mount of a file system of this kind; gives the context that the `fs_*` functions below work on.
/// fsopen(2), Linux 5.2. The kernel loads the file system's module if it has one.
///
/// # Errors
/// ENODEV when the kernel does not have it; EPERM without CAP_SYS_ADMIN; ENOSYS from an old kernel.
pub fn fs_open(kind: &CStr) -> nix::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    // SAFETY: a NUL-terminated string that lives as long as the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

/// Sets one option of a context: with a value, or as a flag. fsconfig(2), FSCONFIG_SET_STRING and FSCONFIG_SET_FLAG.
///
/// # Errors
/// EINVAL for an option that the file system does not know.
pub fn fs_option(context: &OwnedFd, key: &CStr, value: Option<&CStr>) -> nix::Result<()> {
    const SET_FLAG: libc::c_uint = 0;
    const SET_STRING: libc::c_uint = 1;
    let (command, value) = value.map_or((SET_FLAG, ptr::null()), |value| (SET_STRING, value.as_ptr()));
    let context = context.as_raw_fd();
    // SAFETY: NUL-terminated strings that live as long as the call; the value of a flag is null, as it has to be.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key.as_ptr(), value, 0) };
    Errno::result(result).map(drop)
}

/// Makes the kernel open the file system that was set up. fsconfig(2), FSCONFIG_CMD_CREATE.
///
/// # Errors
/// Whatever the file system says; its words are read from the context.
pub fn fs_create(context: &OwnedFd) -> nix::Result<()> {
    const CREATE: libc::c_uint = 6;
    let none: *const c_char = ptr::null();
    // SAFETY: this command takes neither key nor value.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, 0) };
    Errno::result(result).map(drop)
}

/// Makes a mount of a file system that was created. It is attached nowhere: nobody else can see it, and it is unmounted
/// when the last descriptor of it is closed, however we end. The descriptor is of its top directory, as with O_PATH.
/// fsmount(2); `attributes` are MOUNT_ATTR_….
///
/// # Errors
/// EINVAL for an attribute that the kernel does not know.
pub fn fs_mount(context: &OwnedFd, attributes: u32) -> nix::Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

fn descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    let number = Errno::result(result)?;
    let number = RawFd::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel gave it to us just now, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The number of a loop device that is free at the moment; made if there is none. loop(4), LOOP_CTL_GET_FREE.
///
/// # Errors
/// What the system says.
pub fn free_loop_device(control: &File) -> nix::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
    // SAFETY: takes no argument.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    Errno::result(result).and_then(|number| u32::try_from(number).map_err(|_| Errno::EINVAL))
}

/// include/uapi/linux/loop.h, `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// include/uapi/linux/loop.h, `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

/// Makes a free loop device show `size` bytes of `backing` from `offset` on, in one step; `flags` are LO_FLAGS_….
/// loop(4), LOOP_CONFIGURE, Linux 5.8.
///
/// # Errors
/// EBUSY when the device is not free (any more); EINVAL for a flag that cannot be had; what else the system says.
pub fn configure_loop_device(device: &File, backing: &File, offset: u64, size: u64, flags: u32) -> nix::Result<()> {
    const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset,
        size_limit: size,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let config = LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: a structure of the size and layout that the kernel reads, which lives as long as the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    Errno::result(result).map(drop)
}

/// Tells the device below a mounted file system to forget what is free. `place` is open on it, and not with O_PATH.
/// Returns the bytes that it was told of. include/uapi/linux/fs.h, FITRIM.
///
/// # Errors
/// EOPNOTSUPP when the device cannot do it; what else the system says.
pub fn trim(place: &OwnedFd) -> nix::Result<u64> {
    const FITRIM: libc::Ioctl = nix::request_code_readwrite!(b'X', 121, 24);
    // `struct fstrim_range`: start, length, least length of a free run.
    let mut range = [0, u64::MAX, 0];
    // SAFETY: three u64, which the kernel reads and writes.
    Errno::result(unsafe { libc::ioctl(place.as_raw_fd(), FITRIM, range.as_mut_ptr()) })?;
    Ok(range[1])
}

/// Bytes of one extent in the answer of [`extents`].
pub const EXTENT_SIZE: usize = 56;

/// Fills `answer` with a file's first extents from byte `start` on; gives how many there are in it, each of
/// [`EXTENT_SIZE`]. Documentation/filesystems/fiemap.rst, FS_IOC_FIEMAP.
///
/// # Errors
/// EOPNOTSUPP from a file system without it; what else the system says.
pub fn extents(file: &File, start: u64, answer: &mut [u8; 32 + 32 * EXTENT_SIZE]) -> nix::Result<usize> {
    const FS_IOC_FIEMAP: libc::Ioctl = nix::request_code_readwrite!(b'f', 11, 32);
    const MOST: u32 = 32;
    // `struct fiemap`: start and length u64; flags, mapped extents, room for extents, reserved u32.
    answer.fill(0);
    answer[0..8].copy_from_slice(&start.to_ne_bytes());
    answer[8..16].copy_from_slice(&(u64::MAX - start).to_ne_bytes());
    answer[24..28].copy_from_slice(&MOST.to_ne_bytes());
    // SAFETY: room for the header and as many extents as it says.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, answer.as_mut_ptr()) })?;
    let [a, b, c, d] = [answer[20], answer[21], answer[22], answer[23]];
    let count = u32::from_ne_bytes([a, b, c, d]).min(MOST);
    usize::try_from(count).map_err(|_| Errno::EOVERFLOW)
}

/// `FS_IMMUTABLE_FL` and `FS_APPEND_FL` of [`file_flags`] (include/uapi/linux/fs.h).
pub const IMMUTABLE: u32 = 0x10;
/// See [`IMMUTABLE`].
pub const APPEND_ONLY: u32 = 0x20;

/// The flags of an open file, as chattr(1) sets them. FS_IOC_GETFLAGS, ioctl_iflags(2).
///
/// # Errors
/// When the file system has none.
pub fn file_flags(file: &File) -> nix::Result<u32> {
    // The number says `long`, and what is written is an int.
    let mut flags: [u32; 2] = [0; 2];
    // SAFETY: the kernel writes an int to `flags`, which has room for a long and lives until the call returns.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, flags.as_mut_ptr()) })?;
    Ok(flags[0])
}

/// What btrfs says of the subvolume that `place` is in: `struct btrfs_ioctl_get_subvol_info_args`.
/// include/uapi/linux/btrfs.h, BTRFS_IOC_GET_SUBVOL_INFO.
///
/// # Errors
/// What the system says.
pub fn btrfs_subvolume(place: &OwnedFd) -> nix::Result<[u8; 504]> {
    const GET_SUBVOL_INFO: libc::Ioctl = nix::request_code_read!(0x94, 60, 504);
    let mut answer = [0; 504];
    // SAFETY: room for the answer, whose size is in the request's number.
    Errno::result(unsafe { libc::ioctl(place.as_raw_fd(), GET_SUBVOL_INFO, answer.as_mut_ptr()) })?;
    Ok(answer)
}

/// Calls the btrfs that `place` is in with 4,096 bytes of arguments, where its answer will stand as well.
fn btrfs_call(place: &OwnedFd, request: libc::Ioctl, arguments: &mut [u8; 4096]) -> nix::Result<()> {
    // SAFETY: both callers' requests have this size in their number.
    Errno::result(unsafe { libc::ioctl(place.as_raw_fd(), request, arguments.as_mut_ptr()) }).map(drop)
}

/// What btrfs says of one of its devices: `struct btrfs_ioctl_dev_info_args`. BTRFS_IOC_DEV_INFO.
///
/// # Errors
/// ENODEV when it has no such device.
pub fn btrfs_device(place: &OwnedFd, id: u64) -> nix::Result<[u8; 4096]> {
    const DEV_INFO: libc::Ioctl = nix::request_code_readwrite!(0x94, 30, 4096);
    let mut arguments = [0; 4096];
    arguments[0..8].copy_from_slice(&id.to_ne_bytes());
    btrfs_call(place, DEV_INFO, &mut arguments)?;
    Ok(arguments)
}

/// Searches a tree of a btrfs: `struct btrfs_ioctl_search_args`, made by the caller. BTRFS_IOC_TREE_SEARCH.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN; what else the system says.
pub fn btrfs_search(place: &OwnedFd, arguments: &mut [u8; 4096]) -> nix::Result<()> {
    const TREE_SEARCH: libc::Ioctl = nix::request_code_readwrite!(0x94, 17, 4096);
    btrfs_call(place, TREE_SEARCH, arguments)
}
