//! Block devices and locks: which device may be written to, who holds an image, and changes with and without a journal
//! that covers them. Judged by e2fsck and the kernel.
//!
//! What needs loop devices is skipped, loudly, where there are none or the test is not root.
#![allow(clippy::as_conversions)]

mod cuts;
mod held;
mod in_place;
mod judged;
mod machine;
mod undo;
