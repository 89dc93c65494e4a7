//! From the path of an image to its raw disk: the file, its container, its partitions; the destination of a changed
//! image, and the holders of an image.

pub(crate) mod block_devices;
pub mod container;
pub mod destination;
pub mod disk;
pub mod holders;
pub(crate) mod input;
pub(crate) mod spool;
