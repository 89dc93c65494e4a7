//! sops-nix: its manifests, and the part of a file of sops that says for whom it is encrypted.
//!
//! sops-nix: `pkgs/sops-install-secrets/main.go`; sops: `stores/stores.go`, `stores/flatten.go`.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deaddrop_core::tree::Tree;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::bounded::Bounded;
use super::super::units;
use super::super::view::View;
use super::{
    Decrypter, EncryptedSecret, Identity, IdentityKind, LONGEST_RECIPIENT, MOST_IDENTITIES, MOST_RECIPIENTS,
    MOST_SECRETS, Recipient, Recipients, Tool, service, ssh_tag,
};

/// Maximum size of a manifest, in bytes.
const MANIFEST_LIMIT: u64 = 16 << 20;
/// Maximum number of manifests: there are two, one of them for users.
const MOST_MANIFESTS: usize = 4;
/// The services that decrypt where activation does not.
const SERVICES: [&str; 2] = ["sops-install-secrets-for-users.service", "sops-install-secrets.service"];

/// What sops-nix does; nothing without it.
pub fn find<T: Tree>(view: &View<'_, T>, units: &str, activate: &str, unread: &mut Vec<String>) -> Vec<Decrypter> {
    let mut commands: Vec<Vec<String>> = activate.lines().filter_map(command).collect();
    for name in SERVICES {
        if let Some(unit) = service(view, units, name, unread) {
            commands.extend(unit.commands("ExecStart"));
        }
    }
    // A system that names one manifest twice decrypts it twice.
    let mut seen = HashSet::new();
    commands.retain(|words| seen.insert(words.last().cloned()));
    let mut found: Vec<Decrypter> = Vec::new();
    for words in commands.into_iter().take(MOST_MANIFESTS) {
        let Some(path) = words.last().filter(|path| path.starts_with('/') && words.len() > 1) else {
            unread.push("sops-nix: the command that decrypts names no manifest".to_owned());
            continue;
        };
        let for_users = words.iter().any(|word| word == "-ignore-passwd");
        match manifest(view, path, for_users, made_key(activate)) {
            // Both manifests of a system name the same keys.
            Ok(more) => match found.iter_mut().find(|other| is_same(other, &more)) {
                Some(other) => {
                    other.secrets.extend(more.secrets);
                    other.templates.extend(more.templates);
                }
                None => found.push(more),
            },
            Err(why) => unread.push(why),
        }
    }
    found.retain(|decrypter| !decrypter.secrets.is_empty());
    found
}

/// The words of a line of activation that decrypts, from the program on: variables may stand before it.
fn command(line: &str) -> Option<Vec<String>> {
    let words = units::words(line.trim_start());
    let at = words.iter().position(|word| !word.contains('='))?;
    let command = words.get(at..)?;
    command.first()?.ends_with("/bin/sops-install-secrets").then(|| command.to_vec())
}

/// The file of the key that activation makes if it is missing.
fn made_key(activate: &str) -> Option<String> {
    let (_, rest) = activate.split_once("/bin/age-keygen -o ")?;
    units::words(rest.lines().next()?).into_iter().next()
}

fn is_same(one: &Decrypter, other: &Decrypter) -> bool {
    one.identities == other.identities && one.gnupg_home == other.gnupg_home
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    secrets: Bounded<Secret, MOST_SECRETS>,
    #[serde(default)]
    templates: Bounded<Template, MOST_SECRETS>,
    symlink_path: Option<String>,
    age_key_file: Option<String>,
    #[serde(default)]
    age_ssh_key_paths: Bounded<String, MOST_IDENTITIES>,
    #[serde(default)]
    ssh_key_paths: Bounded<String, MOST_IDENTITIES>,
    gnupg_home: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    name: String,
    path: Option<String>,
    sops_file: String,
    needed_for_users: Option<bool>,
}

#[derive(Deserialize)]
struct Template {
    path: Option<String>,
}

