//! The image stack without file systems, against real tools: sfdisk, sgdisk, mkfs.ext4, mkfs.vfat, zstd.

mod children;
mod frames;
mod inputs;
mod layers;
mod layouts;
mod outputs;
mod tools;
