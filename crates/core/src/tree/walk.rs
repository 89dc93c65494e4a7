//! The walk from a path to what stands there: one component at a time, links followed inside the tree only.
//!
//! Absolute links start at the tree's own root and `..` never leaves it, as in a chroot. The last component is never
//! followed: what it is, is for the caller to judge. A link that others than root and the owner of the tree's root could have
//! laid is not followed at all: it could lead root's files anywhere.

use super::acl::{Open, Others};
use crate::error::StorageError;
use crate::text;
use crate::tree::{FileKind, Stat, Tree};

/// The directory that an absolute path lies in.
#[must_use]
pub fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}

/// Links followed in one walk before it counts as a loop; the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// One symbolic link that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Physical path of the link itself.
    pub at: String,
    /// Where it says it leads, as stored.
    pub to: String,
}

/// Where a walk ended.
#[derive(Debug)]
pub struct Walk<N> {
    /// The path without any link in it: where the file is, or would be.
    pub physical: String,
    /// Links followed on the way, in order.
    pub links: Vec<Link>,
    /// The first of them that somebody else than root and the owner of the tree's root could have laid, and who. Only
    /// [`trace`] and [`trace_to_end`] go past one.
    pub foreign: Option<(Link, String)>,
    /// Directories that would have to be made, topmost first; physical paths.
    pub missing_parents: Vec<String>,
    /// The last directory on the way that stands: it holds what was found, or would hold what is missing.
    pub directory: N,
    /// What stands at `physical`, not followed; `None` when nothing does.
    pub found: Option<(N, Stat)>,
    /// The directories that lead to `directory`, and it; the root is left out.
    above: Vec<Above<N>>,
}

/// Why a walk could not end at a place for a file.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A directory was needed where something else stands.
    #[error("{} is {}, not a directory", shown(path), kind.name())]
    NotADirectory {
        /// Physical path.
        path: String,
        /// What stands there.
        kind: FileKind,
        /// Links followed so far.
        links: Vec<Link>,
    },
    /// A link on the way leads to nothing inside the tree.
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
    /// Somebody else than root and the owner of the tree's root could have laid the link.
    #[error("the symbolic link {} -> {} is not followed: {why}", shown(&link.at), shown(&link.to))]
    Foreign {
        /// The link.
        link: Link,
        /// Who could.
        why: String,
    },
    /// A link's text cannot be a path to a file here (not UTF-8, empty, a NUL, or the root itself).
    #[error("the symbolic link {} leads to no place for a file", shown(at))]
    BadLink {
        /// Physical path of the link.
        at: String,
    },
    /// The tree could not be read.
    #[error(transparent)]
    Image(#[from] StorageError),
}

/// Shows links as a person follows them: `/etc/x -> /etc/static/x -> …`.
#[must_use]
pub fn chain(links: &[Link]) -> String {
    let steps: Vec<String> = links.iter().map(|link| format!("{} -> {}", shown(&link.at), shown(&link.to))).collect();
    steps.join(", ")
}

/// A path that links had a part in, fit for a terminal: names in a tree may hold anything.
#[must_use]
pub fn shown(path: &str) -> String {
    text::shown_text(path).unwrap_or_default()
}

fn last_links(links: &[Link]) -> String {
    chain(&links[links.len().saturating_sub(2)..])
}

/// A component still to be walked, and whether a link brought it in.
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
    ours(walk_from(tree, path, false)?)
}

/// Like [`walk`], and follows a link at the end as well. A dangling one is an error.
///
/// # Errors
/// See [`WalkError`].
pub fn resolve<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    ours(walk_from(tree, path, true)?)
}

/// Like [`walk`], whoever has laid the links: to judge where they lead. Nothing may be read or written there if
/// [`Walk::foreign`] says so.
///
/// # Errors
/// See [`WalkError`], but for `Foreign`.
pub fn trace<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    walk_from(tree, path, false)
}

