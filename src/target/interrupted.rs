//! What a `rotate` that was cut off has left on a disk which is now looked at offline: its list, in /var/lib/deaddrop, and the names
//! that the list tells of. Whoever changes the disk finishes it in the same step, as the node's own script would have
//! (`node/apply.sh`, which describes the list): the new files stay if the run had said so, else the old ones come back.
//!
//! The list is hostile input, like all that stands in a target. A path counts only where no link leads to it.

use crate::image::error::ImageError;
use crate::image::tree::{Kind, Stat, Tree, TreeChange};
use crate::image::walk::{self, Walk, WalkError};
use crate::manifest::TargetPath;
use crate::secret::Secret;

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
    /// What takes away the list itself.
    pub forget: Vec<TreeChange>,
}

/// What an interrupted run has left of one file.
#[derive(Debug, Default)]
pub struct Leftover {
    /// The file's path.
    pub path: String,
    /// What brings back what was there before the run; none where nothing has to be.
    pub restore: Option<TreeChange>,
    /// Names of the run beside it, which go.
    pub drop: Vec<String>,
    /// How many of these are other names of the file that stands there.
    pub own_names: u32,
    /// What stands there is neither the run's old file nor its new one: it is left alone.
    pub foreign: bool,
}

/// Looks for what an interrupted run has left. `None` where there is nothing.
///
/// # Errors
/// `Refused` when the list is not root's or nothing that we could have written, or names a directory that is not there;
/// when the tree cannot be read.
pub fn find<T: Tree>(tree: &T) -> Result<Option<Interrupted>, ImageError> {
    let state = match walk::walk(tree, STATE) {
        Ok(Walk { physical, found: Some((node, stat)), .. }) if stat.kind == Kind::Directory => (physical, node, stat),
        Err(WalkError::Image(error)) => return Err(error),
        _ => return Ok(None),
    };
    let (at, directory, stat) = state;
    let is_ours = |stat: &Stat| Ok::<_, ImageError>(stat.uid == 0 || stat.uid == tree.root_stat()?.uid);
    let mut found = Interrupted::default();
    let mut files = Vec::new();
    for name in ["list", "done", "new", "output"] {
        let Some((node, stat)) = tree.child(&directory, name.as_bytes())? else { continue };
        if stat.kind == Kind::File {
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
    if !is_ours(&stat)? || !is_ours(list_stat)? {
        return Err(damaged(&format!("{at}/list is not root's")));
    }
    found.done = file("done").is_some();
    let (list, new) = (read("list")?, read("new")?);
    let text =
        |secret: &Option<Secret>| secret.as_ref().map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
    let Some((run, items)) = parse(&text(&list).unwrap_or_default())? else {
        // One that does not end was not whole when the run ended, and before that nothing is made.
        return Ok(Some(found));
    };
    let mut written = text(&new).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
    for (number, item) in (1_usize..).zip(&items) {
        let is_new = matches!(item.kind, 'c' | 'r');
        let written = if is_new { written.next() } else { None };
        let look = Look { tree, run: &run, number, item, written, done: found.done };
        found.leftovers.push(look.leftover()?);
    }
    // The last first: what is in a directory goes before it.
    found.leftovers.reverse();
    Ok(Some(found))
}

fn damaged(what: &str) -> ImageError {
    ImageError::refused(
        format!("a `rotate` that was cut off has left its list, and it cannot be finished here: {what}"),
        "boot the node and run `deaddrop rotate` on it; or look at what /var/lib/deaddrop says, and remove it there",
    )
}

/// One line of the list.
struct Item {
    kind: char,
    mode: u32,
    mask: u32,
    owner: (u32, u32),
    /// For `m`: mode and owner as they were.
    before: Option<(u32, u32, u32)>,
    /// Inode of the file when it was looked at.
    inode: Option<u64>,
    path: TargetPath,
}

/// The run's name and its items; `None` for a list without its end.
fn parse(list: &str) -> Result<Option<(String, Vec<Item>)>, ImageError> {
    let mut lines = list.lines();
    let run = lines.next().and_then(|line| line.strip_prefix("run ")).unwrap_or_default();
    let is_name = (1..=32).contains(&run.len()) && run.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut items = Vec::new();
    for line in lines {
        if line == "end" {
            return if is_name { Ok(Some((run.to_owned(), items))) } else { Err(damaged("the run has no name")) };
        }
        if items.len() >= MOST_ITEMS {
            return Err(damaged("it has more lines than any run"));
        }
        items.push(
            item(line).ok_or_else(|| damaged(&format!("line {} is none of ours", items.len().saturating_add(2))))?,
        );
    }
    Ok(None)
}

/// `KIND MODE MASK UID GID BEFORE LINES STATE PATH`
fn item(line: &str) -> Option<Item> {
    let fields: Vec<&str> = line.splitn(9, ' ').collect();
    let [kind, mode, mask, uid, gid, before, _, state, path] = fields.as_slice() else { return None };
    let octal = |text: &str| u32::from_str_radix(text, 8).ok();
    let kind = kind.chars().next().filter(|letter| kind.len() == 1 && "dcrmx".contains(*letter))?;
    let before = match kind {
        'm' => {
            let mut parts = before.split(':');
            Some((octal(parts.next()?)?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        }
        _ => None,
    };
    Some(Item {
        kind,
        mode: octal(mode)?,
        mask: if *mask == "-" { 0 } else { octal(mask)? },
        owner: (uid.parse().ok()?, gid.parse().ok()?),
        before,
        inode: state.split(':').nth(1).and_then(|inode| inode.parse().ok()),
        path: TargetPath::parse(path).ok()?,
    })
}

/// One item, looked at.
struct Look<'a, T: Tree> {
    tree: &'a T,
    run: &'a str,
    number: usize,
    item: &'a Item,
    /// `INODE:SIZE:TIME` of the new file, if that was noted.
    written: Option<String>,
    done: bool,
}

impl<T: Tree> Look<'_, T> {
    fn leftover(self) -> Result<Leftover, ImageError> {
        let path = self.item.path.as_str();
        let mut leftover = Leftover { path: path.to_owned(), ..Leftover::default() };
        let walked = match walk::walk(self.tree, path) {
            Ok(walked) if walked.links.is_empty() && walked.missing_parents.is_empty() => walked,
            // Directories that the run would have made, and what would have been in them: nothing was made there.
            Ok(walked) if walked.links.is_empty() && matches!(self.item.kind, 'd' | 'c') => {
                drop(walked);
                return Ok(leftover);
            }
            Err(WalkError::Image(error)) => return Err(error),
            _ => {
                let directory = walk::shown(self.item.path.parent());
                return Err(damaged(&format!("{directory}, which it names, is not there")));
            }
        };
        let above = self.item.path.parent().trim_end_matches('/');
        let beside = |letter: char| format!(".deaddrop-{}-{}{letter}", self.run, self.number);
        let stands = |letter: char| self.tree.child(&walked.directory, beside(letter).as_bytes());
        let (new, old) = (stands('n')?, stands('o')?);
        for (letter, there) in [('n', &new), ('o', &old)] {
            if there.as_ref().is_some_and(|(_, stat)| stat.kind == Kind::File) {
                leftover.drop.push(format!("{above}/{}", beside(letter)));
            }
        }
        let here = walked.found.as_ref().map(|(_, stat)| stat);
        let (new, old) = (new.as_ref(), old.as_ref());
        let same = |one: Option<&Stat>, other: Option<&(T::Node, Stat)>| {
            one.zip(other).is_some_and(|(one, (_, other))| one.kind == Kind::File && one.inode == other.inode)
        };
        leftover.own_names = u32::from(same(here, new)).saturating_add(u32::from(same(here, old)));
        if self.done {
            return Ok(leftover);
        }
        match self.item.kind {
            'd' if here.is_some_and(|stat| stat.kind == Kind::Directory) => {
                leftover.restore = Some(TreeChange::RemoveDirectory { path: path.to_owned() });
            }
            'c' if same(here, new) => leftover.restore = Some(TreeChange::RemoveFile { path: path.to_owned() }),
            'c' => leftover.foreign = here.is_some(),
            'r' if old.is_none() || same(here, old) => {}
            'r' if same(here, new) || self.is_written(here) => leftover.restore = self.bring_back(old)?,
            'r' => leftover.foreign = true,
            'x' if here.is_none() => leftover.restore = self.bring_back(old)?,
            'x' => leftover.foreign = old.is_some() && !same(here, old),
            'm' => (leftover.restore, leftover.foreign) = self.metadata(here),
            _ => {}
        }
        Ok(leftover)
    }

    /// True when this is the run's new file, which has lost its other name.
    fn is_written(&self, here: Option<&Stat>) -> bool {
        let known = here.map(|stat| format!("{}:{}:{}", stat.inode, stat.size, stat.modified));
        known.is_some() && known == self.written
    }

    /// The old file under its own name again: a file of the same content, mode, owner and label.
    fn bring_back(&self, old: Option<&(T::Node, Stat)>) -> Result<Option<TreeChange>, ImageError> {
        let Some((node, stat)) = old else { return Ok(None) };
        let path = self.item.path.as_str();
        let content = match stat.kind {
            Kind::File => self.tree.read(node, MOST_COPIED)?,
            _ => None,
        };
        let content = content.ok_or_else(|| damaged(&format!("the old {path} is larger than deaddrop copies")))?;
        Ok(Some(TreeChange::WriteFile {
            path: path.to_owned(),
            content,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            label: self.tree.label(node)?,
        }))
    }

    /// Mode and owner as they were, if the run has changed them; whether somebody else has since.
    fn metadata(&self, here: Option<&Stat>) -> (Option<TreeChange>, bool) {
        let (Some(stat), Some(before)) = (here.filter(|stat| stat.kind == Kind::File), self.item.before) else {
            return (None, here.is_none());
        };
        let (mode, mask, (uid, gid)) = (self.item.mode, self.item.mask, self.item.owner);
        let now = (stat.mode, stat.uid, stat.gid);
        // The steps that the script takes.
        let ours = [(mask, before.1, before.2), (mask, uid, gid), (mode, uid, gid)];
        match now {
            _ if self.item.inode != Some(stat.inode) => (None, true),
            _ if now == before => (None, false),
            _ if ours.contains(&now) => {
                let path = self.item.path.as_str().to_owned();
                (Some(TreeChange::SetMetadata { path, mode: before.0, uid: before.1, gid: before.2 }), false)
            }
            _ => (None, true),
        }
    }
}
