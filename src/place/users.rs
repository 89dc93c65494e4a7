//! The target's own users and groups: /etc/passwd, /etc/group and the hash fields of /etc/shadow.

use std::collections::{HashMap, HashSet};

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::nixos::closure::Accounts;

/// Names and numbers from the target's own files; all empty if it has no such files yet.
#[derive(Debug, Default)]
pub struct Users {
    uids: HashMap<String, u32>,
    gids: HashMap<String, u32>,
    hashes: HashMap<String, Secret>,
    /// Users with their numbers and homes, in passwd's order.
    users: Vec<User>,
    /// The names in a group's line, by its number.
    members: HashMap<u32, Vec<String>>,
    /// True if the target is a NixOS: what it does not have yet, it makes at the first boot.
    is_nixos: bool,
    /// True if no target is there to look names up in.
    is_nowhere: bool,
}

/// A line of passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its own group.
    pub gid: u32,
    /// Its home directory: absolute, without `//`, `.` and a final `/`; `None` if it has none of its own.
    pub home: Option<String>,
}

/// Homes that mean that a user has none (nixpkgs, `users.users.<name>.home`; Debian, `adduser --no-create-home`).
const NO_HOMES: [&str; 3] = ["/", "/var/empty", "/nonexistent"];

impl Users {
    /// Parses the three files' contents; a missing file is empty. Malformed lines (passwd(5), group(5), shadow(5)) are
    /// ignored. As in libc, the first line of a name wins.
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
        for fields in lines_of_fields(group) {
            if let [_, _, gid, members, ..] = fields.as_slice()
                && let (Some(gid), Ok(members)) = (parse_id(gid), std::str::from_utf8(members))
            {
                let members = members.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
                users.members.entry(gid).or_default().extend(members);
            }
        }
        let mut names = HashSet::new();
        for fields in lines_of_fields(passwd) {
            if let [name, _, uid, gid, _, home, ..] = fields.as_slice()
                && let (Ok(name), Some(uid), Some(gid)) = (std::str::from_utf8(name), parse_id(uid), parse_id(gid))
                && names.insert(name.to_owned())
            {
                users.users.push(User { name: name.to_owned(), uid, gid, home: clean_home(home) });
            }
        }
        // A home shared with root belongs to no other user.
        let of_root: HashSet<String> =
            users.users.iter().filter(|user| user.uid == 0).filter_map(|user| user.home.clone()).collect();
        for user in &mut users.users {
            user.home = user.home.take().filter(|home| !of_root.contains(home));
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

    /// Those of a target that nothing is known of: only root has a number.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { is_nowhere: true, ..Self::default() }
    }

    /// True if no target is there to look names up in.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        self.is_nowhere
    }

    /// Adds the users and groups that a NixOS declares with a fixed number and that have no line yet.
    pub fn declare(&mut self, accounts: &Accounts) {
        self.is_nixos = true;
        for (name, uid) in accounts.users.iter().filter_map(|user| Some((&user.name, user.uid?))) {
            self.uids.entry(name.clone()).or_insert(uid);
        }
        for (name, gid) in accounts.groups.iter().filter_map(|group| Some((&group.name, group.gid?))) {
            self.gids.entry(name.clone()).or_insert(gid);
        }
    }

    /// True if the target is a NixOS whose system was read.
    #[must_use]
    pub fn is_nixos(&self) -> bool {
        self.is_nixos
    }

    /// A user's number. `root` is 0 even without a passwd.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.uids.get(name).copied().or((name == "root").then_some(0))
    }

    /// A group's number. `root` is 0 even without a group file.
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.gids.get(name).copied().or((name == "root").then_some(0))
    }

    /// The number of a user's own group; the user is given by `name`, or by `uid` if that is `None`.
    #[must_use]
    pub fn own_group(&self, uid: u32, name: Option<&str>) -> Option<u32> {
        let is_it = |user: &&User| name.map_or(user.uid == uid, |name| user.name == name);
        self.users.iter().find(is_it).map(|user| user.gid)
    }

    /// True if this user is the only member of the group.
    #[must_use]
    pub fn is_alone_in(&self, uid: u32, gid: u32) -> bool {
        let mut own = self.users.iter().filter(|user| user.gid == gid).map(|user| user.uid).peekable();
        let listed = self.members.get(&gid).into_iter().flatten().map(|name| self.uid(name));
        own.peek().is_some() && own.all(|user| user == uid) && listed.into_iter().all(|user| user == Some(uid))
    }

    /// The name of a user; its number if it has no line.
    #[must_use]
    pub fn user_shown(&self, uid: u32) -> String {
        let user = self.users.iter().find(|user| user.uid == uid);
        user.map_or_else(|| uid.to_string(), |user| user.name.clone())
    }

    /// The name of a group; its number if it has no line.
    #[must_use]
    pub fn group_shown(&self, gid: u32) -> String {
        let name = self.gids.iter().filter(|(_, id)| **id == gid).map(|(name, _)| name.as_str()).min();
        name.map_or_else(|| gid.to_string(), str::to_owned)
    }

    /// Users with a home of their own, the longest home first.
    pub fn with_homes(&self) -> impl Iterator<Item = (&User, &str)> {
        let mut all: Vec<(&User, &str)> =
            self.users.iter().filter_map(|user| Some((user, user.home.as_deref()?))).collect();
        // Stable: of two users with one home the first wins.
        all.sort_by_key(|(_, home)| std::cmp::Reverse(home.len()));
        all.into_iter()
    }

    /// The hash field of a user's shadow line, including `!` and the empty field; `None` without a line.
    #[must_use]
    pub fn shadow_hash(&self, name: &str) -> Option<&Secret> {
        self.hashes.get(name)
    }
}

