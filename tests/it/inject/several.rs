//! An image of each host from one base, or of each host's own: what each holds, what a run tells, and what is left of
//! one that fails or is stopped.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::kit::canary::{Canary, search_files};
use crate::kit::disk::{MIB, blank, ext4, zstd};
use crate::kit::files::{fingerprint, names};
use crate::kit::images::{self, Image};
use crate::kit::mount::{assert_fsck_clean, debugfs};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, tool};

const HOSTS: [&str; 3] = ["node1", "node2", "node3"];

/// A base image, and a value of each host.
struct Several {
    scratch: Scratch,
    values: Vec<Canary>,
}

impl Several {
    /// With `base.img.zst`, and directories `out` and `alone`.
    fn new() -> Self {
        let scratch = Scratch::new();
        fs::copy(images::NONE.compressed(), scratch.join("base.img.zst")).unwrap();
        for directory in ["out", "alone"] {
            fs::create_dir(scratch.join(directory)).unwrap();
        }
        let several = Self { scratch, values: HOSTS.map(|host| Canary::new(&format!("of {host}"))).into() };
        several.declare("");
        several
    }

    /// With a base of 40 MiB, nearly empty: a run takes less time, and a compressed image still has several frames.
    fn small() -> Self {
        let several = Self::new();
        let base = several.scratch.join("base.img");
        blank(&base, 40 * MIB);
        ext4(&base, 0, 40 * MIB, "nixos");
        zstd(&base);
        fs::remove_file(base).unwrap();
        several
    }

    /// Each host has the secret `own`, and these more.
    fn declare(&self, more: &str) -> &Self {
        let text = format!(
            "version: 1\nsecrets:\n  own: {{ path: /etc/secrets/own, from: 'env:OF_{{host}}', owner: 0, group: 0 }}\n\
             {more}hosts: {{ node1: {{}}, node2: {{}}, node3: {{}} }}\n"
        );
        self.scratch.write("secrets.yaml", text);
        self
    }

    fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        let run = Deaddrop::new(&self.scratch).args(args).env("SOURCE_DATE_EPOCH", "1700000000");
        let hosts = self.values.iter().zip(HOSTS);
        hosts.fold(run, |run, (value, host)| run.env(format!("OF_{host}"), value.text()).plant(value))
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.deaddrop(args).run()
    }

    /// Removes what runs have made.
    fn clear(&self) {
        for directory in ["out", "alone"] {
            fs::remove_dir_all(self.scratch.join(directory)).unwrap();
            fs::create_dir(self.scratch.join(directory)).unwrap();
        }
    }

    fn out(&self) -> Vec<String> {
        names(&self.scratch.join("out"))
    }

    /// The raw disk of a file, by the program that its suffix belongs to.
    fn raw(&self, name: &str) -> Image {
        let (path, raw) = (self.scratch.join(name), self.scratch.join("raw.img"));
        let _ = fs::remove_file(&raw);
        match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("zst") => drop(tool(Command::new("zstd").args(["-dqf"]).arg(path).arg("-o").arg(&raw))),
            Some("gz") => fs::write(&raw, tool(Command::new("gzip").arg("-dc").arg(path)).stdout).unwrap(),
            Some("qcow2") => {
                tool(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&path));
                tool(Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(path).arg(&raw));
            }
            _ => drop(fs::copy(path, &raw).unwrap()),
        }
        Image::new(raw, 0)
    }

    /// The image of a host is whole, and holds its own value and no other's.
    fn assert_own(&self, name: &str, host: usize) {
        assert_eq!(fs::metadata(self.scratch.join(name)).unwrap().permissions().mode() & 0o7777, 0o600, "{name}");
        let image = self.raw(name);
        assert_fsck_clean(&image);
        let content = debugfs(&image, &["cat /etc/secrets/own".to_owned()]).concat();
        assert!(content.contains(self.values[host].text()), "{name} has not its value");
        let others: Vec<Canary> = self
            .values
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != host)
            .map(|(_, value)| value.clone())
            .collect();
        assert_eq!(search_files(&image.path, &others), Vec::<String>::new(), "{name}");
        fs::remove_file(image.path).unwrap();
    }
}

