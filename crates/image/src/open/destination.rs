//! Where a changed image goes, and whether it can: judged before anything is read or decoded.
//! Called by [`crate::output`].

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use deaddrop_core::error::StorageError;
use deaddrop_core::sys;
use nix::unistd::{AccessFlags, eaccess, geteuid};

use super::disk::parent;
use super::input::{Input, kind_name};
use crate::open::block_devices::{Number, System};
use crate::open::holders;

/// Where a person wants the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// In the image itself.
    InPlace {
        /// Leave the image's permissions as they are, in place of making it 0600.
        keep_mode: bool,
        /// Write although it is a file that is mounted, attached, or open in a virtual machine, or a device that is not
        /// removable.
        force: bool,
        /// Where the undo file goes, if the image is a block device and needs one; and where to look for one that an
        /// interrupted run left.
        undo: Option<PathBuf>,
    },
    /// In a new file; the image stays as it is.
    File {
        /// Its path. What it ends in says whether it is compressed.
        path: PathBuf,
        /// Replace what stands there, if it is a regular file.
        force: bool,
    },
}

/// A destination that was found to be possible.
pub(crate) enum Place {
    /// Change the image itself, within its file or by replacing it.
    InPlace {
        /// Leave its permissions.
        keep_mode: bool,
        /// The directory of the undo file; none where the image is no block device.
        undo: Option<PathBuf>,
    },
    /// Make a file.
    New {
        /// As it was given, for messages.
        name: String,
        /// Where its name goes; links followed.
        path: PathBuf,
        /// The directory that is in.
        directory: PathBuf,
        /// It may take over a name that is there.
        force: bool,
        /// Compress it.
        compress: bool,
    },
}

const USE_OUTPUT: &str = "write the result to another file: -o OUT";

/// What an output's name may not end in, and what to do.
const FOREIGN: &[(&[&str], &str)] = &[
    (
        &["gz", "xz", "bz2", "lz4", "lzma", "lz", "br", "zip", "7z"],
        "write OUT.zst, or a raw image and compress it yourself",
    ),
    (
        &["qcow2", "qcow", "vhd", "vhdx", "vmdk", "vdi", "ova", "vma", "box"],
        "write a raw image and convert it: qemu-img convert -f raw -O …",
    ),
    (&["iso"], "write a raw image: an ISO cannot be made from a disk image"),
    (&["tar", "tgz", "txz"], "write a raw image and pack it yourself"),
];

/// Judges `destination` for `input`.
///
/// # Errors
/// `Refused` with what to do instead; `Unsupported` for an output format; `Io`.
pub(crate) fn judge(destination: &Destination, input: &Input) -> Result<Place, StorageError> {
    match destination {
        Destination::InPlace { keep_mode, force, undo } => {
            judge_in_place(input)?;
            let undo = undo.clone().filter(|_| input.is_device());
            undo.as_deref().map_or(Ok(()), |directory| judge_directory(directory, "the undo file"))?;
            if input.is_device() {
                judge_device(input, *force)?;
            } else if !force {
                holders::refuse_if_held(&input.file, &input.name())?;
            }
            Ok(Place::InPlace { keep_mode: *keep_mode, undo })
        }
        Destination::File { path, force } => judge_new(path, *force, input),
    }
}

/// The image must be ours to write.
fn judge_in_place(input: &Input) -> Result<(), StorageError> {
    if input.real.starts_with("/nix/store") {
        return refuse_in_place(input, "is in the Nix store, which is never written to");
    }
    // Root may write to anything; a file that its owner may not write is left alone all the same.
    if input.metadata.mode() & 0o200 == 0 {
        return refuse_in_place(input, "is read-only");
    }
    match eaccess(&input.real, AccessFlags::W_OK) {
        Ok(()) => Ok(()),
        Err(e) => refuse_in_place(input, &format!("cannot be written: {}", e.desc())),
    }
}

/// Refuses to change the device that the running system is on, before it is opened at all.
///
/// # Errors
/// The refusal, with the mount point that is on it.
pub(crate) fn refuse_running_system(destination: &Destination, path: &Path) -> Result<(), StorageError> {
    let Destination::InPlace { .. } = destination else { return Ok(()) };
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => {
            refuse_running(&Number::of(found.rdev()), &path.display().to_string(), &System::running())
        }
        // No device; or nothing there, which opening it says better.
        _ => Ok(()),
    }
}

fn refuse_running(device: &Number, name: &str, system: &System) -> Result<(), StorageError> {
    system.runs_from(device).map_or(Ok(()), |place| {
        Err(StorageError::refused(
            format!("{name} holds the running system: {place} is on it"),
            "a running root is a directory: `deaddrop inject /` changes it; is this the device that you mean?",
        ))
    })
}

