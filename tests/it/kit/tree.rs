//! Every inode of an ext4 file system, as others than deaddrop read it, and what differs between two such listings.
//!
//! Two readers give the same listing (tests/it/harness.rs holds them to it): the kernel, by a read-only mount (root),
//! and `debugfs`, for everybody. Contents appear as digests only, so a listing may be printed.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::UNIX_EPOCH;
use std::{fmt, fs};

use super::images::Image;
use super::mount::{Mount, debugfs};
use super::{hex, sha256_of};

/// What an inode is. A link's text and a device's numbers belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, with the SHA-256 of its content.
    File { sha256: String },
    /// A directory.
    Directory,
    /// A symbolic link, with its text.
    Link { target: String },
    /// A character device.
    Character { major: u64, minor: u64 },
    /// A block device.
    Block { major: u64, minor: u64 },
    /// A FIFO.
    Pipe,
    /// A socket.
    Socket,
}

/// Seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub i64, pub u32);

/// One inode, under one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The inode's number.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// The lower 12 bits: set-id, sticky and rights.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Bytes, as the inode says.
    pub size: u64,
    /// Names of this inode; for a directory 2 and one for each directory in it.
    pub links: u64,
    /// Last read.
    pub accessed: Time,
    /// Last write to the content.
    pub modified: Time,
    /// Last change of the inode.
    pub changed: Time,
    /// When it was made.
    pub created: Time,
    /// Extended attributes: name, and value in hexadecimal. ACLs in the form of getxattr(2).
    pub attributes: BTreeMap<String, String>,
}

/// Which fields of an inode differ, by their names in [`Node`]; or that the path is new or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The path is in the second listing only.
    Added,
    /// The path is in the first listing only.
    Removed,
    /// Both have it; these fields differ.
    Fields(Vec<&'static str>),
}

/// All inodes of a file system by absolute path, `/` included; names that are not UTF-8 with `\xNN` for odd bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

impl Tree {
    /// Reads the root's file system: by the kernel where that works, else by `debugfs`. The image is not written.
    pub fn of(image: &Image) -> Self {
        match Mount::try_read_only(image) {
            Ok(mount) => Self::of_mount(&mount),
            Err(_) => Self::by_debugfs(image),
        }
    }

    /// Reads what a mount shows.
    pub fn of_mount(mount: &Mount) -> Self {
        let mut nodes = BTreeMap::new();
        walk(mount.root(), "/", &mut nodes);
        Self(nodes)
    }

    /// Reads a directory of this system, from its top on. Times of reading are left out: making the listing changes
    /// them.
    pub fn of_directory(root: &Path) -> Self {
        let mut nodes = BTreeMap::new();
        walk(root, "/", &mut nodes);
        nodes.values_mut().for_each(|node| node.accessed = Time(0, 0));
        Self(nodes)
    }

    /// Reads by `debugfs`, without root. Several runs of it: one a level of the tree for the names, one for the inodes,
    /// one for contents and attributes.
    pub fn by_debugfs(image: &Image) -> Self {
        let names = names_by_debugfs(image);
        let commands: Vec<String> = names.values().map(|inode| format!("stat <{inode}>")).collect();
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        for ((path, &inode), said) in names.iter().zip(debugfs(image, &commands)) {
            nodes.insert(path.clone(), node_of_stat(inode, &said));
        }
        fill_contents(image, &mut nodes);
        Self(nodes)
    }

    /// The inode at an absolute path; panics when there is none.
    pub fn at(&self, path: &str) -> &Node {
        self.0.get(path).unwrap_or_else(|| panic!("{path} is not there"))
    }

    /// What differs between this listing and a later one, by path; empty when nothing does.
    pub fn changes(&self, later: &Self) -> BTreeMap<String, Change> {
        let mut changes = BTreeMap::new();
        for (path, old) in &self.0 {
            match later.0.get(path) {
                None => drop(changes.insert(path.clone(), Change::Removed)),
                Some(new) if new != old => drop(changes.insert(path.clone(), Change::Fields(differing(old, new)))),
                Some(_) => {}
            }
        }
        for path in later.0.keys().filter(|path| !self.0.contains_key(*path)) {
            changes.insert(path.clone(), Change::Added);
        }
        changes
    }

