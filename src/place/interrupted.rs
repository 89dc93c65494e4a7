//! Leftovers of an interrupted `rotate` on a disk that is surveyed offline: its list in /var/lib/deaddrop, and the
//! temporary files that the list names. The code that changes the disk finishes or rolls back the run in the same step,
//! as the node's own script would (`node/apply.sh`, which describes the list): the new files stay if the run had marked
//! them as final, otherwise the old ones are restored.
//!
//! The list is hostile input, like every file of a target. A path counts only if no link leads to it.

use std::collections::{HashMap, HashSet};

use deaddrop_core::error::StorageError;
use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Stat, Tree, TreeChange};

/// Directory of the list, on the node and on the disk.
const STATE: &str = "/var/lib/deaddrop";
/// Maximum size of a list, in bytes: that of a manifest's 10,000 secrets with the longest paths.
const LONGEST_LIST: u64 = 64 << 20;
/// Maximum size of a file that is restored, in bytes: the largest value.
const MOST_COPIED: u64 = 16 << 20;
/// Maximum number of lines of a list.
const MOST_ITEMS: usize = 100_000;

/// Leftovers of an interrupted run, and the changes that finish it.
#[derive(Debug, Default)]
pub struct Interrupted {
    /// The run had marked its new files as final, and only had to clean up.
    pub done: bool,
    /// The files of the run.
    pub leftovers: Vec<Leftover>,
    /// Removes its temporary directories, after the files in them.
    pub clear: Vec<TreeChange>,
    /// Removes the list itself.
    pub forget: Vec<TreeChange>,
    /// Entries that cannot be checked, and why; [`Interrupted::refuse_missing`].
    pub missing: Vec<Missing>,
}

/// An entry of the list in a directory that is missing or has been replaced: its file system may be elsewhere.
#[derive(Debug)]
pub struct Missing {
    /// The file's path.
    pub path: String,
    /// The missing directory, for people.
    pub what: String,
}

/// Leftovers of one file of an interrupted run.
#[derive(Debug, Default)]
pub struct Leftover {
    /// The file's path.
    pub path: String,
    /// Restores the state before the run; `None` if nothing has to be done.
    pub restore: Option<TreeChange>,
    /// The run's own names of it, which are removed.
    pub drop: Vec<String>,
    /// How many of these are other names of the existing file.
    pub own_names: u32,
    /// The existing file is neither the run's old file nor its new one: it is not changed.
    pub foreign: bool,
}

impl Interrupted {
    /// Refuses a list with missing directories: otherwise it would be removed with old and new files side by side.
    ///
    /// # Errors
    /// `Refused`, with the first missing directory.
    pub fn refuse_missing(&self) -> Result<(), StorageError> {
        let Some(missing) = self.missing.first() else { return Ok(()) };
        Err(StorageError::refused(
            cannot(&missing.what),
            "boot the node and run `deaddrop rotate` on it, with all its file systems; or give up the names that are \
             not here, and finish the others: `deaddrop inject --forget-list`",
        ))
    }
}

/// Searches for the leftovers of an interrupted run. `None` if there are none.
///
/// # Errors
/// `Refused` if the list does not belong to root, or cannot be one of ours; also if the tree cannot be read.
pub fn find<T: Tree>(tree: &T) -> Result<Option<Interrupted>, StorageError> {
    let state = match walk::walk(tree, STATE) {
        Ok(Walk { physical, found: Some((node, stat)), .. }) if stat.kind == FileKind::Directory => {
            (physical, node, stat)
        }
        Err(WalkError::Image(error)) => return Err(error),
        _ => return Ok(None),
    };
    let (at, directory, stat) = state;
    let mut found = Interrupted::default();
    let mut files = Vec::new();
    for name in ["list", "done", "mark", "new", "output"] {
        let Some((node, stat)) = tree.child(&directory, name.as_bytes())? else { continue };
        if stat.kind == FileKind::File {
            files.push((name, node, stat));
            found.forget.push(TreeChange::RemoveFile { path: format!("{at}/{name}") });
        }
    }
    found.forget.push(TreeChange::RemoveDirectory { path: at.clone() });
    let file = |wanted: &str| files.iter().find(|(name, ..)| *name == wanted);
    let read = |wanted: &str| match file(wanted) {
        None => Ok(None),
        Some((name, node, _)) => {
            let content = tree.read(node, LONGEST_LIST)?;
            content.map(Some).ok_or_else(|| damaged(&format!("{at}/{name} is over {} MiB", LONGEST_LIST >> 20)))
        }
    };
    let Some((_, _, list_stat)) = file("list") else {
        // Without a list nothing has to be rolled back, as in the script.
        return Ok((!files.is_empty()).then_some(found));
    };
    if !is_ours(tree, &stat)? || !is_ours(tree, list_stat)? {
        return Err(damaged(&format!("{at}/list is not root's")));
    }
    found.done = file("done").is_some();
    let (list, new) = (read("list")?, read("new")?);
    let text =
        |secret: &Option<Secret>| secret.as_ref().map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
    let Some(list) = parse(&text(&list).unwrap_or_default())? else {
        // A list without `end` was not complete when the run was interrupted, and nothing is created before that.
        return Ok(Some(found));
    };
    let written = text(&new).unwrap_or_default().lines().map(str::to_owned).collect();
    let mut comparison = Comparison { tree, list: &list, written, done: found.done, directories: HashMap::new() };
    for item in &list.items {
        match comparison.leftover(item)? {
            Ok(leftover) => found.leftovers.push(leftover),
            // A missing directory that the run was to create contains no value.
            Err(_) if item.kind == 'd' => {}
            Err(what) => found.missing.push(Missing { path: item.path.as_str().to_owned(), what }),
        }
    }
    // In reverse order: the content of a directory is removed before the directory.
    found.leftovers.reverse();
    found.clear = comparison.clear()?;
    Ok(Some(found))
}

