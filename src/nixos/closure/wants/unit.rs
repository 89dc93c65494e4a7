//! Settings of a unit that name files of secrets: systemd.exec(5), systemd.service(5).

use super::path::{self, may_be_secret};
use super::{Kind, Reader, Want};
use crate::nixos::closure::units::{self, Unit};

/// What a unit says.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) wants: Vec<Want>,
    /// Every path in its settings.
    pub(super) named: Vec<String>,
    /// Secrets in clear: what, and the option that takes a file instead.
    pub(super) clear: Vec<(String, &'static str)>,
    /// The programs that it starts, and who runs them.
    pub(super) programs: Vec<(String, Reader)>,
    /// Other files of the store that it names.
    pub(super) files: Vec<(String, Reader)>,
}

/// Settings with commands, in the order in which systemd runs them.
const COMMANDS: [&str; 7] =
    ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"];

/// The directory of credentials that are named by their ID alone (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS: &str = "/etc/credstore";

/// Settings with directories that the service manager makes for the unit, and where they are.
const DIRECTORIES: [(&str, &str); 3] =
    [("StateDirectory", "/var/lib"), ("CacheDirectory", "/var/cache"), ("LogsDirectory", "/var/log")];

/// Options of k3s and rke2 that take the token itself, and the option of NixOS that takes a file.
const CLEAR: [(&str, &str); 3] = [
    ("--token", "services.k3s.tokenFile"),
    ("--agent-token", "services.k3s.agentTokenFile"),
    ("--password", "an option that takes a file"),
];

/// Reads the unit `name`.
pub(super) fn read(name: &str, unit: &Unit) -> Said {
    let mut said = Said::default();
    let reader = reader(name, unit);
    let root = Reader { user: None, groups: Vec::new(), ..reader.clone() };
    let list = |key| unit.list("Service", key);
    for value in list("EnvironmentFile") {
        let (path, optional) = value.strip_prefix('-').map_or((value, false), |path| (path, true));
        said.file(path.trim_matches(['"', '\'']), &root, Kind::EnvironmentFile, optional);
    }
    for value in list("LoadCredential").into_iter().chain(list("LoadCredentialEncrypted")) {
        match value.split_once(':') {
            Some((_, path)) if path.starts_with('/') => said.file(path, &root, Kind::Credential, false),
            Some((_, name)) => said.file(&format!("{CREDENTIALS}/{name}"), &root, Kind::Credential, true),
            None => said.file(&format!("{CREDENTIALS}/{value}"), &root, Kind::Credential, true),
        }
    }
    for value in list("ImportCredential") {
        said.named.push(format!("{CREDENTIALS}/{}", value.split(':').next().unwrap_or(value)));
    }
    for value in list("BindReadOnlyPaths").into_iter().chain(list("BindPaths")) {
        said.named.extend(path::all(value));
    }
    for word in list("Environment").into_iter().flat_map(units::words) {
        said.variable(&word, &reader);
    }
    let as_root = unit.value("Service", "PermissionsStartOnly").is_some_and(|value| value == "true");
    for key in COMMANDS {
        for line in list(key) {
            let is_root = line.starts_with(|c| "-@:+!|".contains(c))
                && line.split('/').next().is_some_and(|signs| signs.contains(['+', '!']));
            let by = if is_root || (as_root && key != "ExecStart") { &root } else { &reader };
            said.command(line, by, name);
        }
    }
    said
}

/// Who the commands of a unit run as.
fn reader(name: &str, unit: &Unit) -> Reader {
    let value = |key| unit.value("Service", key);
    let is_dynamic = value("DynamicUser").is_some_and(|value| matches!(value, "true" | "yes" | "1" | "on"));
    let dynamic = || is_dynamic.then(|| name.trim_end_matches(".service").to_owned());
    let user = value("User").map(str::to_owned).or_else(dynamic).filter(|user| user != "root" && user != "0");
    let words = |key| unit.list("Service", key).into_iter().flat_map(units::words).collect::<Vec<_>>();
    let groups = words("Group").into_iter().chain(words("SupplementaryGroups")).collect();
    let made = DIRECTORIES.iter().flat_map(|(key, place)| {
        words(key).into_iter().map(move |name| format!("{place}/{}", name.split(':').next().unwrap_or_default()))
    });
    let home = value("WorkingDirectory").map(|path| path.trim_start_matches(['-', '~']).to_owned());
    let own = made.chain(home).filter(|path| path.matches('/').count() > 1).collect();
    Reader { by: name.to_owned(), user, groups, own }
}

