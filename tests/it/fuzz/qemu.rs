//! VMDK, VDI, VHD and VHDX images with lies in what we judge before qemu-img sees it. What can be opened shows nothing
//! of another file, and is the same disk after it was written anew.

use std::fs;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::progress::quiet;
use tempfile::TempDir;

use super::engine::{Target, write_anew};
use super::input::{Edit, Input};
use super::qcow2::{MOST, contents, copied};
use super::rng::Rng;
use super::table::first_words;
use super::text::edits;
use super::zstd_container::disk;
use crate::kit::disk::run;

/// A file that every machine has, and a part of it: no image may show it.
const OTHER: &str = "/etc/passwd";
const OF_OTHER: &[u8] = b"root:x:0:0:";

/// A format: what qemu calls it, options of its bases, what its text is made of, and where a field is.
pub struct Kind {
    name: &'static str,
    bases: &'static [&'static str],
    words: &'static [&'static str],
    big_endian: bool,
    /// Offset and bytes of each field that our parser reads, and of some that only qemu does.
    fields: &'static [(usize, usize)],
    seal: fn(&mut [u8]),
}

pub const VMDK: Kind = Kind {
    name: "vmdk",
    bases: &[
        "subformat=monolithicSparse",
        "subformat=streamOptimized",
        "subformat=monolithicSparse,adapter_type=lsilogic,hwversion=13",
    ],
    words: &[
        "RW 512 FLAT \"/etc/passwd\" 0\n",
        "RW 512 SPARSE \"/etc/passwd\"\n",
        "RDONLY 8 ZERO\n",
        "parentFileNameHint=\"/etc/passwd\"\n",
        "parentCID=00000001\n",
        "CID=",
        "createType=\"monolithicFlat\"\n",
        "createType=\"monolithicSparse\"\n",
        "ddb.adapterType = \"x,size=1\"\n",
        "=\"",
        "\n",
        "\0",
    ],
    big_endian: false,
    fields: &[(4, 4), (8, 4), (12, 8), (20, 8), (28, 8), (36, 8), (44, 4), (48, 8), (56, 8), (64, 8), (77, 2)],
    seal: |_| (),
};

pub const VDI: Kind = Kind {
    name: "vdi",
    bases: &["static=off", "static=on"],
    words: &["\u{1}\0\0\0", "\u{2}\0\0\0", "\u{4}\0\0\0", "\0\0\0\0"],
    big_endian: false,
    fields: &[
        (0x40, 4),
        (0x44, 4),
        (0x48, 4),
        (0x4c, 4),
        (0x154, 4),
        (0x158, 4),
        (0x168, 4),
        (0x170, 8),
        (0x178, 4),
        (0x180, 4),
        (0x184, 4),
        (0x188, 8),
        (0x1a8, 8),
        (0x1b8, 8),
        (0x200, 4),
    ],
    seal: |_| (),
};

pub const VHD: Kind = Kind {
    name: "vpc",
    bases: &["subformat=dynamic", "subformat=dynamic,force_size=on", "subformat=fixed,force_size=on"],
    words: &["conectix", "cxsparse", "vpc ", "qemu", "\0\0\0\u{2}", "\0\0\0\u{3}", "\0\0\0\u{4}"],
    big_endian: true,
    // Behind the footer, a dynamic image has its header.
    fields: &[
        (0, 8),
        (12, 4),
        (16, 8),
        (28, 4),
        (40, 8),
        (48, 8),
        (56, 2),
        (58, 1),
        (59, 1),
        (60, 4),
        (64, 4),
        (68, 8),
        (512 + 8, 8),
        (512 + 16, 8),
        (512 + 28, 4),
        (512 + 32, 4),
        (512 + 40, 8),
    ],
    seal: |bytes| {
        for at in [0, bytes.len().saturating_sub(512)] {
            if let Some(footer) = bytes.get_mut(at..at + 512).filter(|footer| footer.starts_with(b"conectix")) {
                footer[64..68].fill(0);
                let sum = !footer.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
                footer[64..68].copy_from_slice(&sum.to_be_bytes());
            }
        }
    },
};

/// Where qemu-img puts VHDX's metadata.
const METADATA: usize = 2 << 20;