/// True if it belongs to root, or to the owner of the tree.
fn is_ours<T: Tree>(tree: &T, stat: &Stat) -> Result<bool, StorageError> {
    Ok(stat.uid == 0 || stat.uid == tree.root_stat()?.uid)
}

fn cannot(what: &str) -> String {
    format!("a `rotate` that was cut off has left its list, and it cannot be finished here: {what}")
}

fn damaged(what: &str) -> StorageError {
    StorageError::refused(
        cannot(what),
        "boot the node and run `deaddrop rotate` on it; or look at what /var/lib/deaddrop says, and remove it there",
    )
}

/// A parsed list.
struct List {
    /// The run's name, part of the name of its temporary directories.
    run: String,
    /// The name of a file in each temporary directory, which identifies it.
    mark: String,
    /// Inodes of the directories that existed when the list was written, by path.
    directories: HashMap<String, u64>,
    /// Paths of the directories that the run was to create.
    to_make: HashSet<String>,
    items: Vec<Item>,
}

/// One file or directory of a list.
struct Item {
    kind: char,
    path: TargetPath,
}

/// Parses a list; `None` if it is not complete.
fn parse(text: &str) -> Result<Option<List>, StorageError> {
    let mut list = List {
        run: String::new(),
        mark: String::new(),
        directories: HashMap::new(),
        to_make: HashSet::new(),
        items: Vec::new(),
    };
    let is_name = |name: &str| (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (number, line) in (1_usize..).zip(text.lines()) {
        let wrong = || damaged(&format!("line {number} is none of ours"));
        if number > MOST_ITEMS {
            return Err(damaged("it has more lines than any run"));
        }
        match line.split_once(' ') {
            _ if line == "end" => {
                let named = is_name(&list.run) && is_name(&list.mark);
                return if named { Ok(Some(list)) } else { Err(damaged("the run has no name")) };
            }
            Some(("run", name)) if number == 1 => list.run = name.to_owned(),
            Some(("mark", name)) if number == 2 => list.mark = name.to_owned(),
            Some(("in", rest)) if list.items.is_empty() => {
                let (inode, path) = rest.split_once(' ').ok_or_else(wrong)?;
                let is_path = path == "/" || TargetPath::parse(path).is_ok();
                let inode = inode.parse().ok().filter(|_| is_path).ok_or_else(wrong)?;
                list.directories.insert(path.to_owned(), inode);
            }
            _ => {
                let item = item(line).ok_or_else(wrong)?;
                if item.kind == 'd' {
                    list.to_make.insert(item.path.as_str().to_owned());
                }
                list.items.push(item);
            }
        }
    }
    Ok(None)
}

/// `KIND MODE MASK UID GID BEFORE LINES STATE PATH`
fn item(line: &str) -> Option<Item> {
    let fields: Vec<&str> = line.splitn(9, ' ').collect();
    let [kind, _, _, _, _, _, _, _, path] = fields.as_slice() else { return None };
    Some(Item {
        kind: kind.chars().next().filter(|letter| kind.len() == 1 && "dcrx".contains(*letter))?,
        path: TargetPath::parse(path).ok()?,
    })
}

/// The state of a directory of the list.
#[derive(Clone)]
enum ListedDirectory<N> {
    /// It is not the one that the run worked in; the reason, for people.
    Missing(String),
    /// The run was to create it, and did not.
    NotCreated,
    /// The directory, and the run's own directory in it.
    There { node: N, own: OwnDirectory<N> },
}

/// The run's own directory; all `None` if the run had not created it yet, or had removed it.
#[derive(Clone)]
struct OwnDirectory<N> {
    /// The directory itself, with the run's mark in it.
    node: Option<N>,
    /// In it, the directories of new and old files.
    new: Option<N>,
    old: Option<N>,
}

/// Compares a list with the tree.
struct Comparison<'a, T: Tree> {
    tree: &'a T,
    list: &'a List,
    /// `INODE:SIZE:TIME` of the new files, as far as the run recorded them.
    written: HashSet<String>,
    done: bool,
    directories: HashMap<&'a str, ListedDirectory<T::Node>>,
}

