//! An archive as a tree of files.

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::whole::{Entry, WholeTree};
use deaddrop_core::tree::{Child, FileKind, Label, Stat, Tree, acl};
use zeroize::Zeroizing;

use super::index::{Archive, LABEL_KEYS, ROOT, at};
use super::member::{Member, reading};
use super::records;

/// The records that programs write ACLs to: bsdtar and GNU tar with `--acls` as text, GNU tar with `--xattrs`.
const ACL: &str = "SCHILY.acl.access";
const ACL_ATTRIBUTE: &str = "SCHILY.xattr.system.posix_acl_access";

impl Archive {
    fn stat(&self, name: u32) -> Stat {
        let (number, inode) = self.inode_of(name);
        Stat {
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            links: inode.links,
            // No file system has an inode 0.
            inode: u64::from(number).saturating_add(1),
            modified: inode.modified,
        }
    }

    /// The entry that made what a name leads to; `None` for a directory that none made.
    fn member_of(&self, name: u32) -> Result<Option<Member>, StorageError> {
        self.inode_of(name).1.member.map(|start| self.member(start)).transpose()
    }

    /// The entry of a regular file.
    fn file(&self, name: u32) -> Result<Member, StorageError> {
        match self.inode_of(name).1.kind {
            FileKind::File => self.member_of(name)?.ok_or_else(|| StorageError::corrupt("a file has no entry")),
            kind => Err(StorageError::corrupt(format!("{} is {}", self.shown(name), kind.name()))),
        }
    }

    /// The absolute path of a name; safe for a terminal.
    fn shown(&self, name: u32) -> String {
        let above = std::iter::successors(Some(name), |name| Some(self.names[at(*name)].parent));
        let names: Vec<&[u8]> =
            above.take_while(|name| *name != ROOT).map(|name| &*self.names[at(name)].name).collect();
        let path = names.iter().rev().flat_map(|name| [b"/", *name]).collect::<Vec<&[u8]>>().concat();
        deaddrop_core::text::shown(&path).unwrap_or_default()
    }

    /// A record of what a name leads to.
    fn record(&self, name: u32, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let member = self.member_of(name)?;
        Ok(member.and_then(|member| records::get(&member.records, key).map(<[u8]>::to_vec)))
    }
}

/// Where the parts of a file lie: offset in the file, offset in the archive, and number of bytes.
pub(super) fn parts(member: &Member) -> Vec<(u64, u64, u64)> {
    let Some(map) = &member.map else { return vec![(0, member.data, member.stored)] };
    let mut from = member.data.saturating_add(map.skip);
    let part = |(offset, size): &(u64, u64)| {
        let part = (*offset, from, *size);
        from = from.saturating_add(*size);
        part
    };
    map.parts.iter().map(part).collect()
}

impl Tree for Archive {
    type Node = u32;

    fn root(&self) -> Result<u32, StorageError> {
        Ok(ROOT)
    }

    fn root_stat(&self) -> Result<Stat, StorageError> {
        Ok(self.stat(ROOT))
    }

    fn child(&self, directory: &u32, name: &[u8]) -> Result<Option<(u32, Stat)>, StorageError> {
        Ok(self.find(*directory, name).map(|found| (found, self.stat(found))))
    }

    fn read_link(&self, link: &u32) -> Result<Vec<u8>, StorageError> {
        match self.member_of(*link)? {
            Some(member) if self.inode_of(*link).1.kind == FileKind::Symlink => Ok(member.link),
            _ => Err(StorageError::corrupt(format!("{} is no symbolic link", self.shown(*link)))),
        }
    }

