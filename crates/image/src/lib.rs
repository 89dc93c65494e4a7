//! The stack below an image target: container, partition table, file system, overlay and commit.
//!
//! ```text
//! container (raw | compressed) ─> disk ─> partition ─> overlay ─> file system ─> commit
//!                                             └─────> a file to be worked on ─> a mount by the kernel ─> its name
//! ```
//!
//! Knows nothing of manifests, sources or hosts. Everything read from an image is hostile input: checked arithmetic,
//! bounded memory and time, no panic.

pub mod device;
pub mod ext4;
pub mod journal;
pub mod maintenance;
pub mod mount;
pub mod native;
pub mod open;
pub mod output;
pub mod progress;
pub mod table;
pub mod undo;
