//! The destination of a changed image, checked before anything is read or decoded. Used by [`crate::output`].

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use deaddrop_core::error::{Hint, Remedy, StorageError};
use deaddrop_core::sys;
use nix::unistd::{AccessFlags, eaccess, geteuid};

use super::disk::parent;
use super::input::{Input, kind_name};
use crate::container::qcow2::Backing;
use crate::container::{Compression, Container, Format, suffix};
use crate::open::block_devices::{Number, System};
use crate::open::holders;

/// The requested destination of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The image itself.
    InPlace {
        /// Keep the image's permissions, instead of setting them to 0600.
        keep_mode: bool,
        /// Write even if the image file is mounted, attached, or open in a virtual machine, or the device is not
        /// removable.
        force: bool,
        /// The directory of the undo file, if the image is a block device and needs one; and of the undo file of an
        /// interrupted run.
        undo: Option<PathBuf>,
    },
    /// A new file; the image is not changed.
    File {
        /// Its path. The suffix sets the compression.
        path: PathBuf,
        /// Its format, instead of the image's.
        format: Option<Format>,
        /// Replace an existing file, if it is a regular file.
        force: bool,
        /// Make it a qcow2 image of what differs from the image, which is its backing file.
        overlay: bool,
    },
}

/// A destination that was checked.
pub(crate) enum CheckedDestination {
    /// Change the image itself, in its file or by replacing it.
    InPlace {
        /// Keep its permissions.
        keep_mode: bool,
        /// The directory of the undo file; `None` if the image is no block device.
        undo: Option<PathBuf>,
    },
    /// Create a file.
    New {
        /// The path as given, for messages.
        name: String,
        /// The final path; links followed.
        path: PathBuf,
        /// The directory of that path.
        directory: PathBuf,
        /// True if it may replace an existing file.
        force: bool,
        /// Its container.
        container: Container,
        /// The image, if it has only what differs from that.
        backing: Option<Backing>,
    },
}

/// Suffixes of unsupported output formats, and hints.
const FOREIGN: &[(&[&str], &str)] = &[
    (
        &["lz4", "lzma", "lz", "lzo", "br", "zip", "7z"],
        "write OUT.zst, .xz, .gz or .bz2, or a raw image and pack it yourself",
    ),
    (&["iso"], "write a raw image: an ISO cannot be made from a disk image"),
];

/// Suffixes of containers that are not written.
const OTHER_CONTAINERS: &[&str] = &["qcow", "ova", "box"];

/// Checks `destination` for `input`, which is in `container`.
///
/// # Errors
/// `Usage` for a suffix that contradicts the container; `Refused` with a hint; `Unsupported` for an output format; `Io`.
pub(crate) fn check(
    destination: &Destination,
    input: &Input,
    container: Container,
) -> Result<CheckedDestination, StorageError> {
    check_with(destination, input, Some(container), &|path, format| container_of(path, format, container))
}

/// Checks `destination` for a tar with a root file system.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_for_tar(destination: &Destination, input: &Input) -> Result<CheckedDestination, StorageError> {
    check_with(destination, input, None, &container_of_tar)
}

/// The container of a new file, by its name and the format that is asked for.
type Packing<'a> = &'a dyn Fn(&Path, Option<Format>) -> Result<Container, StorageError>;

/// `base` is the container of the image; none for a tar with a root file system.
fn check_with(
    destination: &Destination,
    input: &Input,
    base: Option<Container>,
    packing: Packing<'_>,
) -> Result<CheckedDestination, StorageError> {
    match destination {
        Destination::InPlace { keep_mode, force, undo } => {
            check_in_place(input)?;
            let undo = undo.clone().filter(|_| input.is_device());
            undo.as_deref().map_or(Ok(()), |directory| check_directory(directory, "the undo file"))?;
            if input.is_device() {
                check_device(input, *force)?;
            } else if !force {
                holders::refuse_holders(&input.file, &input.name())?;
            }
            Ok(CheckedDestination::InPlace { keep_mode: *keep_mode, undo })
        }
        Destination::File { path, force, format, overlay } => {
            let asked = if *overlay { Some(Format::Qcow2) } else { *format };
            let of_new = packing(path, asked)?;
            let mut checked = check_new(path, *force, input, of_new)?;
            if let (true, CheckedDestination::New { directory, backing, .. }) = (overlay, &mut checked) {
                *backing = Some(backing_of(directory, input, base, of_new)?);
            }
            Ok(checked)
        }
    }
}