impl Said {
    /// A path of a setting that takes nothing but paths.
    fn file(&mut self, path: &str, reader: &Reader, kind: Kind, optional: bool) {
        let path = path.replace("%%", "\u{0}").replace('\u{0}', "%");
        // A pattern names what may be there.
        match may_be_secret(&path) {
            true => self.wants.push(reader.want(&path, kind, optional)),
            false if path.contains(['*', '?', '[']) => self.named.push(path),
            false => {}
        }
    }

    /// `X_FILE=PATH`, `X_COMMAND=cat PATH`.
    fn variable(&mut self, word: &str, reader: &Reader) {
        self.named.extend(path::all(word));
        let Some((name, value)) = word.split_once('=') else { return };
        let path = match value.split_whitespace().collect::<Vec<_>>().as_slice() {
            [path] if is_file_variable(name) => *path,
            [cat, path] if name.ends_with("COMMAND") && cat.rsplit('/').next() == Some("cat") => *path,
            _ => {
                self.files.extend(path::of_store(value).map(|file| (file.to_owned(), reader.clone())));
                return;
            }
        };
        let path = path.trim_matches(['"', '\'']).replace("%%", "%");
        if path.starts_with("/nix/store/") {
            self.files.push((path, reader.clone()));
        } else if may_be_secret(&path) && !reader.makes(&path) {
            self.wants.push(reader.want(&path, Kind::Variable, false));
        }
    }

    fn command(&mut self, line: &str, reader: &Reader, unit: &str) {
        let words = units::words(line.trim_start_matches(['-', '@', ':', '+', '!', '|']));
        let is_cluster = unit.starts_with("k3s") || unit.starts_with("rke2");
        let mut before = "";
        for (at, word) in words.iter().enumerate() {
            let (option, value) = word.split_once('=').unwrap_or((before, word));
            self.value(option, &value.replace("%%", "%"), reader, is_cluster);
            self.named.extend(path::all(value));
            if is_cluster && let Some((option, instead)) = CLEAR.iter().find(|(clear, _)| *clear == option) {
                let is_clear = !value.is_empty() && !value.starts_with(['$', '/', '%', '-', '@']);
                if is_clear {
                    let what = format!("the {} of {unit}", option.trim_start_matches('-'));
                    self.clear.push((what, instead));
                }
            }
            if value.starts_with("/nix/store/") || value.starts_with("/etc/") {
                let list = if at == 0 { &mut self.programs } else { &mut self.files };
                list.push((value.to_owned(), reader.clone()));
            }
            before = word;
        }
    }

    /// The value of an option.
    fn value(&mut self, option: &str, value: &str, reader: &Reader, is_cluster: bool) {
        let path = value.strip_prefix("file:").unwrap_or(value);
        if takes_secret(option) && may_be_secret(path) && !reader.makes(path) {
            let is_token = matches!(option, "--token-file" | "--agent-token-file");
            let kind = if is_cluster && is_token { Kind::ClusterToken } else { Kind::Word };
            self.wants.push(reader.want(path, kind, false));
        }
    }
}

/// Words of options, in lower case, whose files are no secrets, or are made by the program.
const NOT_SECRET: [&str; 10] =
    ["pid", "log", "sock", "lock", "cert", "ca-file", "cafile", "kubeconfig", "output", "history"];

/// True for an option whose value is a file that somebody has to give: `--token-file`, `--config`.
pub(super) fn takes_secret(option: &str) -> bool {
    let Some(name) = option.strip_prefix('-') else { return false };
    let name = name.trim_start_matches('-').to_lowercase();
    let is_file = name.ends_with("-file") || name.ends_with("_file") || name.ends_with("file") || name == "config";
    let is_key = ["auth-key", "authkey", "private-key", "password", "token", "key"].contains(&name.as_str());
    (is_file || is_key) && !NOT_SECRET.iter().any(|part| name.contains(part))
}

