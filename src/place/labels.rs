//! SELinux labels of new files and directories, in a tree whose directories are labelled. Called by the survey.
//!
//! A replaced file keeps its label. A new one gets the label of the tree's own policy; otherwise the most common label
//! among its neighbours; otherwise its directory's. In an unlabelled tree only that fact is read.

use std::collections::BTreeMap;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::walk::Walk;
use deaddrop_core::tree::{FileKind, Label, Tree};

use crate::selinux::{self, Contexts};

/// Maximum number of neighbours to read.
const MOST_NEIGHBOURS: usize = 256;

/// The origin of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The label of the replaced file.
    Kept,
    /// The tree's own policy.
    Policy,
    /// The most common label of the files (or directories) in the same directory.
    Neighbours,
    /// The label of its directory, as a last resort.
    Directory,
}

/// A label for a new file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenLabel {
    /// The label.
    pub label: Label,
    /// Its origin.
    pub origin: Origin,
}

/// The labels for one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Of the missing directories, in their order.
    pub parents: Vec<ChosenLabel>,
    /// Of the file.
    pub file: ChosenLabel,
}

/// Chooses labels in one tree. Reads its policy when needed.
pub struct Labeller<'t, T: Tree> {
    tree: &'t T,
    /// The outer `None`: not read yet.
    policy: Option<Option<Contexts>>,
    /// The most common label of the neighbours, by directory.
    neighbours: BTreeMap<(String, bool), Option<Label>>,
}

impl<'t, T: Tree> Labeller<'t, T> {
    /// Reads nothing yet.
    pub fn new(tree: &'t T) -> Self {
        Self { tree, policy: None, neighbours: BTreeMap::new() }
    }

    /// The labels of the files that would be created at the end of a walk. `None` if nothing is labelled.
    ///
    /// # Errors
    /// If the tree cannot be read, or is damaged there.
    pub fn choose(&mut self, walked: &Walk<T::Node>) -> Result<Option<Labels>, StorageError> {
        if let Some((file, _)) = &walked.found
            && let Some(label) = self.tree.label(file)?
        {
            return Ok(Some(Labels { parents: Vec::new(), file: ChosenLabel { label, origin: Origin::Kept } }));
        }
        let Some(mut above) = self.tree.label(&walked.directory)? else { return Ok(None) };
        let mut parents: Vec<ChosenLabel> = Vec::new();
        for path in &walked.missing_parents {
            // Only the first missing directory has neighbours.
            let standing = parents.is_empty().then_some(&walked.directory);
            let chosen = self.of_new(path, FileKind::Directory, standing, &above)?;
            above = chosen.label.clone();
            parents.push(chosen);
        }
        let standing = parents.is_empty().then_some(&walked.directory);
        let file = self.of_new(&walked.physical, FileKind::File, standing, &above)?;
        Ok(Some(Labels { parents, file }))
    }

    fn of_new(
        &mut self,
        path: &str,
        kind: FileKind,
        standing: Option<&T::Node>,
        above: &Label,
    ) -> Result<ChosenLabel, StorageError> {
        let policy = match &mut self.policy {
            Some(policy) => policy,
            None => self.policy.insert(selinux::installed(self.tree)?),
        };
        if let Some(label) = policy.as_mut().and_then(|policy| policy.label(path, kind)) {
            return Ok(ChosenLabel { label, origin: Origin::Policy });
        }
        if let Some(directory) = standing
            && let Some(label) = self.most_common(directory, path, kind)?
        {
            return Ok(ChosenLabel { label, origin: Origin::Neighbours });
        }
        Ok(ChosenLabel { label: above.clone(), origin: Origin::Directory })
    }

    /// The most common label of this kind of file in `directory`, the parent of `path`.
    fn most_common(&mut self, directory: &T::Node, path: &str, kind: FileKind) -> Result<Option<Label>, StorageError> {
        let key = (path.rsplit_once('/').map_or("", |(above, _)| above).to_owned(), kind == FileKind::Directory);
        if let Some(known) = self.neighbours.get(&key) {
            return Ok(known.clone());
        }
        let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
        for child in self.tree.children(directory, MOST_NEIGHBOURS)? {
            if child.stat.kind == kind
                && let Some(label) = self.tree.label(&child.node)?
            {
                *counts.entry(label).or_default() += 1;
            }
        }
        // Of equally common labels the first in order, so that the result is reproducible.
        let most = counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(label, _)| label);
        self.neighbours.insert(key, most.clone());
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deaddrop_core::secret::Secret;
    use deaddrop_core::tree::walk;
    use deaddrop_core::tree::{Child, Stat};

