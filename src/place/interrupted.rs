//! What a `rotate` that was cut off has left on a disk which is now looked at offline: its list, in /var/lib/deaddrop, and the names
//! that the list tells of. Whoever changes the disk finishes it in the same step, as the node's own script would have
//! (`node/apply.sh`, which describes the list): the new files stay if the run had said so, else the old ones come back.
//!
//! The list is hostile input, like all that stands in a target. A path counts only where no link leads to it.

use std::collections::{HashMap, HashSet};

use deaddrop_core::error::StorageError;
use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Stat, Tree, TreeChange};

/// Where the list is, on the node and here.
const STATE: &str = "/var/lib/deaddrop";
/// The longest list that is read, in bytes: that of a manifest's 10,000 secrets with the longest paths.
const LONGEST_LIST: u64 = 64 << 20;
/// The largest file that is copied back, in bytes: the largest value.
const MOST_COPIED: u64 = 16 << 20;
/// The most items of a list.
const MOST_ITEMS: usize = 100_000;

/// What an interrupted run has left, and what it takes to finish it.
#[derive(Debug, Default)]
pub struct Interrupted {
    /// The run had come to its end, and had only to clear up.
    pub done: bool,
    /// Each file that it was about.
    pub leftovers: Vec<Leftover>,
    /// What takes away its temporary directories, once the files in them are gone.
    pub clear: Vec<TreeChange>,
    /// What takes away the list itself.
    pub forget: Vec<TreeChange>,
    /// Names that cannot be looked at, and why; [`Interrupted::refuse_missing`].
    pub missing: Vec<Missing>,
}

/// A name of the list in a directory that is not there, or is another one: its file system may be elsewhere.
#[derive(Debug)]
pub struct Missing {
    /// The file's path.
    pub path: String,
    /// What is not there, in words.
    pub what: String,
}

/// What an interrupted run has left of one file.
#[derive(Debug, Default)]
pub struct Leftover {
    /// The file's path.
    pub path: String,
    /// What brings back what was there before the run; none where nothing has to be.
    pub restore: Option<TreeChange>,
    /// Names of the run's own that lead to it, which go.
    pub drop: Vec<String>,
    /// How many of these are other names of the file that stands there.
    pub own_names: u32,
    /// What stands there is neither the run's old file nor its new one: it is left alone.
    pub foreign: bool,
}

impl Interrupted {
    /// Refuses a list that names what is not there: it would be forgotten with old files and new ones side by side.
    ///
    /// # Errors
    /// `Refused`, with the first of these names.
    pub fn refuse_missing(&self) -> Result<(), StorageError> {
        let Some(missing) = self.missing.first() else { return Ok(()) };
        Err(StorageError::refused(
            cannot(&missing.what),
            "boot the node and run `deaddrop rotate` on it, with all its file systems; or give up the names that are not \
             here, and finish the others: `deaddrop inject --forget-list`",
        ))
    }
}

/// Looks for what an interrupted run has left. `None` where there is nothing.
///
/// # Errors
/// `Refused` when the list is not root's or nothing that we could have written; when the tree cannot be read.
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
        // Without one there is nothing to be taken back, as the script has it.
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
        // One that does not end was not whole when the run ended, and before that nothing is made.
        return Ok(Some(found));
    };
    let written = text(&new).unwrap_or_default().lines().map(str::to_owned).collect();
    let mut look = Look { tree, list: &list, written, done: found.done, places: HashMap::new() };
    for item in &list.items {
        match look.leftover(item)? {
            Ok(leftover) => found.leftovers.push(leftover),
            // A directory that the run was to make has no value in it.
            Err(_) if item.kind == 'd' => {}
            Err(what) => found.missing.push(Missing { path: item.path.as_str().to_owned(), what }),
        }
    }
    // The last first: what is in a directory goes before it.
    found.leftovers.reverse();
    found.clear = look.clear()?;
    Ok(Some(found))
}

/// True for what is root's, or whose the tree is.
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

/// What a list says.
struct List {
    /// The run's name, which its temporary directories have.
    run: String,
    /// The name of a file in each of them, by which they are known.
    mark: String,
    /// Inodes of the directories that stood when the list was written, by path.
    directories: HashMap<String, u64>,
    /// Paths of the directories that the run was to make.
    to_make: HashSet<String>,
    items: Vec<Item>,
}

/// One file or directory of a list.
struct Item {
    kind: char,
    path: TargetPath,
}

/// Reads a list; `None` for one without its end.
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

