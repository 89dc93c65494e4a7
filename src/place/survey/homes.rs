//! The home directories above declared paths.

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Tree};

use crate::nixos::location::Places;
use crate::place::users::{User, Users};

/// A home directory above a declared path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Its path, as in passwd.
    pub path: String,
    /// Its user.
    pub user: User,
    /// It exists.
    pub exists: bool,
}

/// The homes of a target's users.
pub(super) struct Homes<'u> {
    users: Vec<(&'u User, &'u str)>,
    /// The physical path of `/home`, if a link leads elsewhere.
    moved: Option<String>,
}

impl<'u> Homes<'u> {
    pub(super) fn of<T: Tree>(tree: &T, users: &'u Users) -> Result<Self, StorageError> {
        let users: Vec<(&User, &str)> = users.with_homes().collect();
        let moved = match walk::resolve(tree, "/home") {
            _ if users.is_empty() => None,
            Ok(walked) => Some(walked.physical).filter(|physical| physical != "/home"),
            Err(WalkError::Image(error)) => return Err(error),
            Err(_) => None,
        };
        Ok(Self { users, moved })
    }

    /// The innermost home above `path`, as declared or as resolved.
    pub(super) fn above<T: Tree>(
        &self,
        tree: &T,
        places: Option<&Places<'_>>,
        path: &str,
        walked: &Walk<T::Node>,
    ) -> Result<Option<Home>, StorageError> {
        for (user, home) in &self.users {
            let moved = self.moved.as_ref().zip(home.strip_prefix("/home/")).map(|(top, name)| format!("{top}/{name}"));
            let is_below = |home: &str| [path, walked.physical.as_str()].iter().any(|path| is_below(path, home));
            if !is_below(home) && !moved.as_deref().is_some_and(is_below) {
                continue;
            }
            let at = places.map_or_else(|| (*home).to_owned(), |places| places.in_tree(home));
            let exists = match walk::resolve(tree, &at) {
                Ok(walked) => walked.found.is_some_and(|(_, stat)| stat.kind == FileKind::Directory),
                Err(WalkError::Image(error)) => return Err(error),
                Err(_) => false,
            };
            return Ok(Some(Home { path: (*home).to_owned(), user: (*user).clone(), exists }));
        }
        Ok(None)
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}
