//! Proxmox's archives of machines.

use std::fs;
use std::path::Path;
use std::process::Command;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::output::Destination;
use deaddrop_image::progress::quiet;
use md5::{Digest, Md5};
use tempfile::TempDir;

use super::engine::{Target, write_anew};
use super::input::Input;
use super::rng::Rng;
use super::table::first_words;
use super::text::edits;
use crate::kit::{Scratch, tool};

pub struct Archives {
    base: Vec<u8>,
    directory: TempDir,
}

impl Archives {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let mut disk = vec![0; 300 << 10];
        disk[446 + 4] = 0x83;
        disk[446 + 8] = 8;
        disk[446 + 13] = 1;
        disk[510..512].copy_from_slice(&[0x55, 0xAA]);
        disk[200_000..210_000].fill(7);
        let disk = scratch.write("disk", disk);
        let other = scratch.write("other", vec![9; 70_000]);
        let out = scratch.join("x.vma");
        let device = |name: &str, path: &Path| format!("{name}={}", path.display());
        let make = ["make", out.to_str().unwrap(), "boot: scsi0"].map(str::to_owned);
        let devices = [device("drive-efidisk0", &other), device("drive-scsi0", &disk)];
        let script = include_str!("../containers/vma.py");
        tool(Command::new("python3").arg("-c").arg(script).args(make).args(devices));
        Self { base: fs::read(out).unwrap(), directory: TempDir::new().expect("making a directory") }
    }
}

/// Where the first extent begins: behind one block of blobs.
const FIRST: usize = 12_288 + 512;

/// Fields of the header: version, blobs, sizes, configuration, devices.
const FIELDS: [usize; 12] = [0, 4, 48, 52, 56, 2044, 3068, 4128, 4136, 4160, 4168, 12_288];

impl Target for Archives {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let words = &["VMAE", "VMA\0", "\0\0\0\u{1}", "drive-", "\0", "\u{1}", "\u{2}"];
        let mut input = Input { edits: edits(rng, &self.base, words), ..Input::default() };
        // Nothing behind a wrong checksum is read.
        input.sealed = !rng.one_in(8);
        if !rng.one_in(4) {
            for edit in &mut input.edits {
                edit.at = match edit.at % 2 {
                    0 => FIELDS[edit.at % FIELDS.len()] + edit.at % 4,
                    _ => FIRST + edit.at % 512,
                };
                edit.insert.truncate(4);
                edit.remove = edit.insert.len();
            }
        }
        input
    }

    fn run(&mut self, input: &Input) -> String {
        let path = self.directory.path().join("x.vma");
        write_anew(&path, &self.bytes(input));
        let destination = Destination::File { path: self.directory.path().join("out.vma"), format: None, force: false };
        match DiskImage::open_for(&path, &destination, &quiet) {
            Ok((image, _)) => {
                let kinds: Vec<&str> = image.layers().iter().map(|layer| layer.kind).collect();
                format!("opened, {}", kinds.join(" "))
            }
            Err(error) => {
                format!("refused: {}", first_words(&error.to_string().replace(path.to_str().unwrap(), "x.vma")))
            }
        }
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        let mut bytes = input.bytes(&self.base);
        if input.sealed {
            let size = bytes.get(56..60).map_or(0, |size| u32::from_be_bytes(size.try_into().unwrap()) as usize);
            for (start, place, length) in [(0, 32, size), (FIRST, 24, 512)] {
                if let Some(part) = bytes.get_mut(start..start + length).filter(|part| part.len() >= place + 16) {
                    part[place..place + 16].fill(0);
                    let sum = Md5::digest(&*part);
                    part[place..place + 16].copy_from_slice(&sum);
                }
            }
        }
        bytes
    }
}
