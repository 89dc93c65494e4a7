//! Limits that apply everywhere.

/// Bytes in a MiB.
pub const MIB: usize = 1 << 20;

/// Maximum size of a value, in bytes: 16 MiB. Longer values are refused, whatever their source.
pub const MAX_VALUE: usize = 16 << 20;

/// Maximum size of all values of a run together, and of all files rendered from them, in bytes: 64 MiB. They are in
/// memory several times: as values, as existing content, and as blocks to write.
pub const MAX_TOTAL: usize = 64 << 20;
