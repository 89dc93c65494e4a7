//! Layers whose signature lies at the end, or at an odd place, made by hand: blkid must know them for what they are,
//! and so must we, with an ext4 before them.

use std::path::Path;
use std::process::Command;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::progress::quiet;
use deaddrop_image::table::probe::ContentKind;
use deaddrop_image::table::root::TreeKind;

use crate::kit::crc32;
use crate::kit::disk::*;

/// Bytes of these images, and of the ext4 at the start of them.
const SIZE: u64 = 4 * MIB;
const EXT4: u64 = 2 * MIB;

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn sum16(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum, word| sum.wrapping_add(u16::from_le_bytes([word[0], word[1]])))
}

fn sum32(bytes: &[u8]) -> u32 {
    bytes.chunks(4).fold(0, |sum, word| sum.wrapping_add(u32::from_le_bytes(word.try_into().unwrap())))
}

/// md, version 1.0, for a superblock at `at`.
fn md_1(at: u64) -> Vec<u8> {
    let mut sb = vec![0; 512];
    put(&mut sb, 0, &[0xfc, 0x4e, 0x2b, 0xa9, 1]);
    put(&mut sb, 16, &[7; 16]);
    put(&mut sb, 32, b"host:root");
    put(&mut sb, 80, &(at / 512).to_le_bytes());
    put(&mut sb, 136, &(at / 512).to_le_bytes());
    put(&mut sb, 144, &(at / 512).to_le_bytes());
    // Two devices, and a third that leaves half a word.
    put(&mut sb, 220, &[3]);
    put(&mut sb, 256, &[0, 0, 1, 0, 0xfe, 0xff]);
    let words: u64 = sb[..264].chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    put(&mut sb, 216, &u32::try_from((words & 0xFFFF_FFFF) + (words >> 32)).unwrap().to_le_bytes());
    sb
}

fn md_0() -> Vec<u8> {
    let mut sb = vec![0; 64];
    put(&mut sb, 0, &[0xfc, 0x4e, 0x2b, 0xa9]);
    put(&mut sb, 8, &[90]);
    put(&mut sb, 28, &[1]);
    put(&mut sb, 32, &u32::try_from((SIZE - 0x10000) / 1024).unwrap().to_le_bytes());
    sb
}

fn drbd(magic: u8) -> Vec<u8> {
    let mut sb = vec![0; 4096];
    put(&mut sb, 60, &[0x83, 0x74, 0x02, magic]);
    put(&mut sb, 80, &4096_u32.to_be_bytes());
    sb
}

fn ddf() -> Vec<u8> {
    let mut sb = vec![0xFF; 512];
    put(&mut sb, 0, &[0xDE, 0x11, 0xDE, 0x11]);
    put(&mut sb, 96, &[0; 8]);
    let sum = crc32(0, &sb);
    put(&mut sb, 4, &sum.to_be_bytes());
    sb
}

fn silicon() -> Vec<u8> {
    let mut sb = vec![0; 512];
    put(&mut sb, 0x60, &0x2F00_0000_u32.to_le_bytes());
    let sum = sum16(&sb[..0x13E]).wrapping_neg();
    put(&mut sb, 0x13E, &sum.to_le_bytes());
    sb
}

fn nvidia() -> Vec<u8> {
    let mut sb = vec![0; 120];
    put(&mut sb, 0, b"NVIDIA  \x1e");
    let sum = sum32(&sb).wrapping_neg();
    put(&mut sb, 12, &sum.to_le_bytes());
    sb
}

fn via() -> Vec<u8> {
    let mut sb = vec![0; 51];
    put(&mut sb, 0, &[0x55, 0xAA, 1, 9]);
    sb[50] = sb[..50].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    sb
}

fn jmicron() -> Vec<u8> {
    let mut sb = vec![0; 128];
    put(&mut sb, 0, b"JM");
    let sum = sum16(&sb).wrapping_neg();
    put(&mut sb, 4, &sum.to_le_bytes());
    sb
}

fn adaptec() -> Vec<u8> {
    let mut sb = vec![0; 512];
    put(&mut sb, 0, &0x37FC_4D1E_u32.to_be_bytes());
    put(&mut sb, 256, b"DPTM");
    sb
}

fn ubi() -> Vec<u8> {
    let mut header = vec![0; 64];
    put(&mut header, 0, b"UBI#\x01");
    let sum = crc32(!0, &header[..60]);
    put(&mut header, 60, &sum.to_be_bytes());
    header
}

