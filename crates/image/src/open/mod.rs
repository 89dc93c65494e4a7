//! From the path of an image to its raw disk: the file, what its container holds, its partitions; the destination of a
//! changed image, and the holders of an image.

pub mod block_devices;
pub mod destination;
pub mod disk;
pub mod holders;
pub(crate) mod input;
mod novelty;
pub(crate) mod spool;
