//! NX004: names in /etc that NixOS activation owns.
//!
//! `/etc/static` leads to the system's own etc tree. Activation recreates each of its names in /etc at every boot, by a
//! rename over the existing entry (setup-etc.pl; docs/nixos.md, NX004).

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Tree};

use super::Finding;
use super::paths::is_at_or_below;

/// The etc tree that `/etc/static` leads to, if the target has one.
pub struct ManagedEtc<N> {
    tree: Option<N>,
}

impl<N: Clone> ManagedEtc<N> {
    /// Follows `/etc/static`, or, before the first activation, the `etc` of the system at `toplevel`. If neither leads
    /// to a directory, no name is owned.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn find<T: Tree<Node = N>>(tree: &T, toplevel: Option<&str>) -> Result<Self, StorageError> {
        let of_system = toplevel.map(|toplevel| format!("{toplevel}/etc/."));
        Self::first(tree, std::iter::once("/etc/static").chain(of_system.as_deref()))
    }

    /// The names of the system at `toplevel`, whatever the root's own `/etc/static` leads to.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn of_system<T: Tree<Node = N>>(tree: &T, toplevel: &str) -> Result<Self, StorageError> {
        Self::first(tree, [format!("{toplevel}/etc/.")].iter().map(String::as_str))
    }

    fn first<'p, T: Tree<Node = N>>(tree: &T, paths: impl IntoIterator<Item = &'p str>) -> Result<Self, StorageError> {
        for path in paths {
            match walk::resolve(tree, path) {
                Ok(Walk { found: Some((node, stat)), .. }) if stat.kind == FileKind::Directory => {
                    return Ok(Self { tree: Some(node) });
                }
                Err(WalkError::Image(error)) => return Err(error),
                _ => {}
            }
        }
        Ok(Self { tree: None })
    }

    /// NX004 if `path` is a name that activation recreates, or is below one.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn judge<T: Tree<Node = N>>(&self, tree: &T, path: &str) -> Result<Option<Finding>, StorageError> {
        let (Some(etc), Some(below)) = (&self.tree, path.strip_prefix("/etc/")) else {
            return Ok(None);
        };
        let mut directory = etc.clone();
        let mut managed = String::from("/etc");
        for name in below.split('/') {
            managed.push('/');
            managed.push_str(name);
            match tree.child(&directory, name.as_bytes())? {
                None => return Ok(None),
                // A directory of the tree is a real directory in /etc, where other names are free.
                Some((node, stat)) if stat.kind == FileKind::Directory => directory = node,
                Some(_) => {
                    let what = if is_at_or_below(&managed, path) { "is" } else { "is below" };
                    return Ok(Some(Finding {
                        code: "NX004",
                        refuse: true,
                        reason: format!(
                            "{path} {what} a name of /etc/static, which NixOS activation makes again at every boot"
                        ),
                        instead: format!("choose another name, or drop environment.etc for {managed}"),
                    }));
                }
            }
        }
        Ok(None)
    }
}