impl<'a, T: Tree> Comparison<'a, T> {
    /// The state of a directory of the list, read once.
    fn directory_of(&mut self, path: &'a str) -> Result<ListedDirectory<T::Node>, StorageError> {
        if let Some(place) = self.directories.get(path) {
            return Ok(place.clone());
        }
        // A directory that the run was to create is checked through its closest parent that existed.
        let stood = std::iter::successors(Some(path), |path| (*path != "/").then(|| walk::parent(path)));
        let stood = stood.into_iter().find(|path| self.list.directories.contains_key(*path));
        let place = match stood.filter(|stood| *stood != path) {
            Some(above) => match self.directory_of(above)? {
                ListedDirectory::There { .. } => self.read_directory(path)?,
                not_there => not_there,
            },
            None => self.read_directory(path)?,
        };
        self.directories.insert(path, place.clone());
        Ok(place)
    }

    fn read_directory(&self, path: &str) -> Result<ListedDirectory<T::Node>, StorageError> {
        let shown = walk::shown(path);
        let there = match path {
            "/" => Some((self.tree.root()?, self.tree.root_stat()?)),
            _ => match walk::walk(self.tree, path) {
                Ok(walked) if walked.links.is_empty() => walked.found,
                Err(WalkError::Image(error)) => return Err(error),
                _ => None,
            },
        };
        let there = there.filter(|(_, stat)| stat.kind == FileKind::Directory);
        let node = match (there, self.list.directories.get(path)) {
            (Some((node, stat)), Some(inode)) if stat.inode == *inode => node,
            (Some(_), Some(_)) => {
                return Ok(ListedDirectory::Missing(format!(
                    "{shown} is another directory than the one that it names: that one's file system is not here"
                )));
            }
            (None, Some(_)) => return Ok(ListedDirectory::Missing(format!("{shown}, which it names, is not there"))),
            (Some((node, _)), None) => node,
            (None, None) => return Ok(ListedDirectory::NotCreated),
        };
        let mut own = OwnDirectory { node: None, new: None, old: None };
        if let Some((found, stat)) = self.directory(&node, &self.own_name())?
            && is_ours(self.tree, &stat)?
            && self.file(&found, &self.list.mark)?.is_some()
        {
            own.new = self.directory(&found, "n")?.map(|(node, _)| node);
            own.old = self.directory(&found, "o")?.map(|(node, _)| node);
            own.node = Some(found);
        }
        Ok(ListedDirectory::There { node, own })
    }

    fn own_name(&self) -> String {
        format!(".deaddrop-{}", self.list.run)
    }

    fn directory(&self, above: &T::Node, name: &str) -> Result<Option<(T::Node, Stat)>, StorageError> {
        Ok(self.tree.child(above, name.as_bytes())?.filter(|(_, stat)| stat.kind == FileKind::Directory))
    }

    fn file(&self, above: &T::Node, name: &str) -> Result<Option<(T::Node, Stat)>, StorageError> {
        Ok(self.tree.child(above, name.as_bytes())?.filter(|(_, stat)| stat.kind == FileKind::File))
    }

