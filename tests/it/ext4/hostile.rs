//! Images that lie. Each ends in an error or in a result, soon, and never in a panic. (Nothing here can touch an image:
//! all of it happens in memory.)

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deaddrop_core::tree::Tree;
use deaddrop_image::device::{FileDevice, ReadAt};
use deaddrop_image::ext4::{Ext4, probe};

use crate::kit::ext4::{Image, find, time, tree, write};
use crate::kit::splitmix64;

/// A device with some bytes replaced.
struct Patched {
    bytes: Arc<Vec<u8>>,
    patches: Vec<(usize, Vec<u8>)>,
    size: usize,
}

impl ReadAt for Patched {
    fn size(&self) -> u64 {
        self.size as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let start = offset as usize;
        if start.checked_add(buf.len()).is_none_or(|end| end > self.size) {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        }
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        for (at, patch) in &self.patches {
            for (index, byte) in patch.iter().enumerate() {
                if let Some(to) = (at + index).checked_sub(start).and_then(|inside| buf.get_mut(inside)) {
                    *to = *byte;
                }
            }
        }
        Ok(())
    }
}

/// A device that counts what is read of it.
struct Counting<D> {
    device: D,
    reads: AtomicUsize,
}

impl<D: ReadAt> ReadAt for Counting<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.device.read_exact_at(offset, buf)
    }
}

/// Reads and writes all that there is, and reads no more than it would have to.
fn exercise(device: Patched, what: &str) {
    let device = Arc::new(Counting { device, reads: AtomicUsize::new(0) });
    let _ = probe(device.as_ref());
    if let Ok(mut ext4) = Ext4::open(device.clone()) {
        let _ = ext4.summary();
        if ext4.root().is_ok() {
            for path in ["/etc/secrets", "/big", "/etc/long", "/etc/short"] {
                let mut node = ext4.root().unwrap();
                for component in path[1..].split('/') {
                    match ext4.child(&node, component.as_bytes()) {
                        Ok(Some((next, _))) => node = next,
                        _ => break,
                    }
                }
                let _ = ext4.read_link(&node);
                let _ = ext4.read(&node, 1 << 24);
            }
        }
        let changes =
            [write("/etc/secrets/new", b"x", 0o400, 0, 0), write("/etc/secrets/old-large", b"y", 0o400, 0, 0)];
        let _ = ext4.apply(&changes, time());
    }
    let reads = device.reads.load(Ordering::SeqCst);
    assert!(reads < 1000, "{what}: {reads} reads");
}

