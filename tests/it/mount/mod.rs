//! The mount back end: what the kernel writes into btrfs, xfs and ext4 images, judged by fresh mounts, `btrfs check`,
//! `xfs_repair` and `e2fsck`; and what is left on this machine when a run ends, however it ends: nothing.
//!
//! Skipped, loudly, where there are no loop devices, the test is not root, or the kernel does not have a file system.

mod devices;
mod hostile;
mod logs;
mod machine;
mod old_values;
mod refused;
mod scanned;
mod stopped;
mod subvolumes;
mod systems;
mod together;