/// True for a variable whose value is a file that somebody has to give: `RESTIC_PASSWORD_FILE`.
pub(super) fn is_file_variable(name: &str) -> bool {
    let is_not = ["CERT", "LOG", "PID", "HIST", "SOCK", "CA_", "LOCK"].iter().any(|part| name.contains(part));
    name.ends_with("_FILE") && !is_not
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let mut unit = Unit::default();
        unit.add(&format!("[Service]\n{text}\n"));
        read("k3s.service", &unit)
    }

    fn wants(text: &str) -> Vec<(String, Kind, bool, Option<String>)> {
        said(text).wants.into_iter().map(|want| (want.path, want.kind, want.optional, want.user)).collect()
    }

    #[test]
    fn each_setting_names_its_files() {
        let a = || "/etc/secrets/a".to_owned();
        for (text, kind, optional, user) in [
            ("EnvironmentFile=/etc/secrets/a\nUser=app", Kind::EnvironmentFile, false, None),
            ("EnvironmentFile=-/etc/secrets/a", Kind::EnvironmentFile, true, None),
            ("LoadCredential=x:/etc/secrets/a\nUser=app", Kind::Credential, false, None),
            ("LoadCredentialEncrypted=x:/etc/secrets/a", Kind::Credential, false, None),
            ("ExecStart=/nix/store/x/bin/k3s server --token-file /etc/secrets/a", Kind::ClusterToken, false, None),
            ("ExecStart=/nix/store/x/bin/k3s server --token-file=/etc/secrets/a", Kind::ClusterToken, false, None),
            ("ExecStart=/bin/x --config /etc/secrets/a\nUser=app", Kind::Word, false, Some("app")),
            ("ExecStart=+/bin/x --config /etc/secrets/a\nUser=app", Kind::Word, false, None),
            (
                "ExecStartPre=/bin/x --key-file=/etc/secrets/a\nUser=app\nPermissionsStartOnly=true",
                Kind::Word,
                false,
                None,
            ),
            ("ExecStart=/bin/x --config=/etc/secrets/a\nDynamicUser=yes", Kind::Word, false, Some("k3s")),
            ("Environment=\"X_FILE=/etc/secrets/a\"\nUser=app", Kind::Variable, false, Some("app")),
            ("Environment=\"BORG_PASSCOMMAND=cat /etc/secrets/a\"", Kind::Variable, false, None),
        ] {
            assert_eq!(wants(text), [(a(), kind, optional, user.map(str::to_owned))], "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_is_only_named() {
        for text in [
            "ExecStart=/bin/x --config /nix/store/y/config.toml",
            "ExecStart=/bin/x --pid-file /etc/x/pid --data /var/lib/x/data",
            "ExecStart=/bin/x --config /var/lib/x/config.yml\nStateDirectory=x",
            "ExecStart=/bin/x --token-file ${TOKEN}",
            "ExecStart=/bin/x --token-file %d/token",
            "EnvironmentFile=/run/x/env",
            "EnvironmentFile=/etc/secrets/*.env",
            "Environment=SSL_CERT_FILE=/etc/ssl/certs/ca.crt",
            "ImportCredential=network.*",
        ] {
            assert_eq!(wants(text), [], "{text}");
        }
        assert_eq!(wants("LoadCredential=passwd")[0], ("/etc/credstore/passwd".into(), Kind::Credential, true, None));
        assert_eq!(said("ExecStart=/nix/store/x/bin/y -c /nix/store/z.ini").files[0].0, "/nix/store/z.ini");
        assert_eq!(said("ExecStart=/nix/store/x/bin/y -c /nix/store/z.ini").programs[0].0, "/nix/store/x/bin/y");
    }

    #[test]
    fn a_token_in_clear_is_seen_and_never_shown() {
        for (text, want) in [
            ("ExecStart=/bin/k3s server --token planted-token", 1),
            ("ExecStart=/bin/k3s server --token=planted-token", 1),
            ("ExecStart=/bin/k3s server --token $TOKEN", 0),
            ("ExecStart=/bin/k3s server --token-file /etc/a/b", 0),
        ] {
            let clear = said(text).clear;
            assert_eq!(clear.len(), want, "{text}");
            assert!(!format!("{clear:?}").contains("planted"));
        }
    }
}
