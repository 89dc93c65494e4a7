//! System calls that no safe crate covers. The only module where `unsafe` is allowed; one small safe function per call.
#![allow(unsafe_code)]

mod btrfs;
mod clock;
mod files;
mod loop_device;
mod memory;
mod mount;
mod process;
mod signals;

pub use self::btrfs::{btrfs_device, btrfs_search, btrfs_subvolume};
pub use self::clock::ThreadClock;
pub use self::files::{
    APPEND_ONLY, EXTENT_SIZE, IMMUTABLE, begin_writing, extents, file_flags, is_read_only, next_data, open_terminal,
    reflink, reflink_range, reread_table, sector_size, trim, zero_out,
};
pub use self::loop_device::{configure_loop_device, detach_loop_device, free_loop_device};
pub use self::memory::{lock_all, lock_memory};
pub use self::mount::{fs_create, fs_mount, fs_open, fs_option};
pub use self::process::{
    ChildLimits, end_with_parent, harden, keep_freed_memory, limit_child, page_size, raise_open_files_limit,
};
pub use self::signals::{
    RemoveOnSignal, SignalsTaken, SignalsWait, Taken, TerminalOnSignal, end_cleanly_on_signals, is_deferred,
    is_terminated,
};
