//! The system that a boot loader's configuration starts by default, for images without a profile.
//!
//! nixpkgs: `nixos/modules/system/boot/loader/` (generic-extlinux-compatible, systemd-boot, grub); Boot Loader
//! Specification, type 1.

use deaddrop_core::tree::Tree;

use super::view::View;

/// Maximum size of a configuration file, in bytes.
const CONFIG_LIMIT: u64 = 1 << 20;
/// Maximum number of systemd-boot's entries that are looked at.
const MOST_ENTRIES: usize = 1000;
/// Where systemd-boot's partition is mounted.
const ESP: [&str; 3] = ["/boot", "/efi", "/boot/efi"];

/// A boot loader's default entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Default {
    /// The file that says it.
    pub file: String,
    /// The system that it starts.
    pub toplevel: String,
    /// Its number, if the entry's name says it.
    pub generation: Option<u32>,
}

/// The default entry of the first boot loader that has one. A configuration that cannot be read is passed over: the
/// store is searched next.
pub fn default_entry<T: Tree>(view: &View<'_, T>) -> Option<Default> {
    let text = |path: &str| view.text(path, CONFIG_LIMIT).ok().flatten();
    let of_text = |path: &str, find: fn(&str) -> Option<String>| {
        let toplevel = find(&text(path)?)?;
        Some(Default { file: path.to_owned(), toplevel, generation: None })
    };
    of_text("/boot/extlinux/extlinux.conf", extlinux)
        .or_else(|| ESP.iter().find_map(|esp| systemd_boot(view, esp)))
        .or_else(|| of_text("/boot/grub/grub.cfg", grub))
}

/// The system of an `init=` among the words of a kernel's command line.
fn init_of(line: &str) -> Option<String> {
    let init = line.split_whitespace().find_map(|word| word.strip_prefix("init="))?;
    let (toplevel, _) = init.rsplit_once('/')?;
    toplevel.starts_with("/nix/store/").then(|| toplevel.to_owned())
}

/// The entry that `DEFAULT` names, or the first one.
fn extlinux(text: &str) -> Option<String> {
    let mut default = None;
    let mut label = None;
    let mut first = None;
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once(char::is_whitespace) else { continue };
        match key.to_ascii_uppercase().as_str() {
            "DEFAULT" => default = Some(value.trim()),
            "LABEL" => label = Some(value.trim()),
            "APPEND" => {
                let Some(system) = init_of(value) else { continue };
                if default.is_some() && default == label {
                    return Some(system);
                }
                first.get_or_insert(system);
            }
            _ => {}
        }
    }
    first
}

/// The entry that `default` in loader.conf names; a pattern, or none: the highest generation.
fn systemd_boot<T: Tree>(view: &View<'_, T>, esp: &str) -> Option<Default> {
    let text = |path: &str| view.text(path, CONFIG_LIMIT).ok().flatten();
    let directory = format!("{esp}/loader/entries");
    let config = text(&format!("{esp}/loader/loader.conf")).unwrap_or_default();
    let named = config.lines().find_map(|line| line.strip_prefix("default")?.split_whitespace().next());
    let names = view.names(&directory, MOST_ENTRIES).ok().flatten()?;
    // A pattern means the highest version of the entries that it fits, as does no default (loader.conf(5)).
    let fits = |name: &str, pattern: &str| match pattern.split_once('*') {
        Some((start, end)) => name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => name == pattern,
    };
    let is_named = |name: &&String| {
        named.is_some_and(|named| fits(name, named) || name.strip_suffix(".conf").is_some_and(|name| fits(name, named)))
    };
    let entries = || names.iter().filter(|name| name.ends_with(".conf"));
    let newest = || entries().max_by_key(|name| entry_number(name));
    let name = entries().filter(is_named).max_by_key(|name| entry_number(name)).or_else(newest)?;
    let file = format!("{directory}/{name}");
    let entry = text(&file)?;
    let toplevel = entry.lines().find_map(|line| init_of(line.strip_prefix("options")?))?;
    Some(Default { file, toplevel, generation: entry_number(name) })
}

/// The N of `nixos-generation-N.conf`, `nixos-generation-N-specialisation-X.conf`.
fn entry_number(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("nixos-generation-")?;
    rest.split(['-', '.']).next()?.parse().ok()
}

/// The entry that `set default=` numbers among those at the top, from 0; else the first one, which is what nixpkgs
/// writes for the default system.
fn grub(text: &str) -> Option<String> {
    let number = |line: &str| line.trim().strip_prefix("set default=")?.trim_matches('"').parse().ok();
    let default: usize = text.lines().find_map(number).unwrap_or(0);
    let systems = |entry: usize| {
        let mut begun: usize = 0;
        let mut depth: usize = 0;
        let of_entry = move |line: &&str| {
            let begins = line.starts_with("menuentry ") || line.starts_with("submenu ");
            begun = begun.saturating_add(usize::from(depth == 0 && begins));
            depth = depth.saturating_add(line.matches('{').count()).saturating_sub(line.matches('}').count());
            begun == entry.saturating_add(1) && line.starts_with("linux")
        };
        text.lines().map(str::trim).filter(of_entry).find_map(init_of)
    };
    systems(default).or_else(|| text.lines().filter(|line| line.trim().starts_with("linux")).find_map(init_of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extlinux_starts_the_entry_that_default_names() {
        let entry = |label: &str, system: &str| {
            format!("LABEL {label}\n  LINUX ../nixos/k\n  append root=x init=/nix/store/{system}/init loglevel=4\n")
        };
        let two = format!("{}{}", entry("nixos-1", "a-nixos-system-x"), entry("nixos-default", "b-nixos-system-x"));
        for (start, want) in [
            ("DEFAULT nixos-default\n", "/nix/store/b-nixos-system-x"),
            ("DEFAULT other\n", "/nix/store/a-nixos-system-x"),
            ("", "/nix/store/a-nixos-system-x"),
        ] {
            assert_eq!(extlinux(&format!("{start}{two}")).as_deref(), Some(want), "{start}");
        }
        assert_eq!(extlinux("DEFAULT x\nLABEL x\nAPPEND init=/bin/sh\nLABEL y\nAPPEND quiet\n"), None);
    }

    #[test]
    fn grub_starts_its_first_entry() {
        let text = "menuentry \"NixOS\" {\n  linux ($drive1)/k init=/nix/store/a-nixos-system-x/init\n}\n\
                    menuentry \"old\" {\n  linux /k init=/nix/store/b-nixos-system-x/init\n}\n";
        assert_eq!(grub(text).as_deref(), Some("/nix/store/a-nixos-system-x"));
        assert_eq!(grub(&format!("set default=\"1\"\n{text}")).as_deref(), Some("/nix/store/b-nixos-system-x"));
        assert_eq!(grub(&format!("set default=saved\n{text}")).as_deref(), Some("/nix/store/a-nixos-system-x"));
        assert_eq!(grub("menuentry x {\n linux /vmlinuz root=/dev/sda1\n}\n"), None);
    }

    #[test]
    fn the_number_of_an_entry_is_in_its_name() {
        assert_eq!(entry_number("nixos-generation-12.conf"), Some(12));
        assert_eq!(entry_number("nixos-generation-3-specialisation-x.conf"), Some(3));
        assert_eq!(entry_number("arch.conf"), None);
    }
}
