//! qcow2 headers and tables made to harm: each is refused within the limits of hostile input, and the file is untouched.

use std::fs;

use crate::kit::disk::run;
use crate::kit::files::{fingerprint, names};
use crate::kit::images;
use crate::kit::manifest::{Item, Manifest};
use crate::kit::sha256_of;

/// A qcow2 image by qemu-img, of the disk `raw`, with clusters of 64 KiB.
fn good(manifest: &Manifest, options: &[&str]) -> Vec<u8> {
    let raw = images::LEGACY_GPT.committed(&manifest.scratch).path;
    let path = manifest.scratch.join("good.qcow2");
    let words = [raw.to_str().unwrap(), path.to_str().unwrap()];
    run("qemu-img", &[&["convert", "-f", "raw", "-O", "qcow2"], options, &words].concat());
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    fs::remove_file(raw).unwrap();
    bytes
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    let at = usize::try_from(at).unwrap();
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

#[track_caller]
fn is_refused(manifest: &Manifest, what: &str, bytes: &[u8]) {
    let path = manifest.scratch.write("bad.qcow2", bytes);
    fs::create_dir_all(manifest.scratch.join("tmp")).unwrap();
    let state = || (fingerprint(&path), sha256_of(&path), names(manifest.scratch.path()));
    let before = state();
    for arguments in [&["inject", "bad.qcow2"][..], &["inject", "bad.qcow2", "-o", "out"], &["verify", "bad.qcow2"]] {
        eprintln!("{what}: {arguments:?}");
        let said = manifest.deaddrop(arguments).limited().run().expect_code(1).stderr();
        assert!(said.starts_with("error: ") && !said.contains("panicked"), "{what}: {said}");
        assert!(!said.contains("reading bad.qcow2"), "{what}: found only when it was read: {said}");
    }
    assert!(state() == before, "{what}");
}

#[test]
fn what_a_header_claims_is_judged_before_it_is_believed() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/secrets/token")]);
    let good = good(&manifest, &[]);
    let with = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    // By the names of qemu's docs/interop/qcow2.rst.
    for (what, at, value) in [
        ("version 1", 4, &[0, 0, 0, 1][..]),
        ("version 4", 4, &[0, 0, 0, 4]),
        ("backing_file_offset beyond the file", 8, &[0xff; 8]),
        ("backing_file_size", 8, &[0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff]),
        ("cluster_bits 8", 20, &[0, 0, 0, 8]),
        ("cluster_bits 22", 20, &[0, 0, 0, 22]),
        ("cluster_bits of all ones", 20, &[0xff; 4]),
        ("size 0", 24, &[0; 8]),
        ("size of all ones", 24, &[0xff; 8]),
        ("size of 2 TiB, for which the L1 table is too short", 24, &[0, 0, 2, 0, 0, 0, 0, 0]),
        ("l1_size 0", 36, &[0; 4]),
        ("l1_size of all ones", 36, &[0xff; 4]),
        ("l1_table_offset 0", 40, &[0; 8]),
        ("l1_table_offset beyond the file", 40, &[0, 0, 0, 1, 0, 0, 0, 0]),
        ("l1_table_offset of all ones", 40, &[0xff; 8]),
        ("l1_table_offset on no cluster", 40, &[0, 0, 0, 0, 0, 3, 0, 8]),
        ("l1_table_offset on the header", 40, &[0, 0, 0, 0, 0, 0, 0, 0]),
        ("refcount_table_offset beyond the file", 48, &[0, 0, 0, 1, 0, 0, 0, 0]),
        ("refcount_table_offset on the L1 table", 48, &good[40..48]),
        ("refcount_table_clusters", 56, &[0xff; 4]),
        ("refcount_order", 96, &[0, 0, 0, 7]),
        ("header_length 0", 100, &[0; 4]),
        ("header_length of all ones", 100, &[0xff; 4]),
        ("a compression type without its bit", 104, &[1]),
    ] {
        is_refused(&manifest, what, &with(at, value));
    }
    is_refused(&manifest, "nothing but the magic", b"QFI\xfb");
    is_refused(&manifest, "a header that is cut off", &good[..60]);
    is_refused(&manifest, "tables that are cut off", &good[..200_000]);
}

#[test]
fn tables_that_overlap_loop_or_lead_out_of_the_file_are_refused() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/secrets/token")]);
    let good = good(&manifest, &[]);
    let (l1, refcounts) = (be64(&good, 40), be64(&good, 48));
    let entry = |at: u64| be64(&good, usize::try_from(at).unwrap()) & 0x00ff_ffff_ffff_fe00;
    let (l2, block) = (entry(l1), entry(refcounts));
    let data = entry(l2);
    for (what, at, value) in [
        ("an L2 table that is the L1 table", l1, l1),
        ("an L2 table that is the header", l1, 1 << 9),
        ("an L2 table beyond the file", l1, 1 << 40),
        ("an L2 table on no cluster", l1, l2 + 512),
        ("an L2 table that is a cluster of data", l1, data),
        ("a cluster of data that is its own L2 table", l2, l2),
        ("a cluster of data that is the L1 table", l2, l1),
        ("a cluster of data beyond the file", l2, 1 << 50),
        ("a cluster of data that is another's", l2 + 8, data),
        ("a cluster of zeros that is another's", l2 + 8, data | 1),
        ("a compressed cluster in the L2 table", l2, 1 << 62 | l2),
        ("a compressed cluster beyond the file", l2, 1 << 62 | 1 << 45),
        ("a block of refcounts beyond the file", refcounts, 1 << 50),
        ("a block of refcounts that is the L1 table", refcounts, l1),
        ("a block of refcounts that is data", refcounts, data),
    ] {
        let mut bytes = good.clone();
        put(&mut bytes, at, value);
        is_refused(&manifest, what, &bytes);
    }
    // Two L2 tables that are one.
    let mut bytes = good.clone();
    bytes[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    bytes[36..40].copy_from_slice(&2_u32.to_be_bytes());
    put(&mut bytes, l1 + 8, l2);
    is_refused(&manifest, "two L2 tables that are one", &bytes);
    assert!(block > 0);
}

