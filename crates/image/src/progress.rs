//! Progress reports of long work.

/// The kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Decoding a compressed image.
    Decompress,
    /// Copying an image.
    Copy,
    /// Encoding an output.
    Compress,
    /// Writing an image to a device.
    Flash,
    /// Reading a device back.
    ReadBack,
    /// Zeroing free blocks.
    Scrub,
    /// Searching files; how much there is shows only at the end.
    Search,
    /// Changing a file system mounted by the kernel. Counted in steps, not in bytes.
    Kernel,
}

/// One report. They come at least a few times per second, and once at the end.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The kind of work.
    pub work: Work,
    /// Number of bytes of the input that are done.
    pub done: u64,
    /// Number of bytes of the input.
    pub total: u64,
}

/// A receiver of reports.
pub type Watch<'a> = &'a dyn Fn(Progress);

/// Ignores all reports.
pub fn quiet(_: Progress) {}
