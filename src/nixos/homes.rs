//! NX108: paths below a home directory that does not exist.

use super::Finding;

/// The file at `path` is below `home`, the home of `user`, which does not exist.
#[must_use]
pub fn missing(path: &str, home: &str, user: &str) -> Finding {
    Finding {
        code: "NX108",
        refuse: true,
        reason: format!(
            "{path} is below {home}, the home of {user}, which is not there: it would be made, and belong to root"
        ),
        instead: "declare another path, or make the home in the target first".to_owned(),
    }
}
