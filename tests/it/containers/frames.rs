//! Compressed outputs: independent frames, and of the image's own only those made anew that the change touches.

use std::fs::{self, File};
use std::path::Path;

use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::output::patch::Patch;
use deaddrop_image::progress::quiet;
use deaddrop_image::table::root::TreeKind;

use crate::kit::disk::*;

/// Bytes of the disk in a frame.
const FRAME: u64 = 16 * MIB;

/// A disk of `size` bytes with the small one at its start, and noise from `from` on.
fn disk(path: &Path, size: u64, from: u64) {
    small_disk(path);
    File::options().write(true).open(path).unwrap().set_len(size).unwrap();
    poke(path, from, &noise(usize::try_from(size - from).unwrap()));
}

/// The frames of a zstd file, each of which must tell its content's size and end in a checksum.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = zstd::zstd_safe::find_frame_compressed_size(rest).expect("a frame");
        let (frame, more) = rest.split_at(length);
        assert!(zstd::zstd_safe::get_frame_content_size(frame).expect("a frame").is_some());
        // RFC 8878, section 3.1.1.1.1: bit 2 of the descriptor, which follows the magic.
        assert!(frame[4] & 4 != 0, "a checksum");
        frames.push(frame.to_vec());
        rest = more;
    }
    frames
}

fn copy_without_change(from: &Path, to: &Path) {
    let (image, output) = DiskImage::open_for(from, &new_file(to), &quiet).unwrap();
    let root = image.root(None, &|_| Ok(TreeKind::Unknown)).unwrap();
    output.commit(image, &Patch::new(&root.partition, []).unwrap(), &quiet).unwrap();
}

#[test]
fn a_frame_holds_16_mib_and_only_those_that_the_change_touches_are_new() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    disk(&path("raw.img"), 70 * MIB, 50 * MIB);
    zstd(&path("raw.img"));
    copy_without_change(&path("raw.img.zst"), &path("same.zst"));
    commit(&path("raw.img.zst"), &new_file(&path("out.zst"))).unwrap();
    let raw = fs::read(path("raw.img")).unwrap();
    assert!(unzstd(&path("same.zst")) == raw);
    assert!(unzstd(&path("out.zst")) == changed(&raw));
    let (same, out) = (frames(&path("same.zst")), frames(&path("out.zst")));
    assert_eq!((same.len(), out.len()), (5, 5), "70 MiB");
    let new: Vec<usize> = (0..5).filter(|number| same[*number] != out[*number]).collect();
    assert_eq!(new, [0], "the change is at {} of the root, which starts at 8 MiB", CHANGE.0);
    // The old content of what changed is not there, in no form: the frames are those of the new disk and no others.
    let place = usize::try_from(8 * MIB + CHANGE.0).unwrap();
    for (number, frame) in out.iter().enumerate() {
        let content = zstd::decode_all(&frame[..]).unwrap();
        let start = number * usize::try_from(FRAME).unwrap();
        assert!(content == changed(&raw)[start..][..content.len()], "frame {number}");
    }
    assert!(raw[place..][..4] != CHANGE.1[..4]);
    // And we read it ourselves.
    assert_eq!(DiskImage::open(&path("out.zst"), &quiet).unwrap().size(), 70 * MIB);
}

#[test]
fn a_disk_gives_the_same_bytes_whatever_it_came_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // A hole in the middle, zeros that are no hole, noise, and a last frame that is cut off.
    disk(&path("raw.img"), 100 * MIB + 512, 90 * MIB);
    poke(&path("raw.img"), 60 * MIB, &vec![0; 20 << 20]);
    zstd(&path("raw.img"));
    run(
        "zstd",
        &["-q", "-1", "--no-check", path("raw.img").to_str().unwrap(), "-o", path("other.zst").to_str().unwrap()],
    );
    let mut outputs = Vec::new();
    for (number, from) in ["raw.img", "raw.img.zst", "other.zst", "raw.img.zst"].into_iter().enumerate() {
        let to = path(&format!("{number}.zst"));
        commit(&path(from), &new_file(&to)).unwrap();
        outputs.push(fs::read(to).unwrap());
    }
    commit(&path("other.zst"), &in_place()).unwrap();
    outputs.push(fs::read(path("other.zst")).unwrap());
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(unzstd(&path("0.zst")) == changed(&fs::read(path("raw.img")).unwrap()));
}

#[test]
fn a_disk_may_end_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (size, count) in [(32 * MIB - 512, 2), (32 * MIB, 2), (32 * MIB + 512, 3)] {
        disk(&path("raw.img"), size, size - 512);
        zstd(&path("raw.img"));
        for from in ["raw.img", "raw.img.zst"] {
            let out = path("out.zst");
            commit(&path(from), &new_file(&out)).unwrap();
            assert_eq!(frames(&out).len(), count, "{from} of {size} bytes");
            assert!(unzstd(&out) == changed(&fs::read(path("raw.img")).unwrap()), "{from} of {size} bytes");
            fs::remove_file(out).unwrap();
        }
    }
}
