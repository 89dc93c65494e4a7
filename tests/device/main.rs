//! Block devices and locks: who holds an image, and changes to a device that no journal covers. Judged by e2fsck and the
//! kernel.
//!
//! What needs loop devices is skipped, loudly, where there are none or the test is not root.
#![allow(clippy::as_conversions)]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../ext4/support.rs"]
mod support;

mod cuts;
mod held;
mod machine;
mod undo;
