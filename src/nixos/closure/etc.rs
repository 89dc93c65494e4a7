//! How /etc comes to be: links, an overlay of three generations, or a configuration extension.
//!
//! nixpkgs: `nixos/modules/system/etc/etc-activation.nix`. docs/nixos.md says what each of them means.

use deaddrop_core::tree::Tree;
use serde_json::Value;

use super::Etc;
use super::view::View;

/// Maximum size of boot.json, in bytes.
const BOOT_JSON_LIMIT: u64 = 1 << 20;
/// The directory of a mutable overlay's changes.
const UPPER: &str = "/.rw-etc";

/// How /etc of a system comes to be. `activate` is the text of its activation script, if it has one. What cannot be
/// read is added to `unread`.
pub fn find<T: Tree>(view: &View<'_, T>, toplevel: &str, activate: Option<&str>, unread: &mut Vec<String>) -> Etc {
    let init = nixos_init(view, toplevel, unread);
    let has = |link: &str, key: &str| {
        init.get(key).is_some_and(|value| !value.is_null())
            || view.link(&format!("{toplevel}/{link}")).is_ok_and(|link| link.is_some())
    };
    if has("etc-confext", "etc_confext") {
        return Etc::Confext { kept: keeps_changes(init.get("etc_confext").unwrap_or(&Value::Null)) };
    }
    let is_overlay =
        has("etc-metadata-image", "etc_metadata_image") || activate.is_some_and(activation_mounts_an_overlay);
    let is_mutable = match activate {
        Some(text) => text.contains(UPPER),
        // Nothing says it: the directory is made at the first boot.
        None => view.find(UPPER).is_ok_and(|upper| upper.is_some()),
    };
    match (is_overlay, is_mutable) {
        (false, _) => Etc::Plain,
        (true, true) => Etc::OverlayMutable,
        (true, false) => Etc::OverlayImmutable,
    }
}

/// The object `org.nixos.nixos-init.v1` of boot.json, or nixos-init.json of a container; null if there is none.
fn nixos_init<T: Tree>(view: &View<'_, T>, toplevel: &str, unread: &mut Vec<String>) -> Value {
    for name in ["boot.json", "nixos-init.json"] {
        let path = format!("{toplevel}/{name}");
        let parsed = view.content(&path, BOOT_JSON_LIMIT).and_then(|content| {
            let Some(content) = content else { return Ok(Value::Null) };
            // The error's own text may hold what is in the file.
            serde_json::from_slice::<Value>(content.expose()).map_err(|_| format!("{path}: it is no JSON"))
        });
        match parsed {
            Ok(Value::Object(mut all)) => match all.remove("org.nixos.nixos-init.v1") {
                Some(init) => return init,
                None if name == "nixos-init.json" => return Value::Object(all),
                None => {}
            },
            Ok(_) => {}
            Err(why) => unread.push(why),
        }
    }
    Value::Null
}

/// True for activation of the first generation: it mounts the overlay itself.
fn activation_mounts_an_overlay(text: &str) -> bool {
    let joined = text.replace("\\\n", " ");
    let is_mount = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_overlay = words.windows(2).any(|pair| matches!(pair, ["--type" | "-t", "overlay"]));
        is_overlay && words.iter().any(|word| word.ends_with("mount")) && line.contains("lowerdir=")
    };
    joined.lines().any(|line| !line.trim_start().starts_with('#') && is_mount(line))
}

/// True unless a flag of the extension throws changes away: `--mutable=no`, `import`, `ephemeral`, …
/// (systemd-confext(8)).
fn keeps_changes(confext: &Value) -> bool {
    let flags: Vec<&str> = match confext.get("flags") {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mode = flags.iter().filter_map(|flag| flag.strip_prefix("--mutable=")).next_back();
    mode.is_none_or(|mode| matches!(mode, "auto" | "yes" | "true" | "1" | "on"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_overlay_is_seen_in_activation() {
        for (text, want) in [
            ("mount --type overlay overlay \\\n  --options lowerdir=/m::/nix/store/x-lowerdir \\\n /etc", true),
            ("  /nix/store/u/bin/mount -t overlay overlay -o lowerdir=/x $tmp", true),
            ("# mount --type overlay overlay --options lowerdir=/x /etc", false),
            ("mount --type tmpfs none /x\necho lowerdir=", false),
            ("", false),
        ] {
            assert_eq!(activation_mounts_an_overlay(text), want, "{text}");
        }
    }

    #[test]
    fn a_confext_keeps_changes_unless_a_flag_says_no() {
        for (confext, want) in [
            (json!({}), true),
            (json!({ "flags": [] }), true),
            (json!({ "flags": ["--mutable=auto"] }), true),
            (json!({ "flags": ["--mutable=no"] }), false),
            (json!({ "flags": ["--force", "--mutable=import"] }), false),
            (json!({ "flags": "--mutable=ephemeral-import" }), false),
            (Value::Null, true),
        ] {
            assert_eq!(keeps_changes(&confext), want, "{confext}");
        }
    }
}
