//! The target's own users and groups: /etc/passwd, /etc/group and the hash fields of /etc/shadow.

use std::collections::HashMap;

use crate::secret::Secret;

/// Names and numbers as the target's own files give them; all empty when it has no such files yet.
#[derive(Debug, Default)]
pub struct Users {
    uids: HashMap<String, u32>,
    gids: HashMap<String, u32>,
    hashes: HashMap<String, Secret>,
}

impl Users {
    /// Reads the three files' contents; a file that the target does not have is empty. Lines that are not of the
    /// format (passwd(5), group(5), shadow(5)) are passed over. As libc does, the first line of a name counts.
    #[must_use]
    pub fn parse(passwd: &[u8], group: &[u8], shadow: &[u8]) -> Self {
        let mut users = Self::default();
        // name:password:id:… in both files.
        for (file, ids) in [(passwd, &mut users.uids), (group, &mut users.gids)] {
            for fields in lines_of_fields(file) {
                if let [name, _, id, ..] = fields.as_slice()
                    && let (Ok(name), Some(id)) = (std::str::from_utf8(name), parse_id(id))
                {
                    ids.entry(name.to_owned()).or_insert(id);
                }
            }
        }
        for fields in lines_of_fields(shadow) {
            if let [name, hash, ..] = fields.as_slice()
                && let Ok(name) = std::str::from_utf8(name)
            {
                users.hashes.entry(name.to_owned()).or_insert_with(|| Secret::new(hash.to_vec()));
            }
        }
        users
    }

    /// A user's number. `root` is 0 also where there is no passwd yet.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.uids.get(name).copied().or((name == "root").then_some(0))
    }

    /// A group's number. `root` is 0 also where there is no group file yet.
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.gids.get(name).copied().or((name == "root").then_some(0))
    }

    /// The hash field of a user's shadow line, `!` and the empty field included; `None` without a line.
    #[must_use]
    pub fn shadow_hash(&self, name: &str) -> Option<&Secret> {
        self.hashes.get(name)
    }
}

fn lines_of_fields(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && line[0] != b'#')
        .map(|line| line.splitn(8, |byte| *byte == b':').collect())
}

fn parse_id(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_in_the_targets_own_files() {
        let users = Users::parse(
            b"root:x:0:0::/root:/bin/sh\nadmin:x:1000:100::/home/admin:/bin/sh\nadmin:x:7:7::/:\nbroken\nbad:x:many:1::\n",
            b"users:x:100:admin\nshadow:x:318:\n",
            b"root:!:1::::::\nadmin:$y$abc:1::::::\n",
        );
        assert_eq!(users.uid("admin"), Some(1000), "the first line of a name counts");
        assert_eq!(users.gid("shadow"), Some(318));
        assert_eq!(users.uid("bad"), None);
        assert_eq!(users.uid("nobody"), None);
        assert_eq!(users.shadow_hash("admin").unwrap().expose(), b"$y$abc");
        assert_eq!(users.shadow_hash("root").unwrap().expose(), b"!");
        assert!(users.shadow_hash("bad").is_none());
    }

    #[test]
    fn root_is_zero_where_there_are_no_users_yet() {
        let users = Users::parse(b"", b"", b"");
        assert_eq!((users.uid("root"), users.gid("root"), users.uid("admin")), (Some(0), Some(0), None));
    }
}
