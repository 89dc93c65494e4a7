//! Files beside an image that describe its bytes: its digest, its block map, its line of SHA256SUMS.

mod bmap;
pub(crate) mod map;

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use deaddrop_core::error::{CommitError, StorageError};
use deaddrop_core::unfinished::Unfinished;
use sha2::{Digest, Sha256};

use crate::container::Format;
use crate::open::disk::{DiskImage, parent};
use crate::progress::Watch;
use crate::tar;

/// Where distributions put the digests of all images of a directory.
const SUMS: &str = "SHA256SUMS";
/// Bytes of one that is read, at most.
const MOST: u64 = 16 << 20;
/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// Writes the sidecars of `image`, which is complete: IMAGE.sha256, IMAGE.bmap (only if the disk in it is raw; none for a tar), and its
/// line of SHA256SUMS. What fits already is left alone. Returns the names of the others.
///
/// # Errors
/// `Io` with the file; `Refused` if something else is at its place. Sidecars before it are written then.
pub fn write(image: &Path, watch: Watch<'_>) -> Result<Vec<String>, StorageError> {
    let digest = digest_of(image)?;
    let name = name_of(image);
    let mut line = format!("{digest}  ").into_bytes();
    line.extend(name.as_bytes());
    line.push(b'\n');
    let mut files = vec![(beside(image, ".sha256"), line.clone())];
    // There is no disk in a tar of a root.
    if !tar::is_tar(image) {
        let opened = DiskImage::open(image, watch)?;
        if opened.container().format == Format::Raw {
            files.push((beside(image, ".bmap"), bmap::of(&opened)?.into_bytes()));
        }
    }
    let sums = parent(image).join(SUMS);
    let old = read(&sums)?.unwrap_or_default();
    files.push((sums, with_line(&old, &name, &line)));
    let mut written = Vec::new();
    for (path, content) in files {
        if put(&path, &content)? {
            written.push(path.display().to_string());
        }
    }
    Ok(written)
}

/// The sidecars that `image` has, which do not fit any more once it was changed.
#[must_use]
pub fn of(image: &Path) -> Vec<String> {
    let own = [".sha256", ".bmap"].map(|suffix| beside(image, suffix));
    let mut found: Vec<String> =
        own.into_iter().filter(|path| path.is_file()).map(|path| path.display().to_string()).collect();
    let sums = parent(image).join(SUMS);
    // What cannot be read is not known to have it.
    let text = read(&sums).ok().flatten().unwrap_or_default();
    if lines(&text).any(|line| names(line, &name_of(image))) {
        found.push(sums.display().to_string());
    }
    found
}

fn name_of(image: &Path) -> OsString {
    image.file_name().unwrap_or_default().to_owned()
}

fn beside(image: &Path, suffix: &str) -> PathBuf {
    let mut name = name_of(image).into_vec();
    name.extend(suffix.as_bytes());
    parent(image).join(OsString::from_vec(name))
}

fn digest_of(image: &Path) -> Result<String, StorageError> {
    let reading = |e| StorageError::io(format!("reading {}", image.display()), e);
    let mut file = File::open(image).map_err(reading)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hexadecimal(hasher)),
            Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(reading(e)),
        }
    }
}

fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The content of a file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let reading = |e| StorageError::io(format!("reading {}", path.display()), e);
    let refused = |what: &str| Err(StorageError::refused(format!("{} {what}", path.display()), "move it away"));
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(reading(e)),
        Ok(found) if !found.is_file() => return refused("is no regular file"),
        Ok(found) if found.len() > MOST => return refused("has over 16 MiB"),
        Ok(_) => {}
    }
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut content)).map_err(reading)?;
    Ok(Some(content))
}

/// The lines with their ends.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

/// True for the line of `name`, as sha256sum(1) writes it: a digest, a space, a space or `*`, the name.
fn names(line: &[u8], name: &OsString) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.get(64..66).is_some_and(|between| matches!(between, b"  " | b" *"))
        && line.get(66..).map(|rest| rest.strip_prefix(b"./").unwrap_or(rest)) == Some(name.as_bytes())
}

/// `text` with `line` in the place of that of `name`, or at its end.
fn with_line(text: &[u8], name: &OsString, line: &[u8]) -> Vec<u8> {
    let mut new = Vec::new();
    let mut put = false;
    for old in lines(text) {
        match (names(old, name), put) {
            (false, _) => new.extend(old),
            (true, false) => {
                new.extend(line);
                put = true;
            }
            // Twice there: once is enough.
            (true, true) => {}
        }
    }
    if !put {
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        new.extend(line);
    }
    new
}

/// Writes a file, whole or not at all, unless it has that content. A new one is for its owner only: with a digest of
/// all of an image, a short value in it could be guessed. Returns true if it was written.
fn put(path: &Path, content: &[u8]) -> Result<bool, StorageError> {
    let old = read(path)?;
    if old.as_deref() == Some(content) {
        return Ok(false);
    }
    let writing = |e| StorageError::io(format!("writing {}", path.display()), e);
    let file = Unfinished::create(parent(path)).map_err(writing)?;
    file.file().write_all(content).map_err(writing)?;
    if old.is_some() {
        let mode = fs::metadata(path).map_err(writing)?.permissions().mode() & 0o777;
        file.file().set_permissions(Permissions::from_mode(mode)).map_err(writing)?;
    }
    file.replace(path).map_err(|error| match error {
        CommitError::Before(e) | CommitError::After(e) => writing(e),
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_the_place_of_its_own_and_others_stay() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let name = OsString::from("x.img");
        let line = format!("{b}  x.img\n");
        for (old, want) in [
            (String::new(), line.clone()),
            (format!("{a}  y.img"), format!("{a}  y.img\n{line}")),
            (format!("# x.img\n{a} *x.img\n{a}  x.img.gz\n"), format!("# x.img\n{line}{a}  x.img.gz\n")),
            (format!("{a}  ./x.img\n{a}  x.img\n{a}  z\r\n"), format!("{line}{a}  z\r\n")),
            (format!("{a}  sub/x.img\n{a}  xx.img\n"), format!("{a}  sub/x.img\n{a}  xx.img\n{line}")),
        ] {
            let new = with_line(old.as_bytes(), &name, line.as_bytes());
            assert_eq!(String::from_utf8(new.clone()).unwrap(), want);
            assert_eq!(with_line(&new, &name, line.as_bytes()), new, "a second time");
        }
    }
}
