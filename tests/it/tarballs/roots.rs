//! Each program's tars, in place and as a new file, in each compression.

use std::fs::{self, File};
use std::process::Command;

use super::{MAKERS, Maker, assert_in, assert_lists, by_script, entries, extracted, files, items, prepared, without};
use crate::kit::files::{fingerprint, holds, names};
use crate::kit::tool;

/// What the change makes, with the directories that are missing.
const TOUCHED: [&str; 7] = [
    "/etc/secrets/token",
    "/var/lib/app",
    "/var/lib/app/state",
    "/var/lib/app/state/long",
    "/etc/secrets/block",
    "/etc/secrets/theirs",
    "/srv/number",
];

#[test]
fn the_tars_of_each_program_are_changed_and_every_other_entry_stays() {
    for maker in MAKERS {
        let (manifest, tar) = prepared(items(), &maker, "node.tar");
        let (before, size) = (entries(&tar), fs::metadata(&tar).unwrap().len());
        let root = extracted(&manifest.scratch, &tar, "before");
        manifest.deaddrop(&["verify", "node.tar"]).run().expect_code(3);
        manifest.deaddrop(&["plan", "node.tar"]).run().expect_code(0).expect_output("5 to create");
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0).expect_error("which is a tar");
        assert_lists(&tar);
        let after = entries(&tar);
        assert_eq!(without(&after, &TOUCHED), before, "{}", maker.0);
        let record = if maker.0 == "old gnu" { 64 * 512 } else { 20 * 512 };
        let is_padded = |size: u64| size.is_multiple_of(record);
        assert!(!is_padded(size) || is_padded(fs::metadata(&tar).unwrap().len()), "{}", maker.0);
        let changed = extracted(&manifest.scratch, &tar, "after");
        assert_in(&manifest.items, &changed);
        let (old, mut new) = (files(&root), files(&changed));
        new.retain(|path, _| !TOUCHED.contains(&format!("/{path}").as_str()));
        assert_eq!(new, old, "{}", maker.0);
        let first = fingerprint(&tar);
        assert_eq!(first.mode, 0o600);
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0).expect_error("nothing to do");
        manifest.deaddrop(&["verify", "node.tar"]).run().expect_code(0);
        assert!(fingerprint(&tar) == first, "{}: a second run changed it", maker.0);
    }
}

#[test]
fn from_each_compression_to_each_other_by_the_suffix_of_out() {
    let (manifest, tar) = prepared(items(), &MAKERS[3], "node.tar");
    let before = entries(&tar);
    let kinds = [("gzip", "gz", "tgz"), ("xz", "xz", "txz"), ("zstd", "zst", "tzst"), ("bzip2", "bz2", "tbz2")];
    for (program, suffix, short) in kinds {
        let from = format!("in.tar.{suffix}");
        let packed = tool(Command::new(program).arg("-c").arg(&tar)).stdout;
        let path = manifest.scratch.write(&from, packed);
        let old = fingerprint(&path);
        manifest.deaddrop_alone(&["inspect", &from]).run().expect_code(0).expect_output(&format!("{program} → tar"));
        for (to_program, to) in
            [("cat", "tar".to_owned()), (program, short.to_owned()), (program, format!("TAR.{suffix}"))]
        {
            let out = format!("out.{to}");
            manifest.deaddrop(&["inject", &from, "-o", &out]).run().expect_code(0);
            let out = manifest.scratch.join(&out);
            if to_program != "cat" {
                tool(Command::new(program).arg("-t").stdin(File::open(&out).unwrap()));
            }
            assert_lists(&out);
            fs::remove_file(out).unwrap();
        }
        assert!(fingerprint(&path) == old, "{from} was touched");
        manifest.deaddrop(&["inject", &from]).run().expect_code(0).expect_error("which is compressed");
        let unpacked = tool(Command::new(program).arg("-dc").arg(&path)).stdout;
        let unpacked = manifest.scratch.write("unpacked.tar", unpacked);
        assert_lists(&unpacked);
        assert_eq!(without(&entries(&unpacked), &TOUCHED), before);
        let first = fingerprint(&path);
        manifest.deaddrop(&["inject", &from]).run().expect_code(0).expect_error("nothing to do");
        assert!(fingerprint(&path) == first, "a second run changed {from}");
    }
}

#[test]
fn a_new_value_takes_the_place_of_the_old_one_which_is_nowhere() {
    for maker in [&MAKERS[0], &MAKERS[1], &MAKERS[8]] {
        let (mut manifest, tar) = prepared(items(), maker, "node.tar");
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0);
        let order: Vec<String> = entries(&tar).iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
        let old = manifest.items[1].clone();
        manifest.replace(old.with_new_value().sized(600));
        manifest.deaddrop(&["inject", "node.tar"]).plant(&old.canary().unwrap()).run().expect_code(0);
        assert!(!holds(&tar, &old.value[..40]), "{}: the old value is in it", maker.0);
        let now: Vec<String> = entries(&tar).iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
        assert_eq!(now, order, "{}", maker.0);
        assert_lists(&tar);
        assert_in(&manifest.items, &extracted(&manifest.scratch, &tar, "after"));
    }
}

