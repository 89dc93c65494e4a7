//! Packs a raw disk into the container of an output.

use std::fs::File;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::unfinished::Unfinished;

use super::{Copied, Output, frames};
use crate::container::{Container, Format, qcow2, qemu};
use crate::device::FileDevice;
use crate::open::destination::CheckedDestination;
use crate::open::disk::DiskImage;
use crate::output::copy::CopyJob;
use crate::output::frames::Kept;
use crate::output::patch::Patch;

impl Output {
    /// Writes the disk of `job` with `patch` over it to the empty file `to`, in `container`, which is not raw. `image`
    /// is what the disk comes from, `frames` are those of the disk without the patch, if there are any.
    ///
    /// # Errors
    /// `Io`, also if there is no space.
    pub(crate) fn pack(
        &self,
        container: Container,
        job: &CopyJob<'_>,
        patch: &Patch<'_>,
        image: &DiskImage,
        frames: Option<Arc<Kept>>,
        to: &File,
    ) -> Result<Copied, StorageError> {
        match container {
            Container { format: Format::Raw, compression: Some(compression) } => {
                frames::write(compression, job, patch, frames, to)?;
                Ok(Copied::Compressed)
            }
            Container { format, compression: None } => {
                self.convert(format, job, patch, image, to)?;
                Ok(Copied::Converted(format))
            }
            Container { format, compression: Some(compression) } => {
                let inner = Unfinished::scratch(&self.directory).map_err(|e| job.writing(e))?;
                self.convert(format, job, patch, image, &inner)?;
                let size = inner.metadata().map_err(|e| job.writing(e))?.len();
                let device = FileDevice::new(inner.try_clone().map_err(|e| job.writing(e))?, size);
                let job = CopyJob { from: &device, file: Some(&inner), size, ..*job };
                frames::write(compression, &job, &Patch::default(), None, to)?;
                Ok(Copied::Compressed)
            }
        }
    }

    /// Like [`Output::pack`], in `format`, without a compression.
    fn convert(
        &self,
        format: Format,
        job: &CopyJob<'_>,
        patch: &Patch<'_>,
        image: &DiskImage,
        to: &File,
    ) -> Result<(), StorageError> {
        if let (Format::Vma, Some(archive)) = (format, &image.vma) {
            return archive.encode(job, patch, to);
        }
        if let (Format::Tar, Some(archive)) = (format, &image.tar) {
            return archive.encode(job, patch, to);
        }
        if !format.is_by_qemu() {
            let source = image.qcow2.as_deref();
            let (backing, source_of_overlay) = match &self.place {
                CheckedDestination::New { backing, .. } => (backing.as_ref(), None),
                CheckedDestination::InPlace { .. } => (source.and_then(qcow2::Qcow2::own_backing), source),
            };
            return match backing {
                Some(backing) => qcow2::write_overlay(job, patch, source_of_overlay, backing, to),
                None => qcow2::write(job, patch, source, to),
            };
        }
        let shape = image.shape.clone().filter(|shape| shape.format() == format);
        let shape = shape.unwrap_or_else(|| qemu::Shape::of(format));
        match job.file {
            Some(raw) if patch.is_empty() => qemu::encode(&shape, self.is_in_place(), raw, to, job.to_name),
            _ => {
                let raw = Unfinished::scratch(&self.directory).map_err(|e| job.writing(e))?;
                job.copy(&raw)?;
                patch.write_to(&raw).map_err(|e| job.writing(e))?;
                qemu::encode(&shape, self.is_in_place(), &raw, to, job.to_name)
            }
        }
    }
}
