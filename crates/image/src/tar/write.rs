//! Headers of new and of changed entries.

use deaddrop_core::tree::Label;

use super::header::{self, BLOCK, Block, Form};
use super::index::Style;
use super::member::Member;
use super::records::{self, Record};

/// The mode and owner of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A new file or directory.
pub(super) struct New<'a> {
    /// As the archive writes names; that of a directory ends in a slash.
    pub(super) name: &'a [u8],
    pub(super) rights: Rights,
    /// Size of a file, in bytes; `None` for a directory.
    pub(super) size: Option<u64>,
    /// Seconds since 1970.
    pub(super) modified: u64,
    pub(super) label: Option<&'a Label>,
}

/// The header of a new entry, and what precedes it.
pub(super) fn new(style: Style, new: &New<'_>) -> Vec<u8> {
    let mut block = Block::new(style.form, if new.size.is_some() { b'0' } else { b'5' });
    let mut extensions = Extensions::default();
    extensions.name(&mut block, new.name);
    extensions.rights(&mut block, new.rights);
    extensions.number(&mut block, header::SIZE, "size", new.size.unwrap_or(0));
    extensions.number(&mut block, header::MTIME, "mtime", new.modified);
    if let Some(label) = new.label {
        extensions.records.push((style.label_key.into(), label.value().to_vec()));
    }
    extensions.before(block, new.name)
}

/// What is changed in an entry.
#[derive(Default)]
pub(super) struct Change<'a> {
    pub(super) name: Option<&'a [u8]>,
    pub(super) link: Option<&'a [u8]>,
    pub(super) rights: Option<Rights>,
}

/// The header of an entry with changes to it, and what precedes it. Everything else of it is as it was.
pub(super) fn changed(member: &Member, change: &Change<'_>) -> Vec<u8> {
    let mut block = member.block.clone();
    let is_overridden = |key: &[u8]| match key {
        b"path" | b"linkpath" => true,
        b"uid" | b"gid" | b"uname" | b"gname" => change.rights.is_some(),
        _ => false,
    };
    let records = member.records.iter().filter(|(key, _)| !is_overridden(key)).cloned().collect();
    let mut extensions = Extensions { records, long: Vec::new() };
    let name = change.name.unwrap_or(&member.name);
    let own_name = extensions.records.iter_mut().find(|(key, _)| key == b"GNU.sparse.name");
    match own_name {
        // The header has a name for programs that do not know of holes.
        Some((_, own_name)) => name.clone_into(own_name),
        None => extensions.name(&mut block, name),
    }
    extensions.link(&mut block, change.link.unwrap_or(&member.link));
    if let Some(rights) = change.rights {
        extensions.rights(&mut block, rights);
        // Programs prefer names of owners to their numbers.
        block.put(header::USER, b"");
        block.put(header::GROUP, b"");
    }
    extensions.before(block, name)
}

/// The header of a sparse entry with other data: `stored` bytes, and `records`. `block` is its header with the new map.
pub(super) fn resized(member: &Member, mut block: Block, stored: u64, records: Vec<Record>) -> Vec<u8> {
    let records = records.into_iter().filter(|(key, _)| key != b"size").collect();
    let mut extensions = Extensions { records, long: Vec::new() };
    if block.form() == Form::Gnu {
        extensions.name(&mut block, &member.name);
    }
    extensions.number(&mut block, header::SIZE, "size", stored);
    extensions.before(block, &member.name)
}

/// What does not fit into a header.
#[derive(Default)]
struct Extensions {
    records: Vec<Record>,
    /// GNU's entries with a long name and a long target of a link.
    long: Vec<(u8, Vec<u8>)>,
}

impl Extensions {
    fn name(&mut self, block: &mut Block, name: &[u8]) {
        if block.set_name(name) {
            return;
        }
        block.put(header::NAME, name);
        self.text(block, b'L', "path", name);
    }

    fn link(&mut self, block: &mut Block, link: &[u8]) {
        block.put(header::LINK, link);
        if link.len() > header::LINK.len() {
            self.text(block, b'K', "linkpath", link);
        }
    }

    /// A text that does not fit, in the way of the form. A pax header that is there anyway takes it as well.
    fn text(&mut self, block: &Block, kind: u8, key: &str, text: &[u8]) {
        match block.form() {
            Form::Gnu if self.records.is_empty() => self.long.push((kind, text.to_vec())),
            _ => self.records.push((key.into(), text.to_vec())),
        }
    }

    fn rights(&mut self, block: &mut Block, rights: Rights) {
        block.put(header::MODE, format!("{:07o}", rights.mode & 0o7777).as_bytes());
        self.number(block, header::UID, "uid", rights.uid.into());
        self.number(block, header::GID, "gid", rights.gid.into());
    }

    fn number(&mut self, block: &mut Block, field: std::ops::Range<usize>, key: &str, value: u64) {
        if !block.set_number(field.clone(), value) {
            block.put(field, b"");
            self.records.push((key.into(), value.to_string().into_bytes()));
        }
    }

    /// The extended headers, and `block` behind them. `name` is the entry's.
    fn before(self, mut block: Block, name: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, text) in self.long {
            let content = [&text[..], b"\0"].concat();
            bytes.extend(extension(Form::Gnu, kind, b"././@LongLink", &content));
        }
        if !self.records.is_empty() {
            let content: Vec<u8> = self.records.iter().flat_map(|(key, value)| records::format(key, value)).collect();
            // Programs that do not know these headers extract them: by what they belong to.
            let last = name.split(|byte| *byte == b'/').rfind(|part| !part.is_empty()).unwrap_or(b"entry");
            let title = [b"PaxHeaders/", &last[..last.len().min(80)]].concat();
            bytes.extend(extension(Form::Posix, b'x', &title, &content));
        }
        block.seal();
        bytes.extend(block.0);
        bytes
    }
}

/// An extended header, padded.
fn extension(form: Form, kind: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut block = Block::new(form, kind);
    block.set_name(name);
    block.put(header::MODE, b"0000644");
    for field in [header::UID, header::GID] {
        block.set_number(field, 0);
    }
    block.set_number(header::SIZE, deaddrop_core::bytes::length(content));
    block.set_number(header::MTIME, 0);
    block.seal();
    let mut bytes = [&block.0[..], content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}
