//! The read-back: `ext4-view`, which shares no code with the writer or with our reader, opens the result and must see
//! every file and directory as planned.
//!
//! It verifies the checksums of everything that leads to a file, in bytes one by one, which is most of its time. So it
//! opens the result twice: once to list the directories, with checksums, and once to read the files, without. A file
//! whose way has structures that listing does not read is read with checksums as well.
//!
//! It does not zeroize its memory, so it never gets a value: blocks of values are passed to it under a random mask, and
//! its results are compared under the same mask.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::{Secret, Wiped};
use ext4_view::{Ext4Error, Ext4Read, Metadata};
use subtle::ConstantTimeEq;

use crate::device::ReadAt;
use crate::device::overlay::Overlay;
use crate::ext4::change::apply::Lookup;
use crate::ext4::change::resolve::{Action, Resolved, ResolvedChange};
use crate::ext4::format::bytes::{le16, le32};
use crate::ext4::format::features::{Incompat, RoCompat};
use crate::ext4::format::inode::{GOOD_OLD_SIZE, INDEX};
use crate::ext4::format::reader::Reader;
use crate::ext4::format::superblock::{self, Superblock};
use crate::ext4::guard::{self, Guarded, Steps};

/// Features that `ext4-view` refuses, but that do not change how it reads the planned files: attribute inodes, large
/// directories (bounded by our reader), and inline content (which no file and no directory of the plan has; see
/// `resolve`).
const HIDDEN: u32 = Incompat::EA_INODE | Incompat::LARGE_DIR | Incompat::INLINE_DATA;

/// The expected entry at a path.
struct Wanted {
    path: String,
    what: What,
    mode: u16,
    uid: u32,
    gid: u32,
    /// A path that must not exist.
    gone: Option<String>,
    /// True if everything that leads to its content is read, and verified, when its directory is listed.
    is_listed: bool,
}

/// What is expected at a path.
enum What {
    Directory,
    /// A file with this content.
    File(Secret),
    /// A file with content that deaddrop did not write.
    AnyFile,
    /// Nothing: the name was removed.
    Nothing,
}

/// The result, as a device for `ext4-view`.
#[derive(Clone)]
struct MaskedView {
    overlay: Arc<Overlay>,
    steps: Arc<Steps>,
    /// Blocks of values.
    values: BTreeSet<u64>,
    /// Blocks of directories whose entries have no types (no `filetype`).
    untyped: BTreeSet<u64>,
    mask: Mask,
    /// False if checksums are hidden.
    has_checksums: bool,
}

/// One block of random bytes.
#[derive(Clone)]
struct Mask(Wiped);

impl Mask {
    fn new(block_size: usize) -> io::Result<Self> {
        let mut mask = Wiped::zeros(block_size);
        File::open("/dev/urandom")?.read_exact(&mut mask)?;
        Ok(Self(mask))
    }

    /// Applies the mask to `bytes`, which start at a block boundary, or removes it.
    fn apply(&self, bytes: &mut [u8]) {
        for block in bytes.chunks_mut(self.0.len()) {
            block.iter_mut().zip(self.0.iter()).for_each(|(byte, mask)| *byte ^= mask);
        }
    }
}

impl Ext4Read for MaskedView {
    fn read(&mut self, start_byte: u64, dst: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if !self.steps.take() {
            return Err(io::Error::other("too many steps").into());
        }
        self.overlay.read_exact_at(start_byte, dst)?;
        if start_byte == superblock::OFFSET
            && let Ok(raw) = <&mut [u8; superblock::SIZE]>::try_from(&mut *dst)
        {
            hide_features(raw, self.has_checksums);
        }
        // Content is read in whole blocks.
        let size = u64::try_from(self.overlay.block_size())?;
        if start_byte.is_multiple_of(size) {
            for (number, block) in (start_byte / size..).zip(dst.chunks_mut(self.overlay.block_size())) {
                if self.values.contains(&number) {
                    self.mask.apply(block);
                }
                if self.untyped.contains(&number) {
                    give_types(block);
                }
            }
        }
        Ok(())
    }
}

/// Clears the hidden features in a superblock, and updates its checksum. Checksums (all verified by our reader) are
/// always hidden with inodes of 128 bytes, because `ext4-view` requires the half that such an inode has no room for, and
/// without `filetype`, where directories are modified for it.
fn hide_features(raw: &mut [u8; superblock::SIZE], shows_checksums: bool) {
    let Some(read) = Superblock::parse(raw) else { return };
    let shown = read.features.incompat.0 & !HIDDEN | Incompat::FILETYPE;
    raw[0x60..0x64].copy_from_slice(&shown.to_le_bytes());
    let typed = read.features.incompat.has(Incompat::FILETYPE);
    let shows_checksums = shows_checksums && usize::from(read.inode_size) != GOOD_OLD_SIZE && typed;
    if read.has_checksums() && !shows_checksums {
        let shown = read.features.ro_compat.0 & !RoCompat::METADATA_CSUM;
        raw[0x64..0x68].copy_from_slice(&shown.to_le_bytes());
    }
    superblock::seal(raw);
}

