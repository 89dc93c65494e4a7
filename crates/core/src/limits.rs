//! Limits that hold everywhere.

/// Bytes in a MiB.
pub const MIB: usize = 1 << 20;

/// The longest value, in bytes: 16 MiB. Longer ones are refused, whatever source they come from.
pub const MAX_VALUE: usize = 16 << 20;

/// All values of a run together, and all files made of them, in bytes: 64 MiB. They are in memory several times over: as
/// values, as what stands in the target, and as blocks to write.
pub const MAX_TOTAL: usize = 64 << 20;
