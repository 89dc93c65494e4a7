//! Images that are wrong, and outputs that cannot be: exit 1, the image byte for byte as before, and no file left.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::stat::Mode;

use super::{MIB, disk, small_root};
use crate::kit::canary::Canary;
use crate::kit::images::{self, Image};
use crate::kit::mount::{assert_fsck_clean, debugfs};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, program, sha256_of, skipped_without_root, tool};

/// The digests of all files in a scratch directory, but for the program's and the harness's own.
fn files(scratch: &Scratch) -> Vec<(String, String)> {
    let names = fs::read_dir(scratch.path()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "deaddrop" && name != "tmp").collect();
    names.sort();
    let digest = |name: &String| {
        let path = scratch.join(name);
        if path.is_file() { sha256_of(&path) } else { String::new() }
    };
    names.iter().map(|name| (name.clone(), digest(name))).collect()
}

/// Runs `inject` with `args`, and panics unless it is refused with these texts and every file is as before.
#[track_caller]
fn refused(scratch: &Scratch, name: &str, args: &[&str], texts: &[&str]) {
    let value = Canary::new("a");
    scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n");
    let before = files(scratch);
    let run = Deaddrop::new(scratch).args(["inject"]).args(args).env("A", value.text()).plant(&value).limited().run();
    run.expect_refusal(name, 1, texts);
    assert_eq!(files(scratch), before, "{name}");
}

