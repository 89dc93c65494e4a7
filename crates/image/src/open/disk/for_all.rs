//! One image for several hosts: read once, and written by each in a file of its own.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::sys;
use deaddrop_core::unfinished::{Unfinished, remove_left};

use super::{Decoded, DiskImage, Room, Trust, Unpack};
use crate::container::{self, Format};
use crate::device::FileDevice;
use crate::open::input::{Access, Input};
use crate::output::{Destination, Output};
use crate::progress::Watch;

/// The image of one of several hosts, and its output; none for a run that writes nothing.
pub type OfHost = (DiskImage, Option<Output>);

/// Maximum number of outputs into which a disk is decoded at once: more are copied from one.
const MOST_AT_ONCE: usize = 8;

impl DiskImage {
    /// Opens the image at `path` once for `count` hosts, and gives an image for each, whose changes the others do not see.
    /// With `destinations`, one for each host, they are to be written, and all are checked before anything is decoded.
    ///
    /// # Errors
    /// As for [`DiskImage::open`]; `Refused` if a destination is not possible.
    pub fn open_for_all(
        path: &Path,
        trust: Trust,
        count: usize,
        destinations: &[Destination],
        watch: Watch<'_>,
    ) -> Result<Vec<OfHost>, StorageError> {
        let mut input = Input::open(path)?;
        let container = container::sniff(&input.file, input.size, &input.name())?;
        let prepare = |destination| Output::prepare(destination, &input, container).map(Output::gives_up);
        let outputs = destinations.iter().map(prepare).collect::<Result<Vec<Output>, StorageError>>()?;
        let Some(first) = outputs.first() else {
            let image = Self::open_trusting(path, trust, watch)?;
            return (0..count).map(|_| Ok((image.share()?, None))).collect();
        };
        input.lock(Access::Read)?;
        let directory = first.directory();
        let _ = remove_left(directory);
        let packed = first.container(container);
        let is_common = outputs.iter().all(|output| output.container(container) == packed);
        let is_raw = packed.format == Format::Raw && container.format == Format::Raw;
        // Compressed again for all of them, if they are of one kind.
        let compression = packed.compression.filter(|_| is_common && is_raw);
        // Where blocks cannot be shared, the disk is decoded into all outputs at once: a copy would be read and written.
        let is_small = outputs.len() <= MOST_AT_ONCE && outputs.iter().all(|output| output.directory() == directory);
        let at_once = is_common && is_raw && packed.is_raw() && is_small && !can_share(directory);
        let mut copies = Vec::new();
        let image = Self::read(input, container, trust, watch, &mut copies, &|input, what| {
            let failed = |e| StorageError::io(format!("making room for the decompressed {}", input.name()), e);
            let scratch = || Unfinished::scratch(directory).map_err(failed);
            if what == Unpack::Compression && at_once {
                let mut files = outputs.iter().map(|_| Unfinished::create(directory).map_err(failed));
                let decoded =
                    files.next().map_or_else(|| scratch().map(Decoded::Scratch), |file| file.map(Decoded::Output));
                let copies = files.collect::<Result<Vec<_>, _>>()?;
                return Ok(Room { decoded: decoded?, frames: None, copies, place: directory.to_owned() });
            }
            let frames = match compression.filter(|_| what == Unpack::Compression) {
                Some(compression) => Some((compression, scratch()?)),
                None => None,
            };
            let decoded = Decoded::Scratch(scratch()?);
            Ok(Room { decoded, frames, copies: Vec::new(), place: directory.to_owned() })
        })?;
        if copies.is_empty() {
            return outputs.into_iter().map(|output| Ok((image.share()?, Some(output)))).collect();
        }
        let mut images = copies.into_iter().map(|copy| image.share_in(copy)).collect::<Result<Vec<_>, _>>()?;
        images.insert(0, image);
        Ok(images.into_iter().zip(outputs.into_iter().map(Some)).collect())
    }

    /// The same image once more, for changes that the other one does not see.
    fn share(&self) -> Result<Self, StorageError> {
        let clone = |file: &File| file.try_clone().map_err(|e| StorageError::io(format!("opening {}", self.name()), e));
        let input = self.input.share().map_err(|e| StorageError::io(format!("opening {}", self.name()), e))?;
        let decoded = self.decoded.as_ref().map(|decoded| clone(decoded.file())).transpose()?;
        Ok(Self {
            input,
            container: self.container,
            layers: self.layers.clone(),
            qcow2: self.qcow2.clone(),
            vma: self.vma.clone(),
            tar: self.tar.clone(),
            shape: self.shape.clone(),
            decoded: decoded.map(Decoded::Scratch),
            frames: self.frames.clone(),
            disk: Arc::clone(&self.disk),
            table: self.table.clone(),
            rolled_back: false,
        })
    }

    /// The same, whose raw disk is in this file, which becomes the output.
    fn share_in(&self, file: Unfinished) -> Result<Self, StorageError> {
        let failed = |e| StorageError::io(format!("opening {}", self.name()), e);
        let disk = Arc::new(FileDevice::new(file.file().try_clone().map_err(failed)?, self.size()));
        Ok(Self { disk, decoded: Some(Decoded::Output(file)), ..self.share()? })
    }
}

/// True if files in a directory can share blocks.
fn can_share(directory: &Path) -> bool {
    let try_it = || {
        let (from, to) = (Unfinished::scratch(directory)?, Unfinished::scratch(directory)?);
        from.set_len(4096)?;
        sys::reflink(&from, &to)
    };
    try_it().is_ok()
}