/// Name as blkid has it, our kind, where the signature is (from the start, or, negative, from the end), and its bytes.
fn signatures() -> Vec<(&'static str, ContentKind, i64, Vec<u8>)> {
    let md = SIZE - 8192;
    vec![
        ("linux_raid_member", ContentKind::Raid, -8192, md_1(md)),
        ("linux_raid_member", ContentKind::Raid, -0x10000, md_0()),
        ("drbd", ContentKind::Drbd, -4096, drbd(0x6b)),
        ("drbd", ContentKind::Drbd, -4096, drbd(0x6c)),
        ("drbd", ContentKind::Drbd, -4096, drbd(0x6d)),
        ("ddf_raid_member", ContentKind::Ddf, -512, ddf()),
        ("ddf_raid_member", ContentKind::Ddf, -257 * 512, ddf()),
        ("isw_raid_member", ContentKind::Intel, -1024, b"Intel Raid ISM Cfg Sig. 1.0.00".to_vec()),
        ("lsi_mega_raid_member", ContentKind::Lsi, -512, b"$XIDE$".to_vec()),
        ("via_raid_member", ContentKind::Via, -512, via()),
        ("silicon_medley_raid_member", ContentKind::Silicon, -512, silicon()),
        ("nvidia_raid_member", ContentKind::Nvidia, -1024, nvidia()),
        ("promise_fasttrack_raid_member", ContentKind::Promise, -675 * 512, b"Promise Technology, Inc.".to_vec()),
        ("hpt45x_raid_member", ContentKind::HighPoint, -11 * 512, vec![0xf3, 0x16, 0x78, 0x5a]),
        ("adaptec_raid_member", ContentKind::Adaptec, -512, adaptec()),
        ("jmicron_raid_member", ContentKind::Jmicron, -512, jmicron()),
        ("hpt37x_raid_member", ContentKind::HighPoint, 4640, vec![0xf0, 0x16, 0x78, 0x5a]),
        ("DM_integrity", ContentKind::Integrity, 0, b"integrt\0\x01".to_vec()),
        ("vdo", ContentKind::Vdo, 0, b"dmvdo001".to_vec()),
        ("ceph_bluestore", ContentKind::Bluestore, 0, b"bluestore block device".to_vec()),
        ("DM_snapshot_cow", ContentKind::SnapshotCow, 0, b"SnAp".to_vec()),
        ("ubi", ContentKind::Ubi, 0, ubi()),
        ("ubifs", ContentKind::Ubifs, 0, vec![0x31, 0x18, 0x10, 0x06]),
        ("drbdmanage_control_volume", ContentKind::Drbd, 0, b"$DRBDmgr=q000000000000000000000000000000000\n".to_vec()),
        ("LVM1_member", ContentKind::Lvm, 0, b"HM\x01\0".to_vec()),
    ]
}

fn from_start(at: i64) -> u64 {
    if at < 0 { SIZE - at.unsigned_abs() } else { at.unsigned_abs() }
}

fn blkid(path: &Path) -> String {
    let output = Command::new("/usr/sbin/blkid").args(["-p", "-s", "TYPE", "-o", "value"]).arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn kind(path: &Path) -> Option<ContentKind> {
    let image = DiskImage::open(path, &quiet).unwrap();
    image.table().partitions[0].file_system.as_ref().map(|found| found.kind)
}

#[test]
fn a_layer_is_known_by_its_signature_and_is_no_root_as_blkid_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    for (name, want, at, signature) in signatures() {
        blank(&path, SIZE);
        // blkid knows some of those at the start only where nothing else is.
        poke(&path, from_start(at), &signature);
        assert_eq!(blkid(&path), name, "{name} at {at}: blkid");
        blank(&path, SIZE);
        ext4(&path, 0, EXT4, "nixos");
        poke(&path, from_start(at), &signature);
        if at < 0 {
            assert_eq!(blkid(&path), name, "{name} at {at}: blkid, with an ext4");
        }
        assert_eq!(kind(&path), Some(want), "{name} at {at}");
        let error = DiskImage::open(&path, &quiet).unwrap().root(None, &|_| Ok(TreeKind::Store)).unwrap_err();
        assert!(error.to_string().contains("cannot be written"), "{name}: {error}");
        assert!(!deaddrop::run::remedy::hint(&error).is_empty(), "{name}");
    }
}

#[test]
fn what_lies_inside_of_a_file_system_or_is_not_whole_is_no_layer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    for (name, _, at, signature) in signatures().into_iter().filter(|(_, _, at, _)| *at < 0) {
        blank(&path, SIZE);
        ext4(&path, 0, SIZE, "nixos");
        // Left over from an earlier use, or a file's content.
        poke(&path, from_start(at), &signature);
        assert_eq!(kind(&path), Some(ContentKind::Ext4), "{name} at {at}: in the file system");
    }
    // Fields that libblkid checks (since 2.39 or 2.40, some of them), each wrong once.
    for (name, at, signature, field) in [
        ("md 1.0: checksum", -8192, md_1(SIZE - 8192), 100),
        ("md 1.0: its own place", -8192, md_1(SIZE), 0),
        ("md 0.90: larger than the device", -0x10000, md_0(), 35),
        ("drbd: bits", -4096, drbd(0x6b), 83),
        ("drbd: padding", -4096, drbd(0x6b), 4000),
        ("DDF: checksum", -512, ddf(), 200),
        ("silicon: checksum", -512, silicon(), 8),
        ("nvidia: checksum", -1024, nvidia(), 40),
        ("via: checksum", -512, via(), 20),
        ("jmicron: checksum", -512, jmicron(), 64),
        ("jmicron: level", -512, jmicron(), 0x30),
        ("adaptec: second magic", -512, adaptec(), 256),
    ] {
        blank(&path, SIZE);
        ext4(&path, 0, EXT4, "nixos");
        let mut signature = signature;
        if name != "md 1.0: its own place" {
            signature[field] ^= 0x40;
        }
        poke(&path, from_start(at), &signature);
        assert_eq!(kind(&path), Some(ContentKind::Ext4), "{name}");
    }
}