/// Sets a type in each entry of a directory block, because `ext4-view` accepts none without one: "file" for all. It
/// takes the real kind from the inodes. Kernel documentation, ext4, "Directory Entries".
fn give_types(block: &mut [u8]) {
    let mut at = 0;
    while let Some(entry) = block.get_mut(at..).filter(|rest| rest.len() >= 8) {
        let length = usize::from(le16(entry, 4));
        if le32(entry, 0) != 0 {
            entry[7] = 1;
        }
        if length < 8 {
            return;
        }
        at += length;
    }
}

/// A read-back, running in a thread.
pub(in crate::ext4) struct ReadBack(Guarded<Result<(), String>>);

impl ReadBack {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] with the first path that differs from the plan.
    pub fn wait(self) -> Result<(), StorageError> {
        self.0.wait()?.map_err(StorageError::Corrupt)
    }
}

/// Starts to read every change of `plan` back from `overlay`, which must not change until it ends.
///
/// # Errors
/// [`StorageError::Corrupt`] if something is missing; if the overlay cannot be read.
pub(in crate::ext4) fn read_back(overlay: &Arc<Overlay>, resolved: &Resolved) -> Result<ReadBack, StorageError> {
    let mut wanted: Vec<Wanted> = resolved
        .changes
        .iter()
        .map(|change| Wanted {
            path: change.path.to_owned(),
            what: match &change.action {
                Action::MakeDirectory => What::Directory,
                Action::Create { content } | Action::Replace { content, .. } => What::File((*content).clone()),
                Action::SetMetadata { .. } => What::AnyFile,
                Action::Remove { .. } | Action::RemoveDirectory { .. } => What::Nothing,
            },
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            gone: match &change.action {
                Action::Replace { temporary, .. } => change
                    .path
                    .rsplit_once('/')
                    .map(|(above, _)| format!("{above}/{}", String::from_utf8_lossy(temporary))),
                _ => None,
            },
            is_listed: false,
        })
        .collect();
    let bytes: usize = resolved.changes.iter().filter_map(|change| change.content()).map(Secret::len).sum();
    let changes = u64::try_from(wanted.len()).unwrap_or(u64::MAX);
    // One descriptor per group, then a few blocks per path component and one per kilobyte.
    let groups = overlay.size() / (256 * 1024);
    let steps = Steps::new(
        100_000_u64
            .saturating_add(groups)
            .saturating_add(changes.saturating_mul(5_000))
            .saturating_add(u64::try_from(bytes / 64).unwrap_or(u64::MAX)),
    );
    let longest = Duration::from_secs(4) + Duration::from_millis(10) * u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    let reader = Reader::open(overlay.clone())?;
    let mut lookup = Lookup::new(&reader);
    let mut values = BTreeSet::new();
    let mut plain: BTreeMap<String, bool> = BTreeMap::new();
    for wanted in wanted.iter_mut().filter(|wanted| matches!(wanted.what, What::File(_))) {
        let map = reader.map(&lookup.find(&wanted.path)?)?;
        values.extend(map.content());
        let above = split(&wanted.path).0.to_owned();
        let is_plain = match plain.get(&above) {
            Some(known) => *known,
            None => is_plain_way(&reader, &mut lookup, &wanted.path)?,
        };
        plain.insert(above, is_plain);
        wanted.is_listed = is_plain && map.nodes.is_empty();
    }
    let mut untyped = BTreeSet::new();
    if !reader.superblock.features.incompat.has(Incompat::FILETYPE) {
        let is_gone = |change: &&ResolvedChange<'_>| matches!(change.action, Action::RemoveDirectory { .. });
        let gone: BTreeSet<&str> = resolved.changes.iter().filter(is_gone).map(|change| change.path).collect();
        for change in &resolved.changes {
            let ways = change.path.match_indices('/').map(|(at, _)| change.path.get(..at).unwrap_or_default());
            for above in ways.filter(|above| !gone.contains(above)) {
                untyped.extend(reader.map(&lookup.find(above)?)?.content());
            }
        }
    }
    let mask = Mask::new(overlay.block_size()).map_err(|error| StorageError::io("reading /dev/urandom", error))?;
    let view = MaskedView {
        overlay: Arc::clone(overlay),
        steps: Arc::clone(&steps),
        values,
        untyped,
        mask: mask.clone(),
        has_checksums: true,
    };
    let guarded = guard::start("the read-back", &steps, longest, move || {
        let load = |view| ext4_view::Ext4::load(Box::new(view)).map_err(|error| format!("the read-back: {error}"));
        let without_checksums = load(MaskedView { has_checksums: false, ..view.clone() })?;
        let fs = load(view)?;
        let listings = list(&fs, &wanted)?;
        wanted.iter().try_for_each(|wanted| {
            let fs = if wanted.is_listed { &without_checksums } else { &fs };
            compare(fs, &listings, wanted, &mask).map_err(|what| format!("{}: {what}", wanted.path))
        })
    })?;
    Ok(ReadBack(guarded))
}

