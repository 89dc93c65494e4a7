//! Compressed images: made by the compressor's own program, changed by deaddrop, unpacked and judged by that program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kit::disk::{MIB, noise, poke};
use crate::kit::files::{fingerprint, names};
use crate::kit::images::{self, Image, Layout};
use crate::kit::manifest::{From, Item, Manifest};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::tree::Tree;
use crate::kit::{program, sha256_of};

/// A program that compresses: its name, which is also the one in `inspect`; its suffix; what it is asked for besides.
#[derive(Clone, Copy)]
struct Kind(&'static str, &'static str, &'static [&'static str]);

const KINDS: [Kind; 4] = [
    Kind("gzip", "gz", &["-1"]),
    // Several blocks, whose headers have no sizes.
    Kind("xz", "xz", &["-0", "-T1", "--block-size=3MiB"]),
    Kind("bzip2", "bz2", &[]),
    Kind("zstd", "zst", &["-1"]),
];

/// The output of a program that reads `from`.
fn piped(name: &str, arguments: &[&str], from: &Path, to: &Path) {
    let done = Command::new(program(name))
        .args(arguments)
        .stdin(File::open(from).unwrap())
        .stdout(File::create(to).unwrap())
        .stderr(Stdio::inherit())
        .status();
    assert!(done.unwrap().success(), "{name} {arguments:?} < {}", from.display());
}

/// `raw` compressed, beside it; returns its name.
fn pack(Kind(name, suffix, arguments): Kind, raw: &Path) -> String {
    let to = PathBuf::from(format!("{}.{suffix}", raw.display()));
    piped(name, &[arguments, &["-c"]].concat(), raw, &to);
    to.file_name().unwrap().to_str().unwrap().to_owned()
}

/// `path` unpacked by the program, which must find no fault with it.
fn unpack(Kind(name, ..): Kind, path: &Path, to: &Path) {
    piped(name, &["-t"], path, to);
    piped(name, &["-dc"], path, to);
}

fn items() -> Vec<Item> {
    vec![
        Item::new("token", "/etc/secrets/token"),
        Item::new("key", "/var/lib/secrets/key").sized(9000),
        Item::new("item", "/root/item").from(From::Vault),
    ]
}

#[track_caller]
fn assert_good(manifest: &Manifest, raw: &Path, layout: Layout) {
    let image = Image::new(raw, layout.root_offset);
    assert_fsck_clean(&image);
    manifest.assert_in(&image, &Tree::of(&image));
}

#[test]
fn an_image_in_each_compression_is_changed_in_place_and_a_second_run_changes_nothing() {
    let layout = images::LEGACY_GPT;
    for kind in KINDS {
        let Kind(shown, suffix, _) = kind;
        let manifest = Manifest::new(items());
        let raw = layout.committed(&manifest.scratch).path;
        let before = Tree::of(&Image::new(&raw, layout.root_offset));
        let image = pack(kind, &raw);
        let path = manifest.scratch.join(&image);
        fs::remove_file(&raw).unwrap();
        manifest.deaddrop_alone(&["inspect", &image]).run().expect_code(0).expect_output(&format!("{shown} → raw"));
        manifest.deaddrop(&["verify", &image]).run().expect_code(3);
        manifest.deaddrop(&["plan", &image]).run().expect_code(0).expect_output("inject rewrites");
        manifest.deaddrop(&["inject", &image]).run().expect_code(0).expect_error("which is compressed");
        unpack(kind, &path, &raw);
        assert_good(&manifest, &raw, layout);
        let after = Tree::of(&Image::new(&raw, layout.root_offset));
        let touched = [&manifest.paths()[..], &["/etc/secrets", "/var/lib/secrets"]].concat();
        before.assert_only(&after, &touched, &["/etc", "/var/lib", "/root"]);
        let first = (fingerprint(&path), sha256_of(&path));
        manifest.deaddrop(&["inject", &image]).run().expect_code(0).expect_error("nothing to do");
        manifest.deaddrop(&["verify", &image]).run().expect_code(0);
        assert_eq!((fingerprint(&path), sha256_of(&path)), first, "{suffix}: a second run changed it");
    }
}

