//! The in-place commit, cut off at every place: every write and flush is recorded, and what a power cut may leave is
//! judged by our own reader, e2fsck and the kernel.
//!
//! - [`log`]: the recording medium, and the states that a log of writes can leave.
//! - [`bench`]: images by mke2fs and debugfs, with old values, and the changes to them.
//! - [`judge`]: what must hold in every state.
//! - [`states`]: all of that over all layouts.
//!
//! Needs mke2fs, e2fsck and debugfs, and a kernel that mounts loop devices for the layouts that are "as mounted".
//!
//! `DEADDROP_CRASH_STATES=N` tries N random states in place of the usual number, `DEADDROP_CRASH_SEED=S` starts from
//! another seed. Each failure prints both. `DEADDROP_CRASH_THOROUGH=1` judges each state by everything: e2fsck after
//! either recovery, a second run after either, and the kernel's mount, on all layouts; `DEADDROP_CRASH_LAYOUT=A|B`
//! takes those whose names hold A or B.
#![allow(clippy::as_conversions)]

mod bench;
mod blocks;
mod failing;
mod judge;
mod kernel;
mod log;
mod mutations;
mod outside;
mod states;
mod traces;