    /// Panics with a list unless a later listing is the same. With `taken_back`, but for what no program can take back:
    /// the times of inodes that were changed, and of directories in which names came and went.
    #[track_caller]
    pub fn assert_same(&self, later: &Self, taken_back: bool) {
        let is_excused = |path: &str, field: &str| {
            let is_directory = self.0.get(path).is_some_and(|node| node.kind == Kind::Directory);
            taken_back && (field == "changed" || is_directory && field == "modified")
        };
        let changes: Vec<String> = self
            .changes(later)
            .into_iter()
            .filter(|(path, change)| match change {
                Change::Fields(fields) => !fields.iter().all(|field| is_excused(path, field)),
                _ => true,
            })
            .map(|(path, change)| format!("{path}: {change:?}"))
            .collect();
        assert!(changes.is_empty(), "not as it was:\n{}", changes.join("\n"));
    }

    /// Panics with a list unless all changes to a later listing are these: paths that were added or whose inode may
    /// have changed in any way (`touched`), and directories of which only times, size, links may differ (`parents`).
    pub fn assert_only(&self, later: &Self, touched: &[&str], parents: &[&str]) {
        let times_only = |fields: &Vec<&str>| {
            fields.iter().all(|field| ["modified", "changed", "accessed", "size", "links"].contains(field))
        };
        let unexpected: Vec<String> = self
            .changes(later)
            .into_iter()
            .filter(|(path, change)| {
                let allowed_parent =
                    parents.contains(&path.as_str()) && matches!(change, Change::Fields(fields) if times_only(fields));
                !touched.contains(&path.as_str()) && !allowed_parent
            })
            .map(|(path, change)| format!("{path}: {change:?}"))
            .collect();
        assert!(unexpected.is_empty(), "not asked for:\n{}", unexpected.join("\n"));
    }
}

impl fmt::Debug for Tree {
    /// One line an inode.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, node) in &self.0 {
            writeln!(
                f,
                "{path} {:?} {:04o} {}:{} inode {} size {} links {} a {:?} m {:?} c {:?} b {:?} {:?}",
                node.kind,
                node.mode,
                node.uid,
                node.gid,
                node.inode,
                node.size,
                node.links,
                node.accessed,
                node.modified,
                node.changed,
                node.created,
                node.attributes
            )?;
        }
        Ok(())
    }
}

fn differing(old: &Node, new: &Node) -> Vec<&'static str> {
    [
        ("inode", old.inode != new.inode),
        ("kind", old.kind != new.kind),
        ("mode", old.mode != new.mode),
        ("uid", old.uid != new.uid),
        ("gid", old.gid != new.gid),
        ("size", old.size != new.size),
        ("links", old.links != new.links),
        ("accessed", old.accessed != new.accessed),
        ("modified", old.modified != new.modified),
        ("changed", old.changed != new.changed),
        ("created", old.created != new.created),
        ("attributes", old.attributes != new.attributes),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}

fn child(parent: &str, name: &[u8]) -> String {
    let name: String = match std::str::from_utf8(name) {
        Ok(name) => name.to_owned(),
        Err(_) => name.escape_ascii().to_string(),
    };
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

/// An attribute's value in hexadecimal. In an ACL (4 bytes of version; entries of tag u16, rights u16, id u32) only a
/// named user (2) or group (8) has an id; what stands in the others' place is the reader's choice, here zeros.
fn attribute_text(name: &str, mut value: Vec<u8>) -> String {
    if name.starts_with("system.posix_acl_") {
        for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
            if !matches!(entry[0], 2 | 8) {
                entry[4..].fill(0);
            }
        }
    }
    hex(&value)
}

// ---------------------------------------------------------------- the kernel

fn walk(host: &Path, path: &str, nodes: &mut BTreeMap<String, Node>) {
    let node = node_of_file(host).unwrap_or_else(|error| panic!("reading {path}: {error}"));
    let is_directory = node.kind == Kind::Directory;
    nodes.insert(path.to_owned(), node);
    if is_directory {
        for entry in fs::read_dir(host).unwrap_or_else(|error| panic!("listing {path}: {error}")) {
            let entry = entry.unwrap_or_else(|error| panic!("listing {path}: {error}"));
            walk(&entry.path(), &child(path, entry.file_name().as_bytes()), nodes);
        }
    }
}

