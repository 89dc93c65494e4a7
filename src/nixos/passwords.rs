//! Files of password hashes: NX012 (not a hash), NX101 (NixOS ignores the file), DD501 (NixOS reads it at activation).

use super::Finding;

/// NX012: the file at `path` is a hashedPasswordFile, and its value is not crypt(3) text that NixOS accepts.
#[must_use]
pub fn not_a_hash(path: &str) -> Finding {
    unusable(
        path,
        "the value is not one line of crypt(3) text of a scheme that NixOS accepts",
        "add `hash: yescrypt` to have the value hashed, or store a hash (mkpasswd -m yescrypt)",
    )
}

/// NX012: the file at `path` is a hashedPasswordFile, and its value is a generated key.
#[must_use]
pub fn generated_key(path: &str) -> Finding {
    unusable(
        path,
        "a generated key is not one line of crypt(3) text",
        "put a password into the vault, and name it with `from` and `hash: yescrypt`",
    )
}

fn unusable(path: &str, why: &str, instead: &str) -> Finding {
    Finding {
        code: "NX012",
        refuse: true,
        reason: format!("{path} is a hashedPasswordFile, and {why}: it would corrupt /etc/shadow or lock the user out"),
        instead: instead.to_owned(),
    }
}

/// NX101: /etc/shadow has a line for `user` with another password than the file at `path`.
#[must_use]
pub fn shadow_line_stays(user: &str, path: &str) -> Finding {
    Finding {
        code: "NX101",
        refuse: false,
        reason: format!(
            "/etc/shadow already has a line for {user}, with another password or none: with users.mutableUsers = true \
             (the default) NixOS keeps that line, and {path} is never applied"
        ),
        instead: "set users.mutableUsers = false, or services.userborn.enable = true".to_owned(),
    }
}

/// NX101 where the system is known: a line of the shadow file stays as it is.
#[must_use]
pub fn line_stays(user: &str, path: &str) -> Finding {
    Finding {
        code: "NX101",
        refuse: true,
        reason: format!(
            "the shadow file of this system has a line for {user}, with another password or none, and NixOS keeps that \
             line: {path} would never be applied"
        ),
        instead: "set users.mutableUsers = false (or services.userborn.enable = true), or have the hash put into that \
                  line too: `apply_password: true`"
            .to_owned(),
    }
}

/// NX101 for a password that the system makes for itself when it boots: at the build of the image there was no key.
#[must_use]
pub fn made_line_stays(user: &str, path: &str, tool: &str) -> Finding {
    Finding {
        code: "NX101",
        refuse: false,
        reason: format!(
            "the shadow file of this system has a line for {user}, and NixOS keeps that line: {path}, which {tool} \
             makes, is never applied"
        ),
        instead: "set users.mutableUsers = false, or services.userborn.enable = true".to_owned(),
    }
}

/// NX101 on a running node: sops-nix or agenix makes the file that the system reads.
#[must_use]
pub fn made_by_a_tool(user: &str, path: &str, tool: &str) -> Finding {
    Finding {
        code: "NX101",
        refuse: true,
        reason: format!(
            "{tool} makes {path}, the hashedPasswordFile of {user}, from its own encrypted file: what is written here is \
             never applied"
        ),
        instead: format!("change the password where {tool} has it encrypted, and switch to that system"),
    }
}

/// NX011: the shadow file is made at build.
#[must_use]
pub fn in_store(path: &str) -> Finding {
    Finding {
        code: "NX011",
        refuse: true,
        reason: format!(
            "{path} is a hashedPasswordFile, and the shadow file of this system lies in the store: no file is read"
        ),
        instead: "set services.userborn.static = false".to_owned(),
    }
}

/// DD501: the file at `path` changes on a running node, and NixOS reads it only at activation. `user` is the user whose
/// password it is.
#[must_use]
pub fn read_at_activation(path: &str, user: Option<&str>) -> Finding {
    let who = user.map_or(String::new(), |user| format!(" of {user}"));
    Finding {
        code: "DD501",
        refuse: false,
        reason: format!(
            "NixOS reads {path} when a system is activated only: until then the password{who} is the old one"
        ),
        instead: "on the node: /run/current-system/bin/switch-to-configuration switch, or reboot it".to_owned(),
    }
}