/// Host, target and status of each host of the object.
fn hosts(object: &Value) -> Vec<Value> {
    let of = |host: &Value| json!([host["host"], host["target"], host["status"]]);
    object["hosts"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn each_image_is_the_one_that_a_run_for_its_host_makes_and_has_its_value_only() {
    let several = Several::new();
    images::NONE.committed(&several.scratch);
    for base in ["base.img.zst", "none.img"] {
        for suffix in ["img", "img.zst", "img.gz", "qcow2"] {
            let what = format!("{base} to {suffix}");
            let before = fingerprint(&several.scratch.join(base));
            let format: &[&str] = if suffix == "qcow2" { &["--format", "qcow2"] } else { &[] };
            let out = format!("out/{{host}}.{suffix}");
            let run = several.run(&[&["inject", base, "--all-hosts", "-o", &out, "--json"], format].concat());
            let object = run.expect_code(0).json();
            assert_eq!((&object["version"], &object["command"]), (&json!(1), &json!("inject")));
            let want = HOSTS.map(|host| json!([host, format!("out/{host}.{suffix}"), "done"]));
            assert_eq!(hosts(&object), want, "{what}");
            let change = json!([{ "secret": "own", "path": "/etc/secrets/own", "action": "create" }]);
            for host in object["hosts"].as_array().unwrap() {
                // The base has the name of node1.
                let told = host["host"] != "node1";
                let mut keys: Vec<&String> = host.as_object().unwrap().keys().collect();
                keys.sort();
                assert_eq!(keys, ["changes", "host", "seconds", "status", "target", "warnings"]);
                assert_eq!(host["changes"], change);
                let codes: Vec<&Value> = host["warnings"].as_array().unwrap().iter().map(|w| &w["code"]).collect();
                assert_eq!(codes, if told { vec!["DD403"] } else { vec![] });
            }
            assert!(fingerprint(&several.scratch.join(base)) == before, "{what}: the base is untouched");
            assert_eq!(several.out().len(), HOSTS.len(), "{what}: {:?}", several.out());
            for (number, host) in HOSTS.iter().enumerate() {
                several.assert_own(&format!("out/{host}.{suffix}"), number);
                let alone = format!("alone/{host}.{suffix}");
                several
                    .run(&[&["inject", base, "--host", host, "-o", &alone, "--as-host"], format].concat())
                    .expect_code(0);
                let [one, other] = ["out", "alone"].map(|of| several.scratch.join(format!("{of}/{host}.{suffix}")));
                assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{what}: {host}");
            }
            several.clear();
        }
    }
}

#[test]
fn what_cannot_be_one_file_for_each_host_is_wrong_usage() {
    let several = Several::new();
    for (args, want) in [
        (&["inject", "base.img.zst", "--all-hosts", "-o", "out/x.img"][..], "3 hosts would have one file"),
        (&["inject", "base.img.zst", "--all-hosts"], "3 hosts would have one file"),
        (&["verify", "base.img.zst", "--all-hosts"], "3 hosts would have one file"),
        (&["inject", "base.img.zst", "-o", "out/{host}.img"], "none is named"),
        (&["plan", "{host}.img"], "none is named"),
        (&["inject", "base.img.zst", "--host", "node1", "--host", "node9", "-o", "out/{host}.img"], "node9"),
        (&["inject", "base.img.zst", "--all-hosts", "--host", "node1", "-o", "out/{host}.img"], "--all-hosts"),
        (&["plan", "@node1", "--all-hosts"], "several hosts are images here"),
    ] {
        let run = several.run(args).expect_code(2);
        assert!(run.stderr().contains(want), "{args:?}: {}", run.stderr());
    }
    // Names that are more or less than a name of a file, wherever one makes it.
    for name in ["a/b", ".", "..", "../node1"] {
        let text = format!("version: 1\nhosts: {{ \"{name}\": {{}}, node2: {{}} }}\n");
        several.scratch.write("secrets.yaml", text);
        for args in [
            &["inject", "base.img.zst", "--all-hosts", "-o", "out/{host}.img"][..],
            &["inject", "base.img.zst", "--host", name, "-o", "out/{host}.img"],
            &["verify", "out/{host}", "--host", name],
            &["plan", "out/{host}", "--all-hosts"],
        ] {
            several.run(args).expect_code(2).expect_error("cannot be a part of a file's name");
        }
    }
    several.scratch.write("secrets.yaml", "version: 1\nhosts: {}\n");
    several.run(&["inject", "base.img.zst", "--all-hosts", "-o", "out/{host}.img"]).expect_code(2);
    assert_eq!(several.out(), Vec::<String>::new());
}

#[test]
fn an_output_that_exists_is_refused_before_anything_is_written() {
    let several = Several::new();
    fs::write(several.scratch.join("out/node3.img"), "theirs").unwrap();
    let inject = ["inject", "base.img.zst", "--all-hosts", "-o", "out/{host}.img"];
    several.run(&inject).expect_code(1).expect_error("out/node3.img exists");
    assert_eq!(several.out(), ["node3.img"]);
    symlink("node3.img", several.scratch.join("out/node2.img")).unwrap();
    several.run(&[&inject[..], &["--force"]].concat()).expect_code(2).expect_error("would have this one file");
    fs::remove_file(several.scratch.join("out/node2.img")).unwrap();
    several.run(&[&inject[..], &["--force"]].concat()).expect_code(0).expect_error("3 of 3 images done");
    several.assert_own("out/node3.img", 2);
}

#[test]
fn one_that_fails_does_not_stop_the_others() {
    let several = Several::new();
    several.declare("  bad: { path: /etc/passwd/x, from: env:OF_node2, hosts: [node2] }\n");
    let inject = ["inject", "base.img.zst", "--all-hosts", "-o", "out/{host}.img.zst"];
    let object = several.run(&[&inject[..], &["--json"]].concat()).expect_code(4).json();
    assert_eq!(
        hosts(&object),
        [
            json!(["node1", "out/node1.img.zst", "done"]),
            json!(["node2", "out/node2.img.zst", "failed"]),
            json!(["node3", "out/node3.img.zst", "done"]),
        ]
    );
    assert!(object["hosts"][1]["error"].as_str().unwrap().contains("/etc/passwd"));
    assert_eq!(
        object["summary"],
        json!({ "done": 2, "failed": 1, "skipped": 0, "unchanged": 0, "rolled-back": 0,
        "unreachable": 0 })
    );
    assert_eq!(several.out(), ["node1.img.zst", "node3.img.zst"]);
    several.assert_own("out/node1.img.zst", 0);
    // Again for the rest, and for none of them.
    let again = ["inject", "base.img.zst", "--host", "node2", "--host", "node2", "-o", "out/{host}.img.zst"];
    several.run(&again).expect_code(1);
    several.declare("  bad: { path: /etc/passwd/x, from: 'env:OF_{host}' }\n");
    several.clear();
    several.run(&inject).expect_code(1);
    assert_eq!(several.out(), Vec::<String>::new());
    several.declare("");
    several.run(&again).expect_code(0);
    several.assert_own("out/node2.img.zst", 1);
}

#[test]
fn images_of_their_own_are_planned_changed_and_verified() {
    let several = Several::new();
    for (host, value) in HOSTS.iter().zip(0..) {
        let suffix = if value == 1 { "img.zst" } else { "img" };
        fs::copy(images::NONE.compressed(), several.scratch.join(format!("out/{host}.img"))).unwrap();
        if suffix == "img" {
            let raw = images::NONE.committed(&several.scratch);
            fs::rename(raw.path, several.scratch.join(format!("out/{host}.img"))).unwrap();
        }
    }
    let of = |command: &str, more: &[&str], code| {
        let args = [&[command, "out/{host}.img", "--all-hosts", "--json"], more].concat();
        let object = several.run(&args).expect_code(code).json();
        let statuses: Vec<Value> = hosts(&object).iter().map(|host| host[2].clone()).collect();
        statuses
    };
    assert_eq!(of("plan", &[], 0), ["differs"; 3]);
    assert_eq!(of("plan", &["--exit-code"], 3), ["differs"; 3]);
    assert_eq!(of("verify", &[], 3), ["differs"; 3]);
    assert_eq!(of("inject", &[], 0), ["done"; 3]);
    assert_eq!(of("plan", &["--exit-code"], 0), ["unchanged"; 3]);
    assert_eq!(of("verify", &[], 0), ["unchanged"; 3]);
    let before: Vec<_> = HOSTS.map(|host| fingerprint(&several.scratch.join(format!("out/{host}.img")))).into();
    assert_eq!(of("inject", &[], 0), ["done"; 3]);
    let after: Vec<_> = HOSTS.map(|host| fingerprint(&several.scratch.join(format!("out/{host}.img")))).into();
    assert!(before == after, "a second run changes nothing");
    fs::remove_file(several.scratch.join("out/node2.img")).unwrap();
    assert_eq!(of("verify", &[], 1), ["unchanged", "failed", "unchanged"]);
    assert_eq!(of("inject", &[], 4), ["done", "failed", "done"]);
    several.assert_own("out/node1.img", 0);
    several.assert_own("out/node3.img", 2);
    // A base is planned for each of them; one host's name stands in a path as well.
    several.run(&["plan", "base.img.zst", "--all-hosts"]).expect_code(0).expect_output("3 of 3 hosts to change");
    several.run(&["verify", "out/{host}.img", "--host", "node3"]).expect_code(0).expect_output("out/node3.img");
}

#[test]
fn directories_have_a_host_each() {
    let several = Several::new();
    for host in HOSTS {
        for directory in ["etc", "usr", "var", "root"] {
            fs::create_dir_all(several.scratch.join(format!("out/{host}/{directory}"))).unwrap();
        }
    }
    several.run(&["inject", "out/{host}", "--all-hosts"]).expect_code(0);
    for (host, value) in HOSTS.iter().zip(&several.values) {
        let own = fs::read_to_string(several.scratch.join(format!("out/{host}/etc/secrets/own"))).unwrap();
        assert_eq!(own, value.text());
    }
}

#[test]
fn the_public_parts_of_all_are_one_file() {
    let several = Several::new();
    several.declare("  key: { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519 }\n");
    let inject = ["inject", "base.img.zst", "--all-hosts", "--force", "-o", "out/{host}.img", "--public-out"];
    several.run(&[&inject[..], &["public.json"]].concat()).expect_code(0);
    let text = fs::read_to_string(several.scratch.join("public.json")).unwrap();
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["host"], Value::Null);
    let keys = object["keys"].as_array().unwrap();
    let of: Vec<&str> = keys.iter().map(|key| key["host"].as_str().unwrap()).collect();
    assert_eq!(of, HOSTS);
    assert!(keys[0]["ssh_public_key"] != keys[1]["ssh_public_key"]);
    several.run(&[&inject[..], &["known_hosts"]].concat()).expect_code(0);
    let text = fs::read_to_string(several.scratch.join("known_hosts")).unwrap();
    for host in HOSTS {
        assert!(text.lines().any(|line| line.starts_with(&format!("{host} ssh-ed25519 "))), "{text}");
    }
    // A file that cannot be is known before any image is made.
    several.clear();
    several.run(&[&inject[..], &["missing/public.json"]].concat()).expect_code(1);
    assert_eq!(several.out(), Vec::<String>::new());
}

#[test]
fn thin_images_have_what_differs_from_the_base() {
    let several = Several::new();
    let scratch = &several.scratch;
    images::NONE.committed(scratch);
    tool(Command::new("qemu-img").current_dir(scratch.path()).args([
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-c",
        "none.img",
        "none.qcow2",
    ]));
    fs::create_dir(scratch.join("other")).unwrap();
    for base in ["none.img", "none.qcow2"] {
        fs::copy(scratch.join(base), scratch.join(format!("out/{base}"))).unwrap();
        let base = format!("out/{base}");
        let before = fingerprint(&scratch.join(&base));
        let inject = ["inject", &base, "--all-hosts", "--qcow2-overlay", "--force", "-o"];
        several.run(&[&inject[..], &["out/{host}.qcow2"]].concat()).expect_code(0);
        for (number, host) in HOSTS.iter().enumerate() {
            let thin = format!("out/{host}.qcow2");
            assert!(fs::metadata(scratch.join(&thin)).unwrap().len() < 2 << 20, "{thin} of {base} is thin");
            several.assert_own(&thin, number);
            // The same disk as a whole image has.
            several.run(&["inject", &base, "--host", host, "--as-host", "-o", "alone/whole", "--force"]).expect_code(0);
            let compare = ["compare", "-q", &thin, "alone/whole"];
            tool(Command::new("qemu-img").current_dir(scratch.path()).args(compare));
        }
        // Ours is followed in its own directory, also when it is changed in place, and stays thin.
        several.run(&["verify", "out/{host}.qcow2", "--all-hosts"]).expect_code(0);
        let node = ["out/node1.qcow2", "--host", "node1"];
        several.declare("  more: { path: /etc/secrets/more, from: 'env:OF_{host}', owner: 0, group: 0 }\n");
        several.run(&[&["inject"], &node[..]].concat()).expect_code(0);
        several.run(&[&["verify"], &node[..]].concat()).expect_code(0);
        assert!(fs::metadata(scratch.join(node[0])).unwrap().len() < 2 << 20);
        several.assert_own(node[0], 0);
        several.declare("");
        // From elsewhere only if that is said.
        several.run(&[&inject[..], &["other/{host}.qcow2"]].concat()).expect_code(0);
        let verify = ["verify", "other/node2.qcow2", "--host", "node2", "--as-host"];
        several.run(&verify).expect_refusal(&base, 1, &["--follow-backing"]);
        several.run(&[&verify[..], &["--follow-backing"]].concat()).expect_code(0);
        several.assert_own("other/node2.qcow2", 1);
        assert!(fingerprint(&scratch.join(&base)) == before, "{base} is untouched");
    }
    // A link to somewhere else is not beside it, and what others have made is not ours.
    fs::rename(scratch.join("out/none.qcow2"), scratch.join("none.qcow2")).unwrap();
    symlink("../none.qcow2", scratch.join("out/none.qcow2")).unwrap();
    let verify = ["verify", "out/node2.qcow2", "--host", "node2"];
    several.run(&verify).expect_refusal("a link", 1, &["--follow-backing"]);
    fs::remove_file(scratch.join("out/none.qcow2")).unwrap();
    several.run(&verify).expect_refusal("gone", 1, &["--follow-backing"]);
    let create = ["create", "-q", "-f", "qcow2", "-b", "none.qcow2", "-F", "qcow2", "foreign.qcow2"];
    tool(Command::new("qemu-img").current_dir(scratch.path()).args(create));
    several.run(&["verify", "foreign.qcow2", "--host", "node1"]).expect_refusal("foreign", 1, &["--follow-backing"]);
    for (args, code) in [
        (&["inject", "base.img.zst", "--host", "node1", "--qcow2-overlay", "-o", "alone/x.qcow2"][..], 2),
        (&["inject", "none.img", "--host", "node1", "--qcow2-overlay", "-o", "alone/x.qcow2.zst"], 2),
        (&["inject", "none.img", "--host", "node1", "--qcow2-overlay"], 2),
        (&["inject", "none.img", "--host", "node1", "--qcow2-overlay", "--format", "raw", "-o", "alone/x.qcow2"], 2),
    ] {
        several.run(args).expect_code(code);
    }
    assert!(!scratch.join("alone/x.qcow2").exists());
}

#[test]
fn a_tar_of_a_root_is_a_base_too() {
    let several = Several::new();
    let root = several.scratch.join("root");
    for directory in ["etc", "usr/bin", "var", "root"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    let make = ["-cf", "base.tar", "--owner=0", "--group=0", "-C", "root", "."];
    tool(Command::new("tar").current_dir(several.scratch.path()).args(make));
    tool(Command::new("gzip").current_dir(several.scratch.path()).args(["-k", "base.tar"]));
    for (base, suffix) in [("base.tar", "tar"), ("base.tar.gz", "tar.gz"), ("base.tar.gz", "tar.xz")] {
        let out = format!("out/{{host}}.{suffix}");
        several.run(&["inject", base, "--all-hosts", "-o", &out]).expect_code(0);
        several.run(&["verify", &out, "--all-hosts"]).expect_code(0);
        for (number, host) in HOSTS.iter().enumerate() {
            let name = format!("out/{host}.{suffix}");
            let list = tool(Command::new("tar").current_dir(several.scratch.path()).args([
                "-xOf",
                &name,
                "./etc/secrets/own",
            ]));
            assert_eq!(list.stdout, several.values[number].bytes(), "{name}");
            several.run(&["inject", base, "--host", host, "-o", &format!("alone/{host}.{suffix}")]).expect_code(0);
            let [one, other] = ["out", "alone"].map(|of| several.scratch.join(format!("{of}/{host}.{suffix}")));
            assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{name}");
        }
        several.clear();
    }
    // An output that is none for a tar is known before anything is made.
    several.run(&["inject", "base.tar", "--all-hosts", "-o", "out/{host}.img"]).expect_code(2);
    assert_eq!(several.out(), Vec::<String>::new());
}

#[test]
fn each_image_has_its_sidecars() {
    let several = Several::new();
    let inject = ["inject", "base.img.zst", "--all-hosts", "--force", "-o", "out/{host}.img"];
    several.run(&[&inject[..], &["--sidecars"]].concat()).expect_code(0);
    tool(Command::new("sha256sum").current_dir(several.scratch.join("out")).args(["-c", "--quiet", "SHA256SUMS"]));
    let all = names(&several.scratch.join("out"));
    assert_eq!(all.len(), 3 * HOSTS.len() + 1, "{all:?}");
    // Those that do not fit any more are named.
    let run = several.run(&inject).expect_code(0);
    for host in HOSTS {
        run.stderr().contains(&format!("out/{host}.img.sha256 does not fit")).then_some(()).expect("it is told");
    }
}

/// Every image under its name is whole and its host's; returns how many there are.
fn assert_whole(several: &Several, suffix: &str, what: &str) -> usize {
    let mut found = 0;
    for name in several.out() {
        if let Some(hidden) = name.strip_prefix(".deaddrop-") {
            panic!("{what}: {hidden} is left");
        }
        let host = HOSTS.iter().position(|host| name == format!("{host}.{suffix}"));
        several.assert_own(&format!("out/{name}"), host.unwrap_or_else(|| panic!("{what}: {name}")));
        found += 1;
    }
    found
}

#[test]
fn a_signal_ends_a_run_with_the_images_that_are_done() {
    let several = Several::new();
    for suffix in ["img", "img.zst"] {
        let out = format!("out/{{host}}.{suffix}");
        let inject = ["inject", "base.img.zst", "--all-hosts", "-o", &out];
        for (call, must) in
            [("pread64:when=8", Some(0)), ("fsync:when=1", None), ("linkat:when=1", None), ("linkat:when=3", None)]
        {
            let (name, when) = call.split_once(':').unwrap();
            for (signal, code) in [("SIGINT", 130), ("SIGTERM", 143)] {
                let what = format!("{suffix} {call} {signal}");
                let run = several.deaddrop(&inject).tampered(&format!("{name}:signal={signal}:{when}")).run();
                let made = assert_whole(&several, suffix, &what);
                let want = match made {
                    0 => code,
                    3 => 0,
                    _ => 4,
                };
                assert_eq!(run.shell_code(), want, "{what}: {made} made\n{}", run.stderr());
                assert!(must.is_none_or(|must| made == must), "{what}: {made}");
                several.clear();
            }
        }
    }
}

/// Kills a run at the first call of one of these kinds, at the second, and so on, until one is not killed. (strace counts
/// the calls of each thread: the first one that comes to the number dies.) Returns how often it was killed.
fn kill_at_every(calls: &[&str], format: &str, suffix: &str) -> usize {
    let several = Several::small();
    let out = format!("out/{{host}}.{suffix}");
    let inject = ["inject", "base.img.zst", "--all-hosts", "--format", format, "-o", &out];
    let mut killed = 0;
    for call in calls {
        for when in 1.. {
            let what = format!("{suffix} {call} {when}");
            let injection = format!("{call}:signal=SIGKILL:when={when}");
            let run = several.deaddrop(&inject).tampered(&injection).run();
            let made = assert_whole(&several, suffix, &what);
            assert_eq!(names(several.scratch.path()).iter().filter(|name| name.starts_with(".deaddrop")).count(), 0);
            several.clear();
            if run.shell_code() == 0 {
                assert_eq!(made, HOSTS.len(), "{what}");
                break;
            }
            assert_eq!(run.shell_code(), 137, "{what}: {}", run.stderr());
            killed += 1;
        }
    }
    killed
}

/// The calls that write or name something, but for those that write the content.
const OTHER_CALLS: [&str; 13] = [
    "write",
    "copy_file_range",
    "ioctl",
    "fallocate",
    "ftruncate",
    "sync_file_range",
    "fchmod",
    "fchown",
    "fsync",
    "fdatasync",
    "linkat",
    "renameat2",
    "rename",
];

#[test]
fn sigkill_at_every_write_to_raw_images_leaves_whole_ones_only() {
    let killed = kill_at_every(&["pwrite64"], "raw", "img");
    assert!(killed > 3, "{killed}");
}

#[test]
fn sigkill_at_every_write_to_compressed_images_leaves_whole_ones_only() {
    let killed = kill_at_every(&["pwrite64"], "raw", "img.zst");
    assert!(killed > 1, "{killed}");
}

#[test]
fn sigkill_at_every_write_to_qcow2_images_leaves_whole_ones_only() {
    let killed = kill_at_every(&["pwrite64"], "qcow2", "qcow2");
    assert!(killed > 3, "{killed}");
}

#[test]
fn sigkill_at_every_other_call_leaves_whole_raw_images_only() {
    let killed = kill_at_every(&OTHER_CALLS, "raw", "img");
    assert!(killed > 20, "{killed}");
}

#[test]
fn sigkill_at_every_other_call_leaves_whole_compressed_images_only() {
    let killed = kill_at_every(&OTHER_CALLS, "raw", "img.zst");
    assert!(killed > 20, "{killed}");
}

#[test]
fn sigkill_at_every_other_call_leaves_whole_qcow2_images_only() {
    let killed = kill_at_every(&OTHER_CALLS, "qcow2", "qcow2");
    assert!(killed > 20, "{killed}");
}

#[test]
fn without_space_nothing_half_is_left() {
    let several = Several::new();
    let inject = ["inject", "base.img.zst", "--all-hosts", "-o", "out/{host}.img"];
    for call in ["pwrite64:error=ENOSPC:when=3+", "fsync:error=EIO:when=1+", "linkat:error=EIO:when=1+"] {
        let run = several.deaddrop(&inject).tampered(call).run().expect_code(1);
        assert!(run.stderr().contains("nothing was changed"), "{call}: {}", run.stderr());
        assert_eq!(several.out(), Vec::<String>::new(), "{call}");
    }
    assert!(Path::new(&several.scratch.join("base.img.zst")).exists());
}
