//! Resolves a path in a tree: one component at a time, links followed only inside the tree.
//!
//! Absolute links start at the tree's own root and `..` never leaves it, as in a chroot. The last component is never
//! followed: the caller checks its kind. A link that a user other than root and the owner of the tree's root could have
//! created is not followed at all: it could lead root's files anywhere.

use super::acl::{WritableDirectory, Writers};
use crate::error::StorageError;
use crate::text;
use crate::tree::{FileKind, Stat, Tree};

/// The parent directory of an absolute path.
#[must_use]
pub fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}

/// Maximum number of links in one walk before it counts as a loop; the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A symbolic link in the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Physical path of the link itself.
    pub at: String,
    /// The link's target, as stored.
    pub to: String,
}

/// The result of a walk.
#[derive(Debug)]
pub struct Walk<N> {
    /// The path without any link in it: where the file is, or would be created.
    pub physical: String,
    /// Links that were followed, in order.
    pub links: Vec<Link>,
    /// The first link that a user other than root and the owner of the tree's root could have created, and who. Only
    /// [`trace`] and [`trace_to_end`] follow such a link.
    pub foreign: Option<(Link, String)>,
    /// Directories that would have to be created, topmost first; physical paths.
    pub missing_parents: Vec<String>,
    /// The last existing directory of the path: it contains `found`, or would contain the first missing component.
    pub directory: N,
    /// The file at `physical`, not followed; `None` if it does not exist.
    pub found: Option<(N, Stat)>,
    /// The directories of the path down to `directory`, including it; without the root.
    above: Vec<Above<N>>,
}

impl<N> Walk<N> {
    /// True if every directory above a found file has all of these permission bits; the tree's root does not count.
    #[must_use]
    pub fn parents_have(&self, bits: u32) -> bool {
        self.above.iter().all(|above| above.stat.mode & bits == bits)
    }
}

/// The reason why a path does not lead to a place for a file.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A path component is not a directory.
    #[error("{} is {}, not a directory", shown(path), kind.name())]
    NotADirectory {
        /// Physical path.
        path: String,
        /// The kind of the existing file.
        kind: FileKind,
        /// Links followed up to there.
        links: Vec<Link>,
    },
    /// A link in the path has no target inside the tree.
    #[error("a symbolic link on the way leads to nothing: {}", chain(links))]
    Dangling {
        /// The links, the dangling one last.
        links: Vec<Link>,
    },
    /// More links than the kernel follows.
    #[error("more than {MAX_LINKS} symbolic links on the way, the last: {}", last_links(links))]
    Loop {
        /// The links.
        links: Vec<Link>,
    },
    /// A user other than root and the owner of the tree's root could have created the link.
    #[error("the symbolic link {} -> {} is not followed: {why}", shown(&link.at), shown(&link.to))]
    Foreign {
        /// The link.
        link: Link,
        /// Who could have.
        why: String,
    },
    /// A link's target is not a path to a file here (not UTF-8, empty, with a NUL, or the root itself).
    #[error("the symbolic link {} leads to no place for a file", shown(at))]
    BadLink {
        /// Physical path of the link.
        at: String,
    },
    /// The tree could not be read.
    #[error(transparent)]
    Image(#[from] StorageError),
}

/// The links in the order in which they are followed: `/etc/x -> /etc/static/x -> …`.
#[must_use]
pub fn chain(links: &[Link]) -> String {
    let steps: Vec<String> = links.iter().map(|link| format!("{} -> {}", shown(&link.at), shown(&link.to))).collect();
    steps.join(", ")
}

/// A path in a tree, safe for a terminal: names in a tree may contain anything.
#[must_use]
pub fn shown(path: &str) -> String {
    text::shown_text(path).unwrap_or_default()
}

fn last_links(links: &[Link]) -> String {
    chain(&links[links.len().saturating_sub(2)..])
}

/// A path component still to be walked, and whether it comes from a link.
struct Component {
    name: String,
    from_link: bool,
}

fn steps_reversed(path: &str, from_link: bool) -> impl Iterator<Item = Component> + '_ {
    path.rsplit('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .map(move |name| Component { name: name.to_owned(), from_link })
}

/// Walks `path` (absolute, no `..`) in `tree`.
///
/// # Errors
/// See [`WalkError`]; a missing file or a missing parent is not an error.
pub fn walk<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    refuse_foreign(walk_from(tree, path, false)?)
}

/// Like [`walk`], but also follows a link at the end. A dangling link is an error.
///
/// # Errors
/// See [`WalkError`].
pub fn resolve<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    refuse_foreign(walk_from(tree, path, true)?)
}

/// Like [`walk`], regardless of who created the links: to check where they lead. The caller must not read or write
/// there if [`Walk::foreign`] is set.
///
/// # Errors
/// See [`WalkError`], except `Foreign`.
pub fn trace<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    walk_from(tree, path, false)
}

/// Like [`resolve`], regardless of who created the links: to report where they lead.
///
/// # Errors
/// See [`WalkError`], except `Foreign`.
pub fn trace_to_end<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    walk_from(tree, path, true)
}

/// Refuses a walk through a foreign link.
fn refuse_foreign<N>(mut walk: Walk<N>) -> Result<Walk<N>, WalkError> {
    match walk.foreign.take() {
        Some((link, why)) => Err(WalkError::Foreign { link, why }),
        None => Ok(walk),
    }
}