fn node_of_file(host: &Path) -> std::io::Result<Node> {
    let data = fs::symlink_metadata(host)?;
    let kind = data.file_type();
    let (major, minor) = (nix::sys::stat::major(data.rdev()), nix::sys::stat::minor(data.rdev()));
    let kind = if kind.is_file() {
        Kind::File { sha256: sha256_of(host) }
    } else if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Link { target: fs::read_link(host)?.as_os_str().as_bytes().escape_ascii().to_string() }
    } else if kind.is_char_device() {
        Kind::Character { major, minor }
    } else if kind.is_block_device() {
        Kind::Block { major, minor }
    } else if kind.is_fifo() {
        Kind::Pipe
    } else {
        Kind::Socket
    };
    let mut attributes = BTreeMap::new();
    for name in xattr::list(host)? {
        let value = xattr::get(host, &name)?.unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        attributes.insert(name.clone(), attribute_text(&name, value));
    }
    // Before 1970 nothing here was made.
    let created = data.created()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = |seconds: i64, nanoseconds: i64| Time(seconds, u32::try_from(nanoseconds).expect("below 10^9"));
    Ok(Node {
        inode: data.ino(),
        kind,
        mode: data.mode() & 0o7777,
        uid: data.uid(),
        gid: data.gid(),
        size: data.size(),
        links: data.nlink(),
        accessed: time(data.atime(), data.atime_nsec()),
        modified: time(data.mtime(), data.mtime_nsec()),
        changed: time(data.ctime(), data.ctime_nsec()),
        created: Time(i64::try_from(created.as_secs()).expect("this century"), created.subsec_nanos()),
        attributes,
    })
}

// ---------------------------------------------------------------- debugfs

/// All paths and their inodes, level by level.
fn names_by_debugfs(image: &Image) -> BTreeMap<String, u64> {
    const ROOT: u64 = 2;
    let mut names = BTreeMap::from([("/".to_owned(), ROOT)]);
    let mut level = vec![("/".to_owned(), ROOT)];
    while !level.is_empty() {
        let commands: Vec<String> = level.iter().map(|(_, inode)| format!("ls -p <{inode}>")).collect();
        let mut next = Vec::new();
        for ((parent, _), said) in level.iter().zip(debugfs(image, &commands)) {
            for line in said.lines().filter(|line| !line.is_empty()) {
                // /INODE/MODE/UID/GID/NAME/SIZE/
                let fields: Vec<&str> = line.split('/').collect();
                let &["", inode, mode, _, _, name, _, ""] = &fields[..] else { panic!("debugfs ls: {line}") };
                let inode: u64 = inode.parse().unwrap_or_else(|_| panic!("debugfs ls: {line}"));
                if inode == 0 || name == "." || name == ".." {
                    continue;
                }
                let path = child(parent, name.as_bytes());
                if mode.starts_with("04") {
                    next.push((path.clone(), inode));
                }
                names.insert(path, inode);
            }
        }
        level = next;
    }
    names
}

/// What follows `label` in `text`, up to white space.
fn field<'a>(text: &'a str, label: &str) -> &'a str {
    let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("debugfs stat has no `{label}`:\n{text}"));
    rest.split_whitespace().next().unwrap_or_default()
}

fn number<T: std::str::FromStr>(text: &str, label: &str) -> T {
    let value = field(text, label);
    value.parse().unwrap_or_else(|_| panic!("debugfs stat: `{label}` is `{value}`"))
}

/// ` mtime: 0xSSSSSSSS:NNNNNNNN`: seconds as a signed 32-bit number; in the second word 30 bits of nanoseconds over 2
/// bits that count epochs of 2^32 s. Kernel documentation, ext4, "Inode Timestamps".
fn time(text: &str, label: &str) -> Time {
    let value = field(text, label);
    let (seconds, extra) = value.split_once(':').unwrap_or((value, "0"));
    let hex =
        |digits: &str| u32::from_str_radix(digits.trim_start_matches("0x"), 16).expect("debugfs prints times in hex");
    let extra = hex(extra);
    let low = i64::from(i32::from_ne_bytes(hex(seconds).to_ne_bytes()));
    Time(low + (i64::from(extra & 3) << 32), extra >> 2)
}

