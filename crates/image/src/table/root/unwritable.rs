//! Roots that cannot be written, and what to do instead.

use deaddrop_core::error::{Hint, Remedy, StorageError};

use super::list;
use crate::table::probe::ContentKind;
use crate::table::{Partition, Table};

/// What a person does instead about a root of this kind.
pub(super) fn hint(kind: ContentKind) -> Hint {
    let text = match kind {
        ContentKind::Luks => {
            "it is encrypted, and would have to be unlocked first: build the image unencrypted, or make a directory of \
             the files (`mkdir -p DIR`, `deaddrop inject DIR --new-root`) and give it to nixos-anywhere \
             (`--extra-files DIR`) or to disko's image builder"
        }
        ContentKind::Zfs => {
            "no Linux kernel writes ZFS without its module: make a directory of the files (`mkdir -p DIR`, `deaddrop \
             inject DIR --new-root`) and give it to nixos-anywhere (`--extra-files DIR`), or put the secrets in when the \
             system runs"
        }
        ContentKind::Squashfs | ContentKind::Erofs => {
            "it is read-only by design: build an image whose root is ext4 (`nixos-rebuild build-image --image-variant \
             raw-efi --flake .#NODE`), or a disko image"
        }
        ContentKind::Verity => {
            "it has the hashes of another partition, which must not change: build the image without dm-verity \
             (`nixos-rebuild build-image --image-variant raw-efi --flake .#NODE`)"
        }
        ContentKind::Raid => {
            "it is one of several disks that belong together, and written alone it would differ from the others. As \
             root: `losetup -fP --show IMAGE` for each of them, `mdadm --assemble /dev/md0 /dev/loop0p2 /dev/loop1p2` \
             (the partitions, as losetup names the devices), `deaddrop inject /dev/md0`, `mdadm --stop /dev/md0`, \
             `losetup -d /dev/loop0 /dev/loop1`"
        }
        member if member.is_member() => {
            "it is one of several disks that belong together, and written alone it would differ from the others: put \
             them together, and name the device that comes out"
        }
        ContentKind::Lvm => {
            "the file system is in a logical volume. As root: `losetup -fP --show IMAGE`, `vgchange -ay VG`, `deaddrop \
             inject /dev/VG/LV`, `vgchange -an VG`, `losetup -d /dev/loop0` (lvs names VG and LV, losetup the device); \
             or build an image whose root is a partition"
        }
        ContentKind::Bcache
        | ContentKind::Stratis
        | ContentKind::Vdo
        | ContentKind::Integrity
        | ContentKind::Bluestore
        | ContentKind::SnapshotCow
        | ContentKind::Ubi => {
            "the file system lies in a layer that has to be put together first: build an image whose root is a \
             partition"
        }
        ContentKind::Btrfs | ContentKind::Xfs => return Remedy::WriteByKernel.into(),
        _ => "build the image with an ext4 root, or mount it and inject into the directory",
    };
    text.into()
}

/// Refuses a root beside the hashes of one (dm-verity): after a change the kernel would refuse to read it. Those of
/// /usr, by their type, are no reason.
///
/// # Errors
/// `Refused`, with the partitions.
pub(super) fn refuse_verity(table: &Table, root: &Partition, name: &str) -> Result<(), StorageError> {
    let holds_hashes = |p: &&Partition| {
        let type_name = p.type_name.unwrap_or_default();
        let by_content = p.file_system.as_ref().is_some_and(|found| found.kind == ContentKind::Verity);
        type_name.starts_with("Linux root verity") || by_content && !type_name.starts_with("Linux /usr verity")
    };
    let Some(hashes) = table.partitions.iter().find(holds_hashes) else { return Ok(()) };
    Err(StorageError::refused(
        format!(
            "{name}: {} is beside {}, which has hashes (dm-verity): changed, a root with hashes cannot be read any \
             more, so build the image without them\n{}",
            root.title(),
            hashes.title(),
            list(table)
        ),
        Remedy::ConfirmRoot { number: root.number },
    ))
}
