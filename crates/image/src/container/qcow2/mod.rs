//! qcow2, versions 2 and 3: qemu, docs/interop/qcow2.rst.
//!
//! An image is read where it is, cluster by cluster ([`Qcow2`] is a disk), and written as a new file ([`write`]). Internal
//! snapshots, encryption, subclusters and external data files are refused by name ([`header`]). Everything that the
//! tables lead to is checked when an image is opened ([`map`]); what refcounts say is not, since only a new file is
//! ever written.

mod backing;
mod header;
mod map;
mod write;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::secret::Wiped;
use deaddrop_core::text;
use flate2::{Decompress, FlushDecompress};
use zstd::zstd_safe::find_frame_compressed_size;

pub(crate) use self::header::Backing;
use self::header::Header;
pub(super) use self::header::MAGIC;
use self::map::{Map, Place};
pub(crate) use self::write::{Shape, write, write_overlay};
use super::Reading;
use crate::device::ReadAt;

/// The window of a compressed cluster, as a power of two: no cluster is larger than 2 MiB.
const WINDOW_LOG: u32 = 23;

/// An open image, as a disk.
pub(crate) struct Qcow2 {
    file: Arc<dyn ReadAt>,
    header: Header,
    map: Map,
    backing: Option<Arc<dyn ReadAt>>,
    /// The same file, if blocks of it can be shared.
    shared: Option<File>,
    /// The compressed cluster that was read last: its host offset, and its content.
    unpacked: Mutex<Option<(u64, Wiped)>>,
}

impl Qcow2 {
    /// Opens the image in `file`, which is called `name`.
    ///
    /// # Errors
    /// `Unsupported` or `Refused` for a feature, by its name; `Corrupt`; `Io`.
    pub(crate) fn open(file: Arc<dyn ReadAt>, name: &str, reading: &Reading<'_>) -> Result<Self, StorageError> {
        let header = Header::read(&*file, name)?;
        let backing = match &header.backing {
            None => None,
            Some(backing) if reading.follow_backing || backing::is_own_and_beside(backing, reading) => {
                Some(backing::open(backing, name, reading)?)
            }
            Some(backing) => {
                let shown = text::shown_text(&String::from_utf8_lossy(&backing.name)).unwrap_or_default();
                return Err(StorageError::refused(
                    format!("{name} has only what differs from its backing file, `{shown}`"),
                    Remedy::FollowBacking,
                ));
            }
        };
        let map = Map::read(&header, &*file, name)?;
        Ok(Self { file, header, map, backing, shared: None, unpacked: Mutex::new(None) })
    }

    /// Says that the image is the file `file`, whose blocks a new image may share.
    pub(crate) fn in_file(self, file: File) -> Self {
        Self { shared: Some(file), ..self }
    }

    /// Where the cluster with `offset` is, and where the clusters of the same kind behind it end; see [`Map::run`].
    fn place(&self, offset: u64, end: u64) -> io::Result<(Place, u64)> {
        self.map.run(&*self.file, offset, end)
    }

    /// The backing file of an image that deaddrop has made of a base: it stays one.
    pub(crate) fn own_backing(&self) -> Option<&Backing> {
        self.header.backing.as_ref().filter(|backing| backing.is_own)
    }

    /// How a file like this one is written.
    pub(crate) fn shape(&self) -> Shape {
        Shape { version: self.header.version, cluster_bits: self.header.cluster_bits, zstd: self.header.zstd }
    }

    /// The compressed bytes of the cluster at `offset` of the disk, and its content; `None` if it is not compressed.
    fn packed(&self, offset: u64) -> io::Result<Option<(Vec<u8>, Wiped)>> {
        let end = offset.saturating_add(self.header.cluster());
        let (Place::Packed { offset, length }, _) = self.map.run(&*self.file, offset, end)? else { return Ok(None) };
        let mut bytes = self.read_packed(offset, length)?;
        let mut content = Wiped::zeros(self.cluster_in_memory());
        let used = unpack(&bytes, &mut content, self.header.zstd)?;
        bytes.truncate(used);
        Ok(Some((bytes, content)))
    }

