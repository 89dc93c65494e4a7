//! The damaged images of e2fsprogs' own tests: no panic, no hang, and after a change e2fsck finds nothing that it did
//! not find before.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use deaddrop_core::tree::Tree;

use crate::kit::ext4::{Image, time, write};
use crate::kit::shout;

/// Where the corpus is, if it is there.
fn corpus() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let given = std::env::var_os("DEADDROP_SHARED").map(PathBuf::from);
    let places = given.into_iter().chain([beside]);
    places.map(|place| place.join("corpus/e2fsprogs")).find(|place| place.is_dir())
}

#[test]
fn images_of_the_corpus_are_refused_or_no_worse_afterwards() {
    let Some(corpus) = corpus() else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "the corpus is missing");
        shout("the corpus of e2fsprogs is missing (DEADDROP_SHARED): damaged images were not tried");
        return;
    };
    let mut images: Vec<PathBuf> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    images.sort();
    assert!(images.len() > 100);
    let mut written = 0;
    for packed in images {
        let name = packed.file_name().unwrap().to_string_lossy().into_owned();
        let image = Image::empty();
        let unpacked = Command::new("gzip").arg("-dc").arg(&packed).output().unwrap();
        fs::write(&image.path, &unpacked.stdout).unwrap();
        written += usize::from(try_one(&image, &name));
    }
    // Many of these are fine but for a file or a count that we do not touch.
    assert!(written > 20, "only {written} images were written");
}

/// True when the image could be written.
fn try_one(image: &Image, name: &str) -> bool {
    let Ok(mut ext4) = image.open() else { return false };
    if let Ok(root) = ext4.root() {
        for component in ["lost+found", "etc", "test", "a", "dir"] {
            if let Ok(Some((node, _))) = ext4.child(&root, component.as_bytes()) {
                let _ = ext4.read_link(&node);
                let _ = ext4.read(&node, 1 << 20);
                let _ = ext4.child(&node, b"x");
            }
        }
    }
    let changes = [write("/deaddrop-test", b"first", 0o400, 0, 0), write("/deaddrop-test-2", &[9; 9000], 0o400, 0, 0)];
    if ext4.apply(&changes, time()).is_err() {
        return false;
    }
    let (before, complained) = image.fsck();
    image.commit(&ext4);
    let (after, complaints) = image.fsck();
    assert!(after <= before, "{name}: e2fsck exits {after}, not {before}: {complaints:?}");
    assert!(complaints.len() <= complained.len(), "{name}: before {complained:#?}\nafter {complaints:#?}");
    true
}
