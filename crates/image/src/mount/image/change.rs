//! A change to a mounted image: written by the kernel, old content removed, read back through another mount.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use deaddrop_core::tree::directory::read_back::{read_back, unlabelled_note};
use deaddrop_core::tree::directory::transaction::{DirectoryTransaction, Finished};
use deaddrop_core::tree::{Applied, TreeChange};

use super::{MountedImage, MountedTree, half_done};
use crate::ext4::Ext4;
use crate::mount::btrfs::{self, Subvolume};
use crate::mount::disk_file::DiskFile;
use crate::mount::{Mount, MountError, MountMode, scrub};
use crate::progress::{Progress, Work};

/// Number of steps reported as progress: mount, change, sync, old values, unmount, free space, mount again, read back.
const STEPS: u64 = 8;

impl MountedImage<'_> {
    /// Makes the changes in the file to be changed, and reads them back.
    ///
    /// # Errors
    /// `HalfDone` if an image in place was changed; otherwise it is unchanged.
    pub(super) fn change(
        &self,
        work: &DiskFile,
        changes: &[TreeChange],
        time: SystemTime,
    ) -> Result<Applied, StorageError> {
        let mut applied = Applied::default();
        let started = Instant::now();
        let view = plain(MountedTree::open(&self.request(work.file()), MountMode::Change))?;
        self.tell(1);
        let mut transaction = DirectoryTransaction::new(&view.tree);
        let made = transaction.run(changes, time).and_then(|()| {
            self.tell(2);
            // Before an old value is overwritten: after a power cut the old name must not refer to zeros.
            view.mount.sync()
        });
        if let Err(error) = made {
            if !work.is_in_place_file() {
                // The file is discarded.
                return Err(error);
            }
            let error = transaction.roll_back(error);
            return Err(match view.mount.sync() {
                Ok(()) => error,
                Err(_) => half_done(error),
            });
        }
        self.tell(3);
        let Finished { dropped, stuck, unlabelled } = transaction.finish_with_old();
        if let (false, [first, ..]) = (work.is_in_place_file(), stuck.as_slice()) {
            return Err(StorageError::refused(first.as_str(), "try again: what was made is thrown away"));
        }
        applied.notes.extend(stuck);
        applied.notes.extend(unlabelled_note(&unlabelled));
        let half_done = |error| if work.is_in_place_file() { half_done(error) } else { error };
        let drops = !dropped.is_empty();
        let mut old_content = scrub::overwrite(self.root.kind, dropped);
        applied.notes.append(&mut old_content.notes);
        view.mount.sync().map_err(half_done)?;
        if drops && let Some(subvolume) = &self.subvolume {
            applied.notes.extend(snapshots_note(&view.mount, subvolume));
        }
        self.tell(4);
        applied.notes.extend(view.close());
        self.tell(5);
        if drops {
            let view = plain(MountedTree::open(&self.request(work.file()), MountMode::Change)).map_err(half_done)?;
            match scrub::discard_free_space(&view.mount, &old_content, work.is_device()) {
                Ok(detail) => applied.details.push(detail),
                Err(note) => applied.notes.push(note),
            }
            view.mount.sync().map_err(half_done)?;
            applied.notes.extend(view.close());
        }
        if drops && self.root.kind.is_ext() {
            applied.notes.extend(self.zero_log(work));
        }
        self.tell(6);
        let written = text::duration(started.elapsed());
        let started = Instant::now();
        let view = plain(MountedTree::open(&self.request(work.file()), MountMode::Read)).map_err(half_done)?;
        self.tell(7);
        read_back(&view.tree, changes, &unlabelled).map_err(half_done)?;
        applied.notes.extend(view.close());
        self.tell(STEPS);
        let read = text::duration(started.elapsed());
        applied.details.insert(0, format!("written by the kernel ({written}), read back by a fresh mount ({read})"));
        Ok(applied)
    }

    /// Zeroes the idle log of an ext4, which may contain an old file's content; returns a note if that is not possible.
    fn zero_log(&self, work: &DiskFile) -> Option<String> {
        let partition = &self.root.partition;
        let zeroed = work
            .partition(partition)
            .and_then(|section| Ext4::open(Arc::new(section)))
            .and_then(|ext4| work.scrub_log(&ext4, partition.start));
        zeroed.err().map(|error| format!("the idle journal was not zeroed, and may contain old values: {error}"))
    }

    fn tell(&self, done: u64) {
        (self.watch)(Progress { work: Work::Kernel, done, total: STEPS });
    }
}

/// A note with the snapshots that may keep replaced files.
fn snapshots_note(mount: &Mount, own: &Subvolume) -> Option<String> {
    const SHOWN: usize = 4;
    let found = match mount.open_top().and_then(|top| btrfs::snapshots(&top, own)) {
        Ok(found) if found.is_empty() => return None,
        Ok(found) => found,
        Err(error) => return Some(format!("whether snapshots keep the old values is not known: {error}")),
    };
    let more = found.len().saturating_sub(SHOWN);
    let mut names = found.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        names = format!("{names} and {more} more");
    }
    Some(format!("snapshots keep what was in them, old values as well: {names}; delete them if they hold any"))
}

/// A mount with a replay never fails because of its log.
fn plain<T>(result: Result<T, MountError>) -> Result<T, StorageError> {
    result.map_err(|error| match error {
        MountError::Image(error) => error,
        MountError::Unreplayed => StorageError::corrupt("the kernel left a log to be replayed"),
    })
}
