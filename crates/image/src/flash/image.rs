//! An image that is to be written to a device: opened, and what is known of it before the first write.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::text;

use super::device::Device;
use super::feed::Mapped;
use super::gpt::Primary;
use super::stream::Stream;
use super::{EDGE, Options};
use crate::container::{self, Compression, Container, Format};
use crate::device::ReadAt;
use crate::open::disk::{DiskImage, Layer, Trust, parent};
use crate::open::input::{Access, Input};
use crate::progress::Watch;
use crate::sidecars::map::{self, BlockMap};
use crate::table::TableKind;

/// An image that is to be written to a device.
pub struct FlashImage {
    pub(super) name: String,
    /// Locked against runs that write to the image.
    pub(super) input: Input,
    /// The layers, outermost first; the size of the disk is missing if it is not known.
    layers: Vec<Layer>,
    pub(super) content: Content,
    /// The first bytes of the disk.
    head: Vec<u8>,
    pub(super) map: Option<Arc<BlockMap>>,
    /// The name of the block map.
    map_name: Option<String>,
}

/// The disk of an image.
pub(super) enum Content {
    /// Read anywhere. The image is taken to be changed.
    Disk { disk: Arc<dyn ReadAt>, image: Option<Box<DiskImage>> },
    /// Decoded while it is written.
    Stream { stream: Stream, container: Container },
}

impl FlashImage {
    /// Opens the image at `path` for reading. A raw disk in a compression is not decoded but for its start; every other
    /// container is opened as by [`DiskImage::open_trusting`]. A block map beside it is read.
    ///
    /// # Errors
    /// As [`DiskImage::open_trusting`]; `Refused` if its block map does not fit.
    pub fn open(path: &Path, trust: Trust, watch: Watch<'_>) -> Result<Self, StorageError> {
        let mut input = Input::open(path)?;
        let name = input.name();
        let container = container::sniff(&input.file, input.size, &name)?;
        input.lock(Access::Read)?;
        let (map, map_name) = match block_map(path, container.compression)? {
            Some((map, name)) => (Some(Arc::new(map)), Some(name)),
            None => (None, None),
        };
        let content = match container {
            Container { compression: Some(compression), format: Format::Raw } => {
                Content::Stream { stream: Stream::new(&input, compression)?, container }
            }
            _ => {
                let image = DiskImage::open_trusting(path, trust, watch)?;
                let image = match &map {
                    Some(map) => image.seen_as(|base| Arc::new(Mapped { base, map: Arc::clone(map) })),
                    None => image,
                };
                Content::Disk { disk: image.disk(), image: Some(Box::new(image)) }
            }
        };
        let (layers, head) = match &content {
            Content::Stream { stream, .. } => {
                let kind = container.compression.map_or("raw", Compression::name);
                (vec![Layer { kind, size: stream.packed_size() }], stream.head().to_vec())
            }
            Content::Disk { disk, image } => {
                let mut head = vec![0; usize::try_from(disk.size().min(EDGE)).unwrap_or(0)];
                disk.read_exact_at(0, &mut head).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
                (image.as_ref().map(|image| image.layers().to_vec()).unwrap_or_default(), head)
            }
        };
        let image = Self { name, input, layers, content, head, map, map_name };
        image.check_map()?;
        Ok(image)
    }

