//! The GPT of an image on a device that is larger: what is wrong with it, and the backup table at the real end. UEFI
//! specification 2.10, section 5.3.

use std::io;

use deaddrop_core::error::StorageError;
use deaddrop_core::text;

use super::device::wide;
use crate::device::ReadAt;

/// Fields of a header, by their offset in bytes (table 5-5).
mod field {
    pub(super) const HEADER_SIZE: usize = 12;
    pub(super) const HEADER_CRC: usize = 16;
    pub(super) const MY_LBA: usize = 24;
    pub(super) const ALTERNATE_LBA: usize = 32;
    pub(super) const LAST_USABLE_LBA: usize = 48;
    pub(super) const ENTRIES_LBA: usize = 72;
    pub(super) const ENTRY_COUNT: usize = 80;
    pub(super) const ENTRY_SIZE: usize = 84;
    pub(super) const ENTRIES_CRC: usize = 88;
}

/// Bytes of a header that are in use.
const HEADER: usize = 92;
/// Bytes of entries, at most: 1024 of 128.
const MOST_ENTRIES: usize = 128 << 10;

/// A primary table in the first bytes of a disk.
pub(super) struct Primary {
    /// Its unit, in bytes.
    sector: usize,
    header: Vec<u8>,
    /// Its entries; the reason why they cannot be used.
    entries: Result<Vec<u8>, String>,
}

/// The tables of a device whose backup is at its end.
pub(super) struct Moved {
    /// Offset of the backup's entries, which its header follows, in bytes.
    pub(super) offset: u64,
    pub(super) backup: Vec<u8>,
    /// What was done, for people.
    pub(super) note: String,
}

impl Primary {
    /// The table whose header is in sector 1, of 512 or of 4096 bytes. `head` is the start of the disk.
    pub(super) fn find(head: &[u8]) -> Option<Self> {
        [512, 4096].into_iter().find_map(|sector| {
            let header = head.get(sector..sector * 2).filter(|header| header.starts_with(b"EFI PART"))?;
            let header = header.to_vec();
            let entries = check(&header, 1).and_then(|()| entries(&header, sector, &head.to_vec()));
            Some(Self { sector, header, entries })
        })
    }

    /// Its unit, in bytes.
    pub(super) fn sector_size(&self) -> u64 {
        wide(self.sector)
    }

    /// The end of the disk that it was made for, in bytes; `None` if it is damaged.
    pub(super) fn end(&self) -> Option<u64> {
        self.entries.as_ref().ok()?;
        long(&self.header, field::ALTERNATE_LBA).checked_add(1)?.checked_mul(self.sector_size())
    }

    /// What is wrong with it; `None` if it can be used.
    pub(super) fn flaw(&self) -> Option<&str> {
        self.entries.as_ref().err().map(String::as_str)
    }

    /// Why it cannot be the source of another table.
    ///
    /// # Errors
    /// `Corrupt`, with the reason. `name` is that of the image.
    pub(super) fn check(&self, name: &str) -> Result<(), StorageError> {
        match self.flaw() {
            None => Ok(()),
            Some(why) => Err(StorageError::corrupt(format!("{name}: its GPT cannot be moved: {why}"))),
        }
    }

    /// Moves the backup to the end of a device of `size` bytes: changes `head`, the start of the disk. `flaw` is what is
    /// wrong with the backup of the image.
    ///
    /// # Errors
    /// As [`Primary::check`].
    pub(super) fn moved(
        &self,
        name: &str,
        head: &mut [u8],
        flaw: Option<String>,
        size: u64,
    ) -> Result<Moved, StorageError> {
        self.check(name)?;
        let too_small = || StorageError::corrupt(format!("{name}: the device has no room for its GPT"));
        let (sector, entries) = (self.sector_size(), self.entries.as_deref().unwrap_or_default());
        let last = (size / sector).checked_sub(1).ok_or_else(too_small)?;
        let room = wide(entries.len()).div_ceil(sector);
        let backup_entries = last.checked_sub(room).ok_or_else(too_small)?;
        let usable = backup_entries.checked_sub(1).ok_or_else(too_small)?;
        if usable < long(&self.header, field::LAST_USABLE_LBA) && self.end().is_some_and(|end| end > size) {
            return Err(too_small());
        }
        let old = long(&self.header, field::ALTERNATE_LBA);
        let mut primary = self.header.clone();
        set(&mut primary, field::ALTERNATE_LBA, last);
        set(&mut primary, field::LAST_USABLE_LBA, usable);
        let mut header = primary.clone();
        set(&mut header, field::MY_LBA, last);
        set(&mut header, field::ALTERNATE_LBA, 1);
        set(&mut header, field::ENTRIES_LBA, backup_entries);
        sign(&mut primary);
        sign(&mut header);
        if let Some(to) = head.get_mut(self.sector..self.sector * 2) {
            to.copy_from_slice(&primary);
        }
        protect(head, last);
        let mut backup = entries.to_vec();
        backup.resize(usize::try_from(room.saturating_mul(sector)).unwrap_or(0), 0);
        backup.extend(header);
        let mended = flaw.map_or(String::new(), |why| format!(" (the image's own backup could not be used: {why})"));
        let (from, to) = (old.saturating_add(1).saturating_mul(sector), last.saturating_add(1).saturating_mul(sector));
        let note = format!(
            "the backup GPT is at the end of the device now, sector {last} instead of {old}: {} instead of {}{mended}",
            text::size(to),
            text::size(from)
        );
        Ok(Moved { offset: backup_entries.saturating_mul(sector), backup, note })
    }