/// A shadow file with another hash in the line of this user: the field alone changes, and every other byte stays.
/// `None` if there is no such line.
#[must_use]
pub fn with_hash(shadow: &Secret, name: &str, hash: &[u8]) -> Option<Secret> {
    let mut out = Zeroizing::new(Vec::with_capacity(shadow.len().saturating_add(hash.len())));
    let mut found = false;
    for line in shadow.expose().split_inclusive(|byte| *byte == b'\n') {
        let rest = line.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b":"));
        match rest.filter(|_| !found) {
            None => out.extend_from_slice(line),
            Some(rest) => {
                found = true;
                let end = rest.iter().position(|byte| matches!(byte, b':' | b'\n')).unwrap_or(rest.len());
                out.extend_from_slice(name.as_bytes());
                out.push(b':');
                out.extend_from_slice(hash);
                out.extend_from_slice(rest.get(end..).unwrap_or_default());
            }
        }
    }
    found.then(|| Secret::new(std::mem::take(&mut *out)))
}

fn lines_of_fields(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && line[0] != b'#')
        .map(|line| line.splitn(8, |byte| *byte == b':').collect())
}

/// A home directory of passwd in normal form; `None` if it is not valid.
fn clean_home(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.starts_with('/') || text.split('/').any(|name| name == "..") || text.contains('\0') {
        return None;
    }
    let names = text.split('/').filter(|name| !name.is_empty() && *name != ".");
    let home = names.fold(String::new(), |home, name| home + "/" + name);
    (!home.is_empty() && !NO_HOMES.contains(&home.as_str())).then_some(home)
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
            b"root:x:0:0::/root:/bin/sh\nadmin:x:1000:100::/home/admin:/bin/sh\nadmin:x:7:7::/:\nbroken\n\
              bad:x:many:1::\n",
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
    fn a_home_is_a_line_with_a_directory_of_its_own_and_never_roots() {
        let users = Users::parse(
            b"root:x:0:0::/root:/bin/sh\noperator:x:11:0::/root:/sbin/nologin\nadmin:x:1000:100::/home/admin/:/bin/sh\n\
              second:x:1001:100::/home//./admin\nnested:x:1002:7::/home/admin/in:\nnone:x:5:5::/var/empty:\n\
              top:x:6:6::/:\ngone:x:7:7::/nonexistent:\nup:x:8:8::/home/../x:\nrelative:x:9:9::home:\nshort:x:10:10\n",
            b"users:x:100:\n",
            b"",
        );
        let homes: Vec<(&str, &str)> = users.with_homes().map(|(user, home)| (user.name.as_str(), home)).collect();
        assert_eq!(homes, [("nested", "/home/admin/in"), ("admin", "/home/admin"), ("second", "/home/admin")]);
        assert_eq!((users.own_group(0, Some("nested")), users.own_group(1002, None)), (Some(7), Some(7)));
        assert_eq!((users.own_group(0, Some("short")), users.own_group(77, None)), (None, None));
        assert_eq!((users.group_shown(100), users.group_shown(7)), ("users".to_owned(), "7".to_owned()));
    }

    #[test]
    fn a_hash_is_put_into_one_field_and_nothing_else_changes() {
        let put = |text: &str, name: &str| {
            let shadow = with_hash(&Secret::new(text.as_bytes().to_vec()), name, b"$y$new")?;
            Some(String::from_utf8(shadow.expose().to_vec()).unwrap())
        };
        let whole = "root:!:1::::::\nadmin:!:2:0:99999:7:::\nx:*:3\n";
        for (name, before, after) in [
            ("admin", whole, Some("root:!:1::::::\nadmin:$y$new:2:0:99999:7:::\nx:*:3\n")),
            ("admin", "admin:", Some("admin:$y$new")),
            ("admin", "admin::1\nadmin:second:1\n", Some("admin:$y$new:1\nadmin:second:1\n")),
            ("admin", "#admin:x:1\nadmin2:x:1\n", None),
            ("adm", "admin:x:1\n", None),
        ] {
            assert_eq!(put(before, name).as_deref(), after, "{before}");
        }
    }

    #[test]
    fn root_is_zero_where_there_are_no_users_yet() {
        let users = Users::parse(b"", b"", b"");
        assert_eq!((users.uid("root"), users.gid("root"), users.uid("admin")), (Some(0), Some(0), None));
    }
}
