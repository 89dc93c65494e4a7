//! A path inside a target.

use std::fmt;

/// An absolute, clean path inside a target: starts with `/`, has no `.`, `..`, empty component or NUL, no component
/// over 255 bytes, no trailing slash, and is not `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPath(String);

impl TargetPath {
    /// Checks a path.
    ///
    /// # Errors
    /// One sentence that says which rule the path breaks.
    pub fn parse(path: &str) -> Result<Self, String> {
        if !path.starts_with('/') {
            return Err("a path starts with `/`".into());
        }
        if path.contains('\0') {
            return Err("a path cannot hold a NUL byte".into());
        }
        if path.len() > 4095 {
            return Err("a path has at most 4095 bytes".into());
        }
        if path.ends_with('/') {
            return Err("a path names a file, and does not end with `/`".into());
        }
        for component in path.split('/').skip(1) {
            match component {
                "" => return Err("`//` is not allowed in a path".into()),
                "." => return Err("`.` is not allowed in a path".into()),
                ".." => return Err("`..` is not allowed in a path".into()),
                _ if component.len() > 255 => {
                    return Err("a name in a path has at most 255 bytes".into());
                }
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parent directory, `/` at the top.
    #[must_use]
    pub fn parent(&self) -> &str {
        match self.0.rfind('/') {
            Some(0) | None => "/",
            Some(slash) => &self.0[..slash],
        }
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_clean() {
        let long = format!("/etc/{}", "x".repeat(256));
        for (name, path, want) in [
            ("parent step", "/etc/../root/x", "`..` is not allowed in a path"),
            ("relative", "etc/x", "a path starts with `/`"),
            ("dot", "/etc/./x", "`.` is not allowed in a path"),
            ("empty component", "/etc//x", "`//` is not allowed in a path"),
            ("trailing slash", "/etc/x/", "a path names a file, and does not end with `/`"),
            ("root", "/", "a path names a file, and does not end with `/`"),
            ("NUL", "/etc/x\0y", "a path cannot hold a NUL byte"),
            ("long name", long.as_str(), "a name in a path has at most 255 bytes"),
        ] {
            assert_eq!(TargetPath::parse(path).unwrap_err(), want, "{name}");
        }
        assert_eq!(TargetPath::parse("/etc/secrets/x").unwrap().parent(), "/etc/secrets");
        assert_eq!(TargetPath::parse("/x").unwrap().parent(), "/");
    }
}
