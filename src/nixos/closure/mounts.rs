//! What a system mounts: the fstab of its closure, and its mount units.
//!
//! fstab(5), systemd.mount(5); nixpkgs, `nixos/modules/tasks/filesystems.nix`.

use std::collections::BTreeMap;

use deaddrop_core::tree::Tree;

use super::Mount;
use super::units::{self, Entry};
use super::view::View;

/// Maximum size of fstab, in bytes.
const FSTAB_LIMIT: u64 = 1 << 20;
/// Maximum number of units in the directory, and one more.
pub const MOST_UNITS: usize = 20_000;
/// Maximum number of mount units that are read.
const MOST_MOUNT_UNITS: usize = 300;

/// All mounts of the system with this etc tree. What cannot be read is added to `unread`.
pub fn find<T: Tree>(view: &View<'_, T>, etc: &str, unread: &mut Vec<String>) -> Vec<Mount> {
    let fstab = match view.text(&format!("{etc}/fstab"), FSTAB_LIMIT) {
        Ok(text) => parse_fstab(&text.unwrap_or_default()),
        Err(why) => {
            unread.push(why);
            Vec::new()
        }
    };
    // A unit has precedence over the one that systemd makes of a line of fstab.
    let units = of_units(view, &format!("{etc}/systemd/system"), unread);
    let mut mounts: Vec<Mount> =
        fstab.into_iter().filter(|mount| !units.contains_key(&unit_name(&mount.place))).collect();
    mounts.extend(units.into_values().flatten());
    mounts
}

/// The mount of each mount unit, by the unit's name; `None` for a masked one.
fn of_units<T: Tree>(view: &View<'_, T>, directory: &str, unread: &mut Vec<String>) -> BTreeMap<String, Option<Mount>> {
    let names = match view.names(directory, MOST_UNITS) {
        Ok(names) => names.unwrap_or_default(),
        Err(why) => {
            unread.push(why);
            return BTreeMap::new();
        }
    };
    if names.len() >= MOST_UNITS {
        unread.push(format!("{directory}: it has {MOST_UNITS} units or more; its mount units are not read"));
        return BTreeMap::new();
    }
    let mut mounts: Vec<String> = names.into_iter().filter(|name| name.ends_with(".mount")).collect();
    mounts.sort_unstable();
    let most = view.patience(MOST_MOUNT_UNITS);
    if mounts.len() > most {
        unread.push(format!("{directory}: only {most} of its mount units were read"));
        mounts.truncate(most);
    }
    let mut found = BTreeMap::new();
    for name in mounts {
        match units::read(view, directory, &name) {
            Ok(Entry::Unit(unit)) => {
                found.extend(of_unit(&unit).map(|mount| (name, Some(mount))));
            }
            Ok(Entry::Masked) => {
                found.insert(name, None);
            }
            Ok(Entry::Missing) => {}
            Err(why) => unread.push(why),
        }
    }
    found
}

fn of_unit(unit: &units::Unit) -> Option<Mount> {
    let value = |key| unit.value("Mount", key).unwrap_or_default();
    let place = place(value("Where"))?;
    let options = value("Options").split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    Some(Mount { what: value("What").to_owned(), place, fs_type: value("Type").to_owned(), options })
}

/// The lines of an fstab that mount something at a path (not swap).
fn parse_fstab(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let mut fields = line.split_whitespace();
        let what = fields.next().filter(|what| !what.starts_with('#'))?;
        let place = place(&unescape(fields.next()?))?;
        let fs_type = fields.next().unwrap_or_default().to_owned();
        let options = fields.next().unwrap_or_default().split(',').filter(|option| !option.is_empty());
        Some(Mount { what: unescape(what), place, fs_type, options: options.map(unescape).collect() })
    };
    text.lines().filter_map(mount).collect()
}

/// `\040` and the other octal escapes of fstab(5).
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        text.push_str(before);
        let code = escape.get(1..4).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                text.push(char::from(code));
                rest = escape.get(4..).unwrap_or_default();
            }
            None => {
                text.push('\\');
                rest = escape.get(1..).unwrap_or_default();
            }
        }
    }
    text.push_str(rest);
    text
}

/// An absolute path with single slashes and none at its end; `None` for a relative one.
fn place(path: &str) -> Option<String> {
    let names = path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty());
    let joined: String = names.flat_map(|name| ["/", name]).collect();
    Some(if joined.is_empty() { "/".to_owned() } else { joined })
}

/// The name of the unit that mounts at a place (systemd-escape(1), `--path`).
fn unit_name(place: &str) -> String {
    let path = place.trim_start_matches('/');
    if path.is_empty() {
        return "-.mount".to_owned();
    }
    let mut name = String::new();
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(byte)),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name + ".mount"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_is_read_with_its_escapes() {
        let text = "# a comment\n\n/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\n\
                    none /tmp tmpfs mode=1777,size=50% 0 0\n/a\\040b /c\\040d/ auto bind,x-initrd.mount\n\
                    /dev/x none swap defaults 0 0\nshort\n/x /y\\99z\n";
        let mounts = parse_fstab(text);
        let places: Vec<&str> = mounts.iter().map(|mount| mount.place.as_str()).collect();
        assert_eq!(places, ["/", "/tmp", "/c d", "/y\\99z"]);
        assert_eq!(mounts[2].what, "/a b");
        assert!(mounts[2].is_bind() && mounts[2].in_initrd() && !mounts[2].is_tmpfs());
        assert!(mounts[1].is_tmpfs() && !mounts[1].in_initrd());
        assert!(mounts[0].in_initrd());
        assert!(mounts[3].options.is_empty());
    }

    #[test]
    fn the_name_of_a_mount_unit_is_its_escaped_place() {
        for (place, want) in
            [("/", "-.mount"), ("/etc/secrets", "etc-secrets.mount"), ("/.rw-etc/a b", "\\x2erw\\x2detc-a\\x20b.mount")]
        {
            assert_eq!(unit_name(place), want);
        }
    }
}
