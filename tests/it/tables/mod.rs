//! What lies on a disk, and which of it is the root: tables, partitions and signatures, as sfdisk, sgdisk, blkid and
//! the makers of file systems write and read them.

mod layers;
mod layouts;
