//! Proxmox's archives of machines, and tars with a disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::output::Destination;
use deaddrop_image::output::patch::Patch;
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
    /// An archive, and tars.
    bases: Vec<Vec<u8>>,
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
        let mut bases = vec![fs::read(out).unwrap()];
        fs::rename(&disk, scratch.join("disk.raw")).unwrap();
        for options in [&["--format=oldgnu", "-S"][..], &["--format=pax", "-S"], &["--format=gnu"]] {
            let command = &mut Command::new("tar");
            tool(command.args(options).args(["-b1", "-cf", "x.tar", "disk.raw"]).current_dir(scratch.path()));
            bases.push(fs::read(scratch.join("x.tar")).unwrap());
        }
        Self { bases, directory: TempDir::new().expect("making a directory") }
    }
}

/// Where the first extent begins: behind one block of blobs.
const FIRST: usize = 12_288 + 512;

/// Fields of the header: version, blobs, sizes, configuration, devices.
const FIELDS: [usize; 12] = [0, 4, 48, 52, 56, 2044, 3068, 4128, 4136, 4160, 4168, 12_288];

impl Target for Archives {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let base = rng.below(self.bases.len());
        let words = &[
            "VMAE",
            "disk.raw",
            "00000000000",
            "00000001000",
            "22 GNU.sparse.major=1\n",
            "S",
            "x",
            "VMA\0",
            "\0\0\0\u{1}",
            "drive-",
            "\0",
            "\u{1}",
            "\u{2}",
        ];
        let mut input = Input { base, edits: edits(rng, &self.bases[base], words), ..Input::default() };
        // Nothing behind a wrong checksum is read.
        input.sealed = !rng.one_in(8);
        if !rng.one_in(4) {
            for edit in &mut input.edits {
                edit.at = match edit.at % 2 {
                    // In the first two headers.
                    _ if base > 0 => edit.at % 1536,
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
        let out = self.directory.path().join(if input.base > 0 { "out.tar" } else { "out.vma" });
        let _ = fs::remove_file(&out);
        let destination = Destination::File { path: out.clone(), format: None, force: false, overlay: false };
        let (image, output) = match DiskImage::open_for(&path, &destination, &quiet) {
            Ok(opened) => opened,
            Err(error) => {
                let error = error.to_string().replace(path.to_str().unwrap(), "x");
                return format!("refused: {}", first_words(&error));
            }
        };
        let kinds: Vec<&str> = image.layers().iter().map(|layer| layer.kind).collect();
        let said = format!("opened, {}", kinds.join(" "));
        let is_packed = kinds.len() > 1;
        let (size, disk) = (image.size(), image.disk());
        let mut before = vec![0; size.min(1 << 20) as usize];
        disk.read_exact_at(0, &mut before).unwrap();
        if is_packed && size <= 1 << 30 {
            output.commit(image, &Patch::default(), &quiet).expect("what was read is written");
            let image = DiskImage::open(&out, &quiet).expect("what was written is read");
            let mut after = vec![0; before.len()];
            image.disk().read_exact_at(0, &mut after).unwrap();
            assert!(image.size() == size && after == before, "the disk came out otherwise");
        }
        said
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        let mut bytes = input.bytes(&self.bases[input.base]);
        if input.sealed && input.base > 0 {
            super::tar::seal(&mut bytes, false);
        } else if input.sealed {
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
