//! A file with the whole raw disk in it that the kernel may write to, on its way to become the result: OUT's own unfinished
//! file, a scratch file that is compressed afterwards, or the image itself. Called by `target::mounted`.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::unfinished::Unfinished;

use crate::device::{FileDevice, Section};
use crate::ext4::Ext4;
use crate::open::disk::{Decoded, DiskImage};
use crate::output::copy::Job;
use crate::output::patch::Patch;
use crate::output::{Committed, Copied, FileMedium, Output, frames};
use crate::progress::Watch;
use crate::table::Partition;

/// The disk to be changed, and what becomes of it.
pub struct DiskFile {
    image: DiskImage,
    output: Output,
    kept: Kept,
    /// It was checked that nobody else changed the image, and then it was written to.
    touched: bool,
    /// The image's permissions before they were narrowed.
    mode_was: Option<u32>,
}

/// Where the disk is.
enum Kept {
    /// In the image's own file.
    Image,
    /// In the output's unfinished file.
    Output(Unfinished, Copied),
    /// In a file that goes away with us, and is compressed before.
    Scratch(File),
}

impl Output {
    /// Makes the file to be worked on: a copy of `image`, unless it is to be changed in place or lies decoded in a file
    /// of its own already. `watch` is told how far copying has come.
    ///
    /// # Errors
    /// `Refused` when somebody else changed the image meanwhile; `Io`, also when there is no space.
    pub fn disk_file(self, mut image: DiskImage, watch: Watch<'_>) -> Result<DiskFile, StorageError> {
        let kept = match image.decoded.take() {
            Some(Decoded::Output(file)) => Kept::Output(file, Copied::Decompressed),
            Some(Decoded::Scratch(file)) => Kept::Scratch(file),
            None if self.is_in_place() => Kept::Image,
            None => {
                let to_name = self.name(&image);
                let from_name = image.name();
                let job =
                    Job { from: image.raw_file(), size: image.size(), from_name: &from_name, to_name: &to_name, watch };
                if self.compresses(&image) {
                    let scratch = Unfinished::scratch(self.directory()).map_err(|e| job.writing(e))?;
                    job.copy(&scratch)?;
                    Kept::Scratch(scratch)
                } else {
                    let file = Unfinished::create(self.directory()).map_err(|e| job.writing(e))?;
                    let copied = job.copy(file.file())?.map_or(Copied::Shared, Copied::Bytes);
                    Kept::Output(file, copied)
                }
            }
        };
        image.input.check_unchanged()?;
        Ok(DiskFile { image, output: self, kept, touched: false, mode_was: None })
    }
}

impl DiskFile {
    /// The file with the disk in it, open for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        match &self.kept {
            Kept::Image => &self.image.input.file,
            Kept::Output(file, _) => file.file(),
            Kept::Scratch(file) => file,
        }
    }

    /// The image's name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.image.name()
    }

    /// The bytes of one partition, as they are now.
    ///
    /// # Errors
    /// `Corrupt` when it is not wholly in the disk; `Io`.
    pub fn partition(&self, partition: &Partition) -> Result<Section, StorageError> {
        let file = self.file().try_clone().map_err(|e| StorageError::io(format!("opening {}", self.name()), e))?;
        Section::new(Arc::new(FileDevice::new(file, self.image.size())), partition.start, partition.size)
            .ok_or_else(|| StorageError::corrupt(format!("{} is not wholly in {}", partition.title(), self.name())))
    }

    /// True when the kernel writes to the image itself, and nothing that is written can be thrown away.
    #[must_use]
    pub fn is_the_image(&self) -> bool {
        matches!(self.kept, Kept::Image)
    }

    /// True when the disk is on a block device, not in a file.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.is_the_image() && self.image.is_device()
    }

    /// To be called before anything is written to the file: the image must be as it was opened. With `secrets`, an image in
    /// place becomes readable by its owner only, unless it is to keep its permissions.
    ///
    /// # Errors
    /// `Refused` when somebody else changed the image; `Io`.
    pub fn begin(&mut self, secrets: bool) -> Result<(), StorageError> {
        if !self.touched {
            self.image.input.check_unchanged()?;
        }
        self.touched = self.is_the_image();
        let input = &self.image.input;
        let mode = input.metadata.mode() & 0o777;
        if secrets && self.is_the_image() && !input.is_device() && !self.output.keeps_mode() && mode != 0o600 {
            let narrowed = input.file.set_permissions(Permissions::from_mode(0o600));
            let act = || format!("making {} readable by its owner only", input.name());
            narrowed.map_err(|e| StorageError::io(act(), e))?;
            self.mode_was = Some(mode);
        }
        Ok(())
    }

    /// Nothing was changed after all: an image in place gets its permissions back.
    pub fn take_back(self) {
        if let Some(mode) = self.mode_was {
            // Best effort: none of its files is new.
            let _ = self.image.input.file.set_permissions(Permissions::from_mode(mode));
        }
    }

    /// Zeroes the idle log of the ext4 that starts at `start` (bytes) in the disk; see [`Ext4::scrub_log`].
    ///
    /// # Errors
    /// When the log is not idle, or cannot be read or written.
    pub fn scrub_log(&self, ext4: &Ext4, start: u64) -> Result<u64, StorageError> {
        ext4.scrub_log(&mut FileMedium::new(self.file()), start)
    }

    /// The disk is as it shall be: it gets its name, compressed if that is asked for. `watch` is told how far compressing
    /// has come.
    ///
    /// # Errors
    /// As [`Output::commit`].
    pub fn finish(self, watch: Watch<'_>) -> Result<Committed, StorageError> {
        let Self { image, output, kept, mode_was, .. } = self;
        let mut done = Committed { written: true, mode_was, ..Committed::nothing() };
        let file = match kept {
            Kept::Image => {
                let synced = image.input.file.sync_all();
                return synced.map(|()| done).map_err(|e| StorageError::io(format!("syncing {}", image.name()), e));
            }
            Kept::Output(file, copied) => {
                done.copied = copied;
                file
            }
            Kept::Scratch(scratch) => {
                let to_name = output.name(&image);
                let size = image.size();
                let job = Job { from: &scratch, size, from_name: "the changed disk", to_name: &to_name, watch };
                let file = Unfinished::create(output.directory()).map_err(|e| job.writing(e))?;
                // The kernel has written to the disk: no frame that was made before is of use.
                frames::write(&job, &Patch::default(), None, file.file())?;
                done.copied = Copied::Compressed;
                file
            }
        };
        // What was read may be half of one version and half of another, if somebody wrote to the image meanwhile.
        image.input.check_unchanged()?;
        output.give_name(&image, file, &mut done)?;
        Ok(done)
    }
}
