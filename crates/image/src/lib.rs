//! Disk images: opening one, changing files in its root file system, and committing the change.
//!
//! ```text
//! container ─> disk ─> partition ─> overlay ─> file system ─> commit
//!  container   open::disk  table    device     ext4           journal | undo | output
//!                              └─> mount: a file to be changed ─> a mount by the kernel ─> output
//! ```
//!
//! - [`container`]: what a disk may be packed in, one file a kind with both directions.
//! - [`open`]: from a path to a raw disk; the destination of the result; holders of the image.
//! - [`table`]: partitions, the content of each, and the choice of the root.
//! - [`device`]: positioned reads, the read cache, and the overlay that keeps written blocks in memory.
//! - [`ext4`]: reads ext2 to ext4, makes a change on an overlay, and checks it.
//! - [`journal`]: jbd2 replay, and the in-place commit as one transaction.
//! - [`undo`]: the in-place commit of a block device without a usable journal.
//! - [`output`]: the commit to a new file, raw or compressed.
//! - [`native`]: these parts as one back end. [`mount`]: the back end for file systems that the kernel writes.
//! - [`tar`]: a root file system in a tar, which is no disk: read, changed and written as an archive.
//! - [`flash`]: an image onto a block device, with a change merged in.
//! - [`maintenance`]: recovery and scrub, which need no secrets.
//!
//! Puts a file into an image, in place, and reads it back:
//!
//! ```
//! use std::process::Command;
//! use std::time::SystemTime;
//!
//! use deaddrop_core::secret::Secret;
//! use deaddrop_core::tree::{Tree, TreeChange, walk};
//! use deaddrop_image::native::NativeImage;
//! use deaddrop_image::open::disk::Trust;
//! use deaddrop_image::output::Destination;
//! use deaddrop_image::progress::quiet;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let path = directory.path().join("node1.img");
//! let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-L", "nixos"]).arg(&path).arg("16M").status()?;
//! assert!(made.success());
//!
//! let in_place = Destination::InPlace { keep_mode: false, force: false, undo: None };
//! let mut image = NativeImage::open(&path, Trust::default(), None, Some(&in_place), &quiet)?;
//! let token = TreeChange::WriteFile {
//!     path: "/token".into(),
//!     content: Secret::new(b"hunter2".to_vec()),
//!     mode: 0o400,
//!     uid: 0,
//!     gid: 0,
//!     label: None,
//! };
//! image.apply(&[token], SystemTime::now())?;
//! drop(image); // Its lock excludes readers.
//!
//! let image = NativeImage::open(&path, Trust::default(), None, None, &quiet)?;
//! let (file, stat) = walk::walk(image.tree(), "/token")?.found.ok_or("not found")?;
//! let content = image.tree().read(&file, stat.size)?.ok_or("too large")?;
//! assert_eq!((content.expose(), stat.mode), (&b"hunter2"[..], 0o400));
//! # Ok(())
//! # }
//! ```
//!
//! Does not depend on manifests, sources, hosts or the command line. Everything read from an image is hostile input:
//! checked arithmetic, bounded memory and time, no panic.

pub mod container;
pub mod device;
pub mod ext4;
pub mod flash;
pub mod fsck;
pub mod journal;
pub mod maintenance;
pub mod mount;
pub mod native;
pub mod open;
pub mod output;
pub mod progress;
pub mod sidecars;
pub mod table;
pub mod tar;
pub mod undo;
