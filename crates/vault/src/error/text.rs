//! Names and paths as messages show them.

use std::path::Path;

use crate::Reference;

/// A reference's item and field as one text.
pub(crate) fn item(reference: &Reference) -> String {
    match &reference.field {
        Some(field) => shown(&format!("{}#{field}", reference.item)),
        None => shown(&reference.item),
    }
}

/// A name of an export or a manifest, safe for a terminal, truncated after 120 characters.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 120;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", deaddrop_core::shown::text(&name[..end])),
        None => deaddrop_core::shown::text(name),
    }
}

/// A path, safe for a terminal, not truncated.
pub(crate) fn shown_path(path: &Path) -> String {
    deaddrop_core::shown::text(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hidden_character_is_left_in_a_name_or_a_path() {
        for hidden in deaddrop_core::shown::all_hidden() {
            let name = format!("a{hidden}b");
            assert_eq!(shown(&name), "a\u{fffd}b", "{hidden:?}");
            assert_eq!(shown_path(Path::new(&name)), "a\u{fffd}b", "{hidden:?}");
        }
    }
}
