//! Images and directories whose directories have SELinux labels: what new and replaced files get, by the whole program.
//! Judged by debugfs, e2fsck, the kernel, and libselinux's own idea of a policy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::kit::images::Image;
use crate::kit::mount::{Mount, assert_fsck_clean, debugfs_write};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, is_root, skipped_without_root, tool};

const CONTEXTS: &str = "# as a policy's: the more special the later
/.*                             system_u:object_r:default_t:s0
/etc(/.*)?                      system_u:object_r:etc_t:s0
/var(/.*)?                      system_u:object_r:var_t:s0
/var/lib(/.*)?                  system_u:object_r:var_lib_t:s0
/etc/secrets(/.*)?              system_u:object_r:secret_t:s0:c0.c1023
/etc/secrets            -d      system_u:object_r:secret_dir_t:s0
/etc/ssh/ssh_host.*_key --      system_u:object_r:sshd_key_t:s0
/etc/wifi\\.env          --      system_u:object_r:wifi_t:s0
/run(/.*)?                      system_u:object_r:run_t:s0
/mnt(/.*)?                      <<none>>
/srv/([^/]+/)?keys(/.*)?        \
system_u:object_r:a_type_whose_name_is_so_long_that_no_label_with_it_fits_in_an_inode_t:s0
";

/// Where a file is declared, and what else stands in the manifest.
struct Secret(&'static str, &'static str);

/// A scratch directory with a manifest and an image.
struct Bench {
    scratch: Scratch,
    image: Image,
}

impl Bench {
    /// `labels` are paths and their labels, each with a NUL behind it; `policy` is put where SELinux looks for it.
    fn new(mke2fs: &str, labels: &[(&str, &str)], policy: Option<&str>, secrets: &[Secret]) -> Self {
        let scratch = Scratch::new();
        let tree = scratch.join("tree");
        for directory in ["etc/secrets", "etc/ssh", "nix/store", "var/lib", "srv", "mnt"] {
            fs::create_dir_all(tree.join(directory)).unwrap();
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        for name in
            ["etc/secrets/old", "etc/secrets/strange", "etc/plain", "var/lib/one", "var/lib/two", "var/lib/three"]
        {
            fs::write(tree.join(name), "what stands there").unwrap();
        }
        if let Some(contexts) = policy {
            let files = tree.join("etc/selinux/targeted/contexts/files");
            fs::create_dir_all(&files).unwrap();
            fs::write(tree.join("etc/selinux/config"), "SELINUX=disabled\nSELINUXTYPE=targeted\n").unwrap();
            fs::write(files.join("file_contexts"), contexts).unwrap();
            fs::write(files.join("file_contexts.local"), "/etc/local\\.[a-z]+ system_u:object_r:local_t:s0\n").unwrap();
            fs::write(files.join("file_contexts.subs_dist"), "/opt/etc /etc\n").unwrap();
        }
        let path = scratch.join("node.img");
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-F", "-L", "nixos", "-E", "root_owner=0:0"]).args(mke2fs.split_whitespace());
        tool(command.arg("-d").arg(&tree).arg(&path).arg("24M"));
        let mut script = String::new();
        for (number, (path, label)) in labels.iter().enumerate() {
            let value = scratch.write(format!("value-{number}"), [label.as_bytes(), b"\0"].concat());
            script += &format!("ea_set -f {} {path} security.selinux\n", value.display());
        }
        let image = Image::new(path, 0);
        debugfs_write(&image, &script);
        let lines: String = ('a'..='z')
            .zip(secrets)
            .map(|(name, Secret(path, keys))| format!("  {name}: {{ path: {path}, from: env:A{keys} }}\n"))
            .collect();
        scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{lines}"));
        assert_fsck_clean(&image);
        Self { scratch, image }
    }

    fn run(&self, args: &[&str]) -> Deaddrop<'_> {
        Deaddrop::new(&self.scratch).args(args).env("A", "the value of all of them")
    }

    /// The labels of paths, by debugfs; empty where there is none.
    fn labels(&self, paths: &[&str]) -> BTreeMap<String, String> {
        let get = |path: &str| {
            let out = self.scratch.join("label");
            let _ = fs::remove_file(&out);
            let request = format!("ea_get -f {} {path} security.selinux", out.display());
            tool(Command::new("debugfs").args(["-R", &request]).arg(&self.image.path));
            String::from_utf8(fs::read(out).unwrap_or_default()).unwrap()
        };
        paths.iter().map(|path| ((*path).to_owned(), get(path))).collect()
    }
}

/// A whole label, as it is stored.
fn label(kind: &str) -> String {
    format!("system_u:object_r:{kind}:s0\0")
}

/// What libselinux makes of the policy in a directory.
fn by_libselinux(contexts: &Path, path: &str, kind: &str) -> String {
    let mut command = Command::new("selabel_lookup");
    command.args(["-b", "file", "-k", path, "-t", kind, "-f"]).arg(contexts);
    let said = String::from_utf8(tool(&mut command).stdout).unwrap();
    let label = said.trim().strip_prefix("Default context: ").unwrap_or_else(|| panic!("{path}: {said}"));
    format!("{label}\0")
}