/// crc32c of the first 1,020 bytes of a superblock, bit by bit.
fn checksum(superblock: &[u8]) -> u32 {
    superblock[..0x3FC].iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Sizes and counts of the superblock: offset, bytes.
const FIELDS: &[(usize, usize)] = &[
    (0x0, 4),
    (0x4, 4),
    (0x8, 4),
    (0xC, 4),
    (0x10, 4),
    (0x14, 4),
    (0x18, 4),
    (0x1C, 4),
    (0x20, 4),
    (0x24, 4),
    (0x28, 4),
    (0x38, 2),
    (0x3A, 2),
    (0x4C, 4),
    (0x54, 4),
    (0x58, 2),
    (0x5A, 2),
    (0x5C, 4),
    (0x60, 4),
    (0x64, 4),
    (0xCE, 2),
    (0xE0, 4),
    (0xE4, 4),
    (0xE8, 4),
    (0xFC, 1),
    (0xFE, 2),
    (0x104, 4),
    (0x150, 4),
    (0x154, 4),
    (0x158, 4),
    (0x15C, 2),
    (0x15E, 2),
    (0x174, 1),
    (0x175, 1),
    (0x24C, 4),
    (0x250, 4),
    (0x270, 4),
    (0x280, 4),
];

#[test]
fn every_size_and_count_of_the_superblock_may_lie() {
    let tree = tree(300);
    for arguments in ["-t ext4", "-t ext4 -b 1024 -O ^metadata_csum,^64bit", "-t ext3"] {
        let bytes = Arc::new(Image::make(arguments, "16M", Some(tree.path())).bytes());
        let checked = bytes[1024 + 0x65] & 4 != 0;
        for (at, size) in FIELDS {
            for value in [0_u32, 3, 65535, u32::MAX] {
                let mut superblock = bytes[1024..2048].to_vec();
                superblock[*at..at + size].copy_from_slice(&value.to_le_bytes()[..*size]);
                if checked {
                    let sum = checksum(&superblock).to_le_bytes();
                    superblock[0x3FC..].copy_from_slice(&sum);
                }
                let size = bytes.len();
                let device = Patched { bytes: Arc::clone(&bytes), patches: vec![(1024, superblock)], size };
                exercise(device, &format!("{arguments}: superblock {at:#x} = {value}"));
            }
        }
    }
}

#[test]
fn every_word_of_descriptors_inodes_maps_and_directories_may_lie() {
    let tree = tree(300);
    // Without checksums, so that the lies get through.
    let image = Image::make("-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg", "16M", Some(tree.path()));
    let bytes = Arc::new(image.bytes());
    let place = |command: &str| {
        let shown = image.debugfs(&[command.to_owned()]);
        let numbers: Vec<usize> = shown.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        shown.contains("located").then(|| {
            numbers[numbers.len() - 2] * 1024
                + usize::from_str_radix(shown.trim_end().rsplit("0x").next().unwrap(), 16).unwrap_or(0)
        })
    };
    let mut starts = vec![(2 * 1024, 32), (2 * 1024 + 64, 32)];
    for path in ["/", "/etc", "/etc/secrets", "/etc/secrets/old-large", "/etc/long", "/big"] {
        starts.extend(place(&format!("imap {path}")).map(|at| (at, 128)));
    }
    for path in ["/", "/etc", "/etc/secrets"] {
        let shown = image.debugfs(&[format!("blocks {path}")]);
        let block: usize = shown.lines().nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        starts.push((block * 1024, 48));
    }
    assert!(starts.len() >= 11, "{starts:?}");
    for (start, length) in starts {
        for at in (start..start + length).step_by(4) {
            for value in [0_u32, 3, 65535, u32::MAX] {
                let patches = vec![(at, value.to_le_bytes().to_vec())];
                let device = Patched { bytes: Arc::clone(&bytes), patches, size: bytes.len() };
                exercise(device, &format!("{start:#x} + {:#x} = {value}", at - start));
            }
        }
    }
}

#[test]
fn many_files_with_maps_that_lead_in_circles_are_given_up_soon() {
    let image = Image::make("-t ext2 -b 1024", "32M", Some(tree(0).path()));
    let block_size = image.open().unwrap().summary().block_size as usize;
    let mut bytes = image.bytes();
    let shown = image.debugfs(&["blocks /etc/secrets/gone-large".into()]);
    let numbers = shown.lines().nth(1).unwrap().split_whitespace().map(|number| number.parse().unwrap());
    let nodes: Vec<u32> = numbers.take(3).collect();
    // The first names the second a few times, which names the third as often as it can, which names nothing. One file
    // has nearly as many nodes as one may.
    for (node, below, times) in
        [(nodes[0], nodes[1], 18_000 / (block_size / 4)), (nodes[1], nodes[2], block_size / 4), (nodes[2], 0, 0)]
    {
        let at = node as usize * block_size;
        bytes[at..at + block_size].fill(0);
        for entry in bytes[at..at + times * 4].chunks_exact_mut(4) {
            entry.copy_from_slice(&below.to_le_bytes());
        }
    }
    let places: Vec<String> = (0..40).map(|number| format!("imap /etc/secrets/standing-{number}")).collect();
    for place in image.debugfs(&places).split("located at block ").skip(1) {
        let mut words = place.lines().next().unwrap().split(", offset 0x");
        let block: usize = words.next().unwrap().parse().unwrap();
        let at = block * block_size + usize::from_str_radix(words.next().unwrap().trim(), 16).unwrap() + 0x28;
        bytes[at..at + 60].fill(0);
        bytes[at + 14 * 4..at + 15 * 4].copy_from_slice(&nodes[0].to_le_bytes());
    }
    let device = Arc::new(Counting { device: bytes, reads: AtomicUsize::new(0) });
    let error = Ext4::open(device.clone()).unwrap().apply(&[write("/etc/x", b"y", 0o400, 0, 0)], time()).unwrap_err();
    assert!(error.to_string().ends_with("too large to be compared with each other"), "{error}");
    // The files together have 700,000 nodes.
    let reads = device.reads.load(Ordering::SeqCst);
    assert!(reads < 150_000, "{reads} reads");
}

#[test]
fn a_file_system_that_is_cut_off_is_refused_with_both_sizes() {
    let image = Image::make("-t ext4", "16M", None);
    let bytes = Arc::new(image.bytes());
    for size in [0, 1000, 1024, 1500, 2048, 4096, 65536, 16 << 20 >> 1, (16 << 20) - 1] {
        let device: Arc<dyn ReadAt> = Arc::new(Patched { bytes: Arc::clone(&bytes), patches: vec![], size });
        let Err(error) = Ext4::open(device) else { panic!("{size}: opened") };
        if size >= 2048 {
            assert!(error.to_string().contains("the image is cut off"), "{size}: {error}");
        }
    }
}

#[test]
fn a_large_image_costs_no_more_than_a_small_one() {
    let image = Image::make("-t ext4 -E lazy_itable_init=1,nodiscard", "64G", None);
    let file = File::open(&image.path).unwrap();
    let size = file.metadata().unwrap().len();
    let device = Arc::new(Counting { device: FileDevice::new(file, size), reads: AtomicUsize::new(0) });
    let mut ext4 = Ext4::open(device.clone()).unwrap();
    ext4.apply(&[write("/x", b"y", 0o400, 0, 0)], time()).unwrap();
    let reads = device.reads.load(Ordering::SeqCst);
    // Not one for each of its 512 groups.
    assert!(reads < 200, "{reads} reads");
    image.commit(&ext4);
    assert!(find(&image.open().unwrap(), "/x").is_some());
}

#[test]
fn random_damage_ends_soon_and_without_a_panic() {
    let tree = tree(300);
    for arguments in
        ["-t ext4 -b 1024 -O ^metadata_csum", "-t ext4 -b 1024 -O ^metadata_csum,inline_data", "-t ext3 -b 1024"]
    {
        let image = Image::make(arguments, "16M", Some(tree.path()));
        let bytes = Arc::new(image.bytes());
        // Damage hits what is not zero: metadata and names, mostly.
        let places: Vec<usize> = (1024..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for seed in 0..300_u64 {
            // The same damage every time.
            let mut state = seed;
            let mut random = || splitmix64(&mut state) as usize;
            let patches =
                (0..1 + random() % 12).map(|_| (places[random() % places.len()], vec![random() as u8])).collect();
            let device = Patched { bytes: Arc::clone(&bytes), patches, size: bytes.len() };
            exercise(device, &format!("{arguments}, seed {seed}"));
        }
    }
}
