//! The paths of a booted NixOS in a tree: the whole root, or only the file system that is mounted at /nix.

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::text;
pub use deaddrop_core::tree::walk::shown;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{Child, FileKind, Label, Stat, Tree};

/// A tree with the paths of the booted system. If the tree has `store` at its top and no /nix/store, it is what is
/// mounted at /nix: then `/nix/X` is its `/X`, and there is nothing else.
pub struct View<'t, T: Tree> {
    tree: &'t T,
    below_nix: bool,
    /// Size of the directory of the store, in bytes; `None` without a store.
    store_size: Option<u64>,
}

impl<'t, T: Tree> View<'t, T> {
    /// The view of a tree.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn of(tree: &'t T) -> Result<Self, StorageError> {
        if let Some(size) = directory_size(tree, "/nix/store")? {
            return Ok(Self { tree, below_nix: false, store_size: Some(size) });
        }
        let store_size = directory_size(tree, "/store")?;
        Ok(Self { tree, below_nix: store_size.is_some(), store_size })
    }

    /// True if there is a /nix/store.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.store_size.is_some()
    }

    /// How many paths may be looked up in the store, at most `most`: each look-up may read the store's directory, and a
    /// hostile one has a million names.
    #[must_use]
    pub fn patience(&self, most: usize) -> usize {
        const LEAST: usize = 10;
        let affordable = LOOKED_THROUGH.checked_div(self.store_size.unwrap_or(0)).unwrap_or(u64::MAX);
        usize::try_from(affordable).unwrap_or(usize::MAX).clamp(LEAST.min(most), most)
    }

    /// True if the tree is what is mounted at /nix.
    #[must_use]
    pub fn is_below_nix(&self) -> bool {
        self.below_nix
    }

    /// What is at `path`, through links, and its path without links; `None` if nothing is.
    ///
    /// # Errors
    /// The reason, with the path: a link leads nowhere, or a part of the tree is damaged.
    pub fn find(&self, path: &str) -> Result<Option<Place<'t, T>>, String> {
        match walk::resolve(self, path) {
            Ok(walked) => {
                Ok(walked.found.map(|(node, stat)| Place { physical: walked.physical, node, kind: stat.kind }))
            }
            Err(error) => Err(said(path, &error)),
        }
    }

    /// The text of the regular file at `path`, through links; `None` if nothing is there. Bytes that are not UTF-8 are
    /// replaced.
    ///
    /// # Errors
    /// The reason, with the path; also if it has more than `limit` bytes.
    pub fn text(&self, path: &str, limit: u64) -> Result<Option<String>, String> {
        let content = self.content(path, limit)?;
        Ok(content.map(|content| String::from_utf8_lossy(content.expose()).into_owned()))
    }

    /// The bytes of the regular file at `path`, as [`View::text`].
    ///
    /// # Errors
    /// As [`View::text`].
    pub fn content(&self, path: &str, limit: u64) -> Result<Option<Secret>, String> {
        let Some(place) = self.find(path)? else { return Ok(None) };
        self.file(path, &place.node, place.kind, limit).map(Some)
    }

    /// At most `limit` names in the directory at `path`, in an unspecified order, without those that are not UTF-8;
    /// `None` if nothing is there.
    ///
    /// # Errors
    /// The reason, with the path.
    pub fn names(&self, path: &str, limit: usize) -> Result<Option<Vec<String>>, String> {
        let Some(place) = self.find(path)? else { return Ok(None) };
        if place.kind != FileKind::Directory {
            return Err(said(path, &format!("it is {}", place.kind.name())));
        }
        let names = Tree::names(self, &place.node, limit).map_err(|error| said(path, &error))?;
        Ok(Some(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect()))
    }

    /// The target of the link at `path`, links above it followed; `None` if there is no link.
    ///
    /// # Errors
    /// The reason, with the path.
    pub fn link(&self, path: &str) -> Result<Option<String>, String> {
        match walk::walk(self, path) {
            Ok(Walk { found: Some((node, stat)), .. }) if stat.kind == FileKind::Symlink => {
                let target = self.read_link(&node).map_err(|error| said(path, &error))?;
                Ok(Some(String::from_utf8_lossy(&target).into_owned()))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(said(path, &error)),
        }
    }

    /// The text of a file that a link to /dev/null may mask; no image need hold a /dev/null.
    ///
    /// # Errors
    /// As [`View::text`].
    pub fn maskable(&self, path: &str, limit: u64) -> Result<Maskable, String> {
        let content = match walk::resolve(self, path) {
            Ok(Walk { found: None, .. }) => return Ok(Maskable::Missing),
            Ok(Walk { physical, .. }) if physical == DEV_NULL => return Ok(Maskable::Masked),
            Err(WalkError::Dangling { links }) if links.last().is_some_and(|link| link.to == DEV_NULL) => {
                return Ok(Maskable::Masked);
            }
            Ok(Walk { found: Some((node, stat)), .. }) => self.file(path, &node, stat.kind, limit)?,
            Err(error) => return Err(said(path, &error)),
        };
        Ok(Maskable::Text(String::from_utf8_lossy(content.expose()).into_owned()))
    }

    fn file(&self, path: &str, node: &<Self as Tree>::Node, kind: FileKind, limit: u64) -> Result<Secret, String> {
        if kind != FileKind::File {
            return Err(said(path, &format!("it is {}", kind.name())));
        }
        match self.read(node, limit) {
            Ok(Some(content)) => Ok(content),
            Ok(None) => Err(said(path, &format!("it has over {}", text::size(limit)))),
            Err(error) => Err(said(path, &error)),
        }
    }
}

