//! How far long work has come, for whoever shows it.

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A compressed image is decoded.
    Decompress,
    /// An image is copied.
    Copy,
    /// An output is encoded.
    Compress,
    /// Free blocks are zeroed.
    Scrub,
    /// The kernel changes a mounted file system. Counted in steps, not in bytes.
    Kernel,
}

/// One report. They come a few times a second at least, and once at the end.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being done.
    pub work: Work,
    /// Bytes of the input that are done.
    pub done: u64,
    /// Bytes of the input.
    pub total: u64,
}

/// Somebody who is told.
pub type Watch<'a> = &'a dyn Fn(Progress);

/// Nobody is told.
pub fn quiet(_: Progress) {}
