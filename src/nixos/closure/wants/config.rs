//! Configuration files in the store that name files of secrets.

use super::path::{is_of_path, may_be_secret};

/// Parts of a key, in lower case, whose value is a file that somebody has to give.
const SECRET: [&str; 11] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "credential",
    "privatekey",
    "private_key",
    "private-key",
    "presharedkey",
    "htpasswd",
];

/// Parts of a key whose value is a file that is no secret, or is made by the program.
const NOT_SECRET: [&str; 14] = [
    "cert",
    "cafile",
    "ca_file",
    "ca-file",
    "log",
    "pid",
    "sock",
    "lock",
    "database",
    "history",
    "known_hosts",
    "knownhosts",
    "authorized",
    "include",
];

/// Paths that the text names as files of secrets, without repeats: `$__file{PATH}` (Grafana), `file:PATH`
/// (wpa_supplicant), `cat PATH`, and the value of a key such as `credentials-file` or `"tokenFile"` in YAML, JSON, TOML or INI.
pub(super) fn paths(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (at, _) in text.match_indices('/') {
        let (before, rest) = text.split_at(at);
        let end = rest.find(|c| !is_of_path(c)).unwrap_or(rest.len());
        let path = rest.get(..end).unwrap_or_default();
        if may_be_secret(path) && is_wanted(before) && !found.iter().any(|other| other == path) {
            found.push(path.to_owned());
        }
    }
    found
}

/// Judges a value by what stands before it.
fn is_wanted(before: &str) -> bool {
    let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
    let line = before.get(line_start..).unwrap_or_default();
    if line.trim_start().starts_with(['#', ';']) {
        return false;
    }
    if line.ends_with("$__file{") {
        return true;
    }
    let is_space = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    let word = line.trim_end_matches(is_space);
    let is_cat = word.strip_suffix("cat").is_some_and(|before| before.ends_with([' ', '"', '\'', '(', '/']));
    if (is_cat && word != line) || word.ends_with("(<") {
        return true;
    }
    if let Some(key) = line.strip_suffix("file:") {
        // `ext_password_backend=file:PATH`
        return key.trim_end_matches(is_space).ends_with('=');
    }
    let Some(key) = line.trim_end_matches(is_space).strip_suffix([':', '=']) else { return false };
    let key = key.trim_end_matches(is_space);
    let start = key.rfind(|c: char| !(c.is_alphanumeric() || "_-.".contains(c))).map_or(0, |at| {
        at.saturating_add(key.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8))
    });
    let key = key.get(start..).unwrap_or_default().to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| key.contains(part));
    !has(&NOT_SECRET)
        && (has(&SECRET) || key.ends_with("keyfile") || key.ends_with("key_file") || key.ends_with("key-file"))
}

/// `include PATH` and `!include PATH` of nix.conf, and whether the file may be missing (nix.conf(5)).
pub(super) fn included(text: &str) -> Vec<(String, bool)> {
    let of_line = |line: &str| {
        let (word, path) = line.trim().split_once(char::is_whitespace)?;
        let optional = match word {
            "include" => false,
            "!include" => true,
            _ => return None,
        };
        let path = path.trim();
        may_be_secret(path).then(|| (path.to_owned(), optional))
    };
    text.lines().filter_map(of_line).collect()
}

/// True for a configuration of wpa_supplicant with a key in clear: `psk="…"`, or 64 hexadecimal digits. Not
/// `psk=ext:NAME`, nor a name that a script replaces, `"@NAME@"` (wpa_supplicant.conf(5)).
pub(super) fn has_clear_psk(text: &str) -> bool {
    text.lines().any(|line| {
        let Some(value) = line.trim().strip_prefix("psk=") else { return false };
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let is_name = |value: &str| value.starts_with('@') && value.ends_with('@');
        match quoted {
            Some(value) => !value.is_empty() && !is_name(value) && !value.starts_with('$'),
            None => value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_secrets_are_known_by_their_key() {
        for (text, want) in [
            ("[security]\nadmin_password = $__file{/etc/secrets/grafana}\n", &["/etc/secrets/grafana"][..]),
            ("credentials-file: /etc/secrets/tunnel.json\n", &["/etc/secrets/tunnel.json"]),
            (r#"{"tokenFile":"/etc/secrets/runner","url":"https://x/y/z"}"#, &["/etc/secrets/runner"]),
            (r#"{ "a": { "token_file" : "/etc/secrets/runner" } }"#, &["/etc/secrets/runner"]),
            ("ext_password_backend=file:/etc/secrets/wifi\n", &["/etc/secrets/wifi"]),
            (
                "[WireGuard]\nPrivateKeyFile=/etc/secrets/wg\nPresharedKeyFile=/etc/secrets/psk\n",
                &["/etc/secrets/wg", "/etc/secrets/psk"],
            ),
            ("PostUp = wg set %i private-key <(cat /etc/secrets/wg)\n", &["/etc/secrets/wg"]),
            ("passwordeval \"cat /etc/secrets/smtp\"\n", &["/etc/secrets/smtp"]),
            ("concat /etc/secrets/x\n", &[]),
            ("key_file: /etc/secrets/k\nkeyFile = '/etc/secrets/l'\n", &["/etc/secrets/k", "/etc/secrets/l"]),
            ("# password_file: /etc/secrets/x\n", &[]),
            ("tls_cert_file: /etc/secrets/cert.pem\npid_file = /etc/x/y\n", &[]),
            ("HostKey /etc/ssh/ssh_host_ed25519_key\n", &[]),
            ("data_dir = /var/lib/x\nurl: http://a/b/c\n", &[]),
            ("password_file = /run/secrets/x\nsecret: /nix/store/x/y\n", &[]),
        ] {
            assert_eq!(paths(text), want, "{text}");
        }
    }

    #[test]
    fn nix_conf_includes_files() {
        let text =
            "# include /etc/a/b\ninclude /etc/nix/x.conf\n!include /etc/secrets/tokens.conf\nincluded = /etc/c/d\n";
        assert_eq!(included(text), [("/etc/nix/x.conf".into(), false), ("/etc/secrets/tokens.conf".into(), true)]);
    }

    #[test]
    fn a_key_of_wifi_in_clear_is_seen() {
        let hex = format!("psk={}", "0a".repeat(32));
        for (text, want) in [
            ("network={\n  ssid=\"x\"\n  psk=\"a password\"\n}\n", true),
            (hex.as_str(), true),
            ("psk=ext:home\n", false),
            ("psk=\"@HOME@\"\n", false),
            ("#psk=\"a password\"\n", false),
            ("psk=\"\"", false),
        ] {
            assert_eq!(has_clear_psk(text), want, "{text}");
        }
    }
}
