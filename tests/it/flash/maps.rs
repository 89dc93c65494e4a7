//! A block map beside the image: made by bmaptool and by deaddrop.

use std::fs;

use super::{Case, assert_written};
use crate::kit::disk::{run, zstd};

#[test]
fn a_block_map_saves_reading_and_never_zeroing() {
    let case = Case::small();
    let wanted = case.injected("small.img");
    let image = case.scratch.join("small.img");
    let text = image.to_str().unwrap();
    run("bmaptool", &["-q", "create", "-o", &format!("{text}.bmap"), text]);
    let packed = zstd(&image);
    for name in ["small.img", packed.to_str().unwrap()] {
        let device = case.file("device", 28 << 20);
        let run = case.flash(name, "device").run().expect_code(0);
        run.expect_error("as far as");
        assert_written(&device, &wanted, name);
    }
    // Ours leaves out free blocks.
    fs::remove_file(format!("{text}.bmap")).unwrap();
    case.deaddrop(&["inject", "small.img", "--host", "node1", "-o", "with.img", "--sidecars"]).run().expect_code(0);
    let device = case.file("device", 28 << 20);
    case.flash("with.img", "device").run().expect_code(0).expect_error("with.img.bmap");
    let with = fs::read(case.scratch.join("with.img")).unwrap();
    assert_written(&device, &with, "ours");
}

#[test]
fn a_block_map_that_does_not_fit_is_refused_or_leaves_no_table() {
    let case = Case::small();
    let image = case.scratch.join("small.img");
    let text = image.to_str().unwrap();
    let map = format!("{text}.bmap");
    run("bmaptool", &["-q", "create", "-o", &map, text]);
    let good = fs::read_to_string(&map).unwrap();
    let device = case.file("device", 28 << 20);
    let before = fs::read(&device).unwrap();
    for (bad, texts) in [
        (good.replacen("<Range", "<Range ", 1), ["is damaged: its own checksum is another one", "move it away"]),
        ("<bmap version=\"9.0\">".to_owned(), ["is no block map of version 1 or 2", "move it away"]),
        (String::new(), ["is no block map", "move it away"]),
    ] {
        fs::write(&map, bad).unwrap();
        case.flash("small.img", "device").run().expect_refusal("bad", 1, &texts);
        assert!(fs::read(&device).unwrap() == before);
    }
    // Of another image of this size: a byte differs.
    fs::write(&map, &good).unwrap();
    let mut other = fs::read(&image).unwrap();
    other[2 << 20] ^= 1;
    fs::write(&image, &other).unwrap();
    let run = case.flash("small.img", "device").run().expect_code(5);
    run.expect_error("are not those that its block map has a checksum of").expect_error("remove the .bmap");
    super::assert_no_table(&device, "another image");
    // And of another size.
    fs::write(&image, &other[..other.len() - 4096]).unwrap();
    let device = case.file("device", 28 << 20);
    case.flash("small.img", "device").run().expect_refusal("size", 1, &["is of a disk of 25165824 bytes"]);
    assert!(fs::read(&device).unwrap() == before);
}
