//! Proxmox's archive of a machine: its configuration, and its devices in clusters. One of the devices is the disk that
//! holds the system; all else stays byte for byte. Proxmox, pve-qemu, vma_spec.txt.
//!
//! The archive is read in one pass, and written in one: the clusters of the new one are in the order of the old one.

pub(crate) mod header;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::text;

use self::header::{BLOCK, BLOCKS, CLUSTER, Cluster, Device, EXTENT, Header};
use crate::device::ReadAt;
use crate::open::spool::{is_zero, looks_like_a_disk, write_sparse};
use crate::output::copy::CopyJob;
use crate::output::patch::Patch;
use crate::progress::Work;

/// Maximum size of all devices together, in bytes.
const MOST: u64 = 2 << 40;
/// Clusters at the start of a device by which a disk is known: a MiB.
const HEAD: u32 = 16;

/// A checked archive.
pub(crate) struct Vma {
    device: Arc<dyn ReadAt>,
    header: Header,
    /// The device that holds the system.
    disk: Device,
    name: String,
}

/// What an archive has of its devices.
struct Found {
    /// By the device's number: a bit for each cluster.
    seen: Vec<Vec<u64>>,
    /// Where the first clusters of each device lie.
    heads: Vec<(Cluster, u64)>,
    /// The device of the last cluster, and the number of its clusters; `None` for a stream.
    last: Option<(u8, Option<u64>)>,
}

impl Vma {
    /// Checks the archive in `device`, and chooses the disk.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or incomplete; `Unsupported` if there is no disk in it, or it is not known which one
    /// holds the system; `Io`.
    pub(crate) fn open(device: Arc<dyn ReadAt>, name: &str) -> Result<Self, StorageError> {
        let damaged = |what: &str| StorageError::corrupt(format!("{name}: the VMA archive is damaged: {what}"));
        let header = read_header(&*device, name)?;
        if header.devices.iter().fold(0_u64, |sum, device| sum.saturating_add(device.size)) > MOST {
            return Err(StorageError::unsupported(
                format!("{name}: the devices of the VMA archive have over {} together", text::size(MOST)),
                "unpack it: vma extract IMAGE DIRECTORY",
            ));
        }
        let bits = |device: &Device| {
            let words = device.size.div_ceil(CLUSTER).div_ceil(64);
            vec![0_u64; usize::try_from(words).unwrap_or(0)]
        };
        let mut found = Found { seen: vec![Vec::new(); 256], heads: Vec::new(), last: None };
        for device in &header.devices {
            found.seen[usize::from(device.id)] = bits(device);
        }
        let mut walk = Walk::new(&*device, &header, name, false);
        while let Some(extent) = walk.next()? {
            for (cluster, at) in extent {
                found.take(&header, cluster, at).map_err(damaged)?;
            }
        }
        for device in header.devices.iter().filter(|device| role(device) != Role::State) {
            let seen = found.seen[usize::from(device.id)].iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            if seen != device.size.div_ceil(CLUSTER) {
                return Err(damaged(&format!("clusters of {} are missing: is it whole?", shown(&device.name))));
            }
        }
        let disk = choose(&*device, &header, &found.heads, name)?;
        Ok(Self { device, header, disk, name: name.to_owned() })
    }

    /// Writes the disk to the empty file `to`; returns its size in bytes.
    ///
    /// # Errors
    /// `Io`, also if there is no space.
    pub(crate) fn decode(&self, to: &File) -> Result<u64, StorageError> {
        let writing = |e| StorageError::io(format!("writing the disk in {}", self.name), e);
        let mut walk = Walk::new(&*self.device, &self.header, &self.name, true);
        while let Some(extent) = walk.next()? {
            // Most clusters of a large disk are zero, and are holes.
            let ours = |cluster: &Cluster| cluster.device == self.disk.id && cluster.mask != 0;
            for (cluster, at) in extent.into_iter().filter(|(cluster, _)| ours(cluster)) {
                let start = u64::from(cluster.number).saturating_mul(CLUSTER);
                let bytes = self.cluster(cluster, at)?;
                let size = self.disk.size.saturating_sub(start).min(CLUSTER);
                let inside = usize::try_from(size).ok().and_then(|size| bytes.get(..size)).unwrap_or_default();
                write_sparse(to, start, inside).map_err(writing)?;
            }
        }
        to.set_len(self.disk.size).map_err(writing)?;
        Ok(self.disk.size)
    }

