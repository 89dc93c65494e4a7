#![allow(clippy::as_conversions)]

use std::io::Cursor;

use super::*;
use crate::table::root;

const MIB: usize = 1 << 20;

fn read(disk: &[u8]) -> Result<Table, StorageError> {
    let disk: Arc<dyn ReadAt> = Arc::new(disk.to_vec());
    Table::read(&disk, "x.img")
}

fn error(disk: &[u8]) -> String {
    read(disk).unwrap_err().to_string()
}

/// Numbers, starts and sizes, in sectors of 512 bytes.
fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    table.partitions.iter().map(|p| (p.number.unwrap_or(0), p.start / 512, p.size / 512)).collect()
}

/// An ext4 superblock's magic, for a file system at `start`.
fn put_ext4(disk: &mut [u8], start: usize) {
    disk[start + 0x438..][..2].copy_from_slice(&[0x53, 0xef]);
    disk[start + 0x460] = 0x40;
}

/// A GPT disk of 4 MiB as the `gpt` crate writes it, with partitions of 1 MiB and 2 MiB (less the backup table).
fn gpt_disk(sector: ::gpt::disk::LogicalBlockSize) -> Vec<u8> {
    let mut device = Cursor::new(vec![0; 4 * MIB]);
    let sectors = 4 * MIB as u64 / u64::from(sector);
    let mbr = ::gpt::mbr::ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap());
    mbr.overwrite_lba0(&mut device).unwrap();
    let config = ::gpt::GptConfig::new().writable(true).logical_block_size(sector);
    let mut disk = config.create_from_device(device, None).unwrap();
    let mib = MIB as u64 / u64::from(sector);
    disk.add_partition_at("esp", 1, mib, mib, ::gpt::partition_types::EFI, 0).unwrap();
    disk.add_partition_at("root\u{1b}", 2, 2 * mib, mib, ::gpt::partition_types::LINUX_FS, 4).unwrap();
    let mut bytes = disk.write().unwrap().into_inner();
    put_ext4(&mut bytes, 2 * MIB);
    bytes
}

fn gpt_512() -> Vec<u8> {
    gpt_disk(::gpt::disk::LogicalBlockSize::Lb512)
}

