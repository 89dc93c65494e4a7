//! The wording of hints: the library crates name an action, and only this file names the commands and options for it.

use deaddrop_core::error::{Hint, Remedy, StorageError};

use crate::place::PlaceError;

/// The hint of an error; empty if there is none.
#[must_use]
pub fn hint(error: &StorageError) -> String {
    error.hint().map(text).unwrap_or_default()
}

/// The hint of a place's error; empty if there is none.
#[must_use]
pub fn place_hint(error: &PlaceError) -> String {
    match error {
        PlaceError::Storage(error) => hint(error),
        PlaceError::Node { hint, .. } => hint.clone(),
    }
}

/// A hint as text for the user.
#[must_use]
pub fn text(hint: &Hint) -> String {
    match hint {
        Hint::Text(text) => text.to_string(),
        Hint::Remedy(remedy) => action(remedy),
    }
}

/// The hint for a target that is `other` and not `host`.
#[must_use]
pub fn other_host(host: &str, other: &str) -> String {
    format!("take the target of {host}, or --host {other}; --as-host goes on, with the keys that {other} has")
}

/// The hint for an owner of a new tree that nothing gives a number; `option` is the one that fixes it.
#[must_use]
pub fn name_closure(option: &str) -> String {
    format!("--closure SYSTEM names the system that fixes it ({option}); or write the number instead of the name")
}

/// The hint for an item that a source does not have, if no name is near.
#[must_use]
pub fn list_items(source: &str) -> String {
    format!("`deaddrop sources list {source}` shows its items")
}

fn action(remedy: &Remedy) -> String {
    const BY_KERNEL: &str = "lets the kernel write it (Linux, as root, and only for an image that you trust)";
    let fixed = match remedy {
        Remedy::WriteToOutput => "write the result to another file: -o OUT",
        Remedy::NameOutput => "name a file: -o OUT",
        Remedy::NameOutputInDirectory => "name a file in it: -o DIRECTORY/OUT",
        Remedy::OmitOutput => "leave out -o to change the image in place",
        Remedy::ReplaceOutput => "choose another name, or replace it: --force",
        Remedy::NameFormat { named: Some(format) } => {
            return format!("--format {format} changes the container; or give it a name that fits the image");
        }
        Remedy::OverridePartition => "name the disk (/dev/sdb, not /dev/sdb1); --force writes to the partition",
        Remedy::NameFormat { named: None } => "--format changes the container: raw, qcow2, vmdk, vdi, vhd or vhdx",
        Remedy::FollowBacking => {
            "--follow-backing reads it too, for an image that you trust; or make one file of both: qemu-img convert -O \
             qcow2 IMAGE NEW"
        }
        Remedy::OverrideNotRemovable => {
            "make sure that it is the one you mean (`lsblk -o NAME,SIZE,MODEL,MOUNTPOINTS`); --force writes to it all \
             the same"
        }
        Remedy::OverrideHolder => "unmount it, detach it or stop the machine; --force writes all the same",
        Remedy::ChangeRunningRoot => {
            "a running root is a directory: `deaddrop inject /` changes it; is this the device that you mean?"
        }
        Remedy::NameUndoDirectory => {
            "name a directory for an undo file, which a run that is cut off can be taken back with: --undo DIR"
        }
        Remedy::ForeignUndoFile => "who put it there? give another directory to --undo, or remove it",
        Remedy::UndoFileInUse => "wait until it is done, or give another directory to --undo",
        Remedy::UndoFileOfOtherDevice => "give that device to `deaddrop recover`, or another directory to --undo",
        Remedy::Scrub => "the next run writes over them, and `deaddrop scrub IMAGE` zeroes them",
        Remedy::CheckFileSystem => "run `e2fsck -p` on it first",
        Remedy::RepairFileSystem => "run `e2fsck -f` on it first",
        Remedy::NameRoot => "say which one: --root-partition N, or its label",
        Remedy::NameRootByNumber => "name it by its number: --root-partition N",
        Remedy::RunAsRoot => "run it with sudo; or leave out --backend: an ext4 is written without root",
        Remedy::GrantMountPrivileges => {
            "--backend mount needs root with CAP_SYS_ADMIN; in a container: --privileged, and /dev/loop-control"
        }
        Remedy::NameWritableSubvolume => {
            "name one that can be written (--subvolume NAME), or make this one so: `btrfs property set DIRECTORY ro \
             false`"
        }
        Remedy::Recover { image } => return format!("`deaddrop recover {image}`, or the next run, finishes it"),
        Remedy::RollBack { device, undo } => {
            return format!(
                "`deaddrop recover {device} --undo {undo}` takes it back, and so does the next run with the same --undo"
            );
        }
        Remedy::RollBackOr { device, otherwise } => {
            return format!(
                "was a run with --undo cut off? then `deaddrop recover '{device}' --undo DIR`; else {otherwise}"
            );
        }
        Remedy::ConfirmRoot { number } => {
            let number = number.map_or("N".to_owned(), |number| number.to_string());
            return format!("if it is the root all the same, say so: --root-partition {number}");
        }
        Remedy::InspectByKernel { otherwise } => {
            return format!("{}; `--backend mount` (root) looks into btrfs and xfs", text(otherwise));
        }
        Remedy::WriteByKernel => return format!("`deaddrop inject --backend mount` {BY_KERNEL}"),
        Remedy::WriteByKernelOr { otherwise } => return format!("`--backend mount` {BY_KERNEL}; or {otherwise}"),
    };
    fixed.to_owned()
}