pub const VHDX: Kind = Kind {
    name: "vhdx",
    bases: &["subformat=dynamic,block_size=1048576", "subformat=fixed,block_size=1048576"],
    words: &["regi", "metadata", "head", "\u{2}\0\0\0", "\0\0\0\0"],
    big_endian: false,
    fields: &[
        (64 << 10, 4),
        (192 << 10, 4),
        ((192 << 10) + 8, 4),
        ((192 << 10) + 16, 8),
        ((192 << 10) + 32, 8),
        ((192 << 10) + 40, 4),
        ((192 << 10) + 44, 4),
        ((192 << 10) + 48, 8),
        ((192 << 10) + 64, 8),
        ((192 << 10) + 72, 4),
        (METADATA, 8),
        (METADATA + 10, 2),
        (METADATA + 32, 8),
        (METADATA + 48, 4),
        (METADATA + 52, 4),
        (METADATA + 56, 4),
        (METADATA + 64, 8),
        (METADATA + 80, 4),
        (METADATA + (64 << 10), 4),
        (METADATA + (64 << 10) + 4, 4),
        (METADATA + (64 << 10) + 8, 8),
        (METADATA + (64 << 10) + 16, 4),
    ],
    seal: |bytes| {
        for at in [192 << 10, 256 << 10] {
            if let Some(table) = bytes.get_mut(at..at + (64 << 10)) {
                table[4..8].fill(0);
                let sum = crc32c::crc32c(table);
                table[4..8].copy_from_slice(&sum.to_le_bytes());
            }
        }
    },
};

pub struct Qemu {
    kind: Kind,
    bases: Vec<Vec<u8>>,
    directory: TempDir,
}

impl Qemu {
    pub fn new(kind: Kind) -> Self {
        let directory = TempDir::new().expect("making a directory");
        let (raw, made) = (directory.path().join("raw"), directory.path().join("made"));
        fs::write(&raw, disk()).expect("writing a file of ours");
        let make = |options: &&str| {
            let words = [raw.to_str().expect("a path of ours"), made.to_str().expect("a path of ours")];
            run("qemu-img", &[&["convert", "-f", "raw", "-O", kind.name, "-o", options], &words[..]].concat());
            fs::read(&made).expect("reading what qemu-img made")
        };
        let bases = kind.bases.iter().map(make).collect();
        Self { kind, bases, directory }
    }

    /// A field of the header, with another number.
    fn edit(&self, rng: &mut Rng, base: &[u8]) -> Edit {
        let (mut at, width) = self.kind.fields[rng.below(self.kind.fields.len())];
        // A VHD's footer is at the end, and in a dynamic one also at the start.
        if self.kind.name == "vpc" && at < 512 && (!base.starts_with(b"conectix") || rng.one_in(2)) {
            at += base.len() - 512;
        }
        let mut number = rng.field(&base[at..at + width], width);
        if self.kind.big_endian && rng.one_in(2) {
            number.reverse();
        }
        Edit::over(at, number)
    }

    /// Random edits of what the parser reads as text, or of the bytes at the start.
    fn of_start(&self, rng: &mut Rng, base: &[u8]) -> Vec<Edit> {
        let (start, end) = if self.kind.name == "vmdk" { (512, 1200) } else { (0, base.len().min(4096)) };
        let mut edits = edits(rng, &base[start..end], self.kind.words);
        for edit in &mut edits {
            edit.at += start;
            // What comes in takes the place of what is there: the rest keeps its place.
            edit.remove = edit.insert.len();
        }
        edits
    }
}

impl Target for Qemu {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let base = rng.below(self.bases.len());
        let bytes = &self.bases[base];
        let edits = match rng.below(8) {
            0 => edits(rng, bytes, self.kind.words),
            1..=3 => self.of_start(rng, bytes),
            _ => (0..rng.between(1, 3)).map(|_| self.edit(rng, bytes)).collect(),
        };
        Input { base, edits, sealed: !rng.one_in(4), ..Input::default() }
    }

    fn run(&mut self, input: &Input) -> String {
        let (path, out) = (self.directory.path().join("image"), self.directory.path().join("out"));
        write_anew(&path, &self.bytes(input));
        let image = match DiskImage::open(&path, &quiet) {
            Ok(image) => image,
            Err(error) => {
                let said = error.to_string().replace(&path.display().to_string(), "image");
                assert!(!said.contains(OTHER) || said.contains("qemu-img"), "the parser names another file: {said}");
                return format!("refused: {}", first_words(&said));
            }
        };
        let container = image.container().name();
        let Some(disk) = contents(&*image.disk()) else { return "opened, and cannot be read".into() };
        assert!(!disk.windows(OF_OTHER.len()).any(|part| part == OF_OTHER), "it shows another file");
        let size = image.size();
        drop(image);
        if size > MOST || container == "raw" {
            return format!("opened, {}", if container == "raw" { "as raw" } else { "and large" });
        }
        let Some(copy) = copied(&path, &out) else { return "opened, and not written".into() };
        assert!(copy == disk, "another disk after it was written anew: {} and {} bytes", copy.len(), disk.len());
        "opened, and the same when written".into()
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        let mut bytes = input.bytes(&self.bases[input.base]);
        if input.sealed {
            (self.kind.seal)(&mut bytes);
        }
        bytes
    }
}