    /// Why the backup on `disk` is not the other half of this table; `None` if it is.
    pub(super) fn backup_flaw(&self, disk: &dyn ReadAt) -> Option<String> {
        let lba = long(&self.header, field::ALTERNATE_LBA);
        let header = match read(disk, lba, self.sector, self.sector) {
            Ok(header) => header,
            Err(why) => return Some(why),
        };
        if !header.starts_with(b"EFI PART") {
            return Some(format!("there is none at sector {lba}"));
        }
        if let Err(why) = check(&header, lba) {
            return Some(why);
        }
        if long(&header, field::ALTERNATE_LBA) != 1 {
            return Some("it does not name sector 1 as the other one".to_owned());
        }
        match entries(&header, self.sector, disk) {
            Err(why) => Some(why),
            Ok(entries) if Some(&entries) != self.entries.as_ref().ok() => {
                Some("it has other partitions than the primary one".to_owned())
            }
            Ok(_) => None,
        }
    }
}

/// Reads `size` bytes from a sector on.
fn read(disk: &dyn ReadAt, lba: u64, sector: usize, size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; size];
    let offset = lba.saturating_mul(wide(sector));
    match disk.read_exact_at(offset, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(format!("sector {lba} is not in the image")),
        Err(e) => Err(format!("sector {lba} cannot be read: {e}")),
    }
}

/// Checks the checksum and the position of a header.
fn check(header: &[u8], lba: u64) -> Result<(), String> {
    let size = usize::try_from(int(header, field::HEADER_SIZE)).unwrap_or(usize::MAX);
    if size < HEADER || size > header.len() {
        return Err(format!("the header at sector {lba} declares a size of {size} bytes"));
    }
    if crc_of(header, size) != int(header, field::HEADER_CRC) {
        return Err(format!("the checksum of the header at sector {lba} is wrong"));
    }
    let my_lba = long(header, field::MY_LBA);
    if my_lba != lba {
        return Err(format!("the header at sector {lba} says that it is at {my_lba}"));
    }
    Ok(())
}

/// The entries of a header.
fn entries(header: &[u8], sector: usize, disk: &dyn ReadAt) -> Result<Vec<u8>, String> {
    let size = int(header, field::ENTRY_COUNT).checked_mul(int(header, field::ENTRY_SIZE));
    let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= MOST_ENTRIES);
    let size = size.ok_or("it declares more entries than any disk has")?;
    let entries = read(disk, long(header, field::ENTRIES_LBA), sector, size)?;
    if crc32fast::hash(&entries) != int(header, field::ENTRIES_CRC) {
        return Err("the checksum of the entries is wrong".to_owned());
    }
    Ok(entries)
}

/// The checksum of the first `size` bytes of a header, with its own field as zeros.
fn crc_of(header: &[u8], size: usize) -> u32 {
    let mut own = header.get(..size).unwrap_or_default().to_vec();
    if let Some(crc) = own.get_mut(field::HEADER_CRC..field::HEADER_CRC + 4) {
        crc.fill(0);
    }
    crc32fast::hash(&own)
}

/// Sets the checksum of a header.
fn sign(header: &mut [u8]) {
    let size = usize::try_from(int(header, field::HEADER_SIZE)).unwrap_or(usize::MAX).min(header.len());
    let crc = crc_of(header, size);
    if let Some(to) = header.get_mut(field::HEADER_CRC..field::HEADER_CRC + 4) {
        to.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes a protective MBR cover the whole device, whose last sector is `last` (table 5-4). A hybrid one is left alone.
fn protect(head: &mut [u8], last: u64) {
    let is_alone = head.get(450) == Some(&0xee) && head.get(462..510).is_some_and(|rest| rest.iter().all(|b| *b == 0));
    if let Some(size) = head.get_mut(458..462).filter(|_| is_alone) {
        size.copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    }
}

fn int(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn set(bytes: &mut [u8], at: usize, value: u64) {
    if let Some(to) = bytes.get_mut(at..at + 8) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}