fn walk_from<T: Tree>(tree: &T, path: &str, follow_last: bool) -> Result<Walk<T::Node>, WalkError> {
    let root = tree.root()?;
    // The directories from the root to the current one; `..` pops one.
    let mut above: Vec<Above<T::Node>> = Vec::new();
    // Their physical path, maintained incrementally: a hostile tree is deep.
    let mut place = String::new();
    let mut links: Vec<Link> = Vec::new();
    let mut foreign = None;
    let mut todo: Vec<Component> = steps_reversed(path, false).collect();
    while let Some(step) = todo.pop() {
        if step.name == ".." {
            place.truncate(above.pop().map_or(0, |left| left.starts));
            continue;
        }
        let directory = above.last().map_or(&root, |above| &above.node);
        let at = format!("{place}/{}", step.name);
        let is_last = todo.is_empty();
        let Some((node, stat)) = tree.child(directory, step.name.as_bytes())? else {
            if step.from_link {
                return Err(WalkError::Dangling { links });
            }
            let directory = directory.clone();
            return Ok(Walk { foreign, above, ..missing(at, links, todo, directory) });
        };
        match stat.kind {
            FileKind::Symlink if !is_last || follow_last => {
                let to = String::from_utf8(tree.read_link(&node)?)
                    .ok()
                    .filter(|to| !to.is_empty() && !to.contains('\0'))
                    .ok_or_else(|| WalkError::BadLink { at: at.clone() })?;
                let link = Link { at, to: to.clone() };
                if foreign.is_none() {
                    foreign = untrusted_link_owner(tree, &root, &above, &stat)?.map(|why| (link.clone(), why));
                }
                links.push(link);
                if links.len() > MAX_LINKS {
                    return Err(WalkError::Loop { links });
                }
                if to.starts_with('/') {
                    above.clear();
                    place.clear();
                }
                todo.extend(steps_reversed(&to, true));
            }
            _ if is_last => {
                let (directory, missing_parents) = (directory.clone(), Vec::new());
                return Ok(Walk {
                    physical: at,
                    links,
                    foreign,
                    missing_parents,
                    directory,
                    found: Some((node, stat)),
                    above,
                });
            }
            FileKind::Directory => {
                above.push(Above { node, stat, starts: place.len(), name: step.name });
                place = at;
            }
            kind => return Err(WalkError::NotADirectory { path: at, kind, links }),
        }
    }
    // Only a path that ends in `/`, `.` or `..` (possible in a link's target) gets here: it names the current
    // directory.
    let Some(Above { node, name, .. }) = above.pop() else {
        return Err(WalkError::BadLink { at: links.pop().map_or_else(|| "/".into(), |link| link.at) });
    };
    let at = place;
    let directory = above.last().map_or(&root, |above| &above.node).clone();
    let found = tree.child(&directory, name.as_bytes())?.map(|(_, stat)| (node, stat));
    Ok(Walk { physical: at, links, foreign, missing_parents: Vec::new(), directory, found, above })
}

/// A directory of the path of a walk.
#[derive(Debug)]
struct Above<N> {
    node: N,
    stat: Stat,
    name: String,
    /// Length of the physical path of its parent, in bytes.
    starts: usize,
}

/// The user other than root and the owner of the tree's root who could have created a link in the last of these
/// directories; `None` if there is none.
fn untrusted_link_owner<T: Tree>(
    tree: &T,
    root: &T::Node,
    above: &[Above<T::Node>],
    link: &Stat,
) -> Result<Option<String>, StorageError> {
    if let Some(open) = writable_by_others(tree, root, above)?.first() {
        return Ok(Some(open.to_string()));
    }
    let is_ours = link.uid == 0 || link.uid == tree.root_stat()?.uid;
    Ok((!is_ours).then(|| format!("it belongs to user {}", link.uid)))
}

/// The directories of the walk's path in which a user other than root and the owner of the tree's root can create and
/// rename entries, topmost first.
///
/// # Errors
/// If the tree cannot be read.
pub fn writable_parents<T: Tree>(tree: &T, walked: &Walk<T::Node>) -> Result<Vec<WritableDirectory>, StorageError> {
    writable_by_others(tree, &tree.root()?, &walked.above)
}

/// A user who can change the entries of a directory controls everything in it (except in sticky directories: unlink(2),
/// EPERM).
fn writable_by_others<T: Tree>(
    tree: &T,
    root: &T::Node,
    above: &[Above<T::Node>],
) -> Result<Vec<WritableDirectory>, StorageError> {
    const STICKY: u32 = 0o1000;
    let root_stat = tree.root_stat()?;
    let mut found = Vec::new();
    let mut path = String::new();
    let below = above.iter().map(|above| (above.name.as_str(), &above.node, &above.stat));
    for (name, node, stat) in std::iter::once(("", root, &root_stat)).chain(below) {
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        let mut add = |to| {
            let directory = if path.is_empty() { "/".to_owned() } else { path.clone() };
            found.push(WritableDirectory { directory, to });
        };
        if stat.uid != 0 && stat.uid != root_stat.uid {
            add(Writers::Owner(stat.uid));
        }
        if stat.mode & STICKY != 0 {
            continue;
        }
        if stat.mode & 0o002 != 0 {
            add(Writers::Everyone);
        }
        if stat.mode & 0o020 != 0 {
            if stat.gid != 0 {
                add(Writers::Group(stat.gid));
            }
            if tree.acl_lets_write(node)? {
                add(Writers::Acl);
            }
        }
    }
    Ok(found)
}

/// `at` does not exist: it and all of `todo` except the last component are directories to create.
fn missing<N>(at: String, links: Vec<Link>, mut todo: Vec<Component>, directory: N) -> Walk<N> {
    let mut missing_parents = Vec::new();
    let mut physical = at;
    while let Some(step) = todo.pop() {
        missing_parents.push(physical.clone());
        physical.push('/');
        physical.push_str(&step.name);
    }
    Walk { physical, links, foreign: None, missing_parents, directory, found: None, above: Vec::new() }
}

#[cfg(test)]
mod tests;