/// Like [`resolve`], whoever has laid the links: to tell where they lead.
///
/// # Errors
/// See [`WalkError`], but for `Foreign`.
pub fn trace_to_end<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    walk_from(tree, path, true)
}

/// A walk that met no link of somebody else's.
fn ours<N>(mut walk: Walk<N>) -> Result<Walk<N>, WalkError> {
    match walk.foreign.take() {
        Some((link, why)) => Err(WalkError::Foreign { link, why }),
        None => Ok(walk),
    }
}

fn walk_from<T: Tree>(tree: &T, path: &str, follow_last: bool) -> Result<Walk<T::Node>, WalkError> {
    let root = tree.root()?;
    // The directories that lead to where we are; `..` pops one.
    let mut above: Vec<Above<T::Node>> = Vec::new();
    // Their physical path, kept as we go: a hostile tree is deep.
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
                    foreign = who_could_lay(tree, &root, &above, &stat)?.map(|why| (link.clone(), why));
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
    // Only a path that ends in `/`, `.` or `..` (a link's text can) comes here: it names a directory we are in.
    let Some(Above { node, name, .. }) = above.pop() else {
        return Err(WalkError::BadLink { at: links.pop().map_or_else(|| "/".into(), |link| link.at) });
    };
    let at = place;
    let directory = above.last().map_or(&root, |above| &above.node).clone();
    let found = tree.child(&directory, name.as_bytes())?.map(|(_, stat)| (node, stat));
    Ok(Walk { physical: at, links, foreign, missing_parents: Vec::new(), directory, found, above })
}

/// A directory that leads to where a walk is.
#[derive(Debug)]
struct Above<N> {
    node: N,
    stat: Stat,
    name: String,
    /// Where the physical path of the one above it ends.
    starts: usize,
}

/// Who else than root and the owner of the tree's root could have laid a link that stands in the last of these directories; `None`
/// when nobody could.
fn who_could_lay<T: Tree>(
    tree: &T,
    root: &T::Node,
    above: &[Above<T::Node>],
    link: &Stat,
) -> Result<Option<String>, StorageError> {
    if let Some(open) = open_to_others(tree, root, above)?.first() {
        return Ok(Some(open.to_string()));
    }
    let is_ours = link.uid == 0 || link.uid == tree.root_stat()?.uid;
    Ok((!is_ours).then(|| format!("it belongs to user {}", link.uid)))
}

/// The directories on the way to where a walk ended whose names somebody else than root and the owner of the tree's root can
/// change, topmost first.
///
/// # Errors
/// When the tree cannot be read.
pub fn open_on_the_way<T: Tree>(tree: &T, walked: &Walk<T::Node>) -> Result<Vec<Open>, StorageError> {
    open_to_others(tree, &tree.root()?, &walked.above)
}

/// Where the names of a directory can be changed by others, what stands there is theirs (but for sticky directories: unlink(2),
/// EPERM).
fn open_to_others<T: Tree>(tree: &T, root: &T::Node, above: &[Above<T::Node>]) -> Result<Vec<Open>, StorageError> {
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
            found.push(Open { directory, to });
        };
        if stat.uid != 0 && stat.uid != root_stat.uid {
            add(Others::Owner(stat.uid));
        }
        if stat.mode & STICKY != 0 {
            continue;
        }
        if stat.mode & 0o002 != 0 {
            add(Others::Everyone);
        }
        if stat.mode & 0o020 != 0 {
            if stat.gid != 0 {
                add(Others::Group(stat.gid));
            }
            if tree.acl_lets_write(node)? {
                add(Others::Acl);
            }
        }
    }
    Ok(found)
}