/// 100 GiB: clusters of 2 MiB, whose entries all name the same few compressed bytes. With `disk` at its start.
fn bomb(disk: &[u8], letter: u8) -> Vec<u8> {
    const CLUSTER: usize = 2 << 20;
    let packed = |content: &[u8]| {
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::copy(&mut &content[..], &mut deflate).unwrap();
        deflate.finish().unwrap()
    };
    let size = 100_u64 << 30;
    let mut file = vec![0; 5 * CLUSTER];
    file[..4].copy_from_slice(b"QFI\xfb");
    file[4..8].copy_from_slice(&3_u32.to_be_bytes());
    file[20..24].copy_from_slice(&21_u32.to_be_bytes());
    put(&mut file, 24, size);
    file[36..40].copy_from_slice(&1_u32.to_be_bytes());
    let cluster = u64::try_from(CLUSTER).unwrap();
    put(&mut file, 40, cluster);
    put(&mut file, 48, 3 * cluster);
    file[56..60].copy_from_slice(&1_u32.to_be_bytes());
    file[96..100].copy_from_slice(&4_u32.to_be_bytes());
    file[100..104].copy_from_slice(&104_u32.to_be_bytes());
    put(&mut file, cluster, 2 * cluster);
    put(&mut file, 3 * cluster, 4 * cluster);
    let mut entry = |content: &[u8]| {
        let bytes = packed(content);
        let at = u64::try_from(file.len()).unwrap();
        let sectors = u64::try_from(bytes.len().div_ceil(512)).unwrap();
        file.extend(&bytes);
        file.resize(file.len().next_multiple_of(512), 0);
        // 62 - (21 - 8) = 49 bits of offset.
        1 << 62 | (sectors - 1) << 49 | at
    };
    let mut entries: Vec<u64> = disk
        .chunks(CLUSTER)
        .map(|chunk| {
            let mut whole = chunk.to_vec();
            whole.resize(CLUSTER, 0);
            entry(&whole)
        })
        .collect();
    let last = entry(&vec![letter; CLUSTER]);
    entries.resize(usize::try_from(size / cluster).unwrap(), last);
    for (index, entry) in (0_u64..).zip(entries) {
        put(&mut file, 2 * cluster + 8 * index, entry);
    }
    file
}

#[test]
fn a_hundred_gib_of_one_letter_are_refused_bare_and_behind_a_good_image() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/secrets/token")]);
    let raw = images::LEGACY_GPT.committed(&manifest.scratch).path;
    let disk = fs::read(&raw).unwrap();
    fs::remove_file(raw).unwrap();
    for (what, disk, letter) in [
        ("zeros", &[][..], 0),
        ("letters", &[], b'A'),
        ("letters behind an image", &disk, b'A'),
        ("zeros behind", &disk, 0),
    ] {
        let bytes = bomb(disk, letter);
        is_refused(&manifest, what, &bytes);
        let path = manifest.scratch.write("bad.qcow2", bytes);
        run("gzip", &["-f", path.to_str().unwrap()]);
        let packed = manifest.deaddrop(&["inject", "bad.qcow2.gz"]).limited().run().expect_code(1);
        packed.expect_error("made to harm");
    }
}

#[test]
fn a_file_of_nothing_but_tables_ends_within_the_limits() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/secrets/token")]);
    // As many L2 tables as there can be, all of them holes of one sparse file: 128 GiB in clusters of 512 bytes.
    for (bits, size) in [(9_u32, 128_u64 << 30), (12, 2 << 40), (16, 2 << 40)] {
        let cluster = 1_u64 << bits;
        let tables = size / (cluster * cluster / 8);
        let l1_size = (tables * 8).next_multiple_of(cluster);
        let first = cluster + l1_size;
        let mut head = vec![0; usize::try_from(first).unwrap()];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[4..8].copy_from_slice(&3_u32.to_be_bytes());
        head[20..24].copy_from_slice(&bits.to_be_bytes());
        put(&mut head, 24, size);
        head[36..40].copy_from_slice(&u32::try_from(tables).unwrap().to_be_bytes());
        put(&mut head, 40, cluster);
        put(&mut head, 48, first);
        head[56..60].copy_from_slice(&1_u32.to_be_bytes());
        head[96..100].copy_from_slice(&4_u32.to_be_bytes());
        head[100..104].copy_from_slice(&104_u32.to_be_bytes());
        for index in 0..tables {
            put(&mut head, cluster + 8 * index, first + cluster * (index + 1));
        }
        let path = manifest.scratch.write("bad.qcow2", &head);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(first + cluster * (tables + 1)).unwrap();
        drop(head);
        manifest.deaddrop(&["inject", "bad.qcow2"]).limited().run().expect_code(1);
    }
}