#[test]
fn what_is_no_image_is_refused_by_its_kind() {
    let scratch = Scratch::new();
    nix::unistd::mkfifo(&scratch.join("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(scratch.join("socket")).unwrap();
    scratch.write("empty", "");
    scratch.write("text", "this is no image\n".repeat(1000));
    scratch.write("short", [0; 100]);
    File::create(scratch.join("zeros")).unwrap().set_len(MIB).unwrap();
    symlink("nowhere", scratch.join("dangling")).unwrap();
    symlink("circle", scratch.join("circle")).unwrap();
    for (name, texts) in [
        ("missing", &["missing: nothing was changed", "there is no such file", "hint: "][..]),
        ("fifo", &["fifo is a FIFO, not a disk image", "hint: name an image file"]),
        ("socket", &["socket is a socket"]),
        ("/dev/null", &["/dev/null is a character device"]),
        ("empty", &["empty is empty", "hint: was it copied or downloaded whole?"]),
        ("dangling", &["dangling is a symbolic link to nowhere, which is not there", "hint: "]),
        ("circle", &["circle"]),
        ("text", &["text"]),
        ("short", &["short is no disk image: it has 100 bytes"]),
        ("zeros", &["no root found", "hint: "]),
    ] {
        refused(&scratch, name, &[name], texts);
        let inspect = Deaddrop::new(&scratch).args(["inspect", name]).limited().run();
        assert!(!inspect.stderr().contains("panicked"), "{name}");
        if name != "zeros" && name != "text" {
            inspect.expect_refusal(name, 1, &texts[texts.len().min(2) - 1..texts.len().min(2)]);
        }
    }
    fs::create_dir(scratch.join("directory")).unwrap();
    let inspect = Deaddrop::new(&scratch).args(["inspect", "directory"]).run();
    inspect.expect_refusal("a directory", 1, &["directory is a directory, not a disk image"]);
}

#[test]
fn an_image_that_is_cut_off_is_refused_wherever_it_is_cut() {
    let scratch = Scratch::new();
    let image = images::RAW_EFI.committed(&scratch);
    let whole = fs::metadata(&image.path).unwrap().len();
    let compressed = fs::read(images::RAW_EFI.compressed()).unwrap();
    for (name, length) in [
        ("in the MBR", 300),
        ("in the GPT's header", 600),
        ("in the GPT's entries", 10 << 10),
        ("before the first partition", MIB),
        ("in the ESP", 12 * MIB),
        ("before the root's superblock", image.root_offset + 512),
        ("in the root's superblock", image.root_offset + 1500),
        ("in the root's descriptors", image.root_offset + 5000),
        ("in the middle of the root", image.root_offset + 30 * MIB),
        ("one byte before the root's end", image.root_offset + 64 * MIB - 1),
    ] {
        let cut = scratch.join("cut.img");
        fs::copy(&image.path, &cut).unwrap();
        OpenOptions::new().write(true).open(&cut).unwrap().set_len(length).unwrap();
        refused(&scratch, name, &["cut.img"], &["cut.img: nothing was changed", "cause: "]);
        let inspect = Deaddrop::new(&scratch).args(["inspect", "cut.img"]).limited().run();
        assert!(!inspect.stderr().contains("panicked"), "{name}");
    }
    assert!(whole > image.root_offset + 64 * MIB);
    for length in [3, 10, 1000, compressed.len() / 2, compressed.len() - 1] {
        scratch.write("cut.img.zst", &compressed[..length]);
        refused(
            &scratch,
            "zstd",
            &["cut.img.zst", "-o", "out.img"],
            &["cut.img.zst", "nothing was changed", "cause: "],
        );
    }
    let mut damaged = compressed.clone();
    damaged[compressed.len() / 2] ^= 0x55;
    scratch.write("cut.img.zst", &damaged);
    refused(&scratch, "zstd with a bit turned", &["cut.img.zst"], &["cut.img.zst", "nothing was changed"]);
}

#[test]
fn the_root_must_be_one_and_must_be_there() {
    let scratch = Scratch::new();
    small_root(&scratch, "root.ext4", 8 * MIB, "", &[]);
    small_root(&scratch, "nixos.ext4", 8 * MIB, "nixos", &[]);
    let store = scratch.join("root.ext4");
    let two =
        "label: gpt\n start=2048, size=16384, type=linux, name=one\n start=20480, size=16384, type=linux, name=two\n";
    disk(&scratch.join("two.img"), 20 * MIB, two, &[(MIB, &store), (10 * MIB, &store)]);
    disk(
        &scratch.join("labels.img"),
        20 * MIB,
        two,
        &[(MIB, &scratch.join("nixos.ext4")), (10 * MIB, &scratch.join("nixos.ext4"))],
    );
    disk(&scratch.join("none.img"), 20 * MIB, two, &[]);
    disk(&scratch.join("blank.img"), 20 * MIB, "label: gpt\n", &[]);
    disk(&scratch.join("outside.img"), 20 * MIB, two, &[(MIB, &store)]);
    for (name, args, texts) in [
        (
            "two that hold a store",
            &["two.img"][..],
            &["two.img", "nothing was changed", "hint: ", "--root-partition"][..],
        ),
        ("two of the label", &["labels.img"], &["labels.img", "--root-partition"]),
        ("no file system", &["none.img"], &["none.img: no root found"]),
        ("no partition", &["blank.img"], &["blank.img: no root found"]),
        ("a number that is not there", &["two.img", "--root-partition", "9"], &["two.img", "9"]),
        ("a label that is not there", &["two.img", "--root-partition", "persist"], &["two.img", "persist"]),
        ("a partition without a file system", &["outside.img", "--root-partition", "2"], &["outside.img"]),
        ("nothing as a partition", &["two.img", "--root-partition", ""], &["two.img"]),
    ] {
        refused(&scratch, name, args, texts);
    }
    let value = Canary::new("a");
    let run = |args: &[&str]| Deaddrop::new(&scratch).args(args).env("A", value.text()).plant(&value).run();
    run(&["inject", "two.img", "--root-partition", "2"]).expect_code(0);
    assert_fsck_clean(&Image::new(scratch.join("two.img"), 10 * MIB));
    run(&["verify", "two.img", "--root-partition", "2"]).expect_code(0);
    run(&["verify", "two.img", "--root-partition", "1"]).expect_code(3);
    let inspect = run(&["inspect", "none.img", "--json"]).expect_code(0).json();
    assert!(inspect["root"].is_null() && inspect["root_problem"].is_string(), "{inspect}");
}

#[test]
fn a_full_file_system_is_told_with_what_it_needs() {
    let scratch = Scratch::new();
    small_root(&scratch, "blocks.img", 8 * MIB, "nixos", &[]);
    fill(&scratch.join("blocks.img"), &scratch);
    refused(&scratch, "no space", &["blocks.img"], &["nothing was changed", "free", "hint: make the image larger"]);
    small_root(&scratch, "inodes.img", 8 * MIB, "nixos", &["-N", "32"]);
    fill_inodes(&scratch.join("inodes.img"), &scratch);
    refused(&scratch, "no inodes", &["inodes.img"], &["nothing was changed", "inode", "hint: "]);
}

/// `ulimit -f`: no write beyond so many KiB of a file. The values' blocks are written before the log is.
#[test]
fn a_limit_on_the_size_of_a_file_ends_a_run_with_the_image_as_it_was() {
    const LIMITED: &str = "ulimit -f $1; shift; exec \"$@\"";
    let scratch = Scratch::new();
    scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n");
    small_root(&scratch, "node.img", 48 * MIB, "nixos", &[]);
    fs::set_permissions(scratch.join("node.img"), Permissions::from_mode(0o640)).unwrap();
    let before = sha256_of(&scratch.join("node.img"));
    let value = Canary::new("a");
    let run = |kib: u32| {
        let kib = kib.to_string();
        let program = env!("CARGO_BIN_EXE_deaddrop");
        Deaddrop::new(&scratch)
            .instead("/bin/sh")
            .args(["-c", LIMITED, "sh", kib.as_str(), program, "inject", "node.img"])
            .env("A", value.text())
            .plant(&value)
            .run()
    };
    let journal = debugfs(&Image::new(scratch.join("node.img"), 0), &["blocks <8>".to_owned()]).concat();
    let journal: u32 = journal.split_whitespace().next().unwrap().parse().unwrap();
    // Before any value, before the log, and within it.
    for kib in [1, 300, 1_000, journal - 1, journal + 1, journal + 3] {
        run(kib).expect_refusal(
            &format!("{kib} KiB"),
            1,
            &["nothing was changed", "writing node.img", "File too large"],
        );
        assert_eq!(sha256_of(&scratch.join("node.img")), before, "{kib} KiB");
        let mode = fs::metadata(scratch.join("node.img")).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "{kib} KiB");
    }
    run(48 << 10).expect_code(0);
    assert_fsck_clean(&Image::new(scratch.join("node.img"), 0));
}

/// Fills a file system without leaving one block free.
fn fill(image: &Path, scratch: &Scratch) {
    scratch.write("filling", vec![b'x'; 16 << 20]);
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-w", "-R"]).arg(format!("write {} filling", scratch.join("filling").display())).arg(image);
    tool(&mut debugfs);
    fs::remove_file(scratch.join("filling")).unwrap();
    // What debugfs wrote until there was no more room: the counts are set right.
    let _ = Command::new(program("e2fsck")).args(["-fy"]).arg(image).output();
}

/// Makes empty files until no inode is free.
fn fill_inodes(image: &Path, scratch: &Scratch) {
    scratch.write("empty", "");
    let commands: String = (0..64).map(|at| format!("write {} f{at}\n", scratch.join("empty").display())).collect();
    let script = scratch.write("script", commands);
    tool(Command::new("debugfs").arg("-w").arg("-f").arg(script).arg(image));
    for name in ["empty", "script"] {
        fs::remove_file(scratch.join(name)).unwrap();
    }
    let _ = Command::new(program("e2fsck")).args(["-fy"]).arg(image).output();
}

#[test]
fn an_output_that_cannot_be_is_refused_and_nothing_is_left() {
    let scratch = Scratch::new();
    small_root(&scratch, "node.img", 8 * MIB, "nixos", &[]);
    scratch.write("there.img", "something else");
    symlink("node.img", scratch.join("link.img")).unwrap();
    fs::create_dir(scratch.join("directory")).unwrap();
    nix::unistd::mkfifo(&scratch.join("fifo"), Mode::S_IRWXU).unwrap();
    for (name, out, texts) in [
        ("it exists", "there.img", &["there.img", "--force"][..]),
        ("it is the image", "node.img", &["node.img"]),
        ("it is the image, by another way", "./directory/../node.img", &["node.img"]),
        ("it leads to the image", "link.img", &["link.img"]),
        ("it is a directory", "directory", &["directory"]),
        ("it is a FIFO", "fifo", &["fifo"]),
        ("its directory is missing", "missing/out.img", &["missing"]),
        ("it is below a file", "there.img/out.img", &["there.img"]),
        ("a suffix that we cannot write", "out.img.lz4", &["out.img.lz4"]),
        ("another", "out.iso", &["out.iso"]),
    ] {
        refused(&scratch, name, &["node.img", "-o", out], texts);
    }
    for out in ["node.img", "link.img", "directory"] {
        refused(&scratch, out, &["node.img", "-o", out, "--force"], &[out]);
    }
}

#[test]
fn an_image_that_may_not_be_written_is_left_alone() {
    if skipped_without_root("an image of another user") {
        return;
    }
    let scratch = Scratch::new();
    small_root(&scratch, "node.img", 8 * MIB, "nixos", &[]);
    scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n");
    let image = scratch.join("node.img");
    fs::set_permissions(&image, fs::Permissions::from_mode(0o444)).unwrap();
    let before = sha256_of(&image);
    let value = Canary::new("a");
    let run = Deaddrop::new(&scratch).args(["inject", "node.img"]).env("A", value.text()).plant(&value);
    run.unprivileged().run().expect_refusal("not ours", 1, &["node.img: nothing was changed", "hint: ", "-o"]);
    assert_eq!(sha256_of(&image), before);
    // Reading it is enough for a new one.
    fs::create_dir(scratch.join("out")).unwrap();
    std::os::unix::fs::chown(scratch.join("out"), Some(65534), Some(65534)).unwrap();
    let run = Deaddrop::new(&scratch).args(["inject", "node.img", "-o", "out/node.img"]).env("A", value.text());
    run.plant(&value).unprivileged().run().expect_code(0);
    let made = fs::metadata(scratch.join("out/node.img")).unwrap();
    assert_eq!(made.permissions().mode() & 0o7777, 0o600);
    assert_eq!(sha256_of(&image), before);
}

#[test]
fn a_write_that_fails_is_taken_back_or_finished_by_the_next_run() {
    if skipped_without_root("failing the writes of a process that lets nobody look") {
        return;
    }
    for (injection, code) in [
        ("pwrite64:error=EIO:when=1", 1),
        ("pwrite64:error=EIO:when=2", 1),
        ("pwrite64:error=ENOSPC:when=9", 1),
        ("fdatasync:error=EIO:when=1", 1),
        ("pwrite64:error=EIO:when=5+", 1),
        ("fdatasync:error=EIO:when=2", 1),
        ("fdatasync:error=EIO:when=2+", 5),
        ("pwrite64:error=EIO:when=16", 5),
        ("pwrite64:error=EIO:when=20+", 5),
    ] {
        let scratch = Scratch::new();
        let image = images::RAW_EFI.committed(&scratch);
        let (before, value) = (sha256_of(&image.path), Canary::new("a"));
        scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n");
        let inject = || {
            let run = Deaddrop::new(&scratch).args(["inject", "raw-efi.img"]);
            run.env("A", value.text()).plant(&value)
        };
        let run = inject().tampered(injection).run();
        let mode = fs::metadata(&image.path).unwrap().permissions().mode() & 0o7777;
        if code == 5 {
            run.expect_refusal(injection, 5, &["raw-efi.img: stopped in the middle", "hint: `deaddrop recover IMAGE`"]);
            assert_eq!(mode, 0o600, "{injection}");
        } else if injection.ends_with('+') {
            run.expect_refusal(
                injection,
                1,
                &["raw-efi.img: nothing was changed", "its mode stays 0600", "scrub IMAGE"],
            );
            assert_eq!(mode, 0o600, "{injection}");
        } else {
            run.expect_refusal(injection, 1, &["raw-efi.img: nothing was changed", "cause: writing raw-efi.img"]);
            assert_eq!((sha256_of(&image.path), mode), (before, 0o644), "{injection}");
        }
        inject().run().expect_code(0);
        assert_fsck_clean(&image);
        let verify = Deaddrop::new(&scratch).args(["verify", "raw-efi.img"]).env("A", value.text());
        verify.plant(&value).run().expect_code(0);
    }
}

#[test]
fn a_directory_that_cannot_be_synced_is_told_and_not_called_done() {
    if skipped_without_root("failing the syncs of a process that lets nobody look") {
        return;
    }
    let scratch = Scratch::new();
    let image = images::RAW_EFI.committed(&scratch);
    tool(Command::new("zstd").args(["-q", "-1", "raw-efi.img", "-o", "packed.img.zst"]).current_dir(scratch.path()));
    scratch.write("old.img", "what stood there");
    scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n  \
         t: { path: /etc/secrets/t, generate: token }\n",
    );
    let before = sha256_of(&image.path);
    let value = Canary::new("a");
    let run = |args: &[&str]| {
        let run = Deaddrop::new(&scratch).args(["inject"]).args(args).env("A", value.text()).plant(&value);
        run.tampered("fsync:error=EIO:when=2").run()
    };
    let verify = |name: &str| {
        let run = Deaddrop::new(&scratch).args(["verify", name]).env("A", value.text()).plant(&value);
        run.run().expect_code(0);
    };
    // A name that is new goes again.
    let texts = ["error: new.img: nothing was changed", "cause: writing new.img", "cause: Input/output error"];
    run(&["raw-efi.img", "-o", "new.img"]).expect_refusal("a new output", 1, &texts);
    assert!(!scratch.join("new.img").exists());
    // What is replaced cannot be had back.
    let texts = [
        "stopped in the middle",
        "is the new image, whole, but its directory could not be synced",
        "hint: is the disk",
    ];
    run(&["raw-efi.img", "-o", "old.img", "--force"]).expect_refusal("an output that is replaced", 5, &texts);
    verify("old.img");
    run(&["packed.img.zst"]).expect_refusal("a compressed image in place", 5, &texts);
    verify("packed.img.zst");
    assert_eq!(sha256_of(&image.path), before);
    // The image is changed by its journal, so that this is the file of public parts.
    let run = Deaddrop::new(&scratch).args(["inject", "raw-efi.img", "--public-out", "keys"]).env("A", value.text());
    let run = run.plant(&value).tampered("fsync:error=EIO:when=3").run().expect_code(5);
    run.expect_error("the public parts are written, but the directory could not be synced")
        .expect_error("2 secrets written");
    verify("raw-efi.img");
    let run =
        Deaddrop::new(&scratch).args(["init", "--yes", "-o", "first.yaml"]).tampered("fsync:error=EIO:when=2").run();
    run.expect_refusal("init", 1, &["first.yaml: nothing was changed"]);
    let left = files(&scratch).into_iter().filter(|(name, _)| name.starts_with(".deaddrop") || name == "first.yaml");
    assert_eq!(left.count(), 0);
}