const LABELLED: [(&str, &str); 12] = [
    ("/", "system_u:object_r:root_t:s0"),
    ("/etc", "system_u:object_r:etc_t:s0"),
    ("/etc/secrets", "system_u:object_r:secret_dir_t:s0"),
    ("/etc/secrets/old", "system_u:object_r:only_of_this_file_t:s0"),
    ("/etc/secrets/strange", "not a context, and of some length so that it goes to a block of its own \u{1b}[2J"),
    ("/etc/ssh", "system_u:object_r:etc_t:s0"),
    ("/var", "system_u:object_r:var_t:s0"),
    ("/var/lib", "system_u:object_r:var_lib_t:s0"),
    ("/var/lib/one", "system_u:object_r:common_t:s0"),
    ("/var/lib/two", "system_u:object_r:common_t:s0"),
    ("/var/lib/three", "system_u:object_r:rare_t:s0"),
    ("/srv", "system_u:object_r:srv_t:s0"),
];

const SECRETS: [Secret; 9] = [
    Secret("/etc/secrets/new", ""),
    Secret("/etc/secrets/old", ", mode: \"0440\""),
    Secret("/etc/secrets/strange", ""),
    Secret("/etc/ssh/ssh_host_x_key", ", expect: none"),
    Secret("/etc/wifi.env", ""),
    Secret("/etc/local.conf", ""),
    Secret("/var/lib/new/deep/x", ""),
    Secret("/srv/keys/x", ""),
    Secret("/srv/plain", ""),
];

/// Paths that are made, with what they are.
const MADE: [(&str, &str); 9] = [
    ("/etc/secrets/new", "file"),
    ("/etc/ssh/ssh_host_x_key", "file"),
    ("/etc/wifi.env", "file"),
    ("/etc/local.conf", "file"),
    ("/var/lib/new", "dir"),
    ("/var/lib/new/deep", "dir"),
    ("/var/lib/new/deep/x", "file"),
    ("/srv/keys/x", "file"),
    ("/srv/plain", "file"),
];

#[test]
fn new_files_get_what_the_images_policy_says_and_replaced_ones_keep_theirs() {
    // In the inode; always in a block; without checksums; without a journal.
    for mke2fs in [
        "-t ext4",
        "-t ext4 -b 1024",
        "-t ext4 -I 128 -O ^metadata_csum",
        "-t ext3 -b 1024",
        "-t ext4 -O ^has_journal,metadata_csum",
        "-t ext2",
    ] {
        let bench = Bench::new(mke2fs, &LABELLED, Some(CONTEXTS), &SECRETS);
        for command in ["plan", "inject"] {
            let run = bench.run(&[command, "node.img"]).run().expect_code(0);
            assert!(!run.stderr().contains("DD201"), "{mke2fs}: {}", run.stderr());
        }
        assert_fsck_clean(&bench.image);
        let contexts = bench.scratch.join("tree/etc/selinux/targeted/contexts/files/file_contexts");
        let paths: Vec<&str> = MADE.iter().map(|(path, _)| *path).collect();
        let labels = bench.labels(&paths);
        for (path, kind) in MADE {
            let want = by_libselinux(&contexts, path, kind);
            assert_eq!(labels[path], want, "{mke2fs}: {path}");
            assert!(labels[path].ends_with('\0'), "{path}");
        }
        let kept = bench.labels(&["/etc/secrets/old", "/etc/secrets/strange"]);
        assert_eq!(kept["/etc/secrets/old"], label("only_of_this_file_t"), "{mke2fs}");
        assert_eq!(kept["/etc/secrets/strange"], format!("{}\0", LABELLED[4].1), "{mke2fs}");

        // Nothing to do, also for what has a label.
        let before = crate::kit::sha256_of(&bench.image.path);
        bench.run(&["inject", "node.img"]).run().expect_code(0).expect_error("nothing to do");
        bench.run(&["verify", "node.img"]).run().expect_code(0);
        assert_eq!(crate::kit::sha256_of(&bench.image.path), before, "{mke2fs}");

        // A rotation keeps them, too.
        bench.run(&["inject", "node.img"]).env("A", "another value").run().expect_code(0);
        assert_fsck_clean(&bench.image);
        assert_eq!(bench.labels(&paths), labels, "{mke2fs}: after a rotation");
        if is_root() {
            let mount = Mount::read_only(&bench.image);
            for path in &paths {
                let by_kernel = xattr::get(mount.at(path), "security.selinux").unwrap().unwrap();
                assert_eq!(String::from_utf8(by_kernel).unwrap(), labels[*path], "{mke2fs}: {path} by the kernel");
            }
        }
    }
}

