//! The layouts of nixpkgs' make-disk-image and sd-image, made by the tools that they use or their like.

use std::path::Path;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::progress::quiet;
use deaddrop_image::table::TableKind;
use deaddrop_image::table::probe::ContentKind;
use deaddrop_image::table::root::{Reason, TreeKind};

use crate::kit::disk::*;

/// What `open` finds: the table, and number, start in MiB, type and file system of each partition.
fn seen(path: &Path) -> (TableKind, Vec<String>, (Option<u32>, Reason)) {
    let image = DiskImage::open(path, &quiet).unwrap();
    let lines = image.table().partitions.iter().map(|p| {
        let number = p.number.map_or("-".to_owned(), |number| number.to_string());
        let fs = p
            .file_system
            .as_ref()
            .map_or("-".to_owned(), |fs| format!("{} {}", fs.kind.name(), fs.label.as_deref().unwrap_or("-")));
        format!("{number} {} {} {fs}", p.start / MIB, p.type_name.unwrap_or("-"))
    });
    let root = image.root(None, &|_| Ok(TreeKind::Unknown)).unwrap();
    assert_eq!(root.kind, ContentKind::Ext4);
    (image.table().kind, lines.collect(), (root.partition.number, root.reason))
}

#[test]
fn every_layout_of_nixpkgs_is_read_and_its_root_is_found() {
    let directory = tempfile::tempdir().unwrap();
    // Layout, table for sfdisk, partitions to be filled (start, size, file system) in MiB, and what must be seen.
    type Layout = (
        &'static str,
        &'static str,
        &'static [(u64, u64, &'static str, &'static str)],
        TableKind,
        &'static [&'static str],
        Option<u32>,
    );
    const LAYOUTS: &[Layout] = &[
        (
            "efi",
            "label: gpt\n start=16384, size=81920, type=uefi, name=ESP\n \
             start=98304, size=32768, type=linux, name=primary\n",
            &[(8, 40, "vfat", "ESP"), (48, 16, "ext4", "nixos")],
            TableKind::Gpt,
            &["1 8 EFI system vfat ESP", "2 48 Linux ext4 nixos"],
            Some(2),
        ),
        (
            "legacy",
            "label: dos\n start=2048, size=32768, type=83, bootable\n",
            &[(1, 16, "ext4", "nixos")],
            TableKind::Mbr,
            &["1 1 Linux ext4 nixos"],
            Some(1),
        ),
        (
            "legacy+gpt",
            "label: gpt\n start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\n \
             start=4096, size=32768, type=linux\n",
            &[(2, 16, "ext4", "nixos")],
            TableKind::Gpt,
            &["1 1 BIOS boot -", "2 2 Linux ext4 nixos"],
            Some(2),
        ),
        (
            "hybrid: number 2 lies before number 1",
            "label: gpt\n1 : start=16384, size=81920, type=uefi\n\
             2 : start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\n\
             3 : start=98304, size=32768, type=linux\n",
            &[(8, 40, "vfat", "ESP"), (48, 16, "ext4", "nixos")],
            TableKind::Gpt,
            &["1 8 EFI system vfat ESP", "2 1 BIOS boot -", "3 48 Linux ext4 nixos"],
            Some(3),
        ),
        (
            "sd",
            "label: dos\nlabel-id: 0x2178694e\n start=16384, size=81920, type=b\n \
             start=98304, size=32768, type=83, bootable\n",
            &[(8, 40, "vfat", "FIRMWARE"), (48, 16, "ext4", "NIXOS_SD")],
            TableKind::Mbr,
            &["1 8 FAT32 vfat FIRMWARE", "2 48 Linux ext4 NIXOS_SD"],
            Some(2),
        ),
        (
            "logical partitions",
            "label: dos\n start=2048, size=2048, type=83\n start=4096, size=120000, type=5\n \
             start=6144, size=32768, type=83\n start=43008, size=2048, type=82\n",
            &[(3, 16, "ext4", "nixos")],
            TableKind::Mbr,
            &["1 1 Linux -", "2 2 extended -", "5 3 Linux ext4 nixos", "6 21 Linux swap -"],
            Some(5),
        ),
    ];
    for (name, script, partitions, table, want, root) in LAYOUTS {
        let path = directory.path().join("disk.img");
        blank(&path, 66 * MIB);
        sfdisk(&path, script);
        for (start, size, kind, label) in *partitions {
            match *kind {
                "vfat" => vfat(&path, start * MIB, size * MIB, label),
                _ => ext4(&path, start * MIB, size * MIB, label),
            }
        }
        let (found, lines, (number, reason)) = seen(&path);
        assert_eq!((found, number, reason), (*table, *root, Reason::Label), "{name}");
        assert_eq!(lines, *want, "{name}");
        assert_eq!(seen(&zstd(&path)).1, *want, "{name}, compressed");
    }
}

