//! The content of files and symbolic links.

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::{Secret, Wiped};
use deaddrop_core::tree::FileKind;

use crate::ext4::format::inode::{INLINE_DATA, Inode};
use crate::ext4::format::mapping::BlockMap;
use crate::ext4::format::reader::{Reader, usize_of};

/// Maximum length of a symbolic link's target, in bytes: PATH_MAX without its NUL.
const MOST_TARGET: u64 = 4095;

/// What finding the data of an extent counts as, in bytes: about what could be read in that time.
const EXTENT_COST: u64 = 4096;

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

    /// Passes a regular file's content to `visit` in pieces of at most the buffer's length, each with its offset in
    /// bytes. Left out are holes, unwritten extents, and holes of a sparse image, which all read as zeros. Returns what
    /// was read, in bytes: content, the blocks of the map, and some for each extent.
    ///
    /// # Errors
    /// If it is not a regular file, is damaged, or cannot be read.
    pub fn read_pieces(
        &self,
        file: &Inode,
        buffer: &mut [u8],
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StorageError> {
        if file.kind != FileKind::File {
            return Err(wrong(file, &format!("it is {}", file.kind.name())));
        }
        if file.has(INLINE_DATA) {
            if file.size > u64::from(self.geometry.block_size) {
                return Err(wrong(file, "its inline content is truncated"));
            }
            visit(0, &self.content(file)?);
            return Ok(file.size);
        }
        let map = self.map(file)?;
        let block_size = u64::from(self.geometry.block_size);
        let mut read = length_of(map.nodes.len()).saturating_mul(block_size);
        for extent in map.extents.iter().filter(|extent| !extent.unwritten) {
            // Cannot overflow: a logical block is a u32, and all blocks are on the device.
            let start = extent.logical * block_size;
            let from = self.block_offset(extent.physical)?;
            // Blocks may be allocated beyond the end of the file.
            let size = file.size.saturating_sub(start).min(extent.length * block_size);
            let mut on_device = from..from + size;
            read = read.saturating_add(EXTENT_COST);
            let failed = |error| StorageError::io(format!("reading inode {} of the ext4", file.number), error);
            while let Some(data) = self.device.next_data(on_device.clone()).map_err(failed)? {
                let want = usize::try_from(data.end - data.start).unwrap_or(usize::MAX).min(buffer.len());
                let Some(piece) = buffer.get_mut(..want).filter(|piece| !piece.is_empty()) else { break };
                self.device.read_exact_at(data.start, piece).map_err(failed)?;
                // Cannot underflow: the data is in the extent.
                visit(start + (data.start - from), piece);
                read = read.saturating_add(length_of(piece.len()));
                on_device.start = data.start + length_of(piece.len());
            }
        }
        Ok(read)
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

fn length_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn wrong(inode: &Inode, what: &str) -> StorageError {
    StorageError::Corrupt(format!("ext4: inode {}: {what}", inode.number))
}
