//! Notes and details about a written file, as text for the user.

use deaddrop_core::text;

use super::{Committed, Copied};

/// Notes for the user about the written file.
pub(crate) fn notes(name: &str, committed: &Committed) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(mode) = committed.mode_was {
        notes.push(format!("{name} holds secrets: its mode is now 0600, it was {mode:04o} (--keep-mode leaves it)"));
    }
    if let Some((user, group)) = committed.owner_was {
        notes.push(format!("{name} belonged to {user}:{group}, and now to you: only root can give it back"));
    }
    if committed.other_links > 0 {
        let (count, verb) =
            (committed.other_links, if committed.other_links == 1 { "link, which keeps" } else { "links, which keep" });
        notes.push(format!("{name} had {count} more hard {verb} the old image"));
    }
    if !committed.lost_attributes.is_empty() {
        notes.push(format!("{name} lost these attributes: {}", committed.lost_attributes.join(", ")));
    }
    notes
}

/// How a new file was created, for `-v`.
pub(crate) fn copied(copied: Copied) -> String {
    match copied {
        Copied::Nothing => "nothing written".to_owned(),
        Copied::Shared => "the rest shared with the image".to_owned(),
        Copied::Bytes(bytes) => format!("{} copied, the rest are holes", text::size(bytes)),
        Copied::Decompressed => "the rest decompressed".to_owned(),
        Copied::Converted(format) => format!("all of it written as {}", format.name()),
        Copied::Compressed => "all of it compressed".to_owned(),
    }
}