/// CRC-32 of ISO-HDLC, bit by bit: independent of the crate's.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Changes fields of the header at `at` (offset in it, bytes), and updates its checksum.
fn forge(disk: &mut [u8], at: usize, fields: &[(usize, &[u8])]) {
    for (offset, bytes) in fields {
        disk[at + offset..][..bytes.len()].copy_from_slice(bytes);
    }
    disk[at + 16..at + 20].fill(0);
    let sum = crc(&disk[at..at + 92]);
    disk[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
}

/// Changes an entry's first and last sector in the primary table, and updates all checksums.
fn move_entry(disk: &mut [u8], number: usize, first: u64, last: u64) {
    let entry = 1024 + (number - 1) * 128;
    disk[entry + 32..entry + 40].copy_from_slice(&first.to_le_bytes());
    disk[entry + 40..entry + 48].copy_from_slice(&last.to_le_bytes());
    let sum = crc(&disk[1024..1024 + 128 * 128]).to_le_bytes();
    forge(disk, 512, &[(88, &sum)]);
}

/// An MBR's entry, in the sector at `at`.
fn put_entry(disk: &mut [u8], at: usize, index: usize, kind: u8, start: u32, sectors: u32) {
    let entry = at + 446 + index * 16;
    disk[entry + 4] = kind;
    disk[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
    disk[entry + 12..entry + 16].copy_from_slice(&sectors.to_le_bytes());
    disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
}

#[test]
fn a_gpt_is_read_with_sectors_of_512_and_of_4096_bytes() {
    for (sector, size) in [(::gpt::disk::LogicalBlockSize::Lb512, 512), (::gpt::disk::LogicalBlockSize::Lb4096, 4096)] {
        let table = read(&gpt_disk(sector)).unwrap();
        assert_eq!((table.kind, table.sector_size), (TableKind::Gpt, size));
        assert!(table.notes.is_empty() && table.id.is_some());
        assert_eq!(places(&table), [(1, 2048, 2048), (2, 4096, 2048)]);
        let root = &table.partitions[1];
        assert_eq!((root.type_name, root.name.as_deref(), root.bootable), (Some("Linux"), Some("root\u{FFFD}"), true));
        assert_eq!(root.file_system.as_ref().unwrap().kind, probe::ContentKind::Ext4);
        assert_eq!((table.partitions[0].type_name, table.partitions[0].bootable), (Some("EFI system"), false));
        assert!(table.partitions.iter().all(|p| p.problem.is_none()));
    }
}

#[test]
fn a_damaged_primary_gpt_gives_way_to_its_backup_and_says_so() {
    for (name, at) in [("header", 512 + 60), ("magic", 512), ("entries", 1024 + 5)] {
        let mut disk = gpt_512();
        disk[at] ^= 1;
        let table = read(&disk).unwrap();
        assert_eq!(places(&table), [(1, 2048, 2048), (2, 4096, 2048)], "{name}");
        assert!(table.notes[0].contains("its backup at the end was read"), "{name}: {:?}", table.notes);
    }
    let mut disk = gpt_512();
    disk[512 + 60] ^= 1;
    disk.truncate(4 * MIB - 512);
    assert_eq!(error(&disk), "x.img: the GPT header's checksum is wrong");
}

#[test]
fn an_image_that_was_made_larger_has_its_backup_gpt_in_the_middle() {
    let mut disk = gpt_512();
    disk.resize(6 * MIB, 0);
    let table = read(&disk).unwrap();
    assert_eq!(places(&table), [(1, 2048, 2048), (2, 4096, 2048)]);
    assert!(table.notes[0].contains("the image was made larger"), "{:?}", table.notes);
}

#[test]
fn a_gpt_that_declares_what_no_disk_has_is_refused_before_anything_is_allocated() {
    let huge = (1_u32 << 31).to_le_bytes();
    for (name, fields, want) in [
        ("count", vec![(80, &huge[..])], "x.img: the GPT declares 2147483648 entries, and 1024 is the most"),
        ("size", vec![(84, &huge[..])], "x.img: the GPT declares entries of 2147483648 bytes, and only 128 are in use"),
        (
            "both",
            vec![(80, &huge[..]), (84, &huge[..])],
            "x.img: the GPT declares 2147483648 entries, and 1024 is the most",
        ),
        ("size 0", vec![(84, &[0; 4][..])], "x.img: the GPT declares entries of 0 bytes, and only 128 are in use"),
    ] {
        let mut disk = gpt_512();
        forge(&mut disk, 512, &fields);
        assert_eq!(error(&disk), want, "{name}");
    }
    let nowhere = u64::MAX.to_le_bytes();
    for (name, field) in [("entries nowhere", 72), ("header elsewhere", 24)] {
        let mut disk = gpt_512();
        forge(&mut disk, 512, &[(field, &nowhere)]);
        disk.truncate(4 * MIB - 512);
        assert!(read(&disk).is_err(), "{name}");
    }
}

#[test]
fn entries_that_do_not_lie_in_the_image_are_listed_and_cannot_be_used() {
    for (name, first, last, want) in [
        ("past the end", 4096, 1 << 20, "it ends at 512 MiB, and the image at 4 MiB: the image is truncated"),
        ("far away", 1 << 40, 1 << 41, "it ends at 1 PiB, and the image at 4 MiB: the image is truncated"),
        ("overflow", u64::MAX - 1, u64::MAX, "it lies outside of any disk"),
        ("all of it", 0, u64::MAX, "it lies outside of any disk"),
        ("backwards", 4096, 4095 - 1, "it ends before it starts"),
        ("over the table", 1, 4096 + 10, "it starts inside the partition table"),
        ("over another", 2048 + 10, 4096 + 10, "it shares bytes with partition 1"),
    ] {
        let mut disk = gpt_512();
        move_entry(&mut disk, 2, first, last);
        let table = read(&disk).unwrap();
        assert_eq!(table.partitions[1].problem.as_deref(), Some(want), "{name}");
    }
    let mut disk = gpt_512();
    disk.truncate(5 * MIB / 2);
    let table = read(&disk).unwrap();
    assert_eq!(table.partitions[1].title(), "partition 2 (ext4)", "what is there is still looked at");
    let error = root::choose(&table, None, root::Backend::Native, &|_| Ok(root::TreeKind::Store), "x.img")
        .unwrap_err()
        .to_string();
    let want = "x.img: partition 2 (ext4) cannot be used: it ends at 3 MiB, and the image at 2.5 MiB: \
                the image is truncated";
    assert_eq!(error, want);
}

#[test]
fn an_image_that_ends_inside_its_table_is_said_to() {
    for (length, want) in [
        (1, "x.img is no disk image: it has 1 bytes"),
        (511, "x.img is no disk image: it has 511 bytes"),
        (
            512,
            "x.img: the MBR says that there is a GPT, but neither the GPT nor its backup is in the 512 B that the \
             image has",
        ),
        (600, "x.img: the image ends inside its partition table: it has 600 B"),
        (1024, "x.img: the image ends inside its partition table: it has 1 KiB"),
        (10_000, "x.img: the image ends inside its partition table: it has 9.7 KiB"),
    ] {
        assert_eq!(error(&gpt_512()[..length]), want, "{length}");
    }
}

#[test]
fn an_mbr_is_read_with_its_logical_partitions_in_the_order_of_their_chain() {
    let mut disk = vec![0; 8 * MIB];
    put_entry(&mut disk, 0, 0, 0x0c, 2048, 2048);
    put_entry(&mut disk, 0, 2, 0x05, 4096, 8192);
    disk[446] = 0x80;
    // A chain with descending links on the disk: 4096, then 10240, then 8192.
    put_entry(&mut disk, 4096 * 512, 0, 0x83, 2048, 1024);
    put_entry(&mut disk, 4096 * 512, 1, 0x05, 6144, 2048);
    put_entry(&mut disk, 10240 * 512, 0, 0x82, 64, 512);
    put_entry(&mut disk, 10240 * 512, 1, 0x05, 4096, 2048);
    put_entry(&mut disk, 8192 * 512, 0, 0x83, 64, 512);
    let table = read(&disk).unwrap();
    assert_eq!(places(&table), [(1, 2048, 2048), (3, 4096, 8192), (5, 6144, 1024), (6, 10304, 512), (7, 8256, 512)]);
    assert!(table.partitions.iter().all(|p| p.problem.is_none()), "{table:?}");
    assert_eq!(table.partitions[0].type_name, Some("FAT32 (LBA)"));
    assert!(table.partitions[0].bootable && !table.partitions[1].bootable);
}

#[test]
fn a_hostile_chain_of_logical_partitions_ends() {
    let chain = |link: Option<(u32, u32)>| {
        let mut disk = vec![0; 4 * MIB];
        put_entry(&mut disk, 0, 0, 0x05, 2048, 4096);
        put_entry(&mut disk, 2048 * 512, 0, 0x83, 63, 100);
        if let Some((start, sectors)) = link {
            put_entry(&mut disk, 2048 * 512, 1, 0x05, start, sectors);
        }
        disk
    };
    assert_eq!(places(&read(&chain(None)).unwrap()), [(1, 2048, 4096), (5, 2111, 100)]);
    for (name, link, want) in [
        ("itself", (0, 1), "it comes back to sector 2048"),
        ("nowhere", (u32::MAX, u32::MAX), "sector 4294969343 is outside of the image"),
        ("no link there", (1000, 1), "sector 3048 is no link of it"),
    ] {
        let want = format!("x.img: the chain of logical partitions is damaged: {want}");
        assert_eq!(error(&chain(Some(link))), want, "{name}");
    }
    let mut two = chain(Some((100, 100)));
    put_entry(&mut two, 2148 * 512, 0, 0x0f, 0, 100);
    assert!(error(&two).ends_with("it comes back to sector 2048"));
    let mut long = chain(Some((1, 1)));
    for link in 1..2000 {
        put_entry(&mut long, (2048 + link) * 512, 0, 0x05, link as u32 + 1, 1);
    }
    assert!(error(&long).ends_with("it has more than 256 links"));
}

#[test]
fn no_number_in_an_mbr_can_make_it_panic() {
    for start in [0, 1, 3, 65535, u32::MAX] {
        for sectors in [0, 1, 3, 65535, u32::MAX] {
            for kind in [0x05, 0x83, 0xee] {
                let mut disk = vec![0; 2 * MIB];
                put_entry(&mut disk, 0, 1, kind, start, sectors);
                put_entry(&mut disk, 512, 0, kind, start, sectors);
                if let Ok(table) = read(&disk) {
                    assert!(table.partitions.iter().all(|p| p.problem.is_some() || p.end() <= 2 * MIB as u64));
                }
            }
        }
    }
}

#[test]
fn a_file_system_from_the_start_on_is_not_taken_for_a_partition_table() {
    let mut bare = vec![0; 4 * MIB];
    put_ext4(&mut bare, 0);
    let mut signed = bare.clone();
    signed[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut boot_code = signed.clone();
    boot_code[446..510].fill(b'A');
    let mut text_like = signed.clone();
    put_entry(&mut text_like, 0, 0, b'N', 0x2020_2020, 0x2020_2020);
    for (name, disk) in
        [("bare", &bare), ("signature", &signed), ("boot code", &boot_code), ("text as an entry", &text_like)]
    {
        let table = read(disk).unwrap();
        assert_eq!((table.kind, table.partitions.len()), (TableKind::None, 1), "{name}");
        let root =
            root::choose(&table, None, root::Backend::Native, &|_| Ok(root::TreeKind::Unknown), "x.img").unwrap();
        assert_eq!((root.partition.number, root.partition.size), (None, 4 * MIB as u64), "{name}");
    }
    let mut stale = bare.clone();
    put_entry(&mut stale, 0, 0, 0x83, 2048, 2048);
    assert_eq!(read(&stale).unwrap().kind, TableKind::Mbr, "a faultless table beats what was there before it");
    let mut fat = vec![0; 4 * MIB];
    fat[71..90].copy_from_slice(b"STICK      FAT32   ");
    fat[510..512].copy_from_slice(&[0x55, 0xaa]);
    let table = read(&fat).unwrap();
    assert_eq!(table.partitions[0].title(), "the whole disk (vfat, STICK)");
    assert_eq!(read(&vec![0; 4096]).unwrap().partitions[0].file_system, None);
}

#[test]
fn an_old_gpt_under_a_new_mbr_does_not_count() {
    let mut disk = gpt_512();
    disk[446..512].fill(0);
    put_entry(&mut disk, 0, 0, 0x83, 2048, 1024);
    assert_eq!(places(&read(&disk).unwrap()), [(1, 2048, 1024)]);
    disk[446..512].fill(0);
    assert_eq!(read(&disk).unwrap().kind, TableKind::Gpt, "with no MBR at all it does");
}

#[test]
fn random_damage_never_panics_and_never_gives_a_usable_partition_outside_the_image() {
    const SEED: u64 = 0x5eed_dead_d209_0001;
    let mut mbr = vec![0; 4 * MIB];
    put_entry(&mut mbr, 0, 0, 0x83, 2048, 2048);
    put_entry(&mut mbr, 0, 1, 0x05, 4096, 4096);
    put_entry(&mut mbr, 4096 * 512, 0, 0x83, 63, 512);
    put_entry(&mut mbr, 4096 * 512, 1, 0x05, 1024, 1024);
    put_entry(&mut mbr, 5120 * 512, 0, 0x83, 63, 512);
    let mut state = SEED;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for (name, good, hot) in [
        ("gpt", gpt_512(), vec![440..1536, 4 * MIB - 512..4 * MIB]),
        ("mbr", mbr, vec![440..512, 4096 * 512 + 440..4096 * 512 + 512, 5120 * 512 + 440..5120 * 512 + 512]),
    ] {
        for round in 0..1500 {
            let mut disk = good.clone();
            for _ in 0..=random(4) {
                let range = &hot[random(hot.len())];
                let at = range.start + random(range.len());
                disk[at] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
            }
            if random(2) == 0 {
                forge(&mut disk, 512, &[]);
            }
            if random(4) == 0 {
                disk.truncate(random(4 * MIB));
            }
            let size = disk.len() as u64;
            if let Ok(table) = read(&disk) {
                let usable = table.partitions.iter().filter(|p| p.problem.is_none());
                assert!(usable.clone().all(|p| p.end() <= size), "{name}, round {round} of seed {SEED:#x}");
                let _ = root::choose(&table, None, root::Backend::Native, &|_| Ok(root::TreeKind::Unknown), "x.img");
            }
        }
    }
}
