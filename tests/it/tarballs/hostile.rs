//! Archives made to harm: each ends within the limits of hostile input, refused and untouched.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use super::{MAKERS, items, prepared};
use crate::kit::files::{fingerprint, names};
use crate::kit::manifest::{Item, Manifest};
use crate::kit::program;

/// A header by hand, with a right checksum.
fn header(name: &str, kind: u8, size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..124 + size.len()].copy_from_slice(size);
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A file of a size in octal, without its data.
fn file(name: &str, size: u64) -> Vec<u8> {
    header(name, b'0', format!("{size:011o}\0").as_bytes())
}

fn etc() -> Vec<u8> {
    header("etc/", b'5', b"00000000000\0")
}

/// A sparse header of old GNU form: parts (offset, size), and the size of the file.
fn sparse(stored: u64, parts: &[(u64, u64)], real: &[u8]) -> Vec<u8> {
    let mut block = header("hole", b'S', format!("{stored:011o}\0").as_bytes());
    for (index, (offset, size)) in parts.iter().enumerate() {
        let part = format!("{offset:011o}\0{size:011o}\0");
        block[386 + index * 24..][..24].copy_from_slice(part.as_bytes());
    }
    block[483..483 + real.len()].copy_from_slice(real);
    seal(&mut block);
    block
}

fn pax(size: usize, records: &[u8]) -> Vec<u8> {
    let mut bytes = header("x", b'x', format!("{size:011o}\0").as_bytes());
    bytes.extend(records);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn sizes_maps_and_types_that_lie_are_refused() {
    let big = &b"\x80\0\0\0\0\0\x64\0\0\0\0\0"[..];
    let map = |text: &str| pax(text.len(), text.as_bytes());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("beyond", file("a", 1 << 30), "truncated"),
        ("negative", header("a", b'0', b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0"), "it has no size"),
        ("huge", header("a", b'0', b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), "truncated"),
        ("too huge", header("a", b'0', b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), "it has no size"),
        ("pax of 1 GB", pax(1 << 30, b""), "an extended header of the tar has 1 GiB"),
        ("pax of 1 GB in GNU's form", header("x", b'L', b"10000000000\0"), "an extended header of the tar has 1 GiB"),
        ("pax that is damaged", pax(512, &[b'7'; 512]), "an extended header is damaged"),
        ("pax without an entry", pax(0, b""), "an extended header has no entry"),
        ("a map that overlaps", sparse(1024, &[(0, 512), (256, 512)], b"00000010000\0"), "its map of holes is wrong"),
        ("a map behind its file", sparse(512, &[(1 << 20, 512)], b"00000001000\0"), "its map of holes is wrong"),
        ("a map of 100 TB", sparse(0, &[(0, 0)], big), "its map of holes is wrong"),
        (
            "a map in records",
            [map("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=1024\n"), file("a", 0)].concat(),
            "its map of holes is wrong",
        ),
        (
            "names in a global header",
            [
                header("g", b'g', b"00000000014\0"),
                {
                    let mut b = b"12 path=etc\n".to_vec();
                    b.resize(512, 0);
                    b
                },
                file("a", 0),
            ]
            .concat(),
            "in a global header",
        ),
        (
            "a directory with a size",
            [header("d", b'5', b"00000001000\0"), vec![0; 512]].concat(),
            "has a size, though it is no file",
        ),
        (
            "a link with a size",
            [header("d", b'2', b"00000001000\0"), vec![0; 512]].concat(),
            "has a size, though it is no file",
        ),
        ("another volume", header("a", b'M', b"00000000000\0"), "is continued from another volume"),
        ("an unknown type", header("a", b'Z', b"00000000000\0"), "is of the unknown type"),
        (
            "a checksum",
            {
                let mut b = file("a", 0);
                b[0] = b'b';
                b
            },
            "its checksum is wrong",
        ),
        (
            "an owner",
            {
                let mut b = file("a", 0);
                b[108..116].copy_from_slice(b"\x80\0\0\x01\0\0\0\0");
                seal(&mut b);
                b
            },
            "its owner",
        ),
    ];
    let manifest = Manifest::new(vec![Item::new("token", "/etc/token")]);
    for (name, bytes, want) in cases {
        let path = manifest.scratch.write("bad.tar", [etc(), bytes, vec![0; 1024]].concat());
        let before = fingerprint(&path);
        for arguments in [&["inject", "bad.tar"][..], &["inject", "bad.tar", "-o", "out.tar"], &["verify", "bad.tar"]] {
            manifest.deaddrop(arguments).limited().run().expect_refusal(name, 1, &[want]);
        }
        assert!(fingerprint(&path) == before && !manifest.scratch.join("out.tar").exists(), "{name}");
    }
}

#[test]
fn devices_and_set_id_bits_in_it_are_only_data() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/token")]);
    let mut device = header("etc/token", b'3', b"00000000000\0");
    device[329..337].copy_from_slice(b"0000001\0");
    seal(&mut device);
    manifest.scratch.write("node.tar", [etc(), device, vec![0; 1024]].concat());
    manifest.deaddrop(&["inject", "node.tar"]).run().expect_refusal("a device", 1, &["is a character device"]);
}

#[test]
fn a_million_entries_and_a_name_of_a_thousand_directories_end_in_time() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/token")]);
    let path = manifest.scratch.join("many.tar");
    let mut file = std::io::BufWriter::new(File::create(&path).unwrap());
    file.write_all(&etc()).unwrap();
    for number in 0..1_000_001 {
        file.write_all(&self::file(&format!("etc/{number}"), 0)).unwrap();
    }
    drop(file);
    manifest.deaddrop(&["inject", "many.tar"]).limited().run().expect_refusal("many", 1, &["over 1,000,000 entries"]);
    // One less than the limit.
    File::options().write(true).open(&path).unwrap().set_len(999_990 * 512).unwrap();
    manifest.deaddrop(&["plan", "many.tar"]).limited().run().expect_code(0);
    let mut file = std::io::BufWriter::new(File::create(&path).unwrap());
    file.write_all(&etc()).unwrap();
    for number in 0..2000 {
        let name = format!("{number}/{}", "d/".repeat(1500));
        file.write_all(&header("n", b'L', format!("{:011o}\0", name.len()).as_bytes())).unwrap();
        let mut name = name.into_bytes();
        name.resize(name.len().next_multiple_of(512), 0);
        file.write_all(&name).unwrap();
        file.write_all(&self::file("n", 0)).unwrap();
    }
    drop(file);
    manifest.deaddrop(&["inject", "many.tar"]).limited().run().expect_refusal("deep", 1, &["over 1,000,000 entries"]);
}

