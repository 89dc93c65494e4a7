//! Compressed images, and files that look like other containers.

use std::fs;
use std::process::Command;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::progress::quiet;
use deaddrop_image::table::root::TreeKind;
use tempfile::TempDir;

use super::engine::{Target, write_anew};
use super::input::Input;
use super::rng::Rng;
use super::table::first_words;
use super::text::edits;
use crate::kit::fed;

pub struct Zstd {
    /// Compressed disks: their bytes, in several kinds of frames.
    bases: Vec<Vec<u8>>,
    directory: TempDir,
}

impl Zstd {
    pub fn new() -> Self {
        let disk = disk();
        let mut bases = Vec::new();
        for level in [1, 3, 19] {
            bases.push(zstd::encode_all(disk.as_slice(), level).expect("compressing in memory"));
        }
        // With a checksum, without a size, in two frames with one to skip between them.
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("compressing in memory");
        encoder.include_checksum(true).expect("a parameter of zstd");
        std::io::copy(&mut &disk[..100_000], &mut encoder).expect("compressing in memory");
        let mut frames = encoder.finish().expect("compressing in memory");
        frames.extend([0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        frames.extend(zstd::encode_all(&disk[100_000..], 1).expect("compressing in memory"));
        bases.push(frames);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::copy(&mut disk.as_slice(), &mut gzip).expect("compressing in memory");
        bases.push(gzip.finish().expect("compressing in memory"));
        for program in ["xz", "bzip2"] {
            bases.push(fed(Command::new(program).arg("-c"), &disk).stdout);
        }
        let image = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/none.img.zst");
        bases.push(fs::read(image).expect("a committed image"));
        bases.push(disk);
        Self { bases, directory: TempDir::new().expect("making a directory") }
    }
}

impl Target for Zstd {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        if rng.one_in(10) {
            return Input::made(frame(rng));
        }
        let base = rng.below(self.bases.len());
        let mut input = Input { base, edits: edits(rng, &self.bases[base], MAGICS), ..Input::default() };
        if rng.one_in(3) {
            // Headers of frames and blocks are at the start.
            for edit in &mut input.edits {
                edit.at %= 40;
            }
        }
        input
    }

    fn run(&mut self, input: &Input) -> String {
        let path = self.directory.path().join("image");
        write_anew(&path, &self.bytes(input));
        match DiskImage::open(&path, &quiet) {
            Ok(image) => {
                for partition in &image.table().partitions {
                    assert_eq!(image.partition(partition).is_ok(), partition.problem.is_none());
                }
                let root = image.root(None, &|_| Ok(TreeKind::Store)).map_err(|error| error.to_string());
                format!("opened, {}{}", image.container().name(), if root.is_ok() { ", with a root" } else { "" })
            }
            Err(error) => {
                let name = path.display().to_string();
                format!("refused: {}", first_words(&error.to_string().replace(&name, "image")))
            }
        }
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        input.bytes(&self.bases[input.base])
    }
}

/// 256 KiB with an MBR, and what compresses a little, a lot and not at all.
pub fn disk() -> Vec<u8> {
    let mut rng = Rng::of_case(1, 1);
    let mut disk = vec![0; 256 << 10];
    disk[446 + 4] = 0x83;
    disk[446 + 8] = 8;
    disk[446 + 13] = 1;
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    disk[4096 + 0x438..4096 + 0x43A].copy_from_slice(&[0x53, 0xEF]);
    for byte in &mut disk[20_000..30_000] {
        *byte = rng.next() as u8;
    }
    for (at, byte) in disk[40_000..90_000].iter_mut().enumerate() {
        *byte = (at % 77) as u8;
    }
    disk
}

/// A frame by hand (RFC 8878, 3.1.1): a descriptor, windows of any size, and blocks of one repeated byte.
fn frame(rng: &mut Rng) -> Vec<u8> {
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD];
    let descriptor = rng.next() as u8 & if rng.one_in(2) { 0 } else { 0xFF };
    frame.push(descriptor);
    frame.extend((0..rng.below(15)).map(|_| rng.next() as u8));
    if descriptor == 0 {
        frame.truncate(5);
        // Exponent and mantissa of the window.
        frame.push(rng.next() as u8);
    }
    for _ in 0..rng.below(200) {
        let kind = [1, 1, 1, 0, 2, 3][rng.below(6)];
        let size = [128 << 10, rng.below(1 << 21), rng.below(300)][rng.below(3)] as u32;
        frame.extend(&((size << 3) | (kind << 1)).to_le_bytes()[..3]);
        frame.extend(
            (0..if kind == 1 { 1 } else { rng.below(40) }).map(|_| if rng.one_in(2) { 0 } else { rng.next() as u8 }),
        );
    }
    frame.extend([1, 0, 0]);
    frame
}

const MAGICS: &[&str] = &[
    "(\u{b5}/\u{fd}",
    "BZh9",
    "PK\u{3}\u{4}",
    "QFI",
    "KDMV",
    "conectix",
    "vhdxfile",
    "\u{0}\u{0}",
    "7z",
    "hsqs",
    "LUKS",
];
