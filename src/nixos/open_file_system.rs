//! The file system that is open, and the names that mounts have for it.

/// The file system that is open, as mounts name it; all `None` for a directory.
#[derive(Debug, Clone, Default)]
pub struct OpenFileSystem {
    /// Its label.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Its partition's name.
    pub part_label: Option<String>,
    /// Its partition's UUID.
    pub part_uuid: Option<String>,
}

impl OpenFileSystem {
    /// True if the first field of an fstab line means the open file system; `None` if it is no name that can be compared
    /// (fstab(5); udev's links in /dev/disk).
    #[must_use]
    pub fn is_named(&self, what: &str) -> Option<bool> {
        let forms = [
            ("/dev/disk/by-label/", "LABEL=", &self.label),
            ("/dev/disk/by-uuid/", "UUID=", &self.uuid),
            ("/dev/disk/by-partlabel/", "PARTLABEL=", &self.part_label),
            ("/dev/disk/by-partuuid/", "PARTUUID=", &self.part_uuid),
        ];
        forms.iter().find_map(|(link, tag, ours)| {
            let theirs = what.strip_prefix(link).or_else(|| what.strip_prefix(tag))?.trim_matches('"');
            Some(ours.as_deref().is_some_and(|ours| unescaped(theirs).eq_ignore_ascii_case(ours)))
        })
    }
}

/// A label without the escapes of udev (`\x20`).
fn unescaped(text: &str) -> String {
    let mut parts = text.split("\\x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&part[2..]);
            }
            None => {
                out.push_str("\\x");
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_found_by_each_of_its_names() {
        let open = OpenFileSystem {
            label: Some("my root".into()),
            uuid: Some("0AB1-22".into()),
            part_label: Some("p".into()),
            part_uuid: Some("pu".into()),
        };
        for (what, is_ours) in [
            ("/dev/disk/by-label/my\\x20root", true),
            ("LABEL=my root", true),
            ("/dev/disk/by-uuid/0ab1-22", true),
            ("UUID=\"0ab1-22\"", true),
            ("PARTLABEL=p", true),
            ("/dev/disk/by-partuuid/pu", true),
            ("/dev/disk/by-id/p", false),
            ("/dev/sda1", false),
            ("LABEL=", false),
        ] {
            assert_eq!(open.is_named(what) == Some(true), is_ours, "{what}");
            assert!(OpenFileSystem::default().is_named(what) != Some(true), "{what}");
        }
    }
}
