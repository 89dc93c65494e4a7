//! What decrypts secrets of the store when the system boots: sops-nix and agenix. With which keys, which files, to
//! where, and for whom the files are encrypted.
//!
//! sops-nix: `pkgs/sops-install-secrets/main.go`, `modules/sops/`; agenix: `modules/age.nix`.

mod agenix;
mod header;
mod sops;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use deaddrop_core::tree::Tree;
use sha2::{Digest, Sha256};

use super::units::{self, Entry, Unit};
use super::view::View;

/// Maximum number of secrets of one manifest or script, and of templates.
const MOST_SECRETS: usize = 10_000;
/// Maximum number of identities.
const MOST_IDENTITIES: usize = 100;
/// Maximum number of encrypted files that are read.
const MOST_FILES: usize = 1000;
/// Maximum size of an encrypted file that is read, in bytes.
const FILE_LIMIT: u64 = 16 << 20;
/// Maximum size of all encrypted files that are read, in bytes.
const ALL_FILES: u64 = 64 << 20;
/// Number of unreadable files that are named.
const MOST_NAMED: usize = 3;
/// Maximum length of a path of the configuration in a message, in characters.
const LONGEST_SHOWN: usize = 300;
/// Maximum number of recipients of a file that are read.
const MOST_RECIPIENTS: usize = 1000;
/// Maximum length of a recipient, in bytes. One of a post-quantum key has about 2000.
const LONGEST_RECIPIENT: usize = 4096;
/// Bytes of the digest in the tag of an SSH key: age, "The ssh-ed25519 recipient type".
const TAG: usize = 4;

/// A program that decrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// sops-nix.
    SopsNix,
    /// agenix.
    Agenix,
}

impl Tool {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SopsNix => "sops-nix",
            Self::Agenix => "agenix",
        }
    }
}

/// What one of them does in a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decrypter {
    /// The program.
    pub tool: Tool,
    /// The key files, in the order in which they are tried.
    pub identities: Vec<Identity>,
    /// The directory with GnuPG's keys.
    pub gnupg_home: Option<String>,
    /// A file of an age key that the system makes for itself if it is missing (`sops.age.generateKey`).
    pub made_key: Option<String>,
    /// Its secrets.
    pub secrets: Vec<EncryptedSecret>,
    /// Files that are made of several secrets: their paths.
    pub templates: Vec<String>,
    /// Each encrypted file of its secrets, by its path: for whom it is encrypted.
    pub files: BTreeMap<String, Recipients>,
}

impl Decrypter {
    /// True for a path that it makes.
    #[must_use]
    pub fn makes(&self, path: &str) -> bool {
        self.paths().any(|made| made == path)
    }

    /// The paths that it makes.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().flat_map(|secret| &secret.paths).chain(&self.templates).map(String::as_str)
    }
}

/// A file with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its path in the booted system.
    pub path: String,
    /// What it holds.
    pub kind: IdentityKind,
}

/// What a file with a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityKind {
    /// An SSH key of type ed25519, which is taken as a key of age (sops-nix).
    SshAsAge,
    /// Keys of age, `AGE-SECRET-KEY-1…` (sops-nix). If it is missing, nothing is decrypted at all.
    AgeKeyFile,
    /// An SSH key of type RSA, which is taken as a key of GnuPG (sops-nix).
    SshAsGpg,
    /// An SSH key, or keys of age (agenix). A missing one is passed over.
    Any,
}

/// A secret of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedSecret {
    /// Its name.
    pub name: String,
    /// Where it is put, and links to that.
    pub paths: Vec<String>,
    /// The encrypted file.
    pub file: String,
    /// It is decrypted before the users are made.
    pub for_users: bool,
}

/// For whom a file is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipients {
    /// Keys of age and of SSH; `None` if the file could not be read.
    pub keys: Option<Vec<Recipient>>,
    /// Keys of GnuPG too.
    pub pgp: bool,
    /// Services too (KMS, Vault), or several keys at once: what opens it is not known.
    pub others: bool,
}

/// A key for which a file is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recipient {
    /// `age1…`
    Age(String),
    /// The tag of an SSH key, as [`ssh_tag`] makes it.
    Ssh(String),
    /// A key of age, and the file does not say which.
    Hidden,
}

/// The tag of an SSH key in the header of a file of age, after its algorithm: `ssh-ed25519 TAG`. `blob` is the public
/// key's wire form (RFC 4253, section 6.6).
#[must_use]
pub fn ssh_tag(algorithm: &str, blob: &[u8]) -> String {
    let digest = Sha256::digest(blob);
    format!("{algorithm} {}", STANDARD_NO_PAD.encode(digest.get(..TAG).unwrap_or_default()))
}