/// The text of a link that lies in its inode, as most do.
fn fast_link(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("\nFast link dest: \"")?;
    let target = rest.split("\"\n").next()?;
    Some(target.as_bytes().escape_ascii().to_string())
}

/// One inode of debugfs' `stat`; contents and values of attributes are still missing.
fn node_of_stat(inode: u64, said: &str) -> Node {
    let text = said;
    let (_, kind) = text.split_once("Type: ").unwrap_or_else(|| panic!("debugfs stat:\n{text}"));
    let (kind, _) = kind.split_once("    Mode:").unwrap_or_else(|| panic!("debugfs stat:\n{text}"));
    let device = || {
        let numbers = field(text, "Device major/minor number: ");
        let (major, minor) = numbers.split_once(':').expect("debugfs prints major:minor");
        (major.parse().expect("a device's number"), minor.parse().expect("a device's number"))
    };
    let kind = match kind.trim() {
        "regular" => Kind::File { sha256: String::new() },
        "directory" => Kind::Directory,
        "symlink" => Kind::Link { target: fast_link(text).unwrap_or_default() },
        "FIFO" => Kind::Pipe,
        "socket" => Kind::Socket,
        "character special" => {
            let (major, minor) = device();
            Kind::Character { major, minor }
        }
        "block special" => {
            let (major, minor) = device();
            Kind::Block { major, minor }
        }
        other => panic!("debugfs stat: an inode of type `{other}`"),
    };
    let mut attributes = BTreeMap::new();
    if let Some((_, list)) = text.split_once("Extended attributes:\n") {
        for line in list.lines().take_while(|line| line.starts_with("  ")) {
            let (name, _) = line.trim_start().split_once(" (").expect("debugfs prints NAME (LENGTH)");
            attributes.insert(name.to_owned(), String::new());
        }
    }
    Node {
        inode,
        kind,
        mode: u32::from_str_radix(field(text, "Mode: "), 8).expect("debugfs prints modes in octal"),
        uid: number(text, "User: "),
        gid: number(text, "Group: "),
        size: number(text, "Size: "),
        links: number(text, "Links: "),
        accessed: time(text, " atime: "),
        modified: time(text, " mtime: "),
        changed: time(text, " ctime: "),
        created: time(text, "crtime: "),
        attributes,
    }
}

/// Whether what the kind tells lies in blocks, not in the inode.
fn is_outside(kind: &Kind) -> bool {
    matches!(kind, Kind::File { .. }) || matches!(kind, Kind::Link { target } if target.is_empty())
}

/// Adds digests of files, texts of links and values of attributes: `debugfs` writes them into a directory of ours.
fn fill_contents(image: &Image, nodes: &mut BTreeMap<String, Node>) {
    let dir = tempfile::tempdir().expect("making a temporary directory");
    let at = |name: String| dir.path().join(name).to_str().expect("TMPDIR is UTF-8").to_owned();
    let mut commands = Vec::new();
    for node in nodes.values() {
        let inode = node.inode;
        if is_outside(&node.kind) {
            commands.push(format!("dump <{inode}> {}", at(format!("{inode}"))));
        }
        for name in node.attributes.keys() {
            commands.push(format!("ea_get -f {} <{inode}> {name}", at(format!("{inode}-{name}"))));
        }
    }
    debugfs(image, &commands);
    for node in nodes.values_mut() {
        let inode = node.inode;
        let dumped = dir.path().join(format!("{inode}"));
        match &mut node.kind {
            Kind::File { sha256 } => *sha256 = sha256_of(&dumped),
            Kind::Link { target } if target.is_empty() => {
                *target = fs::read(&dumped).expect("what debugfs dumped").escape_ascii().to_string();
            }
            _ => {}
        }
        for (name, value) in &mut node.attributes {
            let dumped = fs::read(dir.path().join(format!("{inode}-{name}"))).expect("what debugfs dumped");
            *value = attribute_text(name, dumped);
        }
    }
}
