//! From what a person named as an image to its raw disk: the file, its container, its partitions; where the changed image
//! goes, and which other process has it open.

pub(crate) mod block_devices;
pub mod container;
pub mod destination;
pub mod disk;
pub mod holders;
pub(crate) mod input;
pub(crate) mod spool;
