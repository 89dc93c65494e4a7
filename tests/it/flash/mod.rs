//! `deaddrop flash`: an image onto a device, in place of dd. Judged by what `inject -o` makes of the same image, by
//! sgdisk, e2fsck and cmp.

mod broken;
mod containers;
mod maps;
mod question;
mod refused;
mod stopped;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::canary::Canary;
use crate::kit::disk::{MIB, noise, small_disk};
use crate::kit::images::Image;
use crate::kit::mount::assert_fsck_clean;
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, program, tool};

/// What a device has at first: no zero, and no table.
const OLD: u8 = 0xa5;

/// A host with one secret, and images of it.
struct Case {
    scratch: Scratch,
    value: Canary,
}

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        scratch.write(
            "secrets.yaml",
            "version: 1\nsecrets:\n  token: { path: /etc/secrets/token, from: env:A, owner: 0, group: 0 }\nhosts: { \
             node1: {} }\n",
        );
        Self { scratch, value: Canary::new("token") }
    }

    /// With `small.img`, a disk of 24 MiB: a GPT, an ESP, and a root at 8 MiB.
    fn small() -> Self {
        let case = Self::new();
        let path = case.scratch.join("small.img");
        small_disk(&path);
        // What no writer leaves out.
        File::options().write(true).open(&path).unwrap().write_all_at(&noise(1 << 20), 2 * MIB).unwrap();
        case
    }

    fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        let run = Deaddrop::new(&self.scratch).args(args).env("A", self.value.text()).plant(&self.value);
        run.env("SOURCE_DATE_EPOCH", "1700000000")
    }

    /// `flash` without a question.
    fn flash(&self, image: &str, device: &str) -> Deaddrop<'_> {
        self.deaddrop(&["flash", image, device, "--host", "node1", "--yes"])
    }

    /// A file to be flashed over, full of other bytes.
    fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.scratch.join(name);
        // That of a run before has another mode.
        let _ = fs::remove_file(&path);
        fs::write(&path, vec![OLD; usize::try_from(size).unwrap()]).unwrap();
        path
    }

    /// What `inject` makes of a raw image.
    fn injected(&self, image: &str) -> Vec<u8> {
        let wanted = self.scratch.join("wanted.img");
        self.deaddrop(&["inject", image, "--host", "node1", "-o", "wanted.img", "--force"]).run().expect_code(0);
        fs::read(wanted).unwrap()
    }
}

/// Panics unless the device begins with the image, has an old byte behind it, and zeros in its last MiB.
#[track_caller]
fn assert_written(device: &Path, image: &[u8], what: &str) {
    let found = fs::read(device).unwrap();
    // Slices compare fast; the place of a difference is looked for when there is one.
    let is_same = found.len() >= image.len() && found[..image.len()] == *image;
    let differs = || found.iter().zip(image).position(|(one, other)| one != other);
    assert!(is_same, "{what}: {} bytes, and the first that differs is {:?}", found.len(), differs());
    let rest = &found[image.len()..];
    // In whole blocks of 4096 bytes.
    let last = rest.len().min((1 << 20) + found.len() % 4096);
    let (kept, zeroed) = rest.split_at(rest.len() - last);
    assert!(is_all(kept, OLD), "{what}: something was written behind the image");
    assert!(is_all(zeroed, 0), "{what}: the end of the device is not zeroed");
}

fn is_all(bytes: &[u8], byte: u8) -> bool {
    *bytes == vec![byte; bytes.len()]
}

/// Panics if the device has a partition table, or a file system, at its start or at its end.
#[track_caller]
fn assert_no_table(device: &Path, what: &str) {
    let found = fs::read(device).unwrap();
    let (first, last) = (&found[..1 << 20], &found[found.len() - (1 << 20)..]);
    assert!(is_all(first, 0), "{what}: the first MiB is not zero");
    // The backup of an image as large as the device may be there already; nothing reads it without a protective MBR.
    let backup = last.windows(8).any(|bytes| bytes == b"EFI PART");
    assert!(is_all(last, 0) || backup, "{what}: the last MiB has something else");
}

/// Panics unless both tables of the device are right for sgdisk, and its root is clean and holds the secret.
#[track_caller]
fn assert_good(case: &Case, device: &Path, root_offset: u64) {
    let said = tool(Command::new(program("sgdisk")).arg("-v").arg(device));
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("No problems found"), "{said}");
    assert_fsck_clean(&Image::new(device, root_offset));
    let device = device.to_str().unwrap();
    case.deaddrop(&["verify", device, "--host", "node1"]).run().expect_code(0);
}

#[test]
fn what_is_told_afterwards_is_what_inject_tells() {
    let case = Case::small();
    case.file("device", 28 << 20);
    case.scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets:\n  token: { path: /etc/secrets/token, from: env:A, owner: 0, group: 0 }\n  host-key: { path: \
         /etc/ssh/ssh_host_ed25519_key, generate: ssh-ed25519 }\nhosts: { node1: {} }\n",
    );
    let run = case.flash("small.img", "device").args(["--json", "--public-out", "keys.txt"]).run().expect_code(0);
    let object = run.json();
    assert_eq!((&object["command"], &object["target"]), (&"flash".into(), &"device".into()));
    assert_eq!((&object["version"], &object["summary"]["create"]), (&1.into(), &3.into()));
    let keys = fs::read_to_string(case.scratch.join("keys.txt")).unwrap();
    assert!(keys.contains("ssh public key: ssh-ed25519 AAAA"), "{keys}");
    // The secrets alone, again: nothing is left to do. As `inject DEVICE`.
    let run = case.deaddrop(&["flash", "--only-inject", "device", "--host", "node1"]).run().expect_code(0);
    run.expect_error("device: nothing to do, 2 secrets as declared");
    let new = Canary::new("new");
    let again = case.deaddrop(&["flash", "--only-inject", "device", "--host", "node1", "--json"]).env("A", new.text());
    assert_eq!(again.plant(&new).run().expect_code(0).json()["summary"]["replace"], 1);
    assert_fsck_clean(&Image::new(case.scratch.join("device"), 8 << 20));
}
