//! NX108: paths below a home directory that does not exist.

use super::Finding;

/// The code of this finding.
pub const CODE: &str = "NX108";

/// The file at `path` is below `home`, the home of `user`, which does not exist.
#[must_use]
pub fn missing(path: &str, home: &str, user: &str) -> Finding {
    Finding {
        code: CODE,
        refuse: true,
        reason: format!(
            "{path} is below {home}, the home of {user}, which is not there: it would be made, and belong to root"
        ),
        instead: format!(
            "declare another path, make the home in the target first, or go on with directories that are root's: \
             `allow: {{ {CODE}: \"the reason\" }}`"
        ),
    }
}

/// The same where the manifest allows it, for this reason.
#[must_use]
pub fn missing_and_allowed(path: &str, home: &str, user: &str, allowed: &str) -> Finding {
    let finding = missing(path, home, user);
    Finding {
        refuse: false,
        reason: format!("{}; that is allowed: {allowed}", finding.reason),
        instead: format!("{user} cannot use what is root's in its home"),
        ..finding
    }
}
