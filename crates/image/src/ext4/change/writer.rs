//! The writer: the crate `rust-fs-ext4`, on an overlay, behind the few calls that deaddrop needs.
//!
//! It is not trusted. It runs guarded (see `guard`), its result is audited (see `audit`) and read back by other code,
//! and it never sees a value: it creates files of zeros of the right length, and `apply` writes the content into their
//! blocks. Its own journal, which would log its writes, is never opened.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use deaddrop_core::tree::Label;
use fs_ext4::block_io::BlockDevice;
use fs_ext4::fs::UTIME_OMIT;
use fs_ext4::runtime::Runtime;
use fs_ext4::{Error, Filesystem};

use crate::device::ReadAt;
use crate::device::overlay::Overlay;
use crate::ext4::format::checksum::crc32c;
use crate::ext4::guard::Steps;

/// Zeros are written in chunks of this size, in bytes.
const PIECE: usize = 1 << 20;

/// The reason why the writer failed.
pub(in crate::ext4) enum Failure {
    /// No free block, or no free range that is long enough.
    NoSpace,
    /// No free inode.
    NoInodes,
    /// Anything else, with the crate's message. Contains no value: the crate never sees one.
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSpace => f.write_str("no space left"),
            Self::NoInodes => f.write_str("no inodes left"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NoSpaceLeftOnDevice => Self::NoSpace,
            // The allocators have no error variants for these.
            Error::Corrupt("no group has a contiguous free run of this size") => Self::NoSpace,
            Error::Corrupt("no group has a free inode") => Self::NoInodes,
            other => Self::Other(other.to_string()),
        }
    }
}

/// Fields of the descriptor table that have no meaning in a file system without descriptor checksums. The kernel
/// ignores flags of unused groups and counts of unused inodes there (some tools write them), but the crate uses them:
/// it would miss inodes in use. So it sees zeros. In descriptors that it changes, the fields become zero on the disk
/// too, as e2fsck writes them.
pub(in crate::ext4) struct IgnoredFields {
    /// Start of the table, in bytes.
    pub start: u64,
    /// Size of a descriptor, in bytes: 32 or more.
    pub size: usize,
    /// Number of descriptors.
    pub count: u32,
}

impl IgnoredFields {
    /// Descriptor: flags, unused inodes and checksum, unused inodes (high). Kernel documentation, ext4, "Block Group
    /// Descriptors".
    pub const FIELDS: [Range<usize>; 3] = [0x12..0x14, 0x1C..0x20, 0x32..0x34];

    /// The descriptors that are completely in a buffer of `length` bytes from `offset` on, as ranges of the buffer. The
    /// crate reads and writes whole blocks, and a block contains whole descriptors.
    fn within(&self, offset: u64, length: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (size, count, start) = (self.size, u64::from(self.count), self.start);
        // A descriptor has 32 bytes or more, and 2^16 at most.
        let bytes = u64::try_from(size).unwrap_or(u64::MAX).max(1);
        let end = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        let first = offset.saturating_sub(start).div_ceil(bytes).min(count);
        let after = end.saturating_sub(start) / bytes;
        (first..after.min(count)).filter_map(move |number| {
            let at = number.checked_mul(bytes)?.checked_add(start)?.checked_sub(offset)?;
            let at = usize::try_from(at).ok()?;
            Some(at..at.checked_add(size)?).filter(|place| place.end <= length)
        })
    }

    fn hide(descriptor: &mut [u8]) {
        Self::FIELDS
            .into_iter()
            .filter_map(|field| descriptor.get_mut(field).map(|field| field.fill(0)))
            .for_each(drop);
    }
}

/// The overlay as the crate's block device.
struct Disk {
    overlay: Arc<Overlay>,
    steps: Arc<Steps>,
    ignored: Option<IgnoredFields>,
    /// False while mounting, so that the crate does not open its journal.
    writable: AtomicBool,
}

impl Disk {
    fn step(&self) -> Result<(), Error> {
        if self.steps.take() { Ok(()) } else { Err(Error::Io(std::io::Error::other("too many steps"))) }
    }
}

impl BlockDevice for Disk {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.step()?;
        self.overlay.read_exact_at(offset, buf)?;
        if let Some(ignored) = &self.ignored {
            // OK to index: within the buffer.
            ignored.within(offset, buf.len()).for_each(|place| IgnoredFields::hide(&mut buf[place]));
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.overlay.size()
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error> {
        self.step()?;
        let Some(ignored) = &self.ignored else { return Ok(self.overlay.write_at(offset, buf)?) };
        let mut bytes = buf.to_vec();
        for place in ignored.within(offset, buf.len()) {
            // OK to index: within the buffer. Cannot overflow: likewise.
            let mut stands = vec![0; place.len()];
            self.overlay.read_exact_at(offset + u64::try_from(place.start).unwrap_or(0), &mut stands)?;
            let mut seen = stands.clone();
            IgnoredFields::hide(&mut seen);
            if seen == buf[place.clone()] {
                bytes[place].copy_from_slice(&stands);
            }
        }
        Ok(self.overlay.write_at(offset, &bytes)?)
    }

    fn is_writable(&self) -> bool {
        self.writable.load(Ordering::SeqCst)
    }
}

/// One time for a whole run, and generations that depend only on the image and that time.
struct Clock {
    seconds: i64,
    seed: u32,
    count: AtomicU32,
}

impl Runtime for Clock {
    fn now_unix_seconds(&self) -> i64 {
        self.seconds
    }