    /// Writes the archive with the disk of `job`, and `patch` over it, to the empty file `to`.
    ///
    /// # Errors
    /// `Io`, also if there is no space; `Refused` if the disk has another size.
    pub(crate) fn encode(&self, job: &CopyJob<'_>, patch: &Patch<'_>, to: &File) -> Result<(), StorageError> {
        if job.size != self.disk.size {
            return Err(StorageError::refused("the disk has another size than in the VMA archive", "is it the same?"));
        }
        let mut to = BufWriter::new(to);
        to.write_all(&self.header.bytes).map_err(|e| job.writing(e))?;
        let mut walk = Walk::new(&*self.device, &self.header, &self.name, true);
        let mut done = 0_u64;
        while let Some(extent) = walk.next()? {
            let (mut clusters, mut stored) = (Vec::new(), Wiped::default());
            for (cluster, at) in extent {
                let is_ours = cluster.device == self.disk.id;
                let bytes = match is_ours {
                    true => disk_cluster(job, patch, cluster.number)?,
                    false if cluster.mask == 0 => None,
                    false => Some(self.cluster(cluster, at)?),
                };
                let bytes = bytes.unwrap_or_default();
                let mask = if is_ours { mask(&bytes) } else { cluster.mask };
                for (_, block) in blocks(&bytes).filter(|(bit, _)| mask & bit != 0) {
                    stored.extend_from_slice(block);
                }
                clusters.push(Cluster { mask, ..cluster });
                done = done.saturating_add(if is_ours { CLUSTER } else { 0 });
            }
            to.write_all(&header::extent(&clusters, &self.header.uuid)).map_err(|e| job.writing(e))?;
            to.write_all(&stored).map_err(|e| job.writing(e))?;
            job.tell(Work::Copy, done.min(job.size)).map_err(|e| job.writing(e))?;
        }
        to.flush().map_err(|e| job.writing(e))
    }

    /// The content of a cluster, whose blocks start at `at`.
    fn cluster(&self, cluster: Cluster, at: u64) -> Result<Wiped, StorageError> {
        read_cluster(&*self.device, cluster, at).map_err(|e| StorageError::io(format!("reading {}", self.name), e))
    }
}

impl Found {
    fn take(&mut self, header: &Header, cluster: Cluster, at: u64) -> Result<(), &'static str> {
        if cluster.device == 0 {
            return Ok(());
        }
        // The devices are few, and the clusters of a large disk many: what is known of the last one helps.
        let clusters = match self.last {
            Some((id, clusters)) if id == cluster.device => clusters,
            _ => {
                let device = header.devices.iter().find(|device| device.id == cluster.device);
                let device = device.ok_or("a cluster is of no device")?;
                // A state is a stream, whose clusters have no place.
                (role(device) != Role::State).then_some(device.size.div_ceil(CLUSTER))
            }
        };
        self.last = Some((cluster.device, clusters));
        let Some(clusters) = clusters else { return Ok(()) };
        if u64::from(cluster.number) >= clusters {
            return Err("a cluster lies behind the end of its device");
        }
        let (word, bit) = (cluster.number / 64, 1_u64 << (cluster.number % 64));
        let word = usize::try_from(word).ok().and_then(|word| self.seen[usize::from(cluster.device)].get_mut(word));
        let word = word.ok_or("a cluster lies behind the end of its device")?;
        if *word & bit != 0 {
            return Err("a cluster is there twice");
        }
        *word |= bit;
        if cluster.number < HEAD && cluster.mask != 0 {
            self.heads.push((cluster, at));
        }
        Ok(())
    }
}

/// What a device is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Disk,
    /// The variables of the firmware, the state of a TPM.
    Firmware,
    /// The machine's memory.
    State,
}

fn role(device: &Device) -> Role {
    let name = device.name.strip_prefix(b"drive-").unwrap_or(&device.name);
    match name {
        name if name.starts_with(b"vmstate") => Role::State,
        name if name.starts_with(b"efidisk") || name.starts_with(b"tpmstate") => Role::Firmware,
        _ => Role::Disk,
    }
}

/// The device that holds the system: the only disk, or the only one with a partition table or a file system.
fn choose(device: &dyn ReadAt, header: &Header, heads: &[(Cluster, u64)], name: &str) -> Result<Device, StorageError> {
    let disks: Vec<&Device> = header.devices.iter().filter(|device| role(device) == Role::Disk).collect();
    if let [disk] = disks[..] {
        return Ok(disk.clone());
    }
    let mut filled = Vec::new();
    for disk in &disks {
        let mut head = vec![0; usize::try_from(u64::from(HEAD) * CLUSTER).unwrap_or(0)];
        for (cluster, at) in heads.iter().filter(|(cluster, _)| cluster.device == disk.id) {
            let bytes =
                read_cluster(device, *cluster, *at).map_err(|e| StorageError::io(format!("reading {name}"), e))?;
            let start = usize::try_from(u64::from(cluster.number) * CLUSTER).unwrap_or(usize::MAX);
            if let Some(place) = head.get_mut(start..start.saturating_add(bytes.len())) {
                place.copy_from_slice(&bytes);
            }
        }
        if looks_like_a_disk(&head) {
            filled.push(*disk);
        }
    }
    if let [disk] = filled[..] {
        return Ok(disk.clone());
    }
    let names: Vec<String> = disks.iter().map(|disk| shown(&disk.name)).collect();
    let what = match names[..] {
        [] => format!("{name} is a VMA archive without a disk"),
        _ => format!(
            "{name} is a VMA archive of several disks, and which one holds the system is not known: {}",
            names.join(", ")
        ),
    };
    Err(StorageError::unsupported(what, "unpack it (vma extract IMAGE DIRECTORY), and change the disk that holds it"))
}