    /// The path as given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size of the disk, in bytes; `None` if only decoding tells it.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        match &self.content {
            Content::Disk { disk, .. } => Some(disk.size()),
            Content::Stream { .. } => None,
        }
    }

    /// Size that the disk has if its partition table is right, in bytes, if nothing else tells it.
    #[must_use]
    pub fn likely_size(&self) -> Option<u64> {
        let by_map = self.map.as_ref().map(|map| map.size);
        self.size().or(by_map).or_else(|| Primary::find(&self.head)?.end())
    }

    /// The layers, outermost first. For a disk that is decoded while it is written, the compression alone.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The path of the block map that is used.
    #[must_use]
    pub fn block_map(&self) -> Option<&str> {
        self.map_name.as_deref()
    }

    /// The image, to read and change it before it is written; `None` for one that is decoded while it is written, and
    /// the second time.
    pub fn take_image(&mut self) -> Option<DiskImage> {
        match &mut self.content {
            Content::Disk { image, .. } => image.take().map(|image| *image),
            Content::Stream { .. } => None,
        }
    }

    fn check_map(&self) -> Result<(), StorageError> {
        match (&self.map, self.size()) {
            (Some(map), Some(size)) if map.size != size => Err(StorageError::refused(
                format!(
                    "{} is of a disk of {} bytes, and {} has {size}",
                    self.map_name.as_deref().unwrap_or_default(),
                    map.size,
                    self.name
                ),
                "is it of an older image? remove it, or make both again",
            )),
            _ => Ok(()),
        }
    }

    /// Checks that the image can be on `device`; returns what the user should know before it is written.
    ///
    /// # Errors
    /// `Refused` if the device is too small, or has other sectors than the image's table; `Corrupt` if the image ends
    /// before its table, or the table cannot be moved.
    pub fn check(&self, device: &Device, options: Options) -> Result<Vec<String>, StorageError> {
        let primary = Primary::find(&self.head);
        // What is behind the device is lost, whether the image has it or only its table says so.
        let needed = self.size().max(self.likely_size()).max(primary.as_ref().and_then(Primary::end));
        if let Some(size) = needed.filter(|size| *size > device.size()) {
            return Err(StorageError::refused(
                format!(
                    "{} does not fit: it has {size} bytes ({}), and {} has {} ({})",
                    self.name,
                    text::size(size),
                    device.name(),
                    device.size(),
                    text::size(device.size())
                ),
                "take a larger one",
            ));
        }
        if self.size().is_none() && needed.is_some_and(|size| size.min(EDGE) > length(&self.head)) {
            return Err(StorageError::corrupt(format!(
                "{} ends, or is damaged, after the first {} of its disk",
                self.name,
                text::size(length(&self.head))
            )));
        }
        let Some(primary) = primary else {
            self.check_sectors(device)?;
            let note = format!("--fix-gpt: {} has no GPT, and nothing to be moved", self.name);
            return Ok(if options.fix_gpt { vec![note] } else { Vec::new() });
        };
        if device.sector_size().is_some_and(|sector| sector != primary.sector_size()) {
            return Err(self.other_sectors(device, primary.sector_size()));
        }
        if options.fix_gpt {
            return primary.check(&self.name).map(|()| Vec::new());
        }
        Ok(self.notes(&primary, device))
    }

    /// What the kernel will say of the table on `device`.
    fn notes(&self, primary: &Primary, device: &Device) -> Vec<String> {
        let Some(end) = primary.end() else {
            let why = primary.flaw().unwrap_or_default();
            return vec![format!(
                "the GPT of the image is damaged ({why}), and the kernel looks for its backup at the end of {} only",
                device.name()
            )];
        };
        let mut notes = Vec::new();
        if end < device.size() {
            notes.push(format!(
                "the backup of the GPT will be at {}, and {} ends at {}: the kernel will say \"GPT:Primary header \
                 thinks Alt. header is not at the end of the disk\"; it is harmless, and --fix-gpt moves the backup",
                text::size(end),
                device.name(),
                text::size(device.size())
            ));
        }
        if let Content::Disk { disk, .. } = &self.content
            && let Some(why) = primary.backup_flaw(&**disk)
        {
            notes.push(format!("the backup of the GPT cannot be used: {why}; --fix-gpt makes it again"));
        }
        notes
    }

    /// A table without a GPT counts in sectors too, of 512 bytes.
    fn check_sectors(&self, device: &Device) -> Result<(), StorageError> {
        let is_mbr = match &self.content {
            Content::Disk { image: Some(image), .. } => image.table().kind == TableKind::Mbr,
            // A boot sector alone ends like that, too: with sectors of 4096 bytes it would not boot either.
            _ => self.head.get(510..512) == Some(&[0x55, 0xaa]),
        };
        match device.sector_size() {
            Some(sector) if is_mbr && sector != 512 => Err(self.other_sectors(device, 512)),
            _ => Ok(()),
        }
    }

    fn other_sectors(&self, device: &Device, sector: u64) -> StorageError {
        StorageError::refused(
            format!(
                "the partition table of {} counts in sectors of {sector} bytes, and {} has sectors of {}: nothing would \
                 find its partitions",
                self.name,
                device.name(),
                device.sector_size().unwrap_or(sector)
            ),
            "build the image for that sector size (systemd-repart --sector-size=, sfdisk --sector-size), or take \
             another device",
        )
    }
}

/// The block map beside an image, and its name: of the image file, or of the disk inside its compression.
fn block_map(path: &Path, compression: Option<Compression>) -> Result<Option<(BlockMap, String)>, StorageError> {
    let mut names = vec![path.to_owned()];
    names.extend(compression.map(|_| path.with_extension("")));
    let beside = |path: &PathBuf| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".bmap");
        parent(path).join(name)
    };
    for file in names.iter().map(beside) {
        let name = file.display().to_string();
        let reading = |e| StorageError::io(format!("reading {name}"), e);
        match fs::metadata(&file) {
            Ok(found) if found.is_file() && found.len() <= map::MOST => {}
            Ok(_) => {
                return Err(StorageError::refused(format!("{name} is no block map"), "move it away"));
            }
            Err(_) => continue,
        }
        let text = fs::read_to_string(&file).map_err(reading)?;
        let map = BlockMap::parse(&text).map_err(|why| {
            StorageError::refused(format!("{name} {why}"), "move it away: then all of the image is read")
        })?;
        return Ok(Some((map, name)));
    }
    Ok(None)
}