#[test]
fn from_each_compression_to_each_other_by_the_suffix_of_out() {
    let layout = images::LEGACY;
    let manifest = Manifest::new(items());
    let raw = layout.committed(&manifest.scratch).path;
    let mut inputs: Vec<String> = KINDS.into_iter().map(|kind| pack(kind, &raw)).collect();
    inputs.push(raw.file_name().unwrap().to_str().unwrap().to_owned());
    let unpacked = manifest.scratch.join("unpacked");
    for from in inputs {
        let before = fingerprint(&manifest.scratch.join(&from));
        // Each but the input's own, which other tests write.
        for kind in KINDS.into_iter().filter(|kind| !from.ends_with(kind.1)) {
            let to = format!("out.IMG.{}", kind.1.to_uppercase());
            manifest.deaddrop(&["inject", &from, "-o", &to]).run().expect_code(0);
            unpack(kind, &manifest.scratch.join(&to), &unpacked);
            assert_good(&manifest, &unpacked, layout);
            fs::remove_file(manifest.scratch.join(&to)).unwrap();
        }
        manifest.deaddrop(&["inject", &from, "-o", "out.img"]).run().expect_code(0);
        assert_good(&manifest, &manifest.scratch.join("out.img"), layout);
        fs::remove_file(manifest.scratch.join("out.img")).unwrap();
        assert_eq!(fingerprint(&manifest.scratch.join(&from)), before, "{from} was touched");
    }
}

#[test]
fn a_large_disk_is_packed_in_pieces_that_the_programs_read_as_one() {
    let manifest = Manifest::new(items());
    let layout = images::LEGACY_GPT;
    let image = layout.committed(&manifest.scratch);
    let size = 10 * MIB + fs::metadata(&image.path).unwrap().len().next_multiple_of(64 * MIB);
    File::options().write(true).open(&image.path).unwrap().set_len(size).unwrap();
    let noise = noise(8 << 20);
    poke(&image.path, size - 8 * MIB, &noise);
    let from = image.path.file_name().unwrap().to_str().unwrap();
    let raw = manifest.scratch.join("unpacked");
    for kind in KINDS {
        let Kind(name, suffix, _) = kind;
        let to = format!("out.{suffix}");
        manifest.deaddrop(&["inject", from, "-o", &to]).run().expect_code(0);
        let path = manifest.scratch.join(&to);
        unpack(kind, &path, &raw);
        assert!(fs::read(&raw).unwrap().ends_with(&noise), "{suffix}");
        assert_good(&manifest, &raw, layout);
        if name == "xz" {
            // With sizes in the headers of the blocks, so that others unpack them on all cores.
            let list = Command::new(program("xz")).args(["-lvv", "--robot"]).arg(&path).output().unwrap();
            let list = String::from_utf8(list.stdout).unwrap();
            let blocks: Vec<&str> = list.lines().filter(|line| line.starts_with("block\t")).collect();
            assert_eq!(u64::try_from(blocks.len()).unwrap(), size.div_ceil(16 * MIB), "{list}");
            assert!(blocks.iter().all(|line| line.contains("\tcu\t")), "{list}");
        }
    }
}

#[test]
fn several_members_or_streams_are_one_image() {
    let manifest = Manifest::new(items());
    let layout = images::LEGACY;
    let raw = fs::read(layout.committed(&manifest.scratch).path).unwrap();
    for kind in KINDS {
        let mut whole = Vec::new();
        for part in [&raw[..3 << 20], &raw[3 << 20..]] {
            let path = manifest.scratch.write("part", part);
            whole.extend(fs::read(manifest.scratch.join(pack(kind, &path))).unwrap());
        }
        let image = format!("two.{}", kind.1);
        let path = manifest.scratch.write(&image, whole);
        manifest.deaddrop(&["inject", &image]).run().expect_code(0);
        let unpacked = manifest.scratch.join("unpacked");
        unpack(kind, &path, &unpacked);
        assert_good(&manifest, &unpacked, layout);
    }
}

