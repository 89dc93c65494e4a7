//! A run that is killed, or fails, at each of its writing calls: the old tar stays, or the new one is whole.

use std::fs;
use std::process::Command;

use super::{MAKERS, assert_in, assert_lists, extracted, items, prepared};
use crate::kit::files::{fingerprint, holds, names};
use crate::kit::tool;

#[test]
fn killed_at_any_writing_call_the_tar_is_the_old_one_or_the_new_one() {
    for suffix in ["", ".zst"] {
        let (manifest, plain) = prepared(items(), &MAKERS[0], "plain.tar");
        let name = format!("node.tar{suffix}");
        let tar = manifest.scratch.join(&name);
        let bytes = match suffix {
            "" => fs::read(&plain).unwrap(),
            _ => tool(Command::new("zstd").arg("-c").arg(&plain)).stdout,
        };
        fs::remove_file(&plain).unwrap();
        fs::write(&tar, &bytes).unwrap();
        manifest.deaddrop(&["verify", &name]).run().expect_code(3);
        let usual = names(manifest.scratch.path());
        for call in ["write", "copy_file_range", "lseek", "ftruncate", "fsync", "fchown", "linkat", "rename"] {
            for when in [1, 2, 5] {
                fs::write(&tar, &bytes).unwrap();
                let run =
                    manifest.deaddrop(&["inject", &name]).tampered(&format!("{call}:signal=KILL:when={when}")).run();
                let is_whole = manifest.deaddrop(&["verify", &name]).run().code() == Some(0);
                assert!(is_whole || fs::read(&tar).unwrap() == bytes, "{call} {when}");
                assert!(run.code().is_none() || is_whole, "{call} {when}: {}", run.stderr());
                let left: Vec<String> = names(manifest.scratch.path())
                    .into_iter()
                    .filter(|name| !usual.contains(name) && name != "tampering.log")
                    .collect();
                assert!(left.len() <= 1, "{call} {when}: {left:?}");
                for name in &left {
                    assert_eq!(fingerprint(&manifest.scratch.join(name)).mode, 0o600, "{name}");
                }
                manifest.deaddrop(&["inject", &name]).run().expect_code(0);
                let left = names(manifest.scratch.path()).into_iter().filter(|name| name.starts_with(".deaddrop"));
                assert_eq!(left.count(), 0, "{call} {when}: the next run removes it");
            }
        }
        let unpacked = if suffix.is_empty() {
            tar
        } else {
            let bytes = tool(Command::new("zstd").arg("-dc").arg(&tar)).stdout;
            manifest.scratch.write("unpacked.tar", bytes)
        };
        assert_lists(&unpacked);
        assert_in(&manifest.items, &extracted(&manifest.scratch, &unpacked, "after"));
    }
}

#[test]
fn a_failing_call_leaves_the_tar_as_it_was_and_nothing_beside_it() {
    let (manifest, tar) = prepared(items(), &MAKERS[0], "node.tar");
    manifest.deaddrop(&["verify", "node.tar"]).run().expect_code(3);
    let before = (fingerprint(&tar), names(manifest.scratch.path()));
    for injection in ["fsync:error=EIO", "linkat:error=ENOSPC", "ftruncate:error=EFBIG"] {
        let run = manifest.deaddrop(&["inject", "node.tar"]).tampered(injection).run().expect_code(1);
        run.expect_error("nothing was changed");
        let now: Vec<String> =
            names(manifest.scratch.path()).into_iter().filter(|name| name != "tampering.log").collect();
        assert!(fingerprint(&tar) == before.0 && now == before.1, "{injection}");
        assert!(!holds(&tar, &manifest.items[0].value));
    }
}