/// The extents of an archive, one after the other.
struct Walk<'a> {
    device: &'a dyn ReadAt,
    uuid: &'a [u8; 16],
    at: u64,
    name: &'a str,
    /// The archive was walked and checked before.
    seen: bool,
}

impl<'a> Walk<'a> {
    fn new(device: &'a dyn ReadAt, header: &'a Header, name: &'a str, seen: bool) -> Self {
        let at = u64::try_from(header.bytes.len()).unwrap_or(u64::MAX);
        Self { device, uuid: &header.uuid, at, name, seen }
    }

    /// The clusters of the next extent, each with the place of its blocks.
    fn next(&mut self) -> Result<Option<Vec<(Cluster, u64)>>, StorageError> {
        if self.at == self.device.size() {
            return Ok(None);
        }
        let truncated = || StorageError::corrupt(format!("{}: the VMA archive is truncated", self.name));
        let start = self.at.checked_add(u64::try_from(EXTENT).unwrap_or(0)).ok_or_else(truncated)?;
        if start > self.device.size() {
            return Err(truncated());
        }
        let mut bytes = [0; EXTENT];
        let reading = |e| StorageError::io(format!("reading {}", self.name), e);
        self.device.read_exact_at(self.at, &mut bytes).map_err(reading)?;
        let clusters = header::clusters(&bytes, self.uuid, self.seen).ok_or_else(|| {
            StorageError::corrupt(format!("{}: the VMA archive is damaged: its extent at {}", self.name, self.at))
        })?;
        let mut at = start;
        let mut placed = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            placed.push((cluster, at));
            at = at.saturating_add(u64::from(cluster.mask.count_ones()).saturating_mul(BLOCK));
        }
        if at > self.device.size() {
            return Err(truncated());
        }
        self.at = at;
        Ok(Some(placed))
    }
}

fn read_header(device: &dyn ReadAt, name: &str) -> Result<Header, StorageError> {
    let damaged = || StorageError::corrupt(format!("{name}: the VMA archive is damaged: its header"));
    let reading = |e| StorageError::io(format!("reading {name}"), e);
    let mut start = [0; 64];
    let fits = |size: usize| u64::try_from(size).is_ok_and(|size| size <= device.size());
    if !fits(start.len()) {
        return Err(damaged());
    }
    device.read_exact_at(0, &mut start).map_err(reading)?;
    let size = header::size_of(&start).filter(|size| fits(*size)).ok_or_else(damaged)?;
    let mut bytes = vec![0; size];
    device.read_exact_at(0, &mut bytes).map_err(reading)?;
    Header::parse(bytes).ok_or_else(damaged)
}

/// The content of a cluster: blocks that are not stored are zero.
fn read_cluster(device: &dyn ReadAt, cluster: Cluster, mut at: u64) -> io::Result<Wiped> {
    let mut bytes = Wiped::zeros(usize::try_from(CLUSTER).unwrap_or(0));
    let size = usize::try_from(BLOCK).unwrap_or(1);
    for (index, block) in bytes.chunks_exact_mut(size).enumerate() {
        if cluster.mask >> index & 1 == 1 {
            device.read_exact_at(at, block)?;
            at = at.saturating_add(BLOCK);
        }
    }
    Ok(bytes)
}

/// A cluster of the disk of `job`, with `patch` over it; `None` for a hole. What lies behind the end of the disk is zero.
fn disk_cluster(job: &CopyJob<'_>, patch: &Patch<'_>, number: u32) -> Result<Option<Wiped>, StorageError> {
    let start = u64::from(number).saturating_mul(CLUSTER);
    let length = job.size.saturating_sub(start).min(CLUSTER);
    let data = job.from.next_data(start..start.saturating_add(length)).map_err(|e| job.reading(e))?;
    if data.is_none() && !patch.touches(start, length) {
        return Ok(None);
    }
    let mut bytes = Wiped::zeros(usize::try_from(CLUSTER).unwrap_or(0));
    let inside = usize::try_from(length).ok().and_then(|length| bytes.get_mut(..length)).unwrap_or_default();
    job.from.read_exact_at(start, inside).map_err(|e| job.reading(e))?;
    patch.lay_over(start, inside);
    Ok(Some(bytes))
}

/// The blocks of a cluster, each with its bit.
fn blocks(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    (0..BLOCKS).map(|bit| 1_u16 << bit).zip(bytes.chunks(usize::try_from(BLOCK).unwrap_or(1)))
}

/// The blocks that are not zero.
fn mask(bytes: &[u8]) -> u16 {
    blocks(bytes).filter(|(_, block)| !is_zero(block)).fold(0, |mask, (bit, _)| mask | bit)
}

fn shown(name: &[u8]) -> String {
    text::shown(name).unwrap_or_default()
}