fn manifest<T: Tree>(
    view: &View<'_, T>,
    path: &str,
    for_users: bool,
    made_key: Option<String>,
) -> Result<Decrypter, String> {
    let content = view.content(path, MANIFEST_LIMIT)?.ok_or_else(|| format!("{path} is not there"))?;
    // The error's own text may hold a text of the file.
    let manifest: Manifest = serde_json::from_slice(content.expose()).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("{path}: line {line}, column {column}: not a manifest of sops-nix of at most {MOST_SECRETS} secrets")
    })?;
    let of = |kind| move |path| Identity { path, kind };
    let set = |text: Option<String>| text.filter(|text| !text.is_empty());
    let mut identities: Vec<Identity> =
        manifest.age_ssh_key_paths.0.into_iter().map(of(IdentityKind::SshAsAge)).collect();
    identities.extend(set(manifest.age_key_file).map(of(IdentityKind::AgeKeyFile)));
    identities.extend(manifest.ssh_key_paths.0.into_iter().map(of(IdentityKind::SshAsGpg)));
    let links = set(manifest.symlink_path);
    let secret = |secret: Secret| {
        let below = links.as_ref().map(|links| format!("{}/{}", links.trim_end_matches('/'), secret.name));
        let mut paths: Vec<String> = secret.path.into_iter().collect();
        paths.extend(below.filter(|below| !paths.contains(below)));
        EncryptedSecret {
            name: secret.name,
            paths,
            file: secret.sops_file,
            for_users: for_users || secret.needed_for_users == Some(true),
        }
    };
    Ok(Decrypter {
        tool: Tool::SopsNix,
        identities,
        gnupg_home: set(manifest.gnupg_home),
        made_key,
        secrets: manifest.secrets.0.into_iter().map(secret).collect(),
        templates: manifest.templates.0.into_iter().filter_map(|template| template.path).collect(),
        files: Default::default(),
    })
}

/// What a file of sops says of its keys. Only what is needed of it.
#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    age: Bounded<AgeKey, MOST_RECIPIENTS>,
    #[serde(default)]
    pgp: Bounded<IgnoredAny, MOST_RECIPIENTS>,
    #[serde(default)]
    kms: Bounded<IgnoredAny, MOST_RECIPIENTS>,
    #[serde(default)]
    gcp_kms: Bounded<IgnoredAny, MOST_RECIPIENTS>,
    #[serde(default)]
    hckms: Bounded<IgnoredAny, MOST_RECIPIENTS>,
    #[serde(default)]
    azure_kv: Bounded<IgnoredAny, MOST_RECIPIENTS>,
    #[serde(default)]
    hc_vault: Bounded<IgnoredAny, MOST_RECIPIENTS>,
    /// Several keys open it together.
    #[serde(default)]
    key_groups: Bounded<IgnoredAny, MOST_RECIPIENTS>,
    /// sops always writes it.
    #[serde(rename = "version")]
    _version: IgnoredAny,
}

#[derive(Deserialize)]
struct AgeKey {
    recipient: String,
}

/// The lists of keys that are no keys of age or GnuPG.
const SERVICES_OF_KEYS: [&str; 6] = ["kms", "gcp_kms", "hckms", "azure_kv", "hc_vault", "key_groups"];

const NO_SOPS: &str = "it is no file of sops";

/// For whom a file of sops is encrypted: of JSON (a binary file is one too), YAML, dotenv or INI.
///
/// # Errors
/// Why this is no file of sops.
pub fn recipients(file: &[u8]) -> Result<Recipients, &'static str> {
    let text = String::from_utf8_lossy(file);
    let mut found = Keys::default();
    if text.trim_start().starts_with('{') {
        #[derive(Deserialize)]
        struct Document {
            sops: Metadata,
        }
        let Document { sops } = serde_json::from_str(&text).map_err(|_| NO_SOPS)?;
        sops.age.0.iter().for_each(|key| found.add(&key.recipient));
        found.recipients.pgp = !sops.pgp.0.is_empty();
        let others = [sops.kms, sops.gcp_kms, sops.hckms, sops.azure_kv, sops.hc_vault, sops.key_groups];
        found.recipients.others = others.iter().any(|list| !list.0.is_empty());
        found.is_sops = true;
    } else {
        found.of_yaml(&text);
        if !found.is_sops {
            found.of_flat(&text);
        }
    }
    if !found.is_sops {
        return Err(NO_SOPS);
    }
    if found.list.len() > MOST_RECIPIENTS {
        return Err("it has too many recipients");
    }
    Ok(Recipients { keys: Some(found.list), ..found.recipients })
}