/// Checks that the image is writable.
fn check_in_place(input: &Input) -> Result<(), StorageError> {
    if input.real.starts_with("/nix/store") {
        return refuse_in_place(input, "is in the Nix store, which is never written to");
    }
    // Root may write to every file; a file that is read-only for its owner is refused anyway.
    if input.metadata.mode() & 0o200 == 0 {
        return refuse_in_place(input, "is read-only");
    }
    match eaccess(&input.real, AccessFlags::W_OK) {
        Ok(()) => Ok(()),
        Err(e) => refuse_in_place(input, &format!("cannot be written: {}", e.desc())),
    }
}

/// Refuses to change the device of the running system, before it is opened.
///
/// # Errors
/// The refusal, with the mount point on the device.
pub(crate) fn refuse_running_system(destination: &Destination, path: &Path) -> Result<(), StorageError> {
    let Destination::InPlace { .. } = destination else { return Ok(()) };
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => {
            refuse_running(&Number::of(found.rdev()), &path.display().to_string(), &System::running())
        }
        // Not a device, or a missing file, which opening it reports better.
        _ => Ok(()),
    }
}

fn refuse_running(device: &Number, name: &str, system: &System) -> Result<(), StorageError> {
    system.runs_from(device).map_or(Ok(()), |place| {
        Err(StorageError::refused(
            format!("{name} holds the running system: {place} is on it"),
            Remedy::ChangeRunningRoot,
        ))
    })
}

/// Checks that a device is a plausible target and not in use: its content cannot be restored. The user can only
/// override that it is not removable.
///
/// # Errors
/// `Refused`; `Io`.
fn check_device(input: &Input, force: bool) -> Result<(), StorageError> {
    let (name, system) = (input.name(), System::running());
    let number = Number::of(input.metadata.rdev());
    refuse_running(&number, &name, &system)?;
    holders::refuse_holders(&input.file, &name)?;
    if sys::is_read_only(&input.file).map_err(|e| StorageError::io(format!("looking at {name}"), e))? {
        return Err(StorageError::refused(
            format!("{name} is a read-only device"),
            "a card has a lock on its side; `blockdev --setrw` undoes `--setro`; a loop device may be attached with \
             `-r`",
        ));
    }
    if force || system.is_removable(&number) {
        return Ok(());
    }
    let description = system.description(&number);
    let description = if description.is_empty() { description } else { format!(" ({description})") };
    Err(StorageError::refused(
        format!("{name}{description} is not removable: it may be a disk of this very machine"),
        Remedy::OverrideNotRemovable,
    ))
}

/// Checks that all of a device or a file may be overwritten: it is writable and not in use. With `force` it may be a disk
/// that is not removable, or a partition.
///
/// # Errors
/// `Refused`; `Io`.
pub(crate) fn check_device_to_overwrite(input: &Input, force: bool) -> Result<(), StorageError> {
    let name = input.name();
    if input.real.starts_with("/nix/store") || input.metadata.mode() & 0o200 == 0 {
        return Err(StorageError::refused(format!("{name} is read-only"), "name another file, or a block device"));
    }
    if let Err(e) = eaccess(&input.real, AccessFlags::W_OK) {
        let hint = if input.is_device() { "run it as root, or as a member of the device's group" } else { "" };
        return Err(StorageError::refused(format!("{name} cannot be written: {}", e.desc()), hint));
    }
    if !input.is_device() {
        return holders::refuse_holders(&input.file, &name).map_err(|error| match error {
            StorageError::Refused { what, .. } => StorageError::refused(what, holders::LET_GO),
            other => other,
        });
    }
    let number = Number::of(input.metadata.rdev());
    check_device(input, force)?;
    match System::running().is_partition(&number) {
        true if !force => Err(StorageError::refused(
            format!("{name} is a partition, and an image is written to a whole disk"),
            Remedy::OverridePartition,
        )),
        _ => Ok(()),
    }
}

