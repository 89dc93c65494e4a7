//! Known formats that are not supported, by their magic, with what to do instead.

use deaddrop_core::bytes::{le32, le64};
use deaddrop_core::error::StorageError;

const CONVERT: &str = "convert it first: qemu-img convert -O raw IMAGE disk.img";

/// Known formats that are not supported: offset of the magic, magic, name, hint.
const FOREIGN: &[(usize, &[u8], &str, &str)] = &[
    (0, b"\x04\x22\x4d\x18", "lz4-compressed", "decompress it first: unlz4 IMAGE disk.img"),
    (0, b"LZIP\x01", "lzip-compressed", "decompress it first: lzip -dk IMAGE"),
    (0, b"\x89LZO\0\r\n\x1a\n", "lzop-compressed", "decompress it first: lzop -d IMAGE"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first: unzip IMAGE"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x IMAGE"),
    (0, b"QED\0", "a QED image", CONVERT),
    // block/parallels.c in qemu: the two versions of the format.
    (0, b"WithoutFreeSpace", "a Parallels image", CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", CONVERT),
    (
        0,
        b"# Disk DescriptorFile",
        "a VMDK descriptor, which names other files",
        "make one file of them: qemu-img convert -O vmdk IMAGE NEW.vmdk, if you trust it",
    ),
    (0, b"COWD", "a VMDK image of ESX", CONVERT),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image", "convert it first: simg2img IMAGE disk.img"),
    (
        257,
        b"ustar",
        "a tar archive",
        "a root in a tar is taken by plan, verify, inject, inspect, lint and scan; for another one, unpack it with tar -xf \
         IMAGE: what is inside may be a raw disk, or need qemu-img convert -O raw",
    ),
    (
        32769,
        b"CD001",
        "an ISO 9660 image",
        "its root is a read-only squashfs: build a raw-efi image (nixos-rebuild build-image --image-variant raw-efi \
         --flake .#NODE), or a disko image as an installer, and inject into that",
    ),
    (0, b"hsqs", "a squashfs, which is read-only by design", READ_ONLY),
    (0, b"070701", "a cpio archive (an initrd, as for netboot)", NETBOOT),
];

const READ_ONLY: &str = "build an image with an ext4 root: raw-efi (nixos-rebuild build-image --image-variant raw-efi \
                         --flake .#NODE), or a disko image";

const NETBOOT: &str =
    "a system from the network has no disk: put the secrets where it gets them when it runs, or build a raw-efi image";

/// What a tar archive is by the name of its first file, and what to do with it: OVF 1.1, section 2 ("the descriptor
/// shall be the first file"); Vagrant's "Box File Format".
const ARCHIVES: &[(&str, &str, &str)] = &[
    (
        ".ovf",
        "an OVA",
        "tar -xf IMAGE unpacks it; then `deaddrop inject DISK.vmdk -o NEW.vmdk`, and make an OVA of that again \
         (VBoxManage export, or ovftool): the digests in its manifest (.mf) change",
    ),
    ("metadata.json", "a Vagrant box", BOX),
    ("Vagrantfile", "a Vagrant box", BOX),
    ("box.img", "a Vagrant box", BOX),
    ("box.ovf", "a Vagrant box", BOX),
];

const BOX: &str = "tar -xf IMAGE unpacks it; then `deaddrop inject box.img` (or the .vmdk), and tar -czf NEW.box with \
                   all of the files";

/// Number of bytes at the start that [`refuse`] checks, at most.
pub(super) const HEAD: usize = 32774;

/// Refuses the start of a known format that is no raw disk. `name` is the image's, for the message.
///
/// # Errors
/// `Unsupported`, with a hint.
pub(crate) fn refuse(head: &[u8], name: &str) -> Result<(), StorageError> {
    if is_lzma(head) {
        let hint = "decompress it first: unlzma -k IMAGE";
        return Err(StorageError::unsupported(format!("{name} is lzma-compressed"), hint));
    }
    if has(head, 257, b"ustar")
        && let Some((kind, hint)) = archive(head)
    {
        return Err(StorageError::unsupported(format!("{name} is {kind}"), hint));
    }
    match FOREIGN.iter().find(|(offset, magic, ..)| has(head, *offset, magic)) {
        Some((.., kind, hint)) => Err(StorageError::unsupported(format!("{name} is {kind}"), *hint)),
        None => Ok(()),
    }
}

/// True for the start of a tar archive that is refused by its name.
pub(crate) fn is_archive(head: &[u8]) -> bool {
    has(head, 257, b"ustar") && archive(head).is_some()
}

/// What the name of its first file tells of a tar archive: 100 bytes, which zeros end.
fn archive(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let first = String::from_utf8_lossy(head.get(..100)?.split(|byte| *byte == 0).next()?).into_owned();
    let first = first.strip_prefix("./").unwrap_or(&first);
    // Vagrant's box.ovf is the more exact one.
    let exact = ARCHIVES.iter().find(|(file, ..)| *file == first);
    let found = exact.or_else(|| ARCHIVES.iter().find(|(file, ..)| file.starts_with('.') && first.ends_with(file)));
    found.map(|(_, kind, hint)| (*kind, *hint))
}

/// The LZMA_Alone format has no magic. The LZMA SDK's "lzma-specification.txt": properties (a byte below 225; `lzma`
/// and `xz` write 0x5D), the size of the dictionary (u32; they write 2^n or 2^n + 2^(n-1), from 4 KiB on), the size of
/// the content (u64; all ones if unknown), then the coder's first byte, which is 0. As in liblzma's
/// `lzma_alone_decoder`, content has less than 256 GiB.
fn is_lzma(head: &[u8]) -> bool {
    let (Some(dictionary), Some(content)) = (le32(head, 1), le64(head, 5)) else { return false };
    let ones = dictionary.count_ones();
    let usual = ones == 1 || ones == 2 && (dictionary >> dictionary.trailing_zeros()) == 3;
    head.first() == Some(&0x5D)
        && usual
        && dictionary >= 4096
        && (content == u64::MAX || content < 1 << 38)
        && head.get(13) == Some(&0)
}

fn has(head: &[u8], offset: usize, magic: &[u8]) -> bool {
    head.get(offset..).is_some_and(|rest| rest.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_foreign_container_is_refused_by_its_name() {
        for (offset, magic, kind, _) in FOREIGN {
            let mut file = vec![0; 40_000];
            file[*offset..*offset + magic.len()].copy_from_slice(magic);
            let error = refuse(&file, "x.img").unwrap_err();
            assert_eq!(error.to_string(), format!("x.img is {kind}"));
            assert!(error.hint().is_some(), "{kind}");
        }
        for (name, kind) in [
            ("appliance.ovf", "an OVA"),
            ("./metadata.json", "a Vagrant box"),
            ("box.ovf", "a Vagrant box"),
            ("disk.txt", "a tar archive"),
        ] {
            let mut archive = vec![0; 1024];
            archive[..name.len()].copy_from_slice(name.as_bytes());
            archive[257..262].copy_from_slice(b"ustar");
            assert_eq!(refuse(&archive, "x").unwrap_err().to_string(), format!("x is {kind}"));
        }
        // The first bytes of `lzma` and `xz --format=lzma`, with a dictionary of 8 MiB and unknown size.
        let lzma = b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x11\x08".to_vec();
        assert_eq!(refuse(&lzma, "x.img").unwrap_err().to_string(), "x.img is lzma-compressed");
        let properties_alone = b"\x5d\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert!(refuse(properties_alone, "x.img").is_ok());
    }
}
