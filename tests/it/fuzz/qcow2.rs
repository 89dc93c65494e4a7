//! qcow2 images with lies in their headers and tables. What can be opened is the same disk after it was written anew.

use std::fs;
use std::path::Path;

use deaddrop_image::device::ReadAt;
use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::output::Destination;
use deaddrop_image::output::patch::Patch;
use deaddrop_image::progress::quiet;
use tempfile::TempDir;

use super::engine::{Target, write_anew};
use super::input::{Edit, Input};
use super::rng::Rng;
use super::table::first_words;
use super::text::edits;
use super::zstd_container::disk;
use crate::kit::disk::run;

/// Bytes of a disk that are read, at most.
pub const MOST: u64 = 64 << 20;

pub struct Qcow2 {
    bases: Vec<Vec<u8>>,
    directory: TempDir,
}

impl Qcow2 {
    pub fn new() -> Self {
        let directory = TempDir::new().expect("making a directory");
        let (raw, made) = (directory.path().join("raw"), directory.path().join("made"));
        fs::write(&raw, disk()).expect("writing a file of ours");
        let make = |options: &[&str]| {
            let words = [raw.to_str().expect("a path of ours"), made.to_str().expect("a path of ours")];
            run("qemu-img", &[&["convert", "-f", "raw", "-O", "qcow2"], options, &words].concat());
            fs::read(&made).expect("reading what qemu-img made")
        };
        let bases = vec![
            make(&["-o", "cluster_size=512"]),
            make(&["-o", "cluster_size=4096,compat=0.10"]),
            make(&["-o", "cluster_size=4096", "-c"]),
            make(&["-o", "cluster_size=4096,compression_type=zstd", "-c"]),
            make(&[]),
        ];
        Self { bases, directory }
    }

    /// A place that means something: a field of the header, or an entry of the L1 table, an L2 table or a refcount
    /// table; and how many bytes it has.
    fn place(&self, rng: &mut Rng, base: &[u8]) -> (usize, usize) {
        let long = |at: usize| u64::from_be_bytes(base[at..at + 8].try_into().expect("8 bytes"));
        let offset = |at: usize| (long(at) & 0x00ff_ffff_ffff_fe00) as usize;
        let table = if rng.one_in(3) { offset(48) } else { offset(40) };
        let entry = |rng: &mut Rng, table: usize| table + 8 * rng.below(12);
        match rng.below(4) {
            0 => [
                (4, 4),
                (8, 8),
                (16, 4),
                (20, 4),
                (24, 8),
                (32, 4),
                (36, 4),
                (40, 8),
                (48, 8),
                (56, 4),
                (60, 4),
                (72, 8),
            ][rng.below(12)],
            1 => (96 + rng.below(40), 1),
            2 => (entry(rng, table), 8),
            _ => {
                let l2 = offset(offset(40));
                (entry(rng, l2), 8)
            }
        }
    }
}

/// A number to stand there: of the usual traps, an offset in the file, or with the flags of an entry.
fn number(rng: &mut Rng, base: &[u8]) -> u64 {
    let inside = (rng.below(base.len()) as u64) & !511;
    match rng.below(5) {
        0 => rng.number(),
        1 => inside,
        2 => inside | 1 << 63,
        3 => inside | 1 << 62 | (rng.below(4) as u64) << 60,
        _ => inside | 1,
    }
}

impl Target for Qcow2 {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let base = rng.below(self.bases.len());
        let bytes = &self.bases[base];
        if rng.one_in(5) {
            return Input { base, edits: edits(rng, bytes, &["QFI", "\0\0\0\0\0\0\0\0"]), ..Input::default() };
        }
        let edit = |rng: &mut Rng| {
            let (at, width) = self.place(rng, bytes);
            Edit::over(at, number(rng, bytes).to_be_bytes()[8 - width..].to_vec())
        };
        let edits = (0..rng.between(1, 4)).map(|_| edit(rng)).collect();
        Input { base, edits, ..Input::default() }
    }

    fn run(&mut self, input: &Input) -> String {
        let (path, out) = (self.directory.path().join("image"), self.directory.path().join("out"));
        write_anew(&path, &self.bytes(input));
        let image = match DiskImage::open(&path, &quiet) {
            Ok(image) => image,
            Err(error) => {
                let said = error.to_string().replace(&path.display().to_string(), "image");
                return format!("refused: {}", first_words(&said));
            }
        };
        let Some(disk) = contents(&*image.disk()) else { return "opened, and cannot be read".into() };
        let size = image.size();
        drop(image);
        if size > MOST {
            return "opened, and large".into();
        }
        let copy = copied(&path, &out);
        assert!(copy == Some(disk), "another disk after it was written anew");
        format!("opened, {} and the same when written", if input.edits.is_empty() { "sound" } else { "changed" })
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        input.bytes(&self.bases[input.base])
    }
}

/// The start of a disk; nothing if it cannot be read.
pub fn contents(disk: &dyn ReadAt) -> Option<Vec<u8>> {
    let mut bytes = vec![0; disk.size().min(MOST) as usize];
    disk.read_exact_at(0, &mut bytes).ok()?;
    Some(bytes)
}

/// The disk of a copy of the image.
pub fn copied(path: &Path, out: &Path) -> Option<Vec<u8>> {
    let _ = fs::remove_file(out);
    let destination = Destination::File { path: out.to_owned(), format: None, force: false, overlay: false };
    let (image, output) = DiskImage::open_for(path, &destination, &quiet).ok()?;
    output.commit(image, &Patch::default(), &quiet).expect("what can be read can be written");
    contents(&*DiskImage::open(out, &quiet).expect("what we wrote").disk())
}
