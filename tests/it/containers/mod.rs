//! The file that holds an image, without what is inside: what is taken and what is refused, compressed or not; and
//! where a changed one goes. Judged by the compressors' own programs, and with sfdisk's and mkfs.ext4's disks.

mod bombs;
mod children;
mod compressed;
mod converted;
mod frames;
mod hostile_qcow2;
mod inputs;
mod outputs;
mod qcow2;
mod reads;
mod sidecars;
mod vma;