/// A file that a link to /dev/null may stand for.
pub enum Maskable {
    /// Nothing is there.
    Missing,
    /// A link to /dev/null.
    Masked,
    /// Its text.
    Text(String),
}

/// How much of the store's directory is read for look-ups, in bytes.
const LOOKED_THROUGH: u64 = 512 << 20;

const DEV_NULL: &str = "/dev/null";

/// What is at a path.
pub struct Place<'t, T: Tree> {
    /// Its path without links.
    pub physical: String,
    /// It.
    pub node: <View<'t, T> as Tree>::Node,
    /// Its kind.
    pub kind: FileKind,
}

fn said(path: &str, why: &dyn std::fmt::Display) -> String {
    format!("{}: {why}", shown(path))
}

/// The size of the directory at a path, in bytes; `None` if there is none.
fn directory_size<T: Tree>(tree: &T, path: &str) -> Result<Option<u64>, StorageError> {
    match walk::resolve(tree, path) {
        Ok(Walk { found: Some((_, stat)), .. }) => Ok((stat.kind == FileKind::Directory).then_some(stat.size)),
        Err(WalkError::Image(error)) => Err(error),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// A node of a [`View`]: `None` is the directory above a tree that is mounted at /nix.
impl<T: Tree> Tree for View<'_, T> {
    type Node = Option<T::Node>;

    fn root(&self) -> Result<Self::Node, StorageError> {
        if self.below_nix { Ok(None) } else { self.tree.root().map(Some) }
    }

    fn root_stat(&self) -> Result<Stat, StorageError> {
        self.tree.root_stat()
    }

    fn child(&self, directory: &Self::Node, name: &[u8]) -> Result<Option<(Self::Node, Stat)>, StorageError> {
        match directory {
            Some(directory) => Ok(self.tree.child(directory, name)?.map(|(node, stat)| (Some(node), stat))),
            None if name == b"nix" => Ok(Some((Some(self.tree.root()?), self.tree.root_stat()?))),
            None => Ok(None),
        }
    }

    fn read_link(&self, link: &Self::Node) -> Result<Vec<u8>, StorageError> {
        self.tree.read_link(real(link)?)
    }

    fn read(&self, file: &Self::Node, limit: u64) -> Result<Option<Secret>, StorageError> {
        self.tree.read(real(file)?, limit)
    }

    fn label(&self, node: &Self::Node) -> Result<Option<Label>, StorageError> {
        node.as_ref().map_or(Ok(None), |node| self.tree.label(node))
    }

    fn acl_lets_write(&self, directory: &Self::Node) -> Result<bool, StorageError> {
        directory.as_ref().map_or(Ok(false), |directory| self.tree.acl_lets_write(directory))
    }

    fn children(&self, directory: &Self::Node, limit: usize) -> Result<Vec<Child<Self::Node>>, StorageError> {
        let Some(directory) = directory else { return Ok(Vec::new()) };
        let children = self.tree.children(directory, limit)?;
        Ok(children.into_iter().map(|Child { name, node, stat }| Child { name, node: Some(node), stat }).collect())
    }

    fn names(&self, directory: &Self::Node, limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
        directory.as_ref().map_or_else(|| Ok(Vec::new()), |directory| self.tree.names(directory, limit))
    }
}

fn real<N>(node: &Option<N>) -> Result<&N, StorageError> {
    node.as_ref().ok_or_else(|| StorageError::corrupt("the directory above /nix is not a file"))
}
