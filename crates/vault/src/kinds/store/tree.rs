//! The entries of a store, by name. Symbolic links in a store are not followed, so nothing outside it is read.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use zeroize::Zeroizing;

use super::{MAX_ENTRY, Unread};
use crate::error::shown;
use crate::input::read::{self, ReadError};
use crate::items::item::{Answer, Entry, Field, Sink, Value};
use crate::items::search::Search;
use crate::{Listed, LookupError, OpenError, Reference};

/// Maximum number of entries, and of directories, of a store.
const MOST: usize = 1_000_000;
/// Maximum nesting depth of directories.
const MAX_DEPTH: usize = 64;

/// A store's directory.
pub(super) struct Tree {
    /// Canonical path.
    root: PathBuf,
    directory: OwnedFd,
    /// All entries.
    pub entries: Vec<StoreEntry>,
    /// Names (with folder) of entries that are symbolic links.
    links: HashSet<String>,
}

/// An entry, not decrypted.
pub(super) struct StoreEntry {
    /// Path below the root, with the suffix.
    pub path: PathBuf,
    /// The names of its directories, joined by `/`; empty at the top.
    folder: String,
    name: String,
}

impl StoreEntry {
    /// Folder and name, joined by `/`.
    pub(super) fn full_name(&self) -> String {
        join(&self.folder, &self.name)
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

impl Tree {
    /// Reads the names of all entries below `root`: files whose names end in `suffix`. Names with a leading dot belong
    /// to the store's program and are skipped.
    ///
    /// # Errors
    /// The directory does not exist, cannot be read, or is too large.
    pub(super) fn read(root: &Path, suffix: &str) -> Result<Self, OpenError> {
        let failed = |path: &Path, error: std::io::Error| OpenError::Read {
            path: path.to_owned(),
            problem: match error.kind() {
                std::io::ErrorKind::PermissionDenied => ReadError::Denied,
                _ => ReadError::Io(error),
            },
        };
        let canonical = match fs::canonicalize(root) {
            Ok(path) if path.is_dir() => path,
            Ok(_) => return Err(OpenError::refused(root, "this is a file, and a store is a directory", "")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(OpenError::refused(root, "there is no such store", "name its directory with `path`"));
            }
            Err(error) => return Err(failed(root, error)),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory =
            nix::fcntl::open(&canonical, flags, Mode::empty()).map_err(|errno| failed(&canonical, errno.into()))?;
        let mut tree = Self { root: canonical, directory, entries: Vec::new(), links: HashSet::new() };
        let mut open: Vec<(PathBuf, String, usize)> = vec![(PathBuf::new(), String::new(), 0)];
        let mut seen = 0_usize;
        while let Some((below, folder, depth)) = open.pop() {
            let here = tree.root.join(&below);
            for entry in fs::read_dir(&here).map_err(|error| failed(&here, error))? {
                let entry = entry.map_err(|error| failed(&here, error))?;
                let file_name = entry.file_name();
                // A manifest cannot name a file that is not UTF-8.
                let Some(file) = file_name.to_str().filter(|name| !name.starts_with('.')) else { continue };
                seen = seen.saturating_add(1);
                if seen > MOST {
                    return Err(OpenError::refused(root, "over 1,000,000 entries, the most of a store", ""));
                }
                let kind = entry.file_type().map_err(|error| failed(&here, error))?;
                let path = below.join(&file_name);
                if kind.is_dir() {
                    if depth >= MAX_DEPTH {
                        let what = format!("its directories are nested over {MAX_DEPTH} deep, the most that is taken");
                        return Err(OpenError::refused(root, what, ""));
                    }
                    open.push((path, join(&folder, file), depth.saturating_add(1)));
                } else if let Some(name) = file.strip_suffix(suffix).filter(|name| !name.is_empty()) {
                    match kind.is_file() {
                        true => tree.entries.push(StoreEntry { path, folder: folder.clone(), name: name.to_owned() }),
                        false => drop(tree.links.insert(join(&folder, name))),
                    }
                }
            }
        }
        tree.entries.sort_by(|a, b| (&a.folder, &a.name).cmp(&(&b.folder, &b.name)));
        Ok(tree)
    }

    /// The index of the entry that each reference names: by folder and name, or by the name alone if it is unique.
    pub(super) fn find(&self, wanted: &[&Reference]) -> Vec<Result<usize, LookupError>> {
        let plain: Vec<Reference> = wanted.iter().map(|own| Reference { field: None, ..(**own).clone() }).collect();
        let plain: Vec<&Reference> = plain.iter().collect();
        let mut search = Search::new(&plain);
        let mut whole = HashMap::new();
        let mut result = Ok(());
        for (index, found) in self.entries.iter().enumerate() {
            whole.insert(found.full_name(), index);
            result = result.and_then(|()| {
                if !found.folder.is_empty() {
                    search.folder(&found.folder, &found.folder)?;
                }
                search.item(&Named { found, index })
            });
        }
        let answers = search.finish();
        let answer = |(reference, answer): (&&Reference, Result<Answer, LookupError>)| {
            let item = &reference.item;
            if let Some(index) = whole.get(item) {
                return Ok(*index);
            }
            let refused = |what: String| LookupError::Refused { item: shown(item), what, hint: None };
            if self.links.contains(item) {
                return Err(refused("this is a symbolic link, and those are not followed".to_owned()));
            }
            match (answer, &result) {
                (_, Err(limit)) => Err(refused(limit.to_string())),
                (Ok(Answer::Attachment(index)), _) => index.parse().map_err(|_| refused("it is not there".to_owned())),
                (Ok(Answer::Value(_)), _) => Err(refused("it is not there".to_owned())),
                (Err(error), _) => Err(error),
            }
        };
        wanted.iter().zip(answers).map(answer).collect()
    }

    /// All entries by name, without fields.
    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = |found: &StoreEntry| Listed {
            folders: if found.folder.is_empty() { Vec::new() } else { vec![shown(&found.folder)] },
            ..Listed::without_fields(shown(&found.name))
        };
        self.entries.iter().map(listed).collect()
    }

    /// Opens an entry's file, which is inside the store even if the directory has changed since its name was read.
    pub(super) fn open(&self, found: &StoreEntry) -> Result<File, Unread> {
        let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        openat2(&self.directory, &found.path, how).map(File::from).map_err(|errno| Unread {
            what: format!("its file cannot be opened: {}", errno.desc()),
            hint: String::new(),
        })
    }

    /// The encrypted content of an entry's file.
    pub(super) fn content(&self, found: &StoreEntry) -> Result<Zeroizing<Vec<u8>>, Unread> {
        read::to_end(self.open(found)?, 0, MAX_ENTRY)
            .map_err(|problem| Unread { what: format!("its file: {problem}"), hint: String::new() })
    }
}

/// An entry for a [`Search`]. Its value is its index.
struct Named<'t> {
    found: &'t StoreEntry,
    index: usize,
}

impl Entry for Named<'_> {
    fn id(&self) -> &str {
        ""
    }

    fn name(&self) -> &str {
        &self.found.name
    }

    fn places(&self) -> Vec<&str> {
        if self.found.folder.is_empty() { Vec::new() } else { vec![&self.found.folder] }
    }

    fn changed(&self) -> Option<&str> {
        None
    }

    fn fields(&self) -> Vec<Field> {
        let value = Value::Attachment(self.index.to_string());
        vec![Field::built_in_value("password", value)]
    }
}