#[test]
fn bombs_behind_a_compression_end_in_time() {
    let (manifest, tar) = prepared(items(), &MAKERS[0], "node.tar");
    for name in ["gzip", "xz", "bzip2"] {
        let packed = |bytes: &[u8], times: usize| {
            let mut child =
                Command::new(program(name)).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let bytes = bytes.to_vec();
            let writer = std::thread::spawn(move || (0..times).for_each(|_| stdin.write_all(&bytes).unwrap()));
            let output = child.wait_with_output().unwrap();
            writer.join().unwrap();
            output.stdout
        };
        let good = packed(&fs::read(&tar).unwrap(), 1);
        let header = packed(&[etc(), file("a", 100 << 30)].concat(), 1);
        let piece = packed(&[b'A'; 1 << 20], 64);
        for before in [good, header] {
            let path = manifest.scratch.join("bomb.tar.gz");
            let mut bomb = File::create(&path).unwrap();
            bomb.write_all(&before).unwrap();
            (0..1600).for_each(|_| bomb.write_all(&piece).unwrap());
            drop(bomb);
            let state = (fingerprint(&path), names(manifest.scratch.path()));
            for arguments in [&["inject", "bomb.tar.gz"][..], &["verify", "bomb.tar.gz"]] {
                manifest.deaddrop(arguments).limited().run().expect_code(1).expect_error("or one made to harm");
                fs::create_dir_all(manifest.scratch.join("tmp")).unwrap();
            }
            let now = names(manifest.scratch.path()).into_iter().filter(|name| name != "tmp");
            assert!(now.eq(state.1.into_iter().filter(|name| name != "tmp")) && fingerprint(&path) == state.0);
        }
    }
}

#[test]
fn a_tar_that_is_cut_off_anywhere_is_refused_or_ends_with_an_entry() {
    let (manifest, tar) = prepared(items(), &MAKERS[1], "node.tar");
    let whole = fs::read(&tar).unwrap();
    for length in [512, 700, 1024, 1536, 2000, 2048, 4096, 5000] {
        manifest.scratch.write("cut.tar", &whole[..length]);
        let run = manifest.deaddrop(&["plan", "cut.tar"]).limited().run();
        assert!(matches!(run.code(), Some(0 | 1)), "{length}: {}", run.stderr());
    }
}

#[test]
fn other_archives_are_refused_by_name() {
    let manifest = Manifest::new(vec![Item::new("token", "/etc/token")]);
    for (name, want) in [
        ("machine.ovf", "is an OVA"),
        ("Vagrantfile", "is a Vagrant box"),
        ("manifest.json", "is an archive of a container image"),
        ("metadata.yaml", "is LXC's metadata"),
        ("something", "is a tar without a root"),
    ] {
        manifest.scratch.write("node.tar", [file(name, 0), vec![0; 1024]].concat());
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_refusal(name, 1, &[want]);
        manifest.deaddrop_alone(&["inspect", "node.tar"]).run().expect_refusal(name, 1, &[want]);
    }
}