/// Checks that an image that cannot be changed in its file can be replaced: a crash must leave the old or the new
/// image.
///
/// # Errors
/// `Refused` with a hint.
pub(crate) fn check_replacement(input: &Input) -> Result<(), StorageError> {
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
    Err(StorageError::refused(format!("{} {why}", input.name()), Remedy::WriteToOutput))
}

fn check_new(
    path: &Path,
    force: bool,
    input: &Input,
    container: Container,
) -> Result<CheckedDestination, StorageError> {
    let name = path.display().to_string();
    let refused = |what: String, hint: Hint| Err(StorageError::refused(what, hint));
    if path == Path::new("-") {
        return refused("an image cannot be written to standard output".to_owned(), Remedy::NameOutput.into());
    }
    if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
        return refused(format!("{name} is a directory"), Remedy::NameOutputInDirectory.into());
    }
    let suffix = suffix(path);
    if let Some((_, hint)) = FOREIGN.iter().find(|(suffixes, _)| suffixes.contains(&suffix.as_str())) {
        return Err(StorageError::unsupported(format!("{name}: .{suffix} cannot be written"), *hint));
    }
    let mut real = path.to_owned();
    let existing = existing(path).map_err(|e| StorageError::io(format!("looking at {name}"), e))?;
    match existing {
        Existing::Nothing => {}
        Existing::DanglingLink => {
            return refused(
                format!("{name} is a symbolic link that leads nowhere"),
                "remove the link, or name the file that it should lead to".into(),
            );
        }
        Existing::Something(found) => {
            if input.is_same(&found) {
                return refused(format!("{name} is the image itself"), Remedy::OmitOutput.into());
            }
            if let Some(kind) = kind_name(found.file_type()) {
                return refused(format!("{name} is {kind}"), "name a file that does not exist yet".into());
            }
            if !found.is_file() {
                return refused(format!("{name} is a block device"), "write to a file, and that to the device".into());
            }
            if !force {
                return refused(format!("{name} exists"), Remedy::ReplaceOutput.into());
            }
            // The file is replaced, not a link to it.
            real = fs::canonicalize(path).map_err(|e| StorageError::io(format!("looking at {name}"), e))?;
        }
    }
    let directory = parent(&real).to_owned();
    check_directory(&directory, &name)?;
    Ok(CheckedDestination::New { name, path: real, directory, force, container, backing: None })
}

/// How a new image in `directory` names its base.
fn backing_of(
    directory: &Path,
    base: &Input,
    container: Option<Container>,
    of_new: Container,
) -> Result<Backing, StorageError> {
    let usage = |what: String, hint: &'static str| Err(StorageError::Usage { what, hint: hint.into() });
    let name = base.name();
    let fits = container
        .filter(|container| container.compression.is_none() && matches!(container.format, Format::Raw | Format::Qcow2));
    let Some(container) = fits else {
        let hint = "make a raw or a qcow2 image of it first, such as with inject -o";
        let kind = container.map_or("a tar", Container::name);
        return usage(format!("{name} is {kind}, and the base of a qcow2 overlay is raw or qcow2"), hint);
    };
    if let Some(compression) = of_new.compression {
        let what = format!("a qcow2 overlay is not compressed, and OUT ends as {} does", compression.name());
        return usage(what, "name it OUT.qcow2");
    }
    let directory = fs::canonicalize(directory).map_err(|e| StorageError::io("looking for the directory of OUT", e))?;
    let relative = relative(&directory, &base.real);
    let bytes = relative.as_os_str().as_bytes();
    // qemu reads a colon before the first slash as the end of a protocol's name.
    let plain: Vec<u8> = if bytes.contains(&b'/') { bytes.to_vec() } else { [b"./", bytes].concat() };
    let plain = if bytes.contains(&b':') { plain } else { bytes.to_vec() };
    match Backing::new(plain, container.format.name()) {
        Some(backing) => Ok(backing),
        None => usage(format!("{name}: its path is too long for a qcow2 image"), "move it nearer to OUT"),
    }
}