    fn read(&self, file: &u32, limit: u64) -> Result<Option<Secret>, StorageError> {
        let member = self.file(*file)?;
        let Some(size) = usize::try_from(member.size()).ok().filter(|_| member.size() <= limit) else {
            return Ok(None);
        };
        let mut content = Zeroizing::new(vec![0; size]);
        for (offset, from, size) in parts(&member) {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
            let part =
                content.get_mut(start..end).ok_or_else(|| StorageError::corrupt("a part lies outside its file"))?;
            self.device.read_exact_at(from, part).map_err(reading)?;
        }
        Ok(Some(Secret::new(std::mem::take(&mut *content))))
    }

    fn label(&self, node: &u32) -> Result<Option<Label>, StorageError> {
        let member = self.member_of(*node)?;
        let value = member.and_then(|member| {
            LABEL_KEYS.iter().find_map(|key| records::get(&member.records, key).map(<[u8]>::to_vec))
        });
        let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
        let longest = Label::LONGEST;
        Label::new(value).map(Some).ok_or_else(|| {
            let what = format!("the SELinux label of {} has over {longest} bytes", self.shown(*node));
            StorageError::unsupported(what, "give it a usual one: `chcon` or `restorecon`")
        })
    }

    fn acl_lets_write(&self, directory: &u32) -> Result<bool, StorageError> {
        if let Some(attribute) = self.record(*directory, ACL_ATTRIBUTE)? {
            // What is no known ACL might allow anything.
            return Ok(acl::lets_write(&attribute, acl::Form::Attribute).unwrap_or(true));
        }
        // acl(5), "ACL text forms": "user::rwx,user:lisa:rwx,group::r--,mask::rwx". An entry with a name is one of a
        // user or group; by number 0, if that follows.
        let text = self.record(*directory, ACL)?.unwrap_or_default();
        let lets = |entry: &[u8]| {
            let fields: Vec<&[u8]> = entry.split(|byte| *byte == b':').collect();
            let named = fields.get(1).is_some_and(|name| !matches!(*name, b"" | b"0" | b"root"));
            named && fields.get(2).is_some_and(|rights| rights.contains(&b'w'))
        };
        Ok(text.split(|byte| matches!(byte, b',' | b'\n')).any(lets))
    }

    fn children(&self, directory: &u32, limit: usize) -> Result<Vec<Child<u32>>, StorageError> {
        let children = self.list(*directory).into_iter().take(limit);
        let child = |node: u32| Child { name: self.names[at(node)].name.to_vec(), node, stat: self.stat(node) };
        Ok(children.map(child).collect())
    }
}

impl WholeTree for Archive {
    fn entries(&self, directory: &u32) -> Result<Vec<Entry>, StorageError> {
        let entry = |node: u32| Entry { name: self.names[at(node)].name.to_vec(), inode: self.stat(node).inode };
        let mut entries: Vec<Entry> = self.list(*directory).into_iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.inode);
        Ok(entries)
    }

    fn open_entry(&self, directory: &u32, entry: &Entry) -> Result<Option<(u32, Stat)>, StorageError> {
        self.child(directory, &entry.name)
    }

    fn device(&self, _: &u32) -> Result<u64, StorageError> {
        Ok(0)
    }

    fn read_pieces(
        &self,
        file: &u32,
        buffer: &mut [u8],
        visit: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StorageError> {
        let mut read = 0_u64;
        for (offset, from, size) in parts(&self.file(*file)?) {
            let (mut at, end) = (from, from.saturating_add(size));
            // The archive's own file may have holes.
            while let Some(run) = self.device.next_data(at..end).map_err(reading)? {
                at = run.start;
                while at < run.end {
                    let left = usize::try_from(run.end.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
                    // OK to index: it is at most the length.
                    let piece = &mut buffer[..left];
                    self.device.read_exact_at(at, piece).map_err(reading)?;
                    visit(offset.saturating_add(at.saturating_sub(from)), piece);
                    at = at.saturating_add(length(piece));
                    read = read.saturating_add(length(piece));
                }
            }
        }
        Ok(read)
    }

    fn capacity(&self) -> Option<u64> {
        // Entries never share bytes, and each file is read once: there is nothing to bound.
        None
    }
}
