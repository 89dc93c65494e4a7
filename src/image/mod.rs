//! The stack below an image target: container, partition table, file system, overlay and commit.
//!
//! ```text
//! container (raw | compressed) ─> disk ─> partition ─> overlay ─> file system ─> commit
//!                                             └─────> a file to be worked on ─> a mount by the kernel ─> its name
//! ```
//!
//! Knows nothing of manifests, sources or hosts. Everything read from an image is hostile input: checked arithmetic,
//! bounded memory and time, no panic.

pub mod acl;
mod bytes;
mod cache;
pub mod commit;
pub mod container;
mod copy;
mod destination;
pub mod device;
pub mod disk;
pub mod error;
pub mod ext4;
mod frames;
pub mod held;
mod input;
pub mod journal;
pub mod mount;
pub mod output;
pub mod overlay;
pub mod patch;
pub mod probe;
pub mod progress;
pub mod root;
mod spool;
pub mod system;
pub mod table;
pub mod text;
pub mod tree;
pub mod undo;
pub(crate) mod unfinished;
pub mod walk;
pub mod work;