/// True if every directory above the path is a list without an index, which its inode alone maps.
fn is_plain_way(reader: &Reader, lookup: &mut Lookup<'_>, path: &str) -> Result<bool, StorageError> {
    for (at, _) in path.match_indices('/') {
        let directory = lookup.find(path.get(..at).unwrap_or_default())?;
        if directory.has(INDEX) || !reader.map(&directory)?.nodes.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The metadata that the read-back sees, by directory and name.
type Listings<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Metadata>>;

/// Directory and name of an absolute path.
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("/", path),
    }
}

/// Lists every directory of a change once.
fn list<'a>(fs: &ext4_view::Ext4, wanted: &'a [Wanted]) -> Result<Listings<'a>, String> {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in wanted.iter().flat_map(|wanted| std::iter::once(&wanted.path).chain(&wanted.gone)) {
        let (above, name) = split(path);
        names.entry(above).or_default().insert(name);
    }
    // Entries of a removed directory are removed with it; the directory's own entry is checked in its parent.
    let gone: BTreeSet<&str> = wanted
        .iter()
        .filter(|wanted| matches!(wanted.what, What::Nothing))
        .map(|wanted| wanted.path.as_str())
        .collect();
    let mut listings = Listings::new();
    for (above, names) in names.into_iter().filter(|(above, _)| !gone.contains(above)) {
        let failed = |error: Ext4Error| format!("{above}: {CANNOT_READ}: {error}");
        let listing = listings.entry(above).or_default();
        for entry in fs.read_dir(above).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A name that is not UTF-8 is not one of the plan.
            if let Some(name) = entry.file_name().as_str().ok().and_then(|name| names.get(name))
                && listing.insert(name, entry.metadata().map_err(failed)?).is_some()
            {
                return Err(format!("{above}/{name}: the read-back sees it twice"));
            }
        }
    }
    Ok(listings)
}

const CANNOT_READ: &str = "the read-back cannot read it";

/// Compares one path; the error says what differs, and never contains content.
fn compare(fs: &ext4_view::Ext4, listings: &Listings<'_>, wanted: &Wanted, mask: &Mask) -> Result<(), String> {
    let failed = |error: Ext4Error| format!("{CANNOT_READ}: {error}");
    let seen = |path: &str| {
        let (above, name) = split(path);
        listings.get(above).and_then(|names| names.get(name))
    };
    let found = seen(&wanted.path);
    if matches!(wanted.what, What::Nothing) {
        return if found.is_none() { Ok(()) } else { Err("the read-back still sees it".into()) };
    }
    let metadata = found.ok_or("the read-back does not see it")?;
    let kind_fits = match wanted.what {
        What::Directory => metadata.file_type().is_dir(),
        What::File(_) | What::AnyFile => metadata.file_type().is_regular_file(),
        What::Nothing => false,
    };
    if !kind_fits {
        return Err("the read-back sees something of another kind".into());
    }
    if metadata.mode() != wanted.mode {
        return Err(format!("the read-back sees mode {:04o}, not {:04o}", metadata.mode(), wanted.mode));
    }
    if (metadata.uid(), metadata.gid()) != (wanted.uid, wanted.gid) {
        return Err(format!(
            "the read-back sees owner {}:{}, not {}:{}",
            metadata.uid(),
            metadata.gid(),
            wanted.uid,
            wanted.gid
        ));
    }
    if let What::File(content) = &wanted.what {
        // By its path, as its users open it: a directory's index must lead to the same file as its list.
        let mut file = fs.open(wanted.path.as_str()).map_err(failed)?;
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        if file.metadata() != metadata
            || metadata.len() != length
            || !holds(&mut file, content, mask).map_err(failed)?
        {
            return Err("the read-back sees other content".into());
        }
    }
    match &wanted.gone {
        Some(temporary) if seen(temporary).is_some() => Err("its temporary name is still there".into()),
        _ => Ok(()),
    }
}

/// True if `file`, which is as long as `content`, contains it under the mask.
fn holds(file: &mut ext4_view::File, content: &Secret, mask: &Mask) -> Result<bool, Ext4Error> {
    let mut read = Wiped::zeros(content.len());
    let mut filled = 0;
    while let Some(rest) = read.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_bytes(rest)? {
            0 => return Ok(false),
            more => filled += more,
        }
    }
    mask.apply(&mut read);
    Ok(read.ct_eq(content.expose()).into())
}
