//! The content of files and symbolic links.

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::{Secret, Wiped};
use deaddrop_core::tree::FileKind;

use crate::ext4::format::inode::{INLINE_DATA, Inode};
use crate::ext4::format::mapping::BlockMap;
use crate::ext4::format::reader::{Reader, usize_of};

/// Maximum length of a symbolic link's target, in bytes: PATH_MAX without its NUL.
const MOST_TARGET: u64 = 4095;

impl Reader {
    /// A regular file's content; `None` if it has more than `limit` bytes.
    ///
    /// # Errors
    /// If it is not a regular file, is damaged, or cannot be read.
    pub fn read_file(&self, file: &Inode, limit: u64) -> Result<Option<Secret>, StorageError> {
        if file.kind != FileKind::File {
            return Err(wrong(file, &format!("it is {}", file.kind.name())));
        }
        if file.size > limit {
            return Ok(None);
        }
        let mut content = self.content(file)?;
        // Moves the bytes; only the empty vector is zeroized here.
        Ok(Some(Secret::new(std::mem::take(&mut *content))))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// If it is not a link, its target is empty or too long, or it cannot be read.
    pub fn read_target(&self, link: &Inode) -> Result<Vec<u8>, StorageError> {
        if link.kind != FileKind::Symlink {
            return Err(wrong(link, &format!("it is {}, not a symbolic link", link.kind.name())));
        }
        if link.size == 0 || link.size > MOST_TARGET {
            return Err(wrong(link, &format!("a symbolic link of {} bytes", link.size)));
        }
        if !link.has(INLINE_DATA) && self.is_short_link(link) {
            let length = usize::try_from(link.size).unwrap_or(usize::MAX);
            return Ok(link.block_area().get(..length).unwrap_or_default().to_vec());
        }
        Ok(self.content(link)?.to_vec())
    }

    /// All bytes of an inode whose size the caller has checked.
    fn content(&self, inode: &Inode) -> Result<Wiped, StorageError> {
        let size = usize::try_from(inode.size).map_err(|_| wrong(inode, "its size"))?;
        let mut content = Wiped::zeros(size);
        if inode.has(INLINE_DATA) {
            let inline = self.inline_content(inode)?;
            let (area, rest) = (inline.area.len().min(size), inline.rest.len());
            if size > inline.area.len() + rest {
                return Err(wrong(inode, "its inline content is truncated"));
            }
            content[..area].copy_from_slice(&inline.area[..area]);
            // Not longer than `rest`, checked above.
            let behind = size - area;
            content[area..].copy_from_slice(&inline.rest[..behind]);
            return Ok(content);
        }
        let map = self.map(inode)?;
        self.read_mapped(&map, &mut content)?;
        Ok(content)
    }

    /// Fills `content` from the start of the blocks of `map`. Holes and unwritten extents are skipped.
    fn read_mapped(&self, map: &BlockMap, content: &mut [u8]) -> Result<(), StorageError> {
        let size = usize_of(self.geometry.block_size);
        let mut block = Wiped::zeros(size);
        for (logical, part) in (0_u64..).zip(content.chunks_mut(size)) {
            if let Some(physical) = map.find(logical) {
                self.read_block(physical, &mut block)?;
                // A chunk is at most one block long.
                part.copy_from_slice(&block[..part.len()]);
            }
        }
        Ok(())
    }
}

fn wrong(inode: &Inode, what: &str) -> StorageError {
    StorageError::Corrupt(format!("ext4: inode {}: {what}", inode.number))
}