#[test]
fn a_disk_with_a_table_may_be_one_of_a_mirror() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    let root = |end_of_last: u64, at: u64| {
        blank(&path, 24 * MIB);
        let table = format!("label: dos\n start=2048, size={}, type=83\n", (end_of_last - MIB) / 512);
        sfdisk(&path, &table);
        ext4(&path, MIB, 15 * MIB, "nixos");
        poke(&path, at, &md_1(at));
        DiskImage::open(&path, &quiet).unwrap().root(None, &|_| Ok(TreeKind::Store)).map_err(|error| error.to_string())
    };
    // Behind all partitions: the disk is a member, and its table is the mirror's.
    let error = root(16 * MIB, 24 * MIB - 8192).unwrap_err();
    assert!(error.contains("the whole disk (Linux RAID, host:root)"), "{error}");
    // At the end of the last partition, whose end is the disk's: the partition is.
    blank(&path, 24 * MIB);
    let table = format!("label: dos\n start=2048, size={}, type=83\n", 23 * MIB / 512);
    sfdisk(&path, &table);
    ext4(&path, MIB, 15 * MIB, "nixos");
    poke(&path, 24 * MIB - 8192, &md_1(23 * MIB - 8192));
    let error = DiskImage::open(&path, &quiet).unwrap().root(None, &|_| Ok(TreeKind::Store)).unwrap_err().to_string();
    assert!(error.contains("partition 1 (Linux RAID, host:root)"), "{error}");
}

#[test]
fn the_refusal_of_a_root_has_the_lines_to_type() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    // LVM2, `struct label_header`; fs/squashfs, fs/erofs: their superblocks' magics; the uberblock of ZFS.
    let mut lvm = vec![0; 32];
    put(&mut lvm, 0, b"LABELONE");
    put(&mut lvm, 24, b"LVM2 001");
    let build = "nixos-rebuild build-image --image-variant raw-efi --flake .#NODE";
    let files = "deaddrop inject DIR --new-root";
    for (name, at, signature, lines) in [
        (
            "LVM",
            512,
            lvm,
            &["losetup -fP --show IMAGE", "vgchange -ay VG", "deaddrop inject /dev/VG/LV", "vgchange -an"][..],
        ),
        ("Linux RAID", 4096, md_1(4096), &["losetup -fP --show IMAGE", "mdadm --assemble", "deaddrop inject /dev/md0"]),
        ("dm-verity", 0, b"verity\0\0".to_vec(), &[build]),
        ("squashfs", 0, b"hsqs".to_vec(), &[build]),
        ("erofs", 1024, 0xE0F5_E1E2_u32.to_le_bytes().to_vec(), &[build]),
        ("LUKS", 0, b"LUKS\xba\xbe\0\x02".to_vec(), &[files, "--extra-files DIR"]),
        ("ZFS", 0x20000, 0x00ba_b10c_u64.to_le_bytes().to_vec(), &[files, "--extra-files DIR"]),
    ] {
        blank(&path, 24 * MIB);
        sfdisk(&path, "label: dos\n start=2048, size=32768, type=83\n");
        poke(&path, MIB + at, &signature);
        let root = DiskImage::open(&path, &quiet).unwrap().root(Some("1"), &|_| Ok(TreeKind::Store));
        let error = root.map(|root| root.reason).unwrap_err();
        assert!(error.to_string().ends_with(&format!("{name} cannot be written")), "{name}: {error}");
        let hint = deaddrop::run::remedy::hint(&error);
        assert!(lines.iter().all(|line| hint.contains(line)), "{name}: {hint}");
    }
    // As the whole file, they are told before a table is looked for.
    for (name, at, magic) in [("squashfs", 0, &b"hsqs"[..]), ("ISO 9660", 32769, b"CD001")] {
        blank(&path, SIZE);
        poke(&path, at, magic);
        let error = DiskImage::open(&path, &quiet).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(deaddrop::run::remedy::hint(&error).contains(build), "{name}");
    }
}