/// What packs in parallel makes several members, streams or blocks; these are read as one image, and the program that
/// unpacks in parallel reads what deaddrop makes of it.
#[test]
fn images_made_by_the_parallel_programs_are_read_and_theirs_read_ours() {
    let manifest = Manifest::new(items());
    let layout = images::LEGACY;
    let raw = layout.committed(&manifest.scratch).path;
    let size = fs::metadata(&raw).unwrap().len();
    // What does not compress gives many pieces.
    let noise = noise(2 << 20);
    poke(&raw, size, &noise);
    let unpacked = manifest.scratch.join("unpacked");
    for (kind, magic, pieces) in [
        (Kind("pigz", "gz", &["-1", "-p4", "-b128"]), &b"\x1f\x8b\x08"[..], 1),
        // Members of their own.
        (Kind("pigz", "gz", &["-1", "-p4", "-b128", "-i"]), b"\x1f\x8b\x08", 1),
        (Kind("pbzip2", "bz2", &["-1", "-p4", "-b5"]), b"BZh1", 10),
        (Kind("xz", "xz", &["-0", "-T4", "--block-size=1MiB"]), b"\xfd7zXZ\0", 1),
        (Kind("zstd", "zst", &["-3", "--long=27", "-T2"]), b"\x28\xb5\x2f\xfd", 1),
    ] {
        let Kind(name, ..) = kind;
        let image = pack(kind, &raw);
        let path = manifest.scratch.join(&image);
        let packed = fs::read(&path).unwrap();
        let starts = packed.windows(magic.len()).filter(|part| *part == magic).count();
        assert!(starts >= pieces, "{name}: {starts} pieces");
        manifest.deaddrop(&["inject", &image]).run().expect_code(0);
        piped(name, &["-dcq"], &path, &unpacked);
        assert!(fs::read(&unpacked).unwrap().ends_with(&noise), "{name}");
        assert_good(&manifest, &unpacked, layout);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_is_cut_off_or_damaged_is_refused_and_left_alone() {
    let manifest = Manifest::new(items());
    let raw = images::LEGACY.committed(&manifest.scratch).path;
    for kind in KINDS {
        let Kind(shown, suffix, _) = kind;
        let whole = fs::read(manifest.scratch.join(pack(kind, &raw))).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 8..][..64].iter_mut().for_each(|byte| *byte ^= 0x5a);
        for (what, bytes, want) in [
            ("cut", &whole[..whole.len() / 2], format!("in the middle of its {shown} data")),
            ("damaged", &damaged, format!("the {shown} data is damaged")),
        ] {
            let image = format!("{what}.{suffix}");
            let path = manifest.scratch.write(&image, bytes);
            let state = || (fingerprint(&path), sha256_of(&path), names(manifest.scratch.path()));
            // What every run makes is there.
            manifest.deaddrop_alone(&["inspect", &image]).run().expect_code(1);
            let before = state();
            for arguments in [&["inject", &image][..], &["inject", &image, "-o", "out.img"]] {
                let run = manifest.deaddrop(arguments).run();
                run.expect_refusal(&image, 1, &["nothing was changed", &want]);
                assert_eq!(state(), before, "{image}");
            }
        }
    }
}

#[test]
fn a_dictionary_over_128_mib_is_refused_and_one_of_64_is_not() {
    let manifest = Manifest::new(items());
    let raw = images::LEGACY.committed(&manifest.scratch).path;
    let small = pack(Kind("xz", "xz", &["--lzma2=preset=0,dict=64MiB"]), &raw);
    manifest.deaddrop(&["plan", &small]).limited().run().expect_code(0);
    let large = pack(Kind("xz", "xz", &["--lzma2=preset=0,dict=256MiB"]), &raw);
    let refused = manifest.deaddrop(&["plan", &large]).limited().run().expect_code(1);
    refused.expect_error("compressed with a dictionary over 128 MiB").expect_error("unxz -k");
}

#[test]
fn a_compression_inside_of_another_is_refused_by_name() {
    let manifest = Manifest::new(items());
    let raw = images::LEGACY.committed(&manifest.scratch).path;
    let once = pack(KINDS[0], &raw);
    let twice = pack(KINDS[1], &manifest.scratch.join(once));
    let refused = manifest.deaddrop_alone(&["inspect", &twice]).run().expect_code(1);
    refused.expect_error("(decompressed) is gzip-compressed").expect_error("unxz -k");
}
