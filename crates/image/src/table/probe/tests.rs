use super::*;

/// A device of 512 KiB with `pieces` (offset, bytes) in it.
fn device(pieces: &[(usize, &[u8])]) -> Vec<u8> {
    let mut device = vec![0; 512 << 10];
    for (offset, bytes) in pieces {
        device[*offset..*offset + bytes.len()].copy_from_slice(bytes);
    }
    device
}

#[test]
fn each_magic_gives_its_kind_and_label() {
    let label = |text: &'static str| text.as_bytes();
    for (want, want_label, pieces) in [
        (ContentKind::Ext2, "nixos", vec![(0x438, &b"\x53\xef"[..]), (0x478, label("nixos"))]),
        (ContentKind::Ext3, "", vec![(0x438, b"\x53\xef"), (0x45C, b"\x04")]),
        (ContentKind::Ext4, "", vec![(0x438, b"\x53\xef"), (0x460, b"\x40")]),
        (ContentKind::Ext4Journal, "", vec![(0x438, b"\x53\xef"), (0x460, b"\x08")]),
        (ContentKind::Btrfs, "root", vec![(0x10040, b"_BHRfS_M"), (0x1012B, label("root"))]),
        (ContentKind::Xfs, "x", vec![(0, b"XFSB"), (108, label("x"))]),
        (ContentKind::F2fs, "f", vec![(0x400, b"\x10\x20\xf5\xf2"), (0x47C, b"f\0")]),
        (
            ContentKind::Bcachefs,
            "b",
            vec![
                (4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
                (4096 + 72, label("b")),
            ],
        ),
        (ContentKind::Squashfs, "", vec![(0, b"hsqs")]),
        (ContentKind::Erofs, "e", vec![(0x400, b"\xe2\xe1\xf5\xe0"), (0x440, label("e"))]),
        (ContentKind::Swap, "s", vec![(4086, b"SWAPSPACE2"), (1052, label("s"))]),
        (ContentKind::Swap, "", vec![(0x4000 - 10, b"SWAPSPACE2")]),
        (ContentKind::Iso9660, "CD", vec![(0x8001, b"CD001"), (0x8028, label("CD   "))]),
        (ContentKind::Luks, "crypt", vec![(0, b"LUKS\xba\xbe\0\x02"), (24, label("crypt"))]),
        (ContentKind::Luks, "", vec![(0, b"LUKS\xba\xbe\0\x01"), (24, label("xts-plain"))]),
        (ContentKind::Lvm, "", vec![(512, b"LABELONE"), (536, b"LVM2 001")]),
        (ContentKind::Verity, "", vec![(0, b"verity\0\0")]),
        (ContentKind::Vfat, "ESP", vec![(71, label("ESP        FAT32   ")), (510, b"\x55\xaa")]),
        (ContentKind::Vfat, "", vec![(43, label("NO NAME    FAT16   ")), (510, b"\x55\xaa")]),
        (ContentKind::Ntfs, "", vec![(3, label("NTFS    "))]),
        (ContentKind::Exfat, "", vec![(3, label("EXFAT   "))]),
        (ContentKind::Zfs, "", vec![(0x20400, b"\x0c\xb1\xba\0\0\0\0\0")]),
    ] {
        let probe = probe(&device(&pieces)).unwrap().unwrap_or_else(|| panic!("{want:?} not found"));
        assert_eq!((probe.kind, probe.label.as_deref().unwrap_or("")), (want, want_label));
    }
    assert_eq!(probe(&device(&[])).unwrap(), None);
}

#[test]
fn a_layer_wins_over_what_was_there_before_it() {
    let stale = device(&[(0, b"LUKS\xba\xbe\0\x02"), (0x438, b"\x53\xef")]);
    assert_eq!(probe(&stale).unwrap().unwrap().kind, ContentKind::Luks);
}

#[test]
fn no_length_and_no_field_can_make_it_panic() {
    for length in [0, 1, 511, 512, 1024, 1080, 1082, 2047, 4095, 4096, 65536, 0x11000] {
        for fill in [0x00, 0xff] {
            let _ = probe(&vec![fill; length]);
        }
    }
    for value in [0_u32, 3, 65535, u32::MAX] {
        for field in (0..0x400).step_by(4).filter(|field| *field != 0x38) {
            let found = probe(&device(&[(0x438, b"\x53\xef"), (0x400 + field, &value.to_le_bytes())]));
            assert!(found.unwrap().is_some(), "field {field:#x} at {value}");
        }
    }
}

#[test]
fn an_end_that_cannot_be_read_is_an_error_and_not_the_absence_of_a_layer() {
    struct Failing(Vec<u8>);
    impl ReadAt for Failing {
        fn size(&self) -> u64 {
            self.0.size()
        }

        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            if offset >= 256 << 10 { Err(io::Error::other("a bad sector")) } else { self.0.read_exact_at(offset, buf) }
        }
    }
    let failing = Failing(device(&[(0x438, b"\x53\xef")]));
    assert_eq!(probe(&failing).unwrap_err().to_string(), "a bad sector");
    assert_eq!(at_the_end(&failing, true).unwrap_err().to_string(), "a bad sector");
}
