//! What `inject` would refuse, `plan` refuses with the same words, after the changes; and it writes nothing.

use std::fs;
use std::process::Command;

use crate::kit::images::Image;
use crate::kit::mount::debugfs_write;
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, sha256_of, tool};

fn scratch(mke2fs: &[&str], size: &str) -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc/secrets")).unwrap();
    fs::create_dir_all(scratch.join("root/usr")).unwrap();
    let tree = scratch.join("root");
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4"]).args(mke2fs).arg("-d").arg(&tree).arg(scratch.join("i.img")).arg(size);
    tool(&mut command);
    scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: 'file:value' }\n");
    scratch.write("value", "a value");
    scratch
}

fn run(scratch: &Scratch, args: &[&str]) -> Finished {
    Deaddrop::new(scratch).args(args).run()
}

#[test]
fn plan_refuses_what_inject_refuses_with_the_same_words() {
    for (name, options, size, value, commands, want) in [
        ("a feature", &["-O", "quota"][..], "20M", 10, &[][..], "quota"),
        ("errors", &[], "20M", 10, &["ssv state 2"][..], "errors recorded"),
        ("unclean", &[], "20M", 10, &["ssv state 0"], "not unmounted cleanly"),
        ("no block", &["-O", "^has_journal"], "2M", 8 << 20, &[], "the file system has"),
        ("no inode", &["-O", "^has_journal", "-N", "16"], "2M", 10, &["ssv free_inodes_count 0"], "0 free"),
        ("an immutable directory", &[], "20M", 10, &["sif /etc/secrets flags 0x80010"], "immutable"),
    ] {
        let scratch = scratch(options, size);
        scratch.write("value", vec![b'v'; value]);
        debugfs_write(&Image::new(scratch.join("i.img"), 0), &commands.join("\n"));
        let before = sha256_of(&scratch.join("i.img"));
        let injected = run(&scratch, &["inject", "i.img", "-o", "out.img"]).expect_code(1);
        let planned = run(&scratch, &["plan", "i.img"]).expect_code(1);
        assert!(planned.stderr().contains(want), "{name}: {}", planned.stderr());
        assert_eq!(
            planned.stderr().replace("i.img", "out.img"),
            injected.stderr().replace("i.img", "out.img"),
            "{name}"
        );
        assert!(planned.stdout().contains("+ /etc/secrets/a"), "{name}: {}", planned.stdout());
        let json = run(&scratch, &["plan", "i.img", "--json"]).expect_code(1);
        assert_eq!(json.stdout(), "", "{name}");
        run(&scratch, &["plan", "i.img", "--quick"]).expect_code(0).expect_output("1 to create");
        run(&scratch, &["plan", "i.img", "--quick", "--exit-code"]).expect_code(3);
        assert_eq!(sha256_of(&scratch.join("i.img")), before, "{name}");
    }
}

#[test]
fn quick_is_for_images() {
    let scratch = scratch(&[], "20M");
    run(&scratch, &["plan", "root", "--quick"]).expect_code(2).expect_error("`root` is a directory");
    run(&scratch, &["plan", "@node1", "--quick"]).expect_code(2).expect_error("a running node");
    run(&scratch, &["plan", "--all", "--quick"]).expect_code(2);
}
