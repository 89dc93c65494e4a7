//! Values to plant, and the search for them. A canary is random, so whatever holds it got it from the test.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::hex;

/// A made-up secret value that is found again wherever it turns up: as it is, reversed, in hexadecimal or in base64.
pub struct Canary {
    name: String,
    value: Vec<u8>,
    needles: Vec<(&'static str, Vec<u8>)>,
}

impl Canary {
    /// A new value of 40 printable characters. `name` is what messages call it.
    pub fn new(name: &str) -> Self {
        let mut random = [0_u8; 20];
        fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).expect("reading /dev/urandom");
        Self::of(name, hex(&random).as_bytes())
    }

    /// Watches for a given value, of 8 bytes or more (a shorter one would be found anywhere).
    pub fn of(name: &str, value: &[u8]) -> Self {
        assert!(value.len() >= 8, "a canary of {} bytes is found everywhere", value.len());
        let mut needles = vec![
            ("as it is", value.to_vec()),
            ("reversed", value.iter().rev().copied().collect()),
            ("as hexadecimal", hex(value).into_bytes()),
            ("as HEXADECIMAL", hex(value).to_uppercase().into_bytes()),
        ];
        // Base64 depends on where in a group of three bytes the value begins; what is left out at its ends depends on
        // neighbours.
        for skip in 0..3 {
            let length = (value.len() - skip) / 3 * 3;
            needles.push(("as base64", base64(&value[skip..skip + length])));
        }
        Self { name: name.to_owned(), value: value.to_vec(), needles }
    }

    /// Its bytes, to plant.
    pub fn bytes(&self) -> &[u8] {
        &self.value
    }

    /// Its text, to plant. Panics for a value that is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.value).expect("this canary is text")
    }

    /// How `haystack` holds it, if it does. Never the value.
    pub fn found_in(&self, haystack: &[u8]) -> Option<String> {
        let (how, _) = self.needles.iter().find(|(_, needle)| contains(haystack, needle))?;
        Some(format!("the value `{}`, {how}", self.name))
    }
}

impl Clone for Canary {
    fn clone(&self) -> Self {
        Self::of(&self.name, &self.value)
    }
}

/// All finds of all canaries in a file or below a directory, names of files and texts of links included: `PATH: the
/// value …`, the paths in order. What vanishes while it is read is passed over.
pub fn search_files(path: &Path, canaries: &[Canary]) -> Vec<String> {
    let mut finds = Vec::new();
    search_into(path, canaries, &mut finds);
    finds.sort();
    finds
}

fn search_into(path: &Path, canaries: &[Canary], finds: &mut Vec<String>) {
    let mut look = |what: &str, bytes: &[u8]| {
        for find in canaries.iter().filter_map(|canary| canary.found_in(bytes)) {
            // A name that is a find must not be printed.
            let shown = if what == "name" { path.parent().unwrap_or(path) } else { path };
            finds.push(format!("{} ({what}): {find}", shown.display()));
        }
    };
    look("name", path.file_name().unwrap_or_default().as_bytes());
    let Ok(data) = fs::symlink_metadata(path) else { return };
    if data.is_symlink() {
        look("link", fs::read_link(path).unwrap_or_default().as_os_str().as_bytes());
    } else if data.is_file() {
        look("content", &fs::read(path).unwrap_or_default());
    } else if data.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            search_into(&entry.path(), canaries, finds);
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && memchr::memmem::find(haystack, needle).is_some()
}

/// Base64 of whole groups of three bytes.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for group in bytes.chunks_exact(3) {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for shift in [18, 12, 6, 0] {
            let index = usize::try_from((bits >> shift) & 63).expect("6 bits");
            text.push(ALPHABET[index]);
        }
    }
    text
}

#[test]
fn base64_is_that_of_rfc_4648() {
    for (bytes, want) in [("foobar", "Zm9vYmFy"), ("foo", "Zm9v"), ("", "")] {
        assert_eq!(base64(bytes.as_bytes()), want.as_bytes(), "{bytes}");
    }
}