/// What was found of a file's keys.
#[derive(Default)]
struct Keys {
    is_sops: bool,
    list: Vec<Recipient>,
    recipients: Recipients,
}

impl Keys {
    fn add(&mut self, recipient: &str) {
        let recipient = recipient.trim();
        if recipient.len() > LONGEST_RECIPIENT || self.list.len() > MOST_RECIPIENTS {
            return;
        }
        // An SSH key stands as in a .pub file.
        let ssh = recipient.strip_prefix("ssh-").and_then(|_| {
            let (algorithm, rest) = recipient.split_once(' ')?;
            let blob = STANDARD.decode(rest.split(' ').next()?).ok()?;
            Some(Recipient::Ssh(ssh_tag(algorithm, &blob)))
        });
        self.list.push(ssh.unwrap_or_else(|| Recipient::Age(recipient.to_owned())));
    }

    /// A list of keys that is not empty.
    fn has(&mut self, list: &str) {
        self.recipients.pgp |= list == "pgp";
        self.recipients.others |= SERVICES_OF_KEYS.contains(&list);
    }

    /// The mapping `sops` at the top of YAML, in the block style in which sops writes it.
    fn of_yaml(&mut self, text: &str) {
        let mut is_inside = false;
        // Of the keys of `sops`.
        let mut indent: Option<usize> = None;
        let mut list = String::new();
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            let own = line.trim_start_matches(' ');
            let depth = line.len().saturating_sub(own.len());
            if depth == 0 {
                is_inside = line == "sops:";
                self.is_sops |= is_inside;
                continue;
            }
            if !is_inside {
                continue;
            }
            let is_item = own.starts_with("- ");
            if depth == *indent.get_or_insert(depth) && !is_item {
                let (key, value) = own.split_once(':').unwrap_or((own, ""));
                list = key.to_owned();
                if !matches!(value.trim(), "" | "[]" | "null" | "~") {
                    self.has(key);
                }
                continue;
            }
            if list != "age" {
                if is_item {
                    self.has(&list);
                }
                continue;
            }
            let own = own.strip_prefix("- ").unwrap_or(own).trim_start();
            if let Some(recipient) = own.strip_prefix("recipient:") {
                self.add(recipient.trim().trim_matches(['"', '\'']));
            }
        }
    }

    /// Names of the flattened form: `sops_age__list_0__map_recipient=…` in dotenv, without `sops_` below `[sops]` in
    /// INI.
    fn of_flat(&mut self, text: &str) {
        let mut is_inside = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                is_inside = line == "[sops]";
                continue;
            }
            let Some((name, value)) = line.split_once('=') else { continue };
            let name = name.trim();
            let Some(name) = name.strip_prefix("sops_").or(is_inside.then_some(name)) else { continue };
            self.is_sops |= matches!(name, "mac" | "version" | "lastmodified");
            let Some((list, key)) = name.split_once("__list_") else { continue };
            self.has(list);
            if list == "age" && key.ends_with("__map_recipient") {
                self.add(value.trim().trim_matches('"'));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(names: &[&str]) -> Vec<Recipient> {
        names.iter().map(|name| Recipient::Age((*name).to_owned())).collect()
    }

    #[test]
    fn recipients_are_found_in_each_form_that_sops_writes() {
        let yaml = "a: ENC[x]\nb:\n    sops: no\nsops:\n    kms: []\n    age:\n        - recipient: age1a\n          \
                    enc: |\n            -----BEGIN AGE ENCRYPTED FILE-----\n            YWdl\n\
                    \x20       - enc: |\n            x\n          recipient: age1b\n    lastmodified: \"x\"\n    \
                    pgp: []\n    version: 3.9.0\n";
        let json = r#"{"data":"ENC[x]","sops":{"kms":null,"age":[{"recipient":"age1a","enc":"x"},{"recipient":"age1b"}],
            "pgp":[],"version":"3.9.0"}}"#;
        let dotenv = "A=ENC[x]\nsops_age__list_0__map_enc=-----BEGIN\\n\nsops_age__list_0__map_recipient=age1a\n\
                      sops_age__list_1__map_recipient=age1b\nsops_version=3.9.0\n";
        let ini = "[a]\nb = ENC[x]\nage__list_0__map_recipient = no\n\n[sops]\nversion = 3.9.0\n\
                   age__list_0__map_recipient = age1a\nage__list_1__map_recipient = age1b\n";
        for text in [yaml, json, dotenv, ini] {
            let found = recipients(text.as_bytes()).unwrap();
            assert_eq!(found, Recipients { keys: Some(age(&["age1a", "age1b"])), pgp: false, others: false }, "{text}");
        }
    }

    #[test]
    fn other_means_are_known() {
        for (text, pgp, others) in [
            ("sops:\n  pgp:\n    - fp: A\n      enc: |\n        x\n", true, false),
            ("sops:\n  pgp:\n  - fp: A\n  age: []\n", true, false),
            ("sops:\n    kms:\n        - arn: a\n", false, true),
            (
                "sops:\n    shamir_threshold: 2\n    key_groups:\n        - age:\n            - recipient: a\n",
                false,
                true,
            ),
            (r#"{"sops":{"pgp":[{"fp":"A"}],"version":"3"}}"#, true, false),
            (r#"{"sops":{"hc_vault":[{}],"version":"3"}}"#, false, true),
            ("sops_pgp__list_0__map_fp=A\nsops_mac=x\n", true, false),
            ("[sops]\nmac = x\ngcp_kms__list_0__map_resource_id = x\n", false, true),
        ] {
            let found = recipients(text.as_bytes()).unwrap();
            assert_eq!((found.pgp, found.others, found.keys), (pgp, others, Some(Vec::new())), "{text}");
        }
    }

    #[test]
    fn an_ssh_key_as_a_recipient_is_its_tag() {
        let text = "sops:\n  age:\n  - recipient: ssh-ed25519 AAAA comment\n  - recipient: ssh-ed25519 %%\n";
        let keys = recipients(text.as_bytes()).unwrap().keys.unwrap();
        assert!(matches!(&keys[..], [Recipient::Ssh(tag), Recipient::Age(_)] if tag.starts_with("ssh-ed25519 ")));
    }

    #[test]
    fn what_is_no_file_of_sops_is_said_so() {
        let deep = format!("{{\"sops\":{}", "[".repeat(100_000));
        let many = format!("sops:\n  age:\n{}", "  - recipient: age1\n".repeat(MOST_RECIPIENTS + 2));
        let many_json = format!(r#"{{"sops":{{"pgp":[{}1]}}}}"#, "1,".repeat(MOST_RECIPIENTS));
        for text in [
            "",
            "{",
            "{}",
            r#"{"sops":[]}"#,
            "a: b\n",
            " sops:\n",
            "[sops]\n",
            "sops_age__list_0=",
            &deep,
            &many,
            &many_json,
        ] {
            assert!(recipients(text.as_bytes()).is_err(), "{}", &text[..text.len().min(60)]);
        }
        for odd in [&b"sops:\n\xff\xff: \n  : \n-\n  -\n"[..], b"sops:\n\t- x\n  age: [\n  -  recipient:\n"] {
            let _ = recipients(odd);
        }
    }

    #[test]
    fn commands_of_activation_are_found() {
        let line =
            "  /nix/store/x-sops-install-secrets-0.0.1/bin/sops-install-secrets -ignore-passwd /nix/store/m.json";
        assert_eq!(command(line).unwrap().last().unwrap(), "/nix/store/m.json");
        let older = "SOPS_GPG_EXEC=/nix/store/gpg /nix/store/x/bin/sops-install-secrets /nix/store/m.json";
        assert_eq!(command(older).unwrap().len(), 2);
        assert_eq!(command("# /nix/store/x/bin/sops-install-secrets /m"), None);
        assert_eq!(command("echo sops-install-secrets"), None);
        assert_eq!(made_key("x\n/nix/store/a/bin/age-keygen -o '/var/lib/key' \nfi"), Some("/var/lib/key".into()));
        assert_eq!(made_key("/bin/age-keygen -o "), None);
    }
}
