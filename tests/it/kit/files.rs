//! What a file holds, and what a change of it would change. Holes are passed over, not read.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::unistd::{Whence, lseek64};

use super::sha256;

/// What must not change when nothing is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    inode: u64,
    size: u64,
    pub mode: u32,
    owner: (u32, u32),
    /// Of the last write and of the last change, with nanoseconds.
    times: [i64; 4],
    /// Of what it holds, and where.
    pub digest: String,
}

/// The fingerprint of a file now.
pub fn fingerprint(path: &Path) -> Fingerprint {
    let data = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut runs = String::new();
    data_runs(path, |start, run| runs += &format!("{start} {} ", sha256(run).expect("reading memory")));
    Fingerprint {
        inode: data.ino(),
        size: data.size(),
        mode: data.mode() & 0o7777,
        owner: (data.uid(), data.gid()),
        times: [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()],
        digest: sha256(runs.as_bytes()).expect("reading memory"),
    }
}

/// Whether a file holds these bytes anywhere.
pub fn holds(path: &Path, bytes: &[u8]) -> bool {
    let mut found = false;
    data_runs(path, |_, run| found = found || memchr::memmem::find(run, bytes).is_some());
    found
}

/// Calls `visit` with the offset and the bytes of each part of a file that is no hole.
fn data_runs(path: &Path, mut visit: impl FnMut(u64, &[u8])) {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut at = 0;
    while let Ok(start) = lseek64(&file, at, Whence::SeekData) {
        at = lseek64(&file, start, Whence::SeekHole).expect("data has an end");
        let mut run = vec![0; usize::try_from(at - start).expect("a length is not negative")];
        let start = u64::try_from(start).expect("a position is not negative");
        file.read_exact_at(&mut run, start).expect("reading a file");
        visit(start, &run);
    }
}

/// A file's mode, without its kind.
pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").mode() & 0o7777
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("UTF-8");
    let mut names: Vec<String> = fs::read_dir(directory).expect("a directory").map(name).collect();
    names.sort();
    names
}
