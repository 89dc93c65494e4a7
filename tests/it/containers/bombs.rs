//! Files made to harm: 100 GiB of one byte from almost nothing. Each must end within the limits of hostile input,
//! refused and untouched.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use crate::kit::files::{fingerprint, names};
use crate::kit::images;
use crate::kit::manifest::{Item, Manifest};
use crate::kit::program;

/// What the program makes of `bytes`, `times` one after the other.
fn compressed(name: &str, bytes: &[u8], times: usize) -> Vec<u8> {
    let mut child = Command::new(program(name)).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || (0..times).for_each(|_| stdin.write_all(&bytes).unwrap()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

/// 100 GiB of `byte` behind the start of a disk, behind a good image, and with nothing before it.
fn is_refused(name: &str, byte: u8) {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/secrets/token")]);
    let image = fs::read(images::LEGACY.committed(&manifest.scratch).path).unwrap();
    let good = compressed(name, &image, 1);
    manifest.scratch.write("good", &good);
    manifest.deaddrop(&["inject", "good", "-o", "out.img"]).limited().run().expect_code(0);
    fs::remove_file(manifest.scratch.join("out.img")).unwrap();
    // 64 MiB.
    let piece = compressed(name, &[byte; 1 << 20], 64);
    for (what, before) in [("start", &compressed(name, &image[..1 << 20], 1)), ("good", &good)] {
        let path = manifest.scratch.join("bomb");
        let mut file = File::create(&path).unwrap();
        file.write_all(before).unwrap();
        (0..1600).for_each(|_| file.write_all(&piece).unwrap());
        drop(file);
        let state = (fingerprint(&path), names(manifest.scratch.path()));
        for arguments in [&["inject", "bomb"][..], &["inject", "bomb", "-o", "out.img"], &["verify", "bomb"]] {
            eprintln!("{arguments:?}, behind {what}");
            manifest.deaddrop(arguments).limited().run().expect_code(1).expect_error("or one made to harm");
        }
        assert_eq!((fingerprint(&path), names(manifest.scratch.path())), state);
    }
    manifest.scratch.write("bare", piece.repeat(20));
    manifest.deaddrop(&["inject", "bare"]).limited().run().expect_code(1).expect_error("is no disk image");
}

#[test]
fn gzip_of_100_gib_of_zeros() {
    is_refused("gzip", 0);
}

#[test]
fn gzip_of_100_gib_of_a_letter() {
    is_refused("gzip", b'A');
}

#[test]
fn xz_of_100_gib_of_zeros() {
    is_refused("xz", 0);
}

#[test]
fn xz_of_100_gib_of_a_letter() {
    is_refused("xz", b'A');
}

#[test]
fn bzip2_of_100_gib_of_zeros() {
    is_refused("bzip2", 0);
}

#[test]
fn bzip2_of_100_gib_of_a_letter() {
    is_refused("bzip2", b'A');
}
