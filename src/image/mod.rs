//! The stack below an image target: container, partition table, file system, overlay and commit.
//!
//! ```text
//! container (raw | compressed) ─> disk ─> partition ─> overlay ─> file system ─> commit
//! ```
//!
//! Knows nothing of manifests, sources or hosts. Everything read from an image is hostile input: checked arithmetic,
//! bounded memory and time, no panic.

pub mod device;
pub mod error;
pub mod ext4;
pub mod overlay;
pub mod tree;