/// What decrypts secrets in the system with this etc tree, without the recipients of its files. `activate` is the text of
/// its activation script, if it has one. What cannot be read is added to `unread`.
pub fn find<T: Tree>(
    view: &View<'_, T>,
    etc: &str,
    activate: Option<&str>,
    unread: &mut Vec<String>,
) -> Vec<Decrypter> {
    let activate = activate.unwrap_or_default().replace("\\\n", " ");
    let units = format!("{etc}/systemd/system");
    let mut decrypters = sops::find(view, &units, &activate, unread);
    decrypters.extend(agenix::find(view, &units, &activate, unread));
    decrypters
}

/// Reads for whom the files are encrypted. What cannot be read is added to `unread`.
pub fn find_recipients<T: Tree>(view: &View<'_, T>, decrypters: &mut [Decrypter], unread: &mut Vec<String>) {
    let mut reading = Reading { files: view.patience(MOST_FILES), bytes: ALL_FILES, known: BTreeMap::new() };
    for decrypter in decrypters {
        let (mut named, mut passed_over) = (0_usize, 0_usize);
        for secret in &decrypter.secrets {
            if decrypter.files.contains_key(&secret.file) {
                continue;
            }
            let recipients = reading.recipients(view, &secret.file, decrypter.tool).unwrap_or_else(|why| {
                match why.filter(|_| named < MOST_NAMED) {
                    Some(why) => {
                        named = named.saturating_add(1);
                        unread.push(cut(&why));
                    }
                    None => passed_over = passed_over.saturating_add(1),
                }
                Recipients::default()
            });
            decrypter.files.insert(secret.file.clone(), recipients);
        }
        if passed_over > 0 {
            unread
                .push(format!("{passed_over} more of the files that {} decrypts were not read", decrypter.tool.name()));
        }
    }
}

/// A text with a path of the configuration, for a message.
#[must_use]
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The service with this name; `None` if it is missing or masked.
fn service<T: Tree>(view: &View<'_, T>, units: &str, name: &str, unread: &mut Vec<String>) -> Option<Unit> {
    match units::read(view, units, name) {
        Ok(Entry::Unit(unit)) => Some(unit),
        Ok(Entry::Missing | Entry::Masked) => None,
        Err(why) => {
            unread.push(why);
            None
        }
    }
}

/// What may still be read of encrypted files, and what was read.
struct Reading {
    files: usize,
    bytes: u64,
    known: BTreeMap<String, Recipients>,
}

impl Reading {
    /// For whom the file at a path is encrypted.
    ///
    /// # Errors
    /// Why it cannot be read; `None` if too much was read before.
    fn recipients<T: Tree>(
        &mut self,
        view: &View<'_, T>,
        path: &str,
        tool: Tool,
    ) -> Result<Recipients, Option<String>> {
        if let Some(known) = self.known.get(path) {
            return Ok(known.clone());
        }
        if self.bytes == 0 {
            return Err(None);
        }
        self.files = self.files.checked_sub(1).ok_or(None)?;
        let limit = FILE_LIMIT.min(self.bytes);
        let content = view.content(path, limit).map_err(Some)?;
        let content = content.ok_or_else(|| Some(format!("{path} is not there")))?;
        self.bytes = self.bytes.saturating_sub(u64::try_from(content.len()).unwrap_or(u64::MAX));
        let read = match tool {
            Tool::SopsNix => sops::recipients(content.expose()),
            Tool::Agenix => header::recipients(content.expose()),
        };
        let recipients = read.map_err(|why| Some(format!("{path}: {why}")))?;
        self.known.insert(path.to_owned(), recipients.clone());
        Ok(recipients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_made_is_known_by_each_of_its_names() {
        let secret = EncryptedSecret {
            name: "a".into(),
            paths: vec!["/run/agenix/a".into(), "/etc/a".into()],
            file: "/nix/store/a.age".into(),
            for_users: true,
        };
        let decrypter = Decrypter {
            tool: Tool::Agenix,
            identities: Vec::new(),
            gnupg_home: None,
            made_key: None,
            secrets: vec![secret],
            templates: vec!["/run/secrets/rendered/t".into()],
            files: BTreeMap::new(),
        };
        for (path, want) in
            [("/run/agenix/a", true), ("/etc/a", true), ("/run/secrets/rendered/t", true), ("/run/agenix", false)]
        {
            assert_eq!(decrypter.makes(path), want, "{path}");
        }
    }
}