/// A device must be one that a person may well mean, and that nobody uses: what is on it cannot be had back. Only whether it
/// is removable is for a person to override.
///
/// # Errors
/// `Refused`; `Io`.
fn judge_device(input: &Input, force: bool) -> Result<(), StorageError> {
    let (name, system) = (input.name(), System::running());
    let number = Number::of(input.metadata.rdev());
    refuse_running(&number, &name, &system)?;
    holders::refuse_if_held(&input.file, &name)?;
    if sys::is_read_only(&input.file).map_err(|e| StorageError::io(format!("looking at {name}"), e))? {
        return Err(StorageError::refused(
            format!("{name} is a read-only device"),
            "a card has a lock on its side; `blockdev --setrw` undoes `--setro`; a loop device may be attached with `-r`",
        ));
    }
    if force || system.is_removable(&number) {
        return Ok(());
    }
    let description = system.description(&number);
    let description = if description.is_empty() { description } else { format!(" ({description})") };
    Err(StorageError::refused(
        format!("{name}{description} is not removable: it may be a disk of this very machine"),
        "make sure that it is the one you mean (`lsblk -o NAME,SIZE,MODEL,MOUNTPOINTS`); --force writes to it all the same",
    ))
}

/// The image must be ours to replace by another file, where it cannot be changed within: so that a crash leaves the old
/// or the new and nothing between.
///
/// # Errors
/// `Refused` with what to do instead.
pub(crate) fn judge_replacement(input: &Input) -> Result<(), StorageError> {
    if input.is_device() {
        return refuse_in_place(
            input,
            "is a block device, which no other file can replace (what is compressed is replaced, not changed)",
        );
    }
    let directory = parent(&input.real);
    let place = directory.display();
    if let Err(e) = eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        let why = format!("cannot be replaced: its directory {place} cannot be written: {}", e.desc());
        return refuse_in_place(input, &why);
    }
    let above = fs::metadata(directory).map_err(|e| StorageError::io(format!("looking at {place}"), e))?;
    let me = geteuid().as_raw();
    let sticky = above.mode() & 0o1000 != 0;
    if sticky && me != 0 && me != above.uid() && me != input.metadata.uid() {
        return refuse_in_place(input, &format!("cannot be replaced: only its owner may do that in {place}"));
    }
    Ok(())
}

fn refuse_in_place(input: &Input, why: &str) -> Result<(), StorageError> {
    Err(StorageError::refused(format!("{} {why}", input.name()), USE_OUTPUT))
}

fn judge_new(path: &Path, force: bool, input: &Input) -> Result<Place, StorageError> {
    let name = path.display().to_string();
    let refused = |what: String, hint: &str| Err(StorageError::refused(what, hint));
    if path == Path::new("-") {
        return refused("an image cannot be written to standard output".to_owned(), "name a file: -o OUT");
    }
    if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
        return refused(format!("{name} is a directory"), "name a file in it: -o DIRECTORY/OUT");
    }
    let suffix = path.extension().map(|suffix| suffix.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if let Some((_, hint)) = FOREIGN.iter().find(|(suffixes, _)| suffixes.contains(&suffix.as_str())) {
        return Err(StorageError::unsupported(format!("{name}: .{suffix} cannot be written"), *hint));
    }
    let mut real = path.to_owned();
    let standing = standing(path).map_err(|e| StorageError::io(format!("looking at {name}"), e))?;
    match standing {
        Standing::Nothing => {}
        Standing::DanglingLink => {
            return refused(
                format!("{name} is a symbolic link that leads nowhere"),
                "remove the link, or name the file that it should lead to",
            );
        }
        Standing::Something(found) => {
            if input.is_same(&found) {
                return refused(format!("{name} is the image itself"), "leave out -o to change the image in place");
            }
            if let Some(kind) = kind_name(found.file_type()) {
                return refused(format!("{name} is {kind}"), "name a file that does not exist yet");
            }
            if !found.is_file() {
                return refused(format!("{name} is a block device"), "write to a file, and that to the device");
            }
            if !force {
                return refused(format!("{name} exists"), "choose another name, or replace it: --force");
            }
            // The file is replaced, not a link to it.
            real = fs::canonicalize(path).map_err(|e| StorageError::io(format!("looking at {name}"), e))?;
        }
    }
    let directory = parent(&real).to_owned();
    judge_directory(&directory, &name)?;
    Ok(Place::New { name, path: real, directory, force, compress: suffix == "zst" || suffix == "zstd" })
}

/// The directory of a new file must be there, and ours to write to.
fn judge_directory(directory: &Path, name: &str) -> Result<(), StorageError> {
    let place = directory.display();
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(StorageError::refused(
                format!("{name} cannot be made: {place} is no directory"),
                "name another",
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(StorageError::refused(
                format!("{name} cannot be made: there is no directory {place}"),
                format!("make it first: mkdir -p {place}"),
            ));
        }
        Err(e) => return Err(StorageError::io(format!("looking at {place}"), e)),
    }
    eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| {
        StorageError::refused(
            format!("{name} cannot be made: {place} cannot be written: {}", e.desc()),
            "name a file in a directory of yours",
        )
    })
}

enum Standing {
    Nothing,
    DanglingLink,
    Something(Metadata),
}

/// What a path leads to.
fn standing(path: &Path) -> io::Result<Standing> {
    let missing = |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    match fs::metadata(path) {
        Ok(found) => Ok(Standing::Something(found)),
        Err(e) if missing(&e) => match fs::symlink_metadata(path) {
            Ok(_) => Ok(Standing::DanglingLink),
            Err(e) if missing(&e) => Ok(Standing::Nothing),
            Err(e) => Err(e),
        },
        // A loop of links.
        Err(_) if fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink()) => Ok(Standing::DanglingLink),
        Err(e) => Err(e),
    }
}