    fn read_packed(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        // The last sectors may be cut off with the file.
        let length = length.min(self.file.size().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn cluster_in_memory(&self) -> usize {
        1 << self.header.cluster_bits
    }

    /// Fills `buf` from byte `within` of a compressed cluster on.
    fn read_unpacked(&self, (offset, length): (u64, u64), within: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut known = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(at, _)| *at != offset) {
            let bytes = self.read_packed(offset, length)?;
            let mut content = Wiped::zeros(self.cluster_in_memory());
            unpack(&bytes, &mut content, self.header.zstd)?;
            *known = Some((offset, content));
        }
        let content = known.as_ref().map(|(_, content)| content.as_slice()).unwrap_or_default();
        let within = usize::try_from(within).map_err(io::Error::other)?;
        let part = content.get(within..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for Qcow2 {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = u64::try_from(buf.len()).ok().and_then(|length| offset.checked_add(length));
        let end = end.filter(|end| *end <= self.header.size).ok_or(io::ErrorKind::UnexpectedEof)?;
        let (mut at, mut rest) = (offset, buf);
        while at < end {
            let (place, run_end) = self.map.run(&*self.file, at, end)?;
            let count = usize::try_from(run_end - at).map_err(io::Error::other)?.min(rest.len());
            let (part, more) = rest.split_at_mut(count);
            match (place, &self.backing) {
                (Place::Absent, Some(backing)) => read_padded(&**backing, at, part)?,
                (Place::Absent, None) | (Place::Zero, _) => part.fill(0),
                (Place::Data(host), _) => read_padded(&*self.file, host, part)?,
                (Place::Packed { offset, length }, _) => {
                    self.read_unpacked((offset, length), at % self.header.cluster(), part)?;
                }
            }
            (at, rest) = (run_end, more);
        }
        Ok(())
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let end = range.end.min(self.header.size);
        let mut at = range.start;
        while at < end {
            let (place, run_end) = self.map.run(&*self.file, at, end)?;
            let found = match (place, &self.backing) {
                (Place::Absent, None) | (Place::Zero, _) => None,
                (Place::Absent, Some(backing)) => backing.next_data(at..run_end.min(backing.size()).max(at))?,
                (Place::Packed { .. }, _) => Some(at..run_end),
                (Place::Data(host), _) => {
                    let data = self.file.next_data(host..host.saturating_add(run_end - at))?;
                    // Inside of what was asked for, so that no difference is negative.
                    data.map(|data| at + (data.start - host)..at + (data.end - host))
                }
            };
            if found.is_some() {
                return Ok(found);
            }
            at = run_end;
        }
        Ok(None)
    }
}

/// Reads what may lie behind the end of a file, where there are zeros.
fn read_padded(file: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let there = usize::try_from(file.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
    let (data, zeros) = buf.split_at_mut(there);
    zeros.fill(0);
    file.read_exact_at(offset, data)
}

/// Unpacks a cluster into `content`, all of which it must fill. Returns the number of bytes that it took: bytes of other
/// clusters may follow. "Compressed clusters": a raw deflate stream (RFC 1951), or a zstd frame.
fn unpack(bytes: &[u8], content: &mut [u8], zstd: bool) -> io::Result<usize> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a compressed cluster is damaged");
    if zstd {
        let mut decoder = ::zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
        decoder.window_log_max(WINDOW_LOG)?;
        decoder.read_exact(content).map_err(|_| damaged())?;
        return find_frame_compressed_size(bytes).map_err(|_| damaged());
    }
    let mut inflate = Decompress::new(false);
    inflate.decompress(bytes, content, FlushDecompress::Finish).map_err(|_| damaged())?;
    let full = usize::try_from(inflate.total_out()) == Ok(content.len());
    usize::try_from(inflate.total_in()).ok().filter(|_| full).ok_or_else(damaged)
}
