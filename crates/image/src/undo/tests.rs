//! Tests of the format of an undo file. tests/it/device interrupts whole commits.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use deaddrop_core::secret::Wiped;
use sha2::{Digest, Sha256};

use super::file::{FoundUndo, Header, Record, UndoFile};

const UUID: [u8; 16] = [7; 16];

fn header(blocks: u64) -> Header {
    Header {
        block_size: 1024,
        uuid: UUID,
        start: 1 << 20,
        device_size: 1 << 30,
        blocks,
        device: "/dev/disk/by-id/a disk".into(),
    }
}

/// A directory with a complete undo file of two records, and the file's bytes.
fn written() -> (tempfile::TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut undo = UndoFile::create(directory.path(), &header(2)).unwrap();
    undo.add(&Record::new(9, Wiped::from(vec![1; 1024]), &[&[2; 1024]])).unwrap();
    undo.add(&Record::new(1, Wiped::from(vec![3; 1024]), &[&[4; 1024], &[5; 1024]])).unwrap();
    undo.seal().unwrap();
    let bytes = fs::read(undo.path()).unwrap();
    (directory, bytes)
}

#[test]
fn what_was_written_is_read() {
    let (directory, _) = written();
    let Some(FoundUndo::Whole(mut undo)) = UndoFile::open(directory.path(), &UUID).unwrap() else {
        panic!("not whole")
    };
    assert_eq!(undo.header(), &header(2));
    let (at, first) = undo.next_record().unwrap().unwrap();
    let (_, second) = undo.next_record().unwrap().unwrap();
    assert!(undo.next_record().unwrap().is_none());
    assert_eq!((first.number, second.number), (9, 1));
    assert_eq!((first.old[0], second.old[1023]), (1, 3));
    assert_eq!(undo.record_at(at).unwrap().number, 9);
    undo.remove().unwrap();
    assert!(UndoFile::open(directory.path(), &UUID).unwrap().is_none());
    assert!(UndoFile::open(directory.path(), &[8; 16]).unwrap().is_none(), "another file system's");
}

#[test]
fn a_block_is_explained_sector_by_sector() {
    let record = Record::new(1, Wiped::from(vec![3; 1024]), &[&[4; 1024], &[5; 1024]]);
    for (first, second, explained) in
        [(3, 3, true), (4, 4, true), (5, 5, true), (3, 4, true), (5, 4, true), (6, 4, false), (3, 6, false)]
    {
        let now = [[first; 512], [second; 512]].concat();
        assert_eq!(record.explains(&now), explained, "{first} {second}");
    }
    assert!(!record.explains(&[3; 512]), "half a block");
}

#[test]
fn a_file_that_is_cut_off_or_changed_or_of_another_form_is_torn() {
    let (directory, whole) = written();
    let sealed = |at: usize, bytes: &[u8]| {
        let mut file = whole[..whole.len() - 32].to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let digest = Sha256::digest(&file);
        [file, digest.to_vec()].concat()
    };
    let mut flipped = whole.clone();
    flipped[200] ^= 1;
    for (name, bytes, torn) in [
        ("whole", whole.clone(), false),
        ("sealed again", sealed(0, b"d"), false),
        ("empty", Vec::new(), true),
        ("only a digest", Sha256::digest(b"").to_vec(), true),
        ("cut off", whole[..whole.len() - 1].to_vec(), true),
        ("a byte more", [&whole[..], b"x"].concat(), true),
        ("a bit", flipped, true),
        ("magic", sealed(0, b"D"), true),
        ("version", sealed(16, &2_u32.to_le_bytes()), true),
        ("block size 512", sealed(20, &512_u32.to_le_bytes()), true),
        ("block size 1025", sealed(20, &1025_u32.to_le_bytes()), true),
        ("a path longer than paths are", sealed(64, &4097_u32.to_le_bytes()), true),
        ("a path over the end", sealed(64, &4096_u32.to_le_bytes()), true),
    ] {
        let path = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let found = UndoFile::open(directory.path(), &UUID).unwrap();
        assert_eq!(matches!(found, Some(FoundUndo::Torn(_))), torn, "{name}");
    }
    // Well-formed, but with more records than it has, or with states that no run writes.
    for (name, bytes) in [("records", sealed(56, &3_u64.to_le_bytes())), ("states", sealed(68 + 22 + 8, &[9]))] {
        let path = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        fs::write(&path, bytes).unwrap();
        let Some(FoundUndo::Whole(mut undo)) = UndoFile::open(directory.path(), &UUID).unwrap() else {
            panic!("{name}")
        };
        assert!((0..4).any(|_| undo.next_record().is_err()), "{name}");
    }
}

#[test]
fn one_that_stands_there_is_never_written_over() {
    let (directory, whole) = written();
    let error = UndoFile::create(directory.path(), &header(1)).err().unwrap();
    assert!(error.to_string().ends_with("is in use by another run"), "{error}");
    let path = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
    assert!(fs::read(&path).unwrap() == whole);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    // A link in its place is not followed.
    fs::remove_file(&path).unwrap();
    let target = directory.path().join("target");
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert!(UndoFile::create(directory.path(), &header(1)).is_err());
    assert!(!target.exists());
}
