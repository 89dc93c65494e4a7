//! A file with the whole raw disk that the kernel may write to, and that becomes the result: OUT's own unfinished file,
//! a scratch file that is packed afterwards, or the image itself. Used by [`super::image`].

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::unfinished::Unfinished;

use crate::device::{FileDevice, Section};
use crate::ext4::Ext4;
use crate::open::disk::{Decoded, DiskImage};
use crate::output::copy::CopyJob;
use crate::output::patch::Patch;
use crate::output::{Committed, Copied, FileMedium, Output};
use crate::progress::Watch;
use crate::table::Partition;

/// The disk to be changed, and its destination.
pub struct DiskFile {
    image: DiskImage,
    output: Output,
    kept: Location,
    /// True once the image was checked for changes by other processes, and written to.
    touched: bool,
    /// The image's permissions before they were narrowed.
    mode_was: Option<u32>,
}

/// The location of the disk.
enum Location {
    /// In the image's own file.
    Image,
    /// In the output's unfinished file.
    Output(Unfinished, Copied),
    /// In a scratch file, which is packed into the output.
    Scratch(File),
}

impl Output {
    /// Creates the file to be changed: a copy of `image`, unless it is changed in place or is already decoded into its
    /// own file. `watch` reports the progress of copying.
    ///
    /// # Errors
    /// `Refused` if another process changed the image since it was opened; `Io`, also if there is no space.
    pub fn disk_file(self, mut image: DiskImage, watch: Watch<'_>) -> Result<DiskFile, StorageError> {
        let kept = match image.decoded.take() {
            Some(Decoded::Output(file)) => Location::Output(file, Copied::Decompressed),
            Some(Decoded::Scratch(file)) => Location::Scratch(file),
            None if self.is_in_place() => Location::Image,
            None => {
                let to_name = self.name(&image.input);
                let from_name = image.name();
                let job = image.copy_job(&from_name, &to_name, watch);
                if !self.container(image.container()).is_raw() {
                    let scratch = Unfinished::scratch(self.directory()).map_err(|e| job.writing(e))?;
                    job.copy(&scratch)?;
                    Location::Scratch(scratch)
                } else {
                    let file = Unfinished::create(self.directory()).map_err(|e| job.writing(e))?;
                    let copied = job.copy(file.file())?.map_or(Copied::Shared, Copied::Bytes);
                    Location::Output(file, copied)
                }
            }
        };
        image.input.check_unchanged()?;
        Ok(DiskFile { image, output: self, kept, touched: false, mode_was: None })
    }
}

impl DiskFile {
    /// The file with the disk, open for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        match &self.kept {
            Location::Image => &self.image.input.file,
            Location::Output(file, _) => file.file(),
            Location::Scratch(file) => file,
        }
    }

    /// The image's name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.image.name()
    }

    /// The current bytes of one partition.
    ///
    /// # Errors
    /// `Corrupt` if it is not completely in the disk; `Io`.
    pub fn partition(&self, partition: &Partition) -> Result<Section, StorageError> {
        let file = self.file().try_clone().map_err(|e| StorageError::io(format!("opening {}", self.name()), e))?;
        Section::new(Arc::new(FileDevice::new(file, self.image.size())), partition.start, partition.size)
            .ok_or_else(|| StorageError::corrupt(format!("{} is not wholly in {}", partition.title(), self.name())))
    }

    /// True if the kernel writes to the image itself, so that nothing written can be discarded.
    #[must_use]
    pub fn is_in_place_file(&self) -> bool {
        matches!(self.kept, Location::Image)
    }

    /// True when the disk is on a block device, not in a file.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.is_in_place_file() && self.image.is_device()
    }

    /// Must be called before anything is written to the file: the image must be unchanged since it was opened. With
    /// `secrets`, an image in place becomes readable by its owner only, unless it keeps its permissions.
    ///
    /// # Errors
    /// `Refused` if another process changed the image; `Io`.
    pub fn begin(&mut self, secrets: bool) -> Result<(), StorageError> {
        if !self.touched {
            self.image.input.check_unchanged()?;
        }
        self.touched = self.is_in_place_file();
        let input = &self.image.input;
        let mode = input.metadata.mode() & 0o777;
        if secrets && self.is_in_place_file() && !input.is_device() && !self.output.keeps_mode() && mode != 0o600 {
            let narrowed = input.file.set_permissions(Permissions::from_mode(0o600));
            let act = || format!("making {} readable by its owner only", input.name());
            narrowed.map_err(|e| StorageError::io(act(), e))?;
            self.mode_was = Some(mode);
        }
        Ok(())
    }

    /// Nothing was changed: restores the permissions of an image in place.
    pub fn restore_mode(self) {
        if let Some(mode) = self.mode_was {
            // Best effort: none of its files has changed.
            let _ = self.image.input.file.set_permissions(Permissions::from_mode(mode));
        }
    }

    /// Zeroes the idle log of the ext4 that starts at `start` (bytes) in the disk; see [`Ext4::scrub_log`].
    ///
    /// # Errors
    /// If the log is not idle, or cannot be read or written.
    pub fn scrub_log(&self, ext4: &Ext4, start: u64) -> Result<u64, StorageError> {
        ext4.scrub_log(&mut FileMedium::new(self.file()), start)
    }

    /// The disk is complete: gives it its name, compressed if requested. `watch` reports the progress of compressing.
    ///
    /// # Errors
    /// As [`Output::commit`].
    pub fn finish(self, watch: Watch<'_>) -> Result<Committed, StorageError> {
        let Self { image, output, kept, mode_was, .. } = self;
        let mut done = Committed { written: true, mode_was, ..Committed::nothing() };
        let file = match kept {
            Location::Image => {
                let synced = image.input.file.sync_all();
                return synced.map(|()| done).map_err(|e| StorageError::io(format!("syncing {}", image.name()), e));
            }
            Location::Output(file, copied) => {
                done.copied = copied;
                file
            }
            Location::Scratch(scratch) => {
                let container = output.container(image.container());
                let to_name = output.name(&image.input);
                let size = image.size();
                let device = scratch.try_clone().map(|file| FileDevice::new(file, size));
                let device = device.map_err(|e| StorageError::io(format!("writing {to_name}"), e))?;
                let from_name = "the changed disk";
                let job = CopyJob {
                    from: &device,
                    file: Some(&scratch),
                    size,
                    from_name,
                    to_name: &to_name,
                    watch,
                    gives_up: false,
                };
                let file = Unfinished::create(output.directory()).map_err(|e| job.writing(e))?;
                // The kernel has written to the disk: frames made before are not usable.
                done.copied = output.pack(container, &job, &Patch::default(), &image, None, file.file())?;
                file
            }
        };
        // If another process wrote to the image since it was opened, the copy may be a mix of two versions.
        image.input.check_unchanged()?;
        output.rename_to_output(&image.input, file, &mut done)?;
        Ok(done)
    }
}
