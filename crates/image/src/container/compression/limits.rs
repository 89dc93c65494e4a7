//! How much may come out of a compressed image: it is hostile input.

/// A limit of the output relative to the input. Up to `free` bytes are always allowed; beyond, each byte of input
/// allows `ratio` bytes of output.
pub(crate) struct Allowance {
    pub(crate) free: u64,
    pub(crate) ratio: u64,
}

impl Allowance {
    pub(crate) fn covers(&self, output: u64, input: u64) -> bool {
        output <= self.free || output <= input.saturating_mul(self.ratio)
    }
}

/// Limits of decoding. Real images with a system in them stay far below: NixOS closures of 1 GiB compress to about a
/// third, so a disk of 2 TiB with one is at 6,000:1 in total and 3:1 without zeros.
pub(crate) struct Limits {
    /// All output. A hole costs no space, but time.
    pub(crate) output: Allowance,
    /// Output that is not zero, and takes space.
    pub(crate) stored: Allowance,
    /// Absolute maximum, whatever the input.
    pub(crate) most: u64,
    /// True if the input that counts for `output` is the whole file, as far as it does not repeat itself. So a disk may
    /// begin with any number of zeros, if there is a system behind them: `free` is small where unpacking is slow.
    pub(crate) looks_ahead: bool,
}

/// The largest disk.
pub(crate) const MOST: u64 = 2 << 40;