    /// The leftovers of one file; the inner error, for people, if they cannot be determined here.
    fn leftover(&mut self, item: &'a Item) -> Result<Result<Leftover, String>, StorageError> {
        let path = item.path.as_str();
        let mut leftover = Leftover { path: path.to_owned(), ..Leftover::default() };
        let directory = walk::parent(path);
        if !self.list.directories.contains_key(directory) && !self.list.to_make.contains(directory) && item.kind != 'd'
        {
            return Err(damaged(&format!("it does not tell of the directory {}", walk::shown(directory))));
        }
        let (node, own) = match self.directory_of(directory)? {
            ListedDirectory::There { node, own } => (node, own),
            ListedDirectory::Missing(what) => return Ok(Err(what)),
            ListedDirectory::NotCreated => return Ok(Ok(leftover)),
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        let here = self.tree.child(&node, name.as_bytes())?;
        let here = here.as_ref().map(|(_, stat)| stat);
        let above = format!("{}/{}", directory.trim_end_matches('/'), self.own_name());
        let kept = |own: &Option<T::Node>| own.as_ref().map_or(Ok(None), |own| self.file(own, name));
        let (new, old) = (kept(&own.new)?, kept(&own.old)?);
        for (place, there) in [("n", &new), ("o", &old)] {
            if there.is_some() {
                leftover.drop.push(format!("{above}/{place}/{name}"));
            }
        }
        let same = |one: Option<&Stat>, other: &Option<(T::Node, Stat)>| {
            one.zip(other.as_ref())
                .is_some_and(|(one, (_, other))| one.kind == FileKind::File && one.inode == other.inode)
        };
        leftover.own_names = u32::from(same(here, &new)).saturating_add(u32::from(same(here, &old)));
        if self.done {
            return Ok(Ok(leftover));
        }
        // Before the run is final, a file is in its place or kept in the run's directory.
        if matches!(item.kind, 'r' | 'x') && here.is_none() && own.node.is_none() {
            return Ok(Err(format!("neither {} nor what the run has kept of it is there", walk::shown(path))));
        }
        match (item.kind, &old) {
            ('d', _) if here.is_some_and(|stat| stat.kind == FileKind::Directory) => {
                leftover.restore = Some(TreeChange::RemoveDirectory { path: path.to_owned() });
            }
            ('c', _) if same(here, &new) => {
                leftover.restore = Some(TreeChange::RemoveFile { path: path.to_owned() });
            }
            ('c', _) => leftover.foreign = here.is_some(),
            ('r', Some(old)) if same(here, &new) || self.is_written(here) => {
                leftover.restore = Some(self.restored(path, old)?);
            }
            ('x', Some(old)) if here.is_none() => leftover.restore = Some(self.restored(path, old)?),
            ('r' | 'x', Some(_)) => leftover.foreign = !same(here, &old),
            // It was not replaced yet, or is already rolled back; or the kept file is lost.
            ('r', None) => leftover.foreign = self.is_written(here),
            _ => {}
        }
        Ok(Ok(leftover))
    }

    /// True if this is a new file of the run that has lost its other name.
    fn is_written(&self, here: Option<&Stat>) -> bool {
        here.is_some_and(|stat| self.written.contains(&format!("{}:{}:{}", stat.inode, stat.size, stat.modified)))
    }

    /// Restores the old file under its own name: with the same content, mode, owner and label.
    fn restored(&self, path: &str, (node, stat): &(T::Node, Stat)) -> Result<TreeChange, StorageError> {
        let content = self.tree.read(node, MOST_COPIED)?;
        let content = content.ok_or_else(|| damaged(&format!("the old {path} is larger than deaddrop copies")))?;
        Ok(TreeChange::WriteFile {
            path: path.to_owned(),
            content,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            label: self.tree.label(node)?,
        })
    }

    /// Removes the run's directories. One without the mark is removed only if it is empty; otherwise it stays.
    fn clear(&self) -> Result<Vec<TreeChange>, StorageError> {
        let mut changes = Vec::new();
        let mut directories: Vec<_> = self.directories.iter().collect();
        directories.sort_by_key(|(path, _)| **path);
        for (path, place) in directories {
            let ListedDirectory::There { node, own } = place else { continue };
            let at = format!("{}/{}", path.trim_end_matches('/'), self.own_name());
            if let Some(own) = &own.node {
                for name in ["probe", "key", "key.pub", &self.list.mark] {
                    if self.file(own, name)?.is_some() {
                        changes.push(TreeChange::RemoveFile { path: format!("{at}/{name}") });
                    }
                }
            }
            let Some((own, _)) = self.directory(node, &self.own_name())? else { continue };
            for name in ["n", "o"] {
                if self.directory(&own, name)?.is_some() {
                    changes.push(TreeChange::RemoveDirectory { path: format!("{at}/{name}") });
                }
            }
            changes.push(TreeChange::RemoveDirectory { path: at });
        }
        Ok(changes)
    }
}