/// `at` does not exist: it and all of `todo` but the last component are directories to make.
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::secret::Secret;
    use crate::tree::Label;

    /// A tree in memory: a path to a directory (`None`) or a link's text; files are links to "" of kind File.
    struct Toy(BTreeMap<&'static str, (FileKind, &'static str)>, BTreeMap<&'static str, (u32, u32, u32)>);

    impl Toy {
        /// Mode, user and group are 0755 and root's where nothing else is said.
        fn stat(&self, kind: FileKind, path: &str) -> Stat {
            let (mode, uid, gid) = self.1.get(path).copied().unwrap_or((0o755, 0, 0));
            Stat { kind, mode, uid, gid, size: 0, links: 1, inode: 0, modified: 0 }
        }

        fn owned(owners: &[(&'static str, (u32, u32, u32))]) -> Self {
            Self(nixos().0, owners.iter().copied().collect())
        }
    }

    impl Tree for Toy {
        type Node = String;

        fn root(&self) -> Result<String, StorageError> {
            Ok(String::new())
        }

        fn root_stat(&self) -> Result<Stat, StorageError> {
            Ok(self.stat(FileKind::Directory, "/"))
        }

        fn acl_lets_write(&self, directory: &String) -> Result<bool, StorageError> {
            Ok(directory.ends_with("/lib"))
        }

        fn child(&self, directory: &String, name: &[u8]) -> Result<Option<(String, Stat)>, StorageError> {
            let path = format!("{directory}/{}", String::from_utf8_lossy(name));
            Ok(self.0.get(path.as_str()).map(|(kind, _)| {
                let stat = self.stat(*kind, &path);
                (path.clone(), stat)
            }))
        }

        fn read_link(&self, link: &String) -> Result<Vec<u8>, StorageError> {
            Ok(self.0[link.as_str()].1.as_bytes().to_vec())
        }

        fn read(&self, _: &String, _: u64) -> Result<Option<Secret>, StorageError> {
            Ok(None)
        }

        fn label(&self, _: &String) -> Result<Option<Label>, StorageError> {
            Ok(None)
        }

        fn some_children(&self, _: &String, _: usize) -> Result<Vec<(String, Stat)>, StorageError> {
            Ok(Vec::new())
        }
    }

    fn nixos() -> Toy {
        use FileKind::{Directory, File, Symlink};
        Toy(
            BTreeMap::from([
                ("/etc", (Directory, "")),
                ("/etc/static", (Symlink, "/nix/store/e/etc")),
                ("/etc/hosts", (Symlink, "/etc/static/hosts")),
                ("/etc/systemd", (Directory, "")),
                ("/etc/systemd/system", (Symlink, "../static/units")),
                ("/etc/up", (Symlink, "../../../../var")),
                ("/etc/dangling", (Symlink, "/home/nobody/x")),
                ("/etc/escape", (Symlink, "/\u{1b}[2J")),
                ("/etc/a", (Symlink, "b")),
                ("/etc/b", (Symlink, "a")),
                ("/etc/file", (File, "")),
                ("/etc/self", (Symlink, ".")),
                ("/nix", (Directory, "")),
                ("/nix/store", (Directory, "")),
                ("/nix/store/e", (Directory, "")),
                ("/nix/store/e/etc", (Directory, "")),
                ("/nix/store/e/etc/hosts", (File, "")),
                ("/nix/store/e/etc/units", (Directory, "")),
                ("/var", (Directory, "")),
                ("/var/run", (Symlink, "/run")),
                ("/run", (Directory, "")),
            ]),
            BTreeMap::new(),
        )
    }

    #[test]
    fn a_link_that_others_could_have_laid_is_not_followed() {
        let user = (0o755, 1000, 100);
        for (name, path, owners, want) in [
            ("all is root's", "/var/run/x", vec![], None),
            (
                "the link is a user's",
                "/var/run/x",
                vec![("/var/run", (0o777, 1000, 100))],
                Some("it belongs to user 1000"),
            ),
            ("its directory is", "/var/run/x", vec![("/var", user)], Some("/var belongs to user 1000")),
            (
                "the top is, and so is everything",
                "/var/run/x",
                vec![("/", user), ("/var", user), ("/var/run", user)],
                None,
            ),
            (
                "the top is, and the link another's",
                "/var/run/x",
                vec![("/", user), ("/var/run", (0o755, 7, 7))],
                Some("it belongs to user 7"),
            ),
            ("everybody writes", "/var/run/x", vec![("/var", (0o757, 0, 0))], Some("every user may write to /var")),
            ("everybody writes, and it is sticky", "/var/run/x", vec![("/var", (0o1777, 0, 0))], None),
            ("a group writes", "/var/run/x", vec![("/var", (0o775, 0, 50))], Some("group 50 may write to /var")),
            ("root's group writes", "/var/run/x", vec![("/var", (0o775, 0, 0))], None),
            ("the store", "/etc/systemd/system/x", vec![("/nix/store", (0o1775, 0, 30000))], None),
            ("the top is open", "/var/run/x", vec![("/", (0o777, 0, 0))], Some("every user may write to /")),
            ("a file without a link on the way", "/nix/x", vec![("/nix", user)], None),
            ("a second link", "/etc/up/lib/x", vec![("/var/lib", user)], Some("it belongs to user 1000")),
            (
                "an ACL",
                "/var/lib/link/x",
                vec![("/var/lib", (0o775, 0, 0))],
                Some("an ACL lets others write to /var/lib"),
            ),
            ("an ACL whose mask has no write", "/var/lib/link/x", vec![("/var/lib", (0o755, 0, 0))], None),
        ] {
            let mut tree = Toy::owned(&owners);
            tree.0.insert(
                "/var/lib",
                if path.contains("/link/") { (FileKind::Directory, "") } else { (FileKind::Symlink, "/run") },
            );
            tree.0.insert("/var/lib/link", (FileKind::Symlink, "/run"));
            let why = match walk(&tree, path) {
                Ok(_) => None,
                Err(WalkError::Foreign { why, .. }) => Some(why),
                Err(other) => Some(other.to_string()),
            };
            assert_eq!(why.as_deref(), want, "{name}");
        }
    }

    #[test]
    fn links_on_the_way_are_followed_inside_the_tree() {
        let tree = nixos();
        for (path, want) in [
            ("/var/run/x", "/run/x"),
            ("/etc/systemd/system/x.service", "/nix/store/e/etc/units/x.service"),
            ("/etc/up/x", "/var/x"),
            ("/etc/self/self/x", "/etc/x"),
            ("/etc/hosts", "/etc/hosts"),
            ("/etc/secrets/x", "/etc/secrets/x"),
        ] {
            assert_eq!(walk(&tree, path).unwrap().physical, want, "{path}");
        }
        assert_eq!(resolve(&tree, "/etc/hosts").unwrap().physical, "/nix/store/e/etc/hosts");
        assert_eq!(walk(&tree, "/etc/hosts").unwrap().found.unwrap().1.kind, FileKind::Symlink);
    }

    #[test]
    fn missing_parents_are_listed_from_the_top() {
        let walked = walk(&nixos(), "/var/lib/secrets/x").unwrap();
        assert_eq!(walked.missing_parents, ["/var/lib", "/var/lib/secrets"]);
        assert!(walked.found.is_none());
    }

    #[test]
    fn a_walk_that_cannot_end_says_why() {
        let tree = nixos();
        for (path, want) in [
            ("/etc/file/x", "/etc/file is a regular file, not a directory"),
            ("/etc/dangling/x", "a symbolic link on the way leads to nothing: /etc/dangling -> /home/nobody/x"),
            ("/etc/escape/x", "a symbolic link on the way leads to nothing: /etc/escape -> /\u{fffd}[2J"),
            ("/etc/a/x", "more than 40 symbolic links on the way, the last: /etc/b -> a, /etc/a -> b"),
        ] {
            assert_eq!(walk(&tree, path).unwrap_err().to_string(), want, "{path}");
        }
    }
}
