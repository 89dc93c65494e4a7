//! Write access to a directory by users other than its owner and group: access ACLs, and the text that names who has
//! access.
//!
//! Numbers are little-endian in both forms. Which entries count: acl(5), "Access check algorithm".

use std::fmt;

use super::walk::shown;
use crate::bytes::{le16, le32, slice};

/// The extended attribute of an access ACL (xattr(7)).
pub const ATTRIBUTE: &str = "system.posix_acl_access";

/// The layout of an ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As an extended attribute: include/uapi/linux/posix_acl_xattr.h, version 2, 8 bytes an entry.
    Attribute,
    /// As stored by ext2 to ext4: fs/ext4/acl.h, version 1; only entries of named users and groups have a number.
    Ext4,
}

/// `e_tag` of a named user, of a named group, and of the mask. include/uapi/linux/posix_acl.h.
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
/// `e_perm`: write permission.
const WRITE: u16 = 0x02;

/// True if the ACL lets a named user or group other than number 0 write. `None` if it is not an ACL of this form.
#[must_use]
pub fn lets_write(acl: &[u8], form: Form) -> Option<bool> {
    let version = match form {
        Form::Attribute => 2,
        Form::Ext4 => 1,
    };
    if le32(acl, 0)? != version {
        return None;
    }
    let mut at: usize = 4;
    let (mut writes, mut mask) = (false, WRITE);
    while at < acl.len() {
        let (tag, permissions) = (le16(acl, at)?, le16(acl, at.checked_add(2)?)?);
        let is_named = matches!(tag, USER | GROUP);
        let has_number = is_named || form == Form::Attribute;
        if is_named {
            writes |= permissions & WRITE != 0 && le32(acl, at.checked_add(4)?)? != 0;
        } else if tag == MASK {
            mask = permissions;
        }
        let length = if has_number { 8 } else { 4 };
        slice(acl, at, length)?;
        at = at.checked_add(length)?;
    }
    Some(writes && mask & WRITE != 0)
}

/// A directory in which a user other than root and the owner of the tree's root can create and rename entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritableDirectory {
    /// Its physical path.
    pub directory: String,
    /// Who can write to it.
    pub to: Writers,
}

/// Who can write to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// The user who owns it.
    Owner(u32),
    /// Every user.
    Everyone,
    /// A group.
    Group(u32),
    /// Users or groups named by an ACL.
    Acl,
}

impl fmt::Display for WritableDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = shown(&self.directory);
        match self.to {
            Writers::Owner(uid) => write!(f, "{directory} belongs to user {uid}"),
            Writers::Everyone => write!(f, "every user may write to {directory}"),
            Writers::Group(gid) => write!(f, "group {gid} may write to {directory}"),
            Writers::Acl => write!(f, "an ACL lets others write to {directory}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(form: Form, entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = if form == Form::Attribute { vec![2, 0, 0, 0] } else { vec![1, 0, 0, 0] };
        for (tag, permissions, number) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            if form == Form::Attribute || matches!(*tag, USER | GROUP) {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn a_named_user_or_group_writes_as_far_as_the_mask_lets_it() {
        const OWNER: (u16, u16, u32) = (1, 7, u32::MAX);
        for form in [Form::Attribute, Form::Ext4] {
            for (name, entries, want) in [
                ("nobody", vec![OWNER, (4, 7, 0), (0x20, 5, 0)], false),
                ("a user", vec![OWNER, (USER, 6, 1000), (4, 5, 0), (MASK, 7, 0), (0x20, 5, 0)], true),
                ("a group", vec![OWNER, (4, 5, 0), (GROUP, 7, 50), (MASK, 7, 0), (0x20, 5, 0)], true),
                ("root", vec![OWNER, (USER, 7, 0), (4, 5, 0), (GROUP, 7, 0), (MASK, 7, 0)], false),
                ("masked", vec![OWNER, (USER, 7, 1000), (4, 5, 0), (MASK, 5, 0), (0x20, 5, 0)], false),
                ("a reader", vec![OWNER, (USER, 5, 1000), (4, 7, 0), (MASK, 7, 0), (0x20, 5, 0)], false),
            ] {
                assert_eq!(lets_write(&acl(form, &entries), form), Some(want), "{form:?}: {name}");
            }
            let whole = acl(form, &[(USER, 7, 1000), (MASK, 7, 0)]);
            assert_eq!(lets_write(&whole[..whole.len() - 1], form), None, "cut off");
            assert_eq!(lets_write(&[9, 0, 0, 0], form), None, "another version");
            assert_eq!(lets_write(&[], form), None, "empty");
        }
    }
}