/// A directory of the list, as it is found.
#[derive(Clone)]
enum Place<N> {
    /// It is not the one that the run worked in; what is wrong with it.
    Missing(String),
    /// The run was to make it, and did not.
    NotBegun,
    /// The directory, and the run's own in it.
    There { node: N, own: Own<N> },
}

/// The run's own directory; nothing of it where the run had not come so far, or is done there.
#[derive(Clone)]
struct Own<N> {
    /// It, with the run's mark in it.
    node: Option<N>,
    /// In it, the directory of new files, and that of old ones.
    new: Option<N>,
    old: Option<N>,
}

/// The list, and what is found of it.
struct Look<'a, T: Tree> {
    tree: &'a T,
    list: &'a List,
    /// `INODE:SIZE:TIME` of the new files, as far as they were noted.
    written: HashSet<String>,
    done: bool,
    places: HashMap<&'a str, Place<T::Node>>,
}

impl<'a, T: Tree> Look<'a, T> {
    /// Looks at a directory of the list, once.
    fn place(&mut self, path: &'a str) -> Result<Place<T::Node>, StorageError> {
        if let Some(place) = self.places.get(path) {
            return Ok(place.clone());
        }
        // One that the run was to make is where the one above it is that stood.
        let stood = std::iter::successors(Some(path), |path| (*path != "/").then(|| walk::parent(path)));
        let stood = stood.into_iter().find(|path| self.list.directories.contains_key(*path));
        let place = match stood.filter(|stood| *stood != path) {
            Some(above) => match self.place(above)? {
                Place::There { .. } => self.look_at(path)?,
                not_there => not_there,
            },
            None => self.look_at(path)?,
        };
        self.places.insert(path, place.clone());
        Ok(place)
    }

    fn look_at(&self, path: &str) -> Result<Place<T::Node>, StorageError> {
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
                return Ok(Place::Missing(format!(
                    "{shown} is another directory than the one that it names: that one's file system is not here"
                )));
            }
            (None, Some(_)) => return Ok(Place::Missing(format!("{shown}, which it names, is not there"))),
            (Some((node, _)), None) => node,
            (None, None) => return Ok(Place::NotBegun),
        };
        let mut own = Own { node: None, new: None, old: None };
        if let Some((found, stat)) = self.directory(&node, &self.own_name())?
            && is_ours(self.tree, &stat)?
            && self.file(&found, &self.list.mark)?.is_some()
        {
            own.new = self.directory(&found, "n")?.map(|(node, _)| node);
            own.old = self.directory(&found, "o")?.map(|(node, _)| node);
            own.node = Some(found);
        }
        Ok(Place::There { node, own })
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

    /// What is left of one file; in words why that cannot be told here.
    fn leftover(&mut self, item: &'a Item) -> Result<Result<Leftover, String>, StorageError> {
        let path = item.path.as_str();
        let mut leftover = Leftover { path: path.to_owned(), ..Leftover::default() };
        let directory = walk::parent(path);
        if !self.list.directories.contains_key(directory) && !self.list.to_make.contains(directory) && item.kind != 'd'
        {
            return Err(damaged(&format!("it does not tell of the directory {}", walk::shown(directory))));
        }
        let (node, own) = match self.place(directory)? {
            Place::There { node, own } => (node, own),
            Place::Missing(what) => return Ok(Err(what)),
            Place::NotBegun => return Ok(Ok(leftover)),
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
        // Until the end a file is in its place, or kept.
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
                leftover.restore = Some(self.bring_back(path, old)?);
            }
            ('x', Some(old)) if here.is_none() => leftover.restore = Some(self.bring_back(path, old)?),
            ('r' | 'x', Some(_)) => leftover.foreign = !same(here, &old),
            // It was not begun, or is taken back; or what was kept of it is gone.
            ('r', None) => leftover.foreign = self.is_written(here),
            _ => {}
        }
        Ok(Ok(leftover))
    }

    /// True when this is a new file of the run, which has lost its other name.
    fn is_written(&self, here: Option<&Stat>) -> bool {
        here.is_some_and(|stat| self.written.contains(&format!("{}:{}:{}", stat.inode, stat.size, stat.modified)))
    }

    /// The old file under its own name again: a file of the same content, mode, owner and label.
    fn bring_back(&self, path: &str, (node, stat): &(T::Node, Stat)) -> Result<TreeChange, StorageError> {
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

    /// What takes away the run's directories. One that has no mark goes only if it is empty, as one that holds something else
    /// stays.
    fn clear(&self) -> Result<Vec<TreeChange>, StorageError> {
        let mut changes = Vec::new();
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|(path, _)| **path);
        for (path, place) in places {
            let Place::There { node, own } = place else { continue };
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