    fn next_inode_generation(&self) -> u32 {
        crc32c(self.seed, &self.count.fetch_add(1, Ordering::SeqCst).to_le_bytes())
    }
}

/// A file system that is being written. Dropping it restores its state ("clean").
pub(in crate::ext4) struct Writer {
    fs: Filesystem,
    /// The time of everything that is written, in seconds since 1970.
    seconds: i64,
}

impl Writer {
    /// Opens the file system on `overlay`, whose journal is empty. `seed` is used for the generations of new inodes.
    pub fn open(
        overlay: Arc<Overlay>,
        steps: Arc<Steps>,
        ignored: Option<IgnoredFields>,
        seconds: i64,
        seed: u32,
    ) -> Result<Self, Failure> {
        let disk = Arc::new(Disk { overlay, steps, ignored, writable: AtomicBool::new(false) });
        let clock = Arc::new(Clock { seconds, seed, count: AtomicU32::new(0) });
        let device: Arc<dyn BlockDevice> = disk.clone();
        let fs = Filesystem::mount_with_runtime(device, clock)?;
        if fs.journal.is_some() {
            return Err(Failure::Other("the writer opened its journal".into()));
        }
        disk.writable.store(true, Ordering::SeqCst);
        Ok(Self { fs, seconds })
    }

    /// Creates an empty directory; returns its inode.
    pub fn make_directory(&self, parent: u32, name: &[u8], mode: u16) -> Result<u32, Failure> {
        Ok(self.fs.apply_mkdir_at(parent, name, mode)?)
    }

    /// Creates a regular file of `size` zero bytes, with all blocks allocated; returns its inode. `path` is the same
    /// file, for file systems without extents, where the crate only writes by path.
    pub fn create(&self, parent: u32, name: &[u8], path: &str, mode: u16, size: usize) -> Result<u32, Failure> {
        let inode = self.fs.apply_create_at(parent, name, mode)?;
        if size == 0 {
            return Ok(inode);
        }
        if !self.fs.flavor.uses_extents() {
            self.fs.apply_replace_file_content(path, &vec![0; size])?;
            return Ok(inode);
        }
        let zeros = vec![0; size.min(PIECE)];
        let mut written = 0;
        while written < size {
            let piece = zeros.get(..(size - written).min(PIECE)).unwrap_or_default();
            let offset = u64::try_from(written).map_err(|_| Failure::NoSpace)?;
            self.fs.apply_pwrite_ino(inode, offset, piece)?;
            written += piece.len();
        }
        Ok(inode)
    }

    /// Sets owner and permission bits, and the time of the last change.
    pub fn set_metadata(&self, inode: u32, mode: u16, uid: u32, gid: u32) -> Result<(), Failure> {
        self.fs.apply_chown_ino(inode, uid, gid)?;
        Ok(self.fs.apply_chmod_ino(inode, mode)?)
    }

    /// Renames `temporary` to `name` in the same directory, replacing the existing file.
    pub fn replace(&self, parent: u32, temporary: &[u8], name: &[u8]) -> Result<(), Failure> {
        Ok(self.fs.apply_rename_at(parent, temporary, parent, name, true)?)
    }

    /// Removes the name `name` of a file, and the file with its last name.
    pub fn remove(&self, parent: u32, name: &[u8]) -> Result<(), Failure> {
        Ok(self.fs.apply_unlink_at(parent, name)?)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, parent: u32, name: &[u8]) -> Result<(), Failure> {
        Ok(self.fs.apply_rmdir_at(parent, name)?)
    }

    /// Sets the SELinux label of a new file or directory. The crate sets attributes by path only; it follows no links.
    pub fn label(&self, path: &str, label: &[u8]) -> Result<(), Failure> {
        Ok(self.fs.apply_setxattr(path, Label::ATTRIBUTE, label)?)
    }

    /// Sets the times of the last modification and change of a directory whose entries changed.
    pub fn touch(&self, inode: u32) -> Result<(), Failure> {
        Ok(self.fs.apply_utimens_ino(inode, 0, UTIME_OMIT, self.seconds, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_found_in_what_is_read() {
        let table = IgnoredFields { start: 2048, size: 32, count: 40 };
        for (offset, length, want) in [
            (0, 2048, vec![]),
            (0, 2080, std::iter::once(2048..2080).collect()),
            (1024, 1024, vec![]),
            (2048, 1024, (0..32).map(|at| at * 32..at * 32 + 32).collect()),
            (3072, 1024, (0..8).map(|at| at * 32..at * 32 + 32).collect()),
            (4096, 4096, vec![]),
            (2040, 71, std::iter::once(8..40).collect()),
            (2049, 62, vec![]),
            (u64::MAX, 10, vec![]),
        ] {
            let found: Vec<Range<usize>> = table.within(offset, length).collect();
            assert_eq!(found, want, "{length} bytes from {offset} on");
        }
    }
}
