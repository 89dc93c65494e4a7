//! A compressed disk, decoded while it is written.

use std::fs::File;

use deaddrop_core::error::StorageError;

use super::device::wide;
use super::feed::HEAD;
use crate::container::{Compression, decoded_start};
use crate::open::input::Input;
use crate::open::spool::{Job, Sink, refuse_no_disk};

/// An open image that is a compressed raw disk.
pub struct Stream {
    compression: Compression,
    file: File,
    size: u64,
    name: String,
    /// The first bytes of the disk.
    head: Vec<u8>,
}

impl Stream {
    /// The stream in an image file, of which the start is decoded.
    ///
    /// # Errors
    /// `Corrupt` if the start cannot be decoded; `Unsupported` if it is none of a disk; `Io`.
    pub(super) fn new(input: &Input, compression: Compression) -> Result<Self, StorageError> {
        let name = input.name();
        let file = input.file.try_clone().map_err(|e| StorageError::io(format!("opening {name}"), e))?;
        let head = decoded_start(compression, &file, wide(HEAD));
        if head.is_empty() {
            return Err(StorageError::corrupt(format!("{name}: nothing comes out of its {} data", compression.name())));
        }
        refuse_no_disk(&head, &name, compression)?;
        Ok(Self { compression, file, size: input.size, name, head })
    }

    /// The first bytes of the disk; fewer if they are damaged.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Bytes of the image file.
    pub(super) fn packed_size(&self) -> u64 {
        self.size
    }

    /// Decodes all of it into `sink`; `taken` is told the bytes of the file that are read. Returns the size of the disk.
    ///
    /// # Errors
    /// As [`Job::decode`]; those of `sink`.
    pub(super) fn decode(&self, taken: &dyn Fn(u64), sink: Sink<'_>) -> Result<u64, StorageError> {
        let job = Job {
            compression: self.compression,
            input: &self.file,
            size: self.size,
            name: &self.name,
            place: "",
            watch: &|progress| taken(progress.done),
            copies: &[],
            is_tar: false,
        };
        job.decode_in_order(sink)
    }
}