#[test]
fn a_bare_ext4_is_the_root_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    blank(&path, 16 * MIB);
    ext4(&path, 0, 16 * MIB, "");
    assert_eq!(seen(&path), (TableKind::None, vec!["- 0 - ext4 -".to_owned()], (None, Reason::Only)));
    // As a boot loader in the file system's own boot sector leaves it.
    poke(&path, 510, &[0x55, 0xaa]);
    assert_eq!(seen(&path).0, TableKind::None);
}

#[test]
fn sgdisk_and_a_grown_image_agree_with_us() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let name = path.to_str().unwrap();
    blank(&path, 24 * MIB);
    run("sgdisk", &["-n", "7:2048:+2M", "-t", "7:8200", "-c", "7:böse", "-n", "2:0:+16M", "-A", "2:set:2", name]);
    ext4(&path, 4 * MIB - MIB, 16 * MIB, "nixos");
    blank_tail(&path, 40 * MIB);
    let image = DiskImage::open(&path, &quiet).unwrap();
    let [root, swap] = &image.table().partitions[..] else { panic!("{:?}", image.table()) };
    assert_eq!((root.number, root.start, root.size, root.bootable), (Some(2), 3 * MIB, 16 * MIB, true));
    assert_eq!((swap.number, swap.name.as_deref(), swap.type_name), (Some(7), Some("böse"), Some("Linux swap")));
    assert!(image.table().notes[0].contains("made larger"));
    // The primary table is lost: the backup of a grown image is not at its end, and nothing else tells where it is.
    poke(&path, 512, &[0; 512]);
    let error = DiskImage::open(&path, &quiet).err().unwrap().to_string();
    assert!(error.contains("neither the GPT nor its backup"), "{error}");
    // Before it was grown, the backup is found.
    blank_tail(&path, 24 * MIB);
    let image = DiskImage::open(&path, &quiet).unwrap();
    assert_eq!(image.table().partitions.len(), 2);
    assert!(image.table().notes[0].contains("its backup at the end was read"));
}

/// Makes a file larger or smaller.
fn blank_tail(path: &Path, size: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(size).unwrap();
}

#[test]
fn a_truncated_image_is_refused_wherever_it_was_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    small_disk(&path);
    let whole = std::fs::read(&path).unwrap();
    for length in
        [1, 100, 511, 512, 513, 1000, 1024, 8192, 17_407, 2 * MIB, 8 * MIB, 8 * MIB + 1024, 9 * MIB, 23 * MIB - 1]
    {
        std::fs::write(&path, &whole[..usize::try_from(length).unwrap()]).unwrap();
        let error = commit(&path, &in_place()).unwrap_err().to_string();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length, "{error}");
        assert!(
            ["no disk image", "inside its partition table", "neither the GPT", "truncated", "no root found"]
                .iter()
                .any(|words| error.contains(words)),
            "{length}: {error}"
        );
    }
}

#[test]
fn sizes_and_labels_are_what_the_tools_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    small_disk(&path);
    let image = DiskImage::open(&path, &quiet).unwrap();
    let fs = image.table().partitions[1].file_system.clone().unwrap();
    assert_eq!((fs.size, fs.label.as_deref()), (Some(15 * MIB), Some("nixos")));
    assert!(fs.used.is_some_and(|used| used > 0 && used < 15 * MIB), "{fs:?}");
    let uuid = fs.uuid.unwrap();
    let dump = std::process::Command::new("/usr/sbin/dumpe2fs")
        .args(["-h", &format!("{}?offset={}", path.display(), 8 * MIB)])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&dump.stdout).contains(&uuid), "{uuid}");
}

#[test]
fn what_other_tools_make_is_known_by_name_and_refused_as_a_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let name = path.to_str().unwrap();
    for (program, arguments, size, want) in [
        (
            "mkfs.btrfs",
            vec!["-q", "-L", "nixos", name],
            160,
            "the whole disk (btrfs, nixos), and btrfs cannot be written",
        ),
        ("mkfs.xfs", vec!["-q", "-L", "nixos", name], 320, "the whole disk (xfs, nixos), and xfs cannot be written"),
        ("mkswap", vec!["-L", "nixos", name], 16, "no root found: no Linux file system"),
    ] {
        blank(&path, size * MIB);
        run(program, &arguments);
        let image = DiskImage::open(&path, &quiet).unwrap();
        let fs = image.table().partitions[0].file_system.clone().unwrap();
        assert_eq!(fs.label.as_deref(), Some("nixos"), "{program}");
        assert!(fs.uuid.is_some_and(|uuid| uuid.len() == 36), "{program}");
        let error = image.root(None, &|_| Ok(TreeKind::Unknown)).unwrap_err();
        assert!(error.to_string().contains(want), "{program}: {error}");
        std::fs::remove_file(&path).unwrap();
    }
}