#[test]
fn what_follows_the_last_entry_stays() {
    let (manifest, tar) = prepared(items(), &MAKERS[3], "node.tar");
    let whole = fs::read(&tar).unwrap();
    let end = "import sys, tarfile\nwith tarfile.open(sys.argv[1]) as archive:\n    archive.getmembers()\n    \
               print(archive.offset)";
    let end: usize = by_script(end, &[tar.to_str().unwrap()]).trim().parse().unwrap();
    let cases = [
        ("two blocks", [0; 1024].to_vec()),
        ("none", Vec::new()),
        ("one block", [0; 512].to_vec()),
        ("more", [&[0; 1024][..], b"something else"].concat()),
        ("a wide record", vec![0; 40_000]),
    ];
    for (what, tail) in cases {
        let before = [&whole[..end], &tail].concat();
        fs::write(&tar, &before).unwrap();
        manifest.deaddrop(&["inject", "node.tar", "-o", "out.tar", "--force"]).run().expect_code(0);
        let after = fs::read(manifest.scratch.join("out.tar")).unwrap();
        assert!(after.starts_with(&whole[..end]), "{what}");
        let is_padding = tail.len() > 1024 && tail.iter().all(|byte| *byte == 0);
        assert!(after.ends_with(if is_padding { &[0; 1024] } else { &tail }), "{what}");
    }
}

#[test]
fn an_absent_file_goes_with_all_of_its_entries_and_rights_are_changed_in_place() {
    for maker in &MAKERS[..2] {
        let (manifest, tar) = prepared(items(), maker, "node.tar");
        let before = entries(&tar);
        manifest.deaddrop(&["inject", "node.tar"]).run().expect_code(0);
        let text = "version: 1\nsources: { ci: { type: env, prefix: TEST_ } }\nsecrets:\n  gone: { path: /etc/secrets/token, \
                    absent: true }\n  theirs: { path: /etc/secrets/theirs, from: \"ci:theirs\", mode: \"0400\" }\n";
        manifest.scratch.write("other.yaml", text);
        let run = |what: &str| {
            manifest
                .deaddrop_alone(&[what, "node.tar", "-m", "other.yaml"])
                .env("TEST_theirs", text_of(&manifest))
                .run()
        };
        run("inject").expect_code(0);
        run("verify").expect_code(0);
        assert!(!holds(&tar, &manifest.items[0].value));
        assert_lists(&tar);
        let root = extracted(&manifest.scratch, &tar, "after");
        assert!(!root.join("etc/secrets/token").exists());
        let mut theirs = manifest.items[3].clone();
        theirs = theirs.owned(0o400, 0, 0);
        assert_in(&[theirs], &root);
        assert_eq!(without(&entries(&tar), &TOUCHED), before, "{}", maker.0);
    }
}

fn text_of(manifest: &crate::kit::manifest::Manifest) -> String {
    String::from_utf8(manifest.items[3].value.clone()).unwrap()
}

#[test]
fn the_name_of_out_is_that_of_a_tar_and_of_nothing_else() {
    let (manifest, _) = prepared(items(), &Maker("gnu", MAKERS[0].1), "node.tar");
    manifest.deaddrop(&["verify", "node.tar"]).run().expect_code(3);
    let before = names(manifest.scratch.path());
    for out in ["out.img", "out.tar.lz4", "out.gz", "out.qcow2", "out"] {
        let run = manifest.deaddrop(&["inject", "node.tar", "-o", out]).run();
        run.expect_refusal(out, 2, &["no name of a tar", "OUT.tar.gz"]);
    }
    let run = manifest.deaddrop(&["inject", "node.tar", "-o", "out.tar", "--format", "raw"]).run();
    run.expect_refusal("--format", 2, &["is for disk images"]);
    for option in [&["--root-partition", "1"][..], &["--backend", "mount", "--in-place"]] {
        let run = manifest.deaddrop(&[&["inject", "node.tar"], option].concat()).run();
        run.expect_refusal("an option of disks", 1, &["is for disk images"]);
    }
    assert_eq!(names(manifest.scratch.path()), before);
}

#[test]
fn a_disk_gets_no_name_of_a_tar() {
    let manifest = crate::kit::manifest::Manifest::new(items());
    let image = crate::kit::images::LEGACY.committed(&manifest.scratch).path;
    for out in ["out.tar", "out.tar.xz", "out.tgz", "out.tar.zst"] {
        let from = image.file_name().unwrap().to_str().unwrap();
        manifest.deaddrop(&["inject", from, "-o", out]).run().expect_refusal(out, 2, &["--format"]);
    }
}
