//! The e2fsck commands for the file system in an image, instead of a remedy that only names e2fsck.

use deaddrop_core::error::{Hint, Remedy, StorageError};

use crate::container::Container;
use crate::ext4::{Ext4, JournalState, UNCLEAN};
use crate::table::Partition;

/// If the remedy is to run e2fsck: adds the commands for the image `name` and its partition. `e2fsck IMAGE?offset=N`
/// needs no root, and is enough if no journal needs a replay: e2fsck 1.47 loses the offset after a replay. (Without -f
/// it leaves names in the orphan file.)
pub fn with_fsck_commands(
    error: StorageError,
    name: &str,
    container: Container,
    partition: &Partition,
    file_system: &Ext4,
    device: bool,
) -> StorageError {
    let (what, command) = match error {
        StorageError::Refused { what, hint: Hint::Remedy(Remedy::CheckFileSystem) } => (what, "e2fsck -p -f"),
        StorageError::Refused { what, hint: Hint::Remedy(Remedy::RepairFileSystem) } => (what, "e2fsck -f"),
        other => return other,
    };
    let (first, image) = container.unpacked(name);
    let (start, size) = (partition.start, partition.size);
    let replays =
        file_system.was_replayed() || matches!(file_system.summary().journal, JournalState::NeedsRecovery { .. });
    let hint = match (start, replays) {
        (0, _) => format!("{first} run `{command} '{image}'`"),
        (_, false) => format!("{first} run `{command} '{image}?offset={start}'`"),
        (_, true) => format!(
            "{first} run, as root, `losetup -f --show -o {start} --sizelimit {size} '{image}'`, `{command}` on the \
             device that it names, and `losetup -d` on that"
        ),
    };
    // A device that says "not cleanly unmounted" may be half changed by an interrupted run with an undo file.
    if device && what == UNCLEAN {
        let otherwise = hint.strip_prefix("first ").unwrap_or(&hint).to_owned();
        return StorageError::refused(what, Remedy::RollBackOr { device: name.to_owned(), otherwise });
    }
    StorageError::refused(what, hint)
}
