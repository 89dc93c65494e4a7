//! SELinux: the label of a file according to the policy that is installed in a tree.
//!
//! Called by the survey, for trees whose directories are labelled. Reads what `restorecon` reads (selabel_file(5)), so
//! that a file gets the label that a relabel would set. Works on paths and labels; does not use manifests or sources.

mod contexts;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Tree};

pub use contexts::{Contexts, Files};

/// Maximum size of configuration and policy files, in bytes.
const MOST_CONFIG: u64 = 64 << 10;
const MOST_CONTEXTS: u64 = 4 << 20;

/// Reads the policy that is installed in `tree`: the one that `/etc/selinux/config` names, even if SELinux is disabled
/// there. `None` if there is none, or none that can be used.
///
/// # Errors
/// If the tree cannot be read, or is damaged there.
pub fn installed<T: Tree>(tree: &T) -> Result<Option<Contexts>, StorageError> {
    let Some(config) = read(tree, "/etc/selinux/config", MOST_CONFIG)? else { return Ok(None) };
    let Some(name) = policy_name(config.expose()) else { return Ok(None) };
    let base = format!("/etc/selinux/{name}/contexts/files/file_contexts");
    let Some(main) = read(tree, &base, MOST_CONTEXTS)? else { return Ok(None) };
    let beside = |suffix| read(tree, &format!("{base}.{suffix}"), MOST_CONTEXTS);
    let (homedirs, local) = (beside("homedirs")?, beside("local")?);
    let (subs, subs_dist) = (beside("subs")?, beside("subs_dist")?);
    // A missing file counts as an empty one.
    let text = |file: &Option<Secret>| -> String {
        file.as_ref().map(|file| String::from_utf8_lossy(file.expose()).into_owned()).unwrap_or_default()
    };
    Ok(Contexts::parse(&Files {
        contexts: [text(&Some(main)), text(&homedirs), text(&local)],
        aliases: [text(&subs), text(&subs_dist)],
    }))
}

/// `SELINUXTYPE` of selinux_config(5), the directory of the policy; "targeted" by default. `None` if it is not a valid
/// name.
fn policy_name(config: &[u8]) -> Option<String> {
    let config = String::from_utf8_lossy(config);
    let values = config.lines().filter_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    // The first one wins, as in libselinux.
    let name = values.map(str::trim).next().unwrap_or("targeted");
    let is_name = !name.starts_with('.')
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    is_name.then(|| name.to_owned())
}

/// The bytes of a regular file; `None` if there is none at `path`, or if it is larger than `limit`.
fn read<T: Tree>(tree: &T, path: &str, limit: u64) -> Result<Option<Secret>, StorageError> {
    match walk::resolve(tree, path) {
        Ok(Walk { found: Some((node, stat)), .. }) if stat.kind == FileKind::File => tree.read(&node, limit),
        Err(WalkError::Image(error)) => Err(error),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policys_name_is_a_name_or_nothing() {
        for (config, want) in [
            ("# a comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", Some("targeted")),
            ("SELINUX=disabled\n  SELINUXTYPE=default  \nSELINUXTYPE=other\n", Some("default")),
            ("SELINUX=enforcing\n", Some("targeted")),
            ("# SELINUXTYPE=no\nSELINUXTYPE=a-b_c.2\n", Some("a-b_c.2")),
            ("SELINUXTYPE=../../../root\n", None),
            ("SELINUXTYPE=.\n", None),
            ("SELINUXTYPE=\n", None),
            ("SELINUXTYPE=a/b\n", None),
        ] {
            assert_eq!(policy_name(config.as_bytes()).as_deref(), want, "{config}");
        }
    }
}