#[test]
fn without_a_policy_neighbours_decide_and_else_a_relabel_is_asked_for() {
    let secrets = [
        Secret("/var/lib/new", ""),
        Secret("/var/lib/directory/x", ""),
        Secret("/srv/lonely", ""),
        Secret("/etc/plain", ""),
        Secret("/mnt/unlabelled", ""),
    ];
    let bench = Bench::new("-t ext4", &LABELLED, None, &secrets);
    let plan = bench.run(&["plan", "node.img", "--json"]).run().expect_code(0);
    let json = plan.json();
    let codes: Vec<(&str, &str)> = json["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|warning| (warning["code"].as_str().unwrap(), warning["secret"].as_str().unwrap()))
        .collect();
    assert_eq!(codes, [("DD201", "b"), ("DD201", "c"), ("DD201", "d")]);
    let run = bench.run(&["inject", "node.img"]).run().expect_code(0);
    let said = run.stderr().split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "DD201 /srv/lonely gets the SELinux label of its directory, system_u:object_r:srv_t:s0: neither a policy",
        "a relabel at boot is needed: make /.autorelabel in the target",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert_fsck_clean(&bench.image);
    let paths =
        ["/var/lib/new", "/var/lib/directory", "/var/lib/directory/x", "/srv/lonely", "/etc/plain", "/mnt/unlabelled"];
    let labels = bench.labels(&paths);
    let want = ["common_t", "var_lib_t", "var_lib_t", "srv_t", "etc_t"].map(label);
    for (path, want) in paths.iter().zip(want.into_iter().chain([String::new()])) {
        assert_eq!(labels[*path], want, "{path}");
    }
}

#[test]
fn an_image_without_labels_gets_none_also_where_it_has_a_policy() {
    let bench = Bench::new("-t ext4", &[], Some(CONTEXTS), &SECRETS);
    bench.run(&["inject", "node.img"]).run().expect_code(0);
    assert_fsck_clean(&bench.image);
    let tree = crate::kit::tree::Tree::of(&bench.image);
    for (path, node) in &tree.0 {
        assert!(node.attributes.is_empty(), "{path} has attributes");
    }
}

#[test]
fn a_directory_gets_the_labels_that_an_image_gets() {
    if skipped_without_root("a mount with labels") {
        return;
    }
    let bench = Bench::new("-t ext4", &LABELLED, Some(CONTEXTS), &SECRETS);
    fs::copy(&bench.image.path, bench.scratch.join("mounted.img")).unwrap();
    bench.run(&["inject", "node.img"]).run().expect_code(0);
    let mount = Mount::read_write(&Image::new(bench.scratch.join("mounted.img"), 0));
    let root = mount.root().to_str().unwrap();
    bench.run(&["inject", root]).run().expect_code(0);
    let paths: Vec<&str> =
        MADE.iter().map(|(path, _)| *path).chain(["/etc/secrets/old", "/etc/secrets/strange"]).collect();
    let labels = bench.labels(&paths);
    for path in &paths {
        let there = xattr::get(mount.at(path), "security.selinux").unwrap().unwrap_or_default();
        assert_eq!(String::from_utf8(there).unwrap(), labels[*path], "{path}");
    }
    bench.run(&["verify", root]).run().expect_code(0);
}

#[test]
fn where_the_system_lets_nobody_label_the_run_says_that_a_relabel_is_needed() {
    if skipped_without_root("a mount with labels") {
        return;
    }
    let bench = Bench::new("-t ext4", &LABELLED, Some(CONTEXTS), &SECRETS);
    let mount = Mount::read_write(&bench.image);
    let root = mount.root().to_str().unwrap();
    let run = bench.run(&["inject", root]).tampered("fsetxattr:error=EPERM").run().expect_code(0);
    let run = run.expect_error("and 11 more could not be given a SELinux label (Operation not permitted):");
    run.expect_error("a relabel at boot is needed");
    bench.run(&["verify", root]).run().expect_code(0);
}

#[test]
fn a_hostile_policy_costs_little_and_is_not_believed() {
    let deep = format!("/srv/{}x{} system_u:object_r:deep_t:s0\n", "(".repeat(5000), ")".repeat(5000));
    let large = "/srv/((((a{1,99}){1,99}){1,99}){1,99})* system_u:object_r:large_t:s0\n".to_owned();
    let many: String = (0..19_000).map(|number| format!("/srv/(.*a){{1,20}}{number} -- a:b:c\n")).collect();
    let lines = "/srv/x\n".repeat(300_000);
    let binary = "/srv/\u{0}\u{1} \u{7f}\n/srv/.* \u{1b}[2J\n".to_owned();
    for (name, contexts) in [("deep", deep), ("large", large), ("many", many), ("lines", lines), ("binary", binary)] {
        let bench =
            Bench::new("-t ext4", &LABELLED, Some(&contexts), &[Secret("/srv/aaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "")]);
        let run = bench.run(&["inject", "node.img"]).limited().run().expect_code(0);
        assert!(run.stderr().contains("DD201") && !run.stderr().contains('\u{1b}'), "{name}: {}", run.stderr());
        assert_fsck_clean(&bench.image);
    }
}
