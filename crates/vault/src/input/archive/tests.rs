//! Damaged and malicious archives. Valid ones are tested with the exports.

use std::io::{Cursor, Read, Write};

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

/// An archive of these files.
fn zip(files: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn open(bytes: &[u8]) -> Result<Archive, String> {
    Archive::open(Box::new(Cursor::new(bytes.to_vec())))
}

/// The content of the archive's first file.
fn first(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut archive = open(bytes)?;
    let mut content = Vec::new();
    archive.entry(0)?.read_to_end(&mut content).map_err(|error| error.to_string())?;
    Ok(content)
}

/// The offsets of a signature.
fn places(bytes: &[u8], signature: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(signature)).collect()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

const DIRECTORY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";

#[test]
fn files_are_read_packed_and_stored() {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let bytes = zip(&[("a/b", b"one"), ("ünï", b""), ("dir/", b"")], method);
        let archive = open(&bytes).unwrap();
        assert_eq!(archive.names().map(|(_, name)| name).collect::<Vec<_>>(), ["a/b", "ünï"]);
        assert_eq!(first(&bytes).unwrap(), b"one");
    }
}

#[test]
fn a_cut_or_changed_archive_is_refused_or_read_and_never_a_panic() {
    let good = zip(&[("data.json", &b"0123456789".repeat(50)), ("b", b"two")], CompressionMethod::Deflated);
    for end in 0..good.len() {
        assert!(first(&good[..end]).is_err(), "cut at {end}");
    }
    for at in 0..good.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            if let Ok(mut archive) = open(&bytes) {
                for index in 0..archive.names().count() {
                    if let Ok(entry) = archive.entry(index) {
                        let _ = contain(|| entry.take(1 << 20).read_to_end(&mut Vec::new()));
                    }
                    let _ = archive.attachment(index);
                }
            }
        }
    }
}

#[test]
fn a_wrong_checksum_is_found_out() {
    let mut bytes = zip(&[("a", b"planted")], CompressionMethod::Stored);
    let at = places(&bytes, b"planted")[0];
    bytes[at] ^= 1;
    assert_eq!(first(&bytes).unwrap_err(), "the ZIP file is damaged");
    assert_eq!(open(&bytes).unwrap().attachment(0).unwrap_err(), "the ZIP file is damaged");
}

#[test]
fn what_no_export_has_is_refused_by_name() {
    let good = zip(&[("aa", b"one"), ("ab", b"two")], CompressionMethod::Stored);
    let directory = places(&good, DIRECTORY);
    let end = places(&good, END)[0];
    let change = |changes: &[(usize, &[u8])]| {
        let mut bytes = good.clone();
        changes.iter().for_each(|(at, value)| put(&mut bytes, *at, value));
        bytes
    };
    // APPNOTE 4.3.12: flags at 8, method at 10, name at 46; 4.3.7: name at 30.
    let second = places(&good, b"PK\x03\x04")[1];
    for (name, bytes, want) in [
        (
            "two of one name",
            change(&[(directory[1] + 46, b"aa"), (second + 30, b"aa")]),
            "two files in this ZIP file have one name",
        ),
        ("encrypted", change(&[(directory[0] + 8, &[1, 8])]), "it is encrypted inside the ZIP file"),
        (
            "another method",
            change(&[(directory[0] + 10, &[12, 0])]),
            "a file in the ZIP file is packed with something else",
        ),
        ("many files", change(&[(end + 10, &50_001_u16.to_le_bytes())]), "the ZIP file has over 50000 files"),
        ("ZIP64's mark", change(&[(end + 10, &[0xff, 0xff])]), "this is a ZIP64 file"),
        ("a long directory", change(&[(end + 12, &(17_u32 << 20).to_le_bytes())]), "the ZIP file has over 50000 files"),
        ("a gap", change(&[(end + 12, &[1, 0, 0, 0])]), "the ZIP file is damaged"),
        ("something behind it", [&good[..], b"x"].concat(), "the ZIP file has no end"),
        ("nothing", Vec::new(), "the ZIP file has no end"),
        ("a locator", [&good[..end], b"PK\x06\x07", &[0; 16], &good[end..]].concat(), "this is a ZIP64 file"),
    ] {
        let told = first(&bytes).unwrap_err();
        assert!(told.starts_with(want), "{name}: {told}");
    }
    // A comment is allowed.
    let mut bytes = [&good[..], b"hello"].concat();
    put(&mut bytes, end + 20, &[5, 0]);
    assert_eq!(first(&bytes).unwrap(), b"one");
}

#[test]
fn a_bomb_is_refused_by_what_it_says_and_by_what_it_does() {
    let zeros = vec![0; 40 << 20];
    let bomb = zip(&[("data.json", &zeros)], CompressionMethod::Deflated);
    assert!(bomb.len() < 100_000);
    assert!(
        first(&bomb).unwrap_err().starts_with("a file in the ZIP file unpacks to over 250 times its size"),
        "declared"
    );
    // An entry that declares a smaller size than it has.
    let mut liar = bomb;
    let at = places(&liar, DIRECTORY)[0];
    put(&mut liar, at + 24, &10_u32.to_le_bytes());
    let told = first(&liar).unwrap_err();
    assert!(told.starts_with("the ZIP file is damaged") || told.contains("250 times"), "{told}");
    assert!(open(&liar).unwrap().attachment(0).is_err());
}

#[test]
fn an_attachment_is_as_long_as_a_value_may_be_and_no_longer() {
    for (length, want) in [(MAX_VALUE, MAX_VALUE), (MAX_VALUE + 1, MAX_VALUE + 1), (MAX_VALUE + 9, MAX_VALUE + 1)] {
        let bytes = zip(&[("a", &vec![b'x'; length])], CompressionMethod::Deflated);
        assert_eq!(open(&bytes).unwrap().attachment(0).unwrap().len(), want);
    }
}

#[test]
fn an_archive_of_very_many_files_is_opened_within_bounds() {
    let names: Vec<String> = (0..50_000).map(|at| format!("attachments/{at}/file")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let bytes = zip(&files, CompressionMethod::Stored);
    let mut archive = open(&bytes).unwrap();
    assert_eq!(archive.names().count(), 50_000);
    assert_eq!(archive.attachment(49_999).unwrap().expose(), b"x");
}