    /// Paths with their kind, label and content. The root is the empty one.
    struct Toy(BTreeMap<&'static str, (FileKind, &'static str, &'static str)>);

    fn stat(kind: FileKind) -> Stat {
        Stat { kind, mode: 0o755, uid: 0, gid: 0, size: 0, links: 1, inode: 0, modified: 0 }
    }

    impl Tree for Toy {
        type Node = String;

        fn root(&self) -> Result<String, StorageError> {
            Ok(String::new())
        }

        fn root_stat(&self) -> Result<Stat, StorageError> {
            Ok(stat(FileKind::Directory))
        }

        fn acl_lets_write(&self, _: &String) -> Result<bool, StorageError> {
            Ok(false)
        }

        fn child(&self, directory: &String, name: &[u8]) -> Result<Option<(String, Stat)>, StorageError> {
            let path = format!("{directory}/{}", String::from_utf8_lossy(name));
            Ok(self.0.get(path.as_str()).map(|(kind, ..)| (path.clone(), stat(*kind))))
        }

        fn read_link(&self, _: &String) -> Result<Vec<u8>, StorageError> {
            Ok(Vec::new())
        }

        fn read(&self, file: &String, _: u64) -> Result<Option<Secret>, StorageError> {
            assert!(file.contains("selinux"), "{file} was read");
            Ok(Some(Secret::new(self.0[file.as_str()].2.as_bytes().to_vec())))
        }

        fn label(&self, node: &String) -> Result<Option<Label>, StorageError> {
            Ok(self.0.get(node.as_str()).and_then(|(_, label, _)| Label::new(label.as_bytes().to_vec())))
        }

        fn children(&self, directory: &String, limit: usize) -> Result<Vec<Child<String>>, StorageError> {
            let below = format!("{directory}/");
            let child = |(path, (kind, ..)): (&&str, &(FileKind, &str, &str))| {
                let name = path.strip_prefix(&below).filter(|name| !name.contains('/'))?.as_bytes().to_vec();
                Some(Child { name, node: (*path).to_owned(), stat: stat(*kind) })
            };
            Ok(self.0.iter().filter_map(child).take(limit).collect())
        }
    }

    fn tree(with_policy: bool) -> Toy {
        use FileKind::{Directory, File};
        let mut tree = BTreeMap::from([
            ("", (Directory, "root_t", "")),
            ("/etc", (Directory, "etc_t", "")),
            ("/etc/one", (File, "common_t", "")),
            ("/etc/two", (File, "common_t", "")),
            ("/etc/three", (File, "a_t", "")),
            ("/etc/plain", (File, "", "")),
            ("/etc/directory", (Directory, "dir_t", "")),
            ("/srv", (Directory, "srv_t", "")),
            ("/bare", (Directory, "", "")),
            ("/bare/kept", (File, "kept_t", "")),
        ]);
        if with_policy {
            tree.insert("/etc/selinux", (Directory, "sel_t", ""));
            tree.insert("/etc/selinux/config", (File, "sel_t", "SELINUX=disabled\nSELINUXTYPE=toy\n"));
            for directory in ["/etc/selinux/toy", "/etc/selinux/toy/contexts", "/etc/selinux/toy/contexts/files"] {
                tree.insert(directory, (Directory, "sel_t", ""));
            }
            let contexts = "/etc/secrets(/.*)? u:o:secret_t\n/etc/secrets/deep -d u:o:deep_t\n/srv/none <<none>>\n";
            tree.insert("/etc/selinux/toy/contexts/files/file_contexts", (File, "sel_t", contexts));
        }
        Toy(tree)
    }

    /// The labels at a path, each with its origin.
    fn labels(tree: &Toy, path: &str) -> Option<String> {
        let walked = walk::walk(tree, path).unwrap();
        let labels = Labeller::new(tree).choose(&walked).unwrap()?;
        let all = labels.parents.iter().chain([&labels.file]);
        let shown: Vec<String> = all.map(|chosen| format!("{} {:?}", chosen.label, chosen.origin)).collect();
        Some(shown.join(", "))
    }

    #[test]
    fn the_policy_counts_then_the_neighbours_then_the_directory() {
        let policy = tree(true);
        for (path, want) in [
            ("/etc/secrets/x", "u:o:secret_t Policy, u:o:secret_t Policy"),
            ("/etc/secrets/deep/x", "u:o:secret_t Policy, u:o:deep_t Policy, u:o:secret_t Policy"),
            ("/etc/new", "common_t Neighbours"),
            ("/etc/one", "common_t Kept"),
            ("/etc/plain", "common_t Neighbours"),
            ("/etc/sub/new", "dir_t Neighbours, dir_t Directory"),
            ("/srv/none", "srv_t Directory"),
            ("/srv/a/b/c", "srv_t Directory, srv_t Directory, srv_t Directory"),
            ("/bare/kept", "kept_t Kept"),
        ] {
            assert_eq!(labels(&policy, path).as_deref(), Some(want), "{path}");
        }
        assert_eq!(labels(&policy, "/bare/new/x"), None);
        assert_eq!(labels(&policy, "/bare/new"), None);
        let bare = tree(false);
        for (path, want) in
            [("/etc/secrets/x", "dir_t Neighbours, dir_t Directory"), ("/etc/new", "common_t Neighbours")]
        {
            assert_eq!(labels(&bare, path).as_deref(), Some(want), "{path}");
        }
    }
}
