//! The walk from a path to what stands there: one component at a time, links followed inside the tree only.
//!
//! Absolute links start at the tree's own root and `..` never leaves it, as in a chroot. The last component is never
//! followed: what it is, is for the caller to judge.

use super::error::ImageError;
use super::text;
use super::tree::{Kind, Stat, Tree};

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
    /// Directories that would have to be made, topmost first; physical paths.
    pub missing_parents: Vec<String>,
    /// The last directory on the way that stands: it holds what was found, or would hold what is missing.
    pub directory: N,
    /// What stands at `physical`, not followed; `None` when nothing does.
    pub found: Option<(N, Stat)>,
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
        kind: Kind,
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
    /// A link's text cannot be a path to a file here (not UTF-8, empty, a NUL, or the root itself).
    #[error("the symbolic link {} leads to no place for a file", shown(at))]
    BadLink {
        /// Physical path of the link.
        at: String,
    },
    /// The tree could not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
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
struct Step {
    name: String,
    from_link: bool,
}

fn steps_reversed(path: &str, from_link: bool) -> impl Iterator<Item = Step> + '_ {
    path.rsplit('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .map(move |name| Step { name: name.to_owned(), from_link })
}

/// Walks `path` (absolute, no `..`) in `tree`.
///
/// # Errors
/// See [`WalkError`]; a missing file or a missing parent is not an error.
pub fn walk<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    walk_from(tree, path, false)
}

/// Like [`walk`], and follows a link at the end as well. A dangling one is an error.
///
/// # Errors
/// See [`WalkError`].
pub fn resolve<T: Tree>(tree: &T, path: &str) -> Result<Walk<T::Node>, WalkError> {
    walk_from(tree, path, true)
}

fn walk_from<T: Tree>(tree: &T, path: &str, follow_last: bool) -> Result<Walk<T::Node>, WalkError> {
    let root = tree.root()?;
    // The directories that lead to where we are, each with its name; `..` pops one.
    let mut above: Vec<(T::Node, String)> = Vec::new();
    let mut links: Vec<Link> = Vec::new();
    let mut todo: Vec<Step> = steps_reversed(path, false).collect();
    let physical = |above: &[(T::Node, String)], name: &str| {
        let mut path = String::new();
        for (_, directory) in above {
            path.push('/');
            path.push_str(directory);
        }
        path.push('/');
        path.push_str(name);
        path
    };

    while let Some(step) = todo.pop() {
        if step.name == ".." {
            above.pop();
            continue;
        }
        let directory = above.last().map_or(&root, |(node, _)| node);
        let at = physical(&above, &step.name);
        let is_last = todo.is_empty();
        let Some((node, stat)) = tree.child(directory, step.name.as_bytes())? else {
            if step.from_link {
                return Err(WalkError::Dangling { links });
            }
            return Ok(missing(at, links, todo, directory.clone()));
        };
        match stat.kind {
            Kind::Symlink if !is_last || follow_last => {
                let to = String::from_utf8(tree.read_link(&node)?)
                    .ok()
                    .filter(|to| !to.is_empty() && !to.contains('\0'))
                    .ok_or_else(|| WalkError::BadLink { at: at.clone() })?;
                links.push(Link { at, to: to.clone() });
                if links.len() > MAX_LINKS {
                    return Err(WalkError::Loop { links });
                }
                if to.starts_with('/') {
                    above.clear();
                }
                todo.extend(steps_reversed(&to, true));
            }
            _ if is_last => {
                let (directory, missing_parents) = (directory.clone(), Vec::new());
                return Ok(Walk { physical: at, links, missing_parents, directory, found: Some((node, stat)) });
            }
            Kind::Directory => above.push((node, step.name)),
            kind => return Err(WalkError::NotADirectory { path: at, kind, links }),
        }
    }
    // Only a path that ends in `/`, `.` or `..` (a link's text can) comes here: it names a directory we are in.
    let Some((node, name)) = above.pop() else {
        return Err(WalkError::BadLink { at: links.pop().map_or_else(|| "/".into(), |link| link.at) });
    };
    let at = physical(&above, &name);
    let directory = above.last().map_or(&root, |(node, _)| node).clone();
    let found = tree.child(&directory, name.as_bytes())?.map(|(_, stat)| (node, stat));
    Ok(Walk { physical: at, links, missing_parents: Vec::new(), directory, found })
}

/// `at` does not exist: it and all of `todo` but the last component are directories to make.
fn missing<N>(at: String, links: Vec<Link>, mut todo: Vec<Step>, directory: N) -> Walk<N> {
    let mut missing_parents = Vec::new();
    let mut physical = at;
    while let Some(step) = todo.pop() {
        missing_parents.push(physical.clone());
        physical.push('/');
        physical.push_str(&step.name);
    }
    Walk { physical, links, missing_parents, directory, found: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::image::tree::Label;
    use crate::secret::Secret;

    /// A tree in memory: a path to a directory (`None`) or a link's text; files are links to "" of kind File.
    struct Toy(BTreeMap<&'static str, (Kind, &'static str)>);

    impl Tree for Toy {
        type Node = String;

        fn root(&self) -> Result<String, ImageError> {
            Ok(String::new())
        }

        fn child(&self, directory: &String, name: &[u8]) -> Result<Option<(String, Stat)>, ImageError> {
            let path = format!("{directory}/{}", String::from_utf8_lossy(name));
            Ok(self.0.get(path.as_str()).map(|(kind, _)| {
                let stat = Stat { kind: *kind, mode: 0o755, uid: 0, gid: 0, size: 0, links: 1 };
                (path.clone(), stat)
            }))
        }

        fn read_link(&self, link: &String) -> Result<Vec<u8>, ImageError> {
            Ok(self.0[link.as_str()].1.as_bytes().to_vec())
        }

        fn read(&self, _: &String, _: u64) -> Result<Option<Secret>, ImageError> {
            Ok(None)
        }

        fn label(&self, _: &String) -> Result<Option<Label>, ImageError> {
            Ok(None)
        }

        fn some_children(&self, _: &String, _: usize) -> Result<Vec<(String, Stat)>, ImageError> {
            Ok(Vec::new())
        }
    }

    fn nixos() -> Toy {
        use Kind::{Directory, File, Symlink};
        Toy(BTreeMap::from([
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
        ]))
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
        assert_eq!(walk(&tree, "/etc/hosts").unwrap().found.unwrap().1.kind, Kind::Symlink);
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