/// The path of a file as seen from a directory, both without links.
fn relative(directory: &Path, file: &Path) -> PathBuf {
    let common = directory.components().zip(file.components()).take_while(|(one, other)| one == other).count();
    let up = directory.components().skip(common).map(|_| Component::ParentDir);
    up.chain(file.components().skip(common)).collect()
}

/// The container of a new file: its compression is told by its suffix, its format is that of the image in `from` unless
/// another one is asked for. A suffix before the compression's may not tell another format.
fn container_of(path: &Path, asked: Option<Format>, from: Container) -> Result<Container, StorageError> {
    let (compression, inner) = match Compression::of_short_tar(&suffix(path)) {
        Some(compression) => (Some(compression), "tar".to_owned()),
        None => {
            let compression = Compression::of_suffix(&suffix(path));
            let inner = if compression.is_some() { path.with_extension("") } else { path.to_owned() };
            (compression, suffix(&inner))
        }
    };
    let named = Format::of_suffix(&inner);
    let format = asked.unwrap_or(from.format);
    let contradicts = named.is_some_and(|named| named != format) || OTHER_CONTAINERS.contains(&inner.as_str());
    if contradicts && asked.is_none() {
        return Err(StorageError::Usage {
            what: format!("{}: .{inner} names another container, and the image is {}", path.display(), format.name()),
            hint: Remedy::NameFormat { named: named.filter(|named| Format::MADE.contains(named)).map(Format::name) }
                .into(),
        });
    }
    Ok(Container { compression, format })
}

/// The container of a new tar with a root file system: there is no disk in it, and its name is that of a tar.
fn container_of_tar(path: &Path, asked: Option<Format>) -> Result<Container, StorageError> {
    let usage = |what: String| {
        let hint = "name it OUT.tar, OUT.tar.gz, OUT.tar.xz, OUT.tar.zst or OUT.tar.bz2, without --format: a root in a \
                    tar becomes no disk";
        Err(StorageError::Usage { what, hint: hint.into() })
    };
    if let Some(format) = asked {
        return usage(format!("--format {} is for disk images, and this is a tar of a root", format.name()));
    }
    let outer = suffix(path);
    let compression = match (Compression::of_short_tar(&outer), outer.as_str()) {
        (Some(compression), _) => Some(compression),
        (None, "tar") => None,
        _ => match Compression::of_suffix(&outer).filter(|_| suffix(&path.with_extension("")) == "tar") {
            Some(compression) => Some(compression),
            None => return usage(format!("{} is no name of a tar, and a tar is what is changed", path.display())),
        },
    };
    Ok(Container { compression, format: Format::Raw })
}

/// Checks that the directory of a new file exists and is writable.
fn check_directory(directory: &Path, name: &str) -> Result<(), StorageError> {
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

enum Existing {
    Nothing,
    DanglingLink,
    Something(Metadata),
}

/// The kind of the file at a path.
fn existing(path: &Path) -> io::Result<Existing> {
    let missing = |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    match fs::metadata(path) {
        Ok(found) => Ok(Existing::Something(found)),
        Err(e) if missing(&e) => match fs::symlink_metadata(path) {
            Ok(_) => Ok(Existing::DanglingLink),
            Err(e) if missing(&e) => Ok(Existing::Nothing),
            Err(e) => Err(e),
        },
        // A loop of links.
        Err(_) if fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink()) => Ok(Existing::DanglingLink),
        Err(e) => Err(e),
    }
}