#[test]
fn an_odd_tree_in_an_image_is_judged_as_in_a_directory() {
    let scratch = Scratch::new();
    let image = images::RAW_EFI.committed(&scratch);
    let before = sha256_of(&image.path);
    let value = Canary::new("a");
    for (path, texts) in [
        ("/etc/static", &["NX004"][..]),
        ("/etc/passwd/x", &["/etc/passwd is a regular file, not a directory"]),
        ("/var/lib/oddities/pipe", &["is a FIFO"]),
        ("/var/lib/oddities/null", &["is a character device"]),
        ("/var/lib/oddities", &["is a directory"]),
        ("/var/lib/oddities/dangling-absolute/x", &["NX010", "/persist/secrets"]),
        ("/etc/hosts", &["NX0"]),
    ] {
        scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n  a: {{ path: {path}, from: env:A }}\n"));
        let code = if path == "/etc/static" { 2 } else { 1 };
        let run = Deaddrop::new(&scratch).args(["inject", "raw-efi.img"]).env("A", value.text()).plant(&value).run();
        run.expect_refusal(path, code, texts);
        assert_eq!(sha256_of(&image.path), before, "{path}");
    }
}

#[test]
fn a_value_is_nowhere_but_in_the_image() {
    let scratch = Scratch::new();
    images::RAW_EFI.committed(&scratch);
    let value = Canary::new("a");
    scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n");
    for args in [
        &["plan", "raw-efi.img", "-vv", "--json"][..],
        &["inject", "raw-efi.img", "-vv", "--json", "-o", "new.img"],
        &["inject", "raw-efi.img", "-vv", "--json", "-o", "new.img.zst"],
        &["inject", "raw-efi.img", "-vv"],
        &["verify", "raw-efi.img", "-vv", "--json"],
        &["inspect", "raw-efi.img", "-vv", "--json"],
    ] {
        let run = Deaddrop::new(&scratch).args(args).env("A", value.text()).plant(&value);
        let run = run.traced("mount,ioctl,openat").run().expect_code(0);
        run.trace().assert_none(&["mount"]);
        assert!(run.trace().children().is_empty(), "{args:?} started a program");
    }
    // The search would have found it: it is in the image.
    let bytes = fs::read(scratch.join("raw-efi.img")).unwrap();
    assert!(value.found_in(&bytes).is_some());
    let mut old = [0; 4096];
    File::open(scratch.join("new.img")).unwrap().read_exact_at(&mut old, 0).unwrap();
    assert!(value.found_in(&old).is_none());
}
