//! The images of tests/images: what a test must know of each, the committed ones, and fresh ones of another size.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{Scratch, hex, tool};

const MIB: u64 = 1 << 20;

/// One of the layouts of tests/images/README.md.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name there, without `.img.zst`.
    pub name: &'static str,
    /// Where the root's file system begins, in bytes.
    pub root_offset: u64,
    /// Whether the root was activated when the image was built: it has /etc, /var and users.
    pub activated: bool,
}

/// GPT: an ESP, and the root as partition 2.
pub const RAW_EFI: Layout = Layout { name: "raw-efi", root_offset: 24 * MIB, activated: true };
/// MBR with one partition.
pub const LEGACY: Layout = Layout { name: "legacy", root_offset: MIB, activated: true };
/// GPT: a BIOS boot partition, and the root as partition 2.
pub const LEGACY_GPT: Layout = Layout { name: "legacy+gpt", root_offset: 2 * MIB, activated: true };
/// GPT: partitions 2, 1, 3 in the order of the disk; 3 is the root.
pub const HYBRID: Layout = Layout { name: "hybrid", root_offset: 24 * MIB, activated: true };
/// A file system and no table.
pub const NONE: Layout = Layout { name: "none", root_offset: 0, activated: true };
/// MBR: FIRMWARE, and the root as partition 2, never activated, with 16 MiB of free space.
pub const SD: Layout = Layout { name: "sd", root_offset: 38 * MIB, activated: false };
/// All of them.
pub const LAYOUTS: [Layout; 6] = [RAW_EFI, LEGACY, LEGACY_GPT, HYBRID, NONE, SD];

/// An uncompressed image of a test's own.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// Where the root's file system begins, in bytes.
    pub root_offset: u64,
}

impl Image {
    /// An image that a test made itself.
    pub fn new(path: impl Into<PathBuf>, root_offset: u64) -> Self {
        Self { path: path.into(), root_offset }
    }

    /// The root's file system, as e2fsprogs' programs want it named.
    pub fn for_e2fsprogs(&self) -> String {
        let path = self.path.to_str().expect("a test's paths are UTF-8");
        format!("{path}?offset={}", self.root_offset)
    }
}

impl Layout {
    /// The committed, compressed image.
    pub fn compressed(&self) -> PathBuf {
        source_dir().join(format!("{}.img.zst", self.name))
    }

    /// A copy of the committed image, uncompressed, as `NAME.img` in `scratch`.
    pub fn committed(&self, scratch: &Scratch) -> Image {
        let path = scratch.join(format!("{}.img", self.name));
        let open = |path: &Path| File::open(path).and_then(zstd::Decoder::new);
        let mut decoder =
            open(&self.compressed()).unwrap_or_else(|error| panic!("opening {}.img.zst: {error}", self.name));
        write_sparse(&mut decoder, &path).unwrap_or_else(|error| panic!("unpacking {}.img.zst: {error}", self.name));
        Image::new(path, self.root_offset)
    }

    /// A fresh image whose root partition has `mib` MiB, as `NAME-MIBM.img` in `scratch`. Made by tests/images/make
    /// once for all test processes (in cargo's directory for that, below `target`), then copied.
    pub fn fresh(&self, scratch: &Scratch, mib: u32) -> Image {
        let made = made_once(self.name, mib);
        let path = scratch.join(format!("{}-{mib}M.img", self.name));
        // cp knows where the holes are, and need not read them.
        tool(Command::new("cp").arg("--sparse=auto").arg(&made).arg(&path));
        Image::new(path, self.root_offset)
    }
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}

/// Makes `name` with a root of `mib` MiB unless it stands already. A lock keeps the second process waiting for the
/// first; the directory's name tells which scripts made it.
fn made_once(name: &str, mib: u32) -> PathBuf {
    let mut scripts = Sha256::new();
    for script in ["make", "root.sh"] {
        scripts.update(fs::read(source_dir().join(script)).expect("reading the scripts of tests/images"));
    }
    let key = hex(&scripts.finalize()[..8]);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("images-{key}-{mib}M"));
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("making {}: {error}", dir.display()));
    let lock = File::create(dir.join(format!("{name}.lock"))).expect("making a lock file");
    lock.lock().expect("locking a file of ours");
    let done = dir.join(format!("{name}.img"));
    if !done.exists() {
        let unfinished = dir.join(format!("{name}.unfinished"));
        tool(Command::new(source_dir().join("make")).arg("--out").arg(&unfinished).args([
            "--raw",
            "--root-size",
            &format!("{mib}M"),
            name,
        ]));
        fs::rename(unfinished.join(format!("{name}.img")), &done).expect("moving the image to its place");
        fs::remove_dir(&unfinished).expect("removing an empty directory of ours");
    }
    done
}

/// Writes all that `reader` gives into a new file; runs of zeros become holes.
fn write_sparse(reader: &mut impl Read, path: &Path) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut buffer = vec![0_u8; 1 << 16];
    let zeros = buffer.clone();
    let mut end = 0_u64;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match reader.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return file.set_len(end);
        }
        let chunk = &buffer[..filled];
        // Comparing slices is memcmp, which a loop over bytes is not.
        if chunk != &zeros[..filled] {
            file.seek(SeekFrom::Start(end))?;
            file.write_all(chunk)?;
        }
        end += u64::try_from(filled).expect("64 KiB fit into 64 bits");
    }
}
