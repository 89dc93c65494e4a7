//! cloud-init, which deletes the host keys of sshd at the first boot of an instance unless it is told not to: cloud-init's
//! module `ssh` (`cc_ssh`), `ssh_deletekeys`, true by default. nixpkgs: `nixos/modules/services/system/cloud-init.nix`.

use deaddrop_core::tree::Tree;
use serde_json::Value;

use super::view::View;

/// Maximum size of cloud.cfg, in bytes.
const LIMIT: u64 = 1 << 20;

/// True if cloud-init of this system deletes host keys. `tree` is its etc tree.
pub fn deletes_host_keys<T: Tree>(view: &View<'_, T>, tree: &str, unread: &mut Vec<String>) -> bool {
    let path = format!("{tree}/cloud/cloud.cfg");
    let text = view.text(&path, LIMIT).unwrap_or_else(|why| {
        unread.push(why);
        None
    });
    let has_unit = |name: &str| view.find(&format!("{tree}/systemd/system/{name}")).is_ok_and(|unit| unit.is_some());
    let runs =
        ["cloud-config.service", "cloud-init.service", "cloud-init-network.service"].iter().any(|unit| has_unit(unit));
    text.is_some_and(|text| runs && deletes(&text))
}

/// Judges the text of a cloud.cfg: JSON, or YAML as nixpkgs writes it.
fn deletes(text: &str) -> bool {
    match serde_json::from_str::<Value>(text) {
        Ok(config) => {
            let lists = ["cloud_config_modules", "cloud_init_modules"].map(|list| config[list].as_array());
            // A module is its name, or a list of its name and how often it runs.
            let name = |module: &Value| module.as_str().or_else(|| module[0].as_str()) == Some("ssh");
            lists.into_iter().flatten().flatten().any(name) && config["ssh_deletekeys"] != Value::Bool(false)
        }
        Err(_) => {
            let mut list = "";
            let mut has_module = false;
            for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim_end()) {
                let item =
                    line.trim_start().strip_prefix('-').map(|item| item.trim_matches([' ', '[', ']', '"', '\'']));
                match item {
                    Some(item) => {
                        let module = item.split(',').next().unwrap_or_default().trim_matches([' ', '"', '\'']);
                        has_module |= module == "ssh" && matches!(list, "cloud_config_modules" | "cloud_init_modules");
                    }
                    None if !line.starts_with(' ') => list = line.split(':').next().unwrap_or_default(),
                    None => {}
                }
                let off = line.strip_prefix("ssh_deletekeys:").map(|value| value.trim().to_lowercase());
                if off.is_some_and(|value| matches!(value.as_str(), "false" | "no" | "off" | "0")) {
                    return false;
                }
            }
            has_module
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_deletes_keys_unless_it_is_told_not_to() {
        for (text, want) in [
            ("cloud_config_modules:\n- disk_setup\n- ssh\n", true),
            ("cloud_init_modules:\n  - migrator\n  - [\"ssh\", always]\n", true),
            ("ssh_deletekeys: false\ncloud_config_modules:\n - ssh\n", false),
            ("cloud_config_modules:\n - ssh # later\nssh_deletekeys: False\n", false),
            ("cloud_config_modules:\n - ssh-import-id\n", false),
            ("other_list:\n - ssh\n", false),
            ("# cloud_config_modules:\n# - ssh\n", false),
            (r#"{"cloud_config_modules":["ssh"]}"#, true),
            (r#"{"cloud_init_modules":[["ssh","always"]],"ssh_deletekeys":true}"#, true),
            (r#"{"cloud_config_modules":["ssh"],"ssh_deletekeys":false}"#, false),
            (r#"{"cloud_config_modules":["ssh-import-id"]}"#, false),
            ("", false),
        ] {
            assert_eq!(deletes(text), want, "{text}");
        }
    }
}
