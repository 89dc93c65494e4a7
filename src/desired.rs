//! Manifest, values and host joined: the files that one target should hold.

use std::collections::HashMap;

use zeroize::Zeroizing;

mod generated;

pub use generated::{Generated, KeyState, PublicPart, settle};

use crate::derive::{generate, password};
use crate::manifest::{HashScheme, Owner, Reference, SecretSpec, TargetPath, ValueSpec};
use crate::secret::Secret;
use crate::source::{MAX_TOTAL, MIB};
use crate::target::{Survey, Wanted};

/// A standing password hash is read up to this size, in bytes; the longest crypt(3) line is under 400.
const HASH_READ_LIMIT: u64 = 1024;

/// One file that a target should hold, or must not hold.
#[derive(Debug)]
pub struct DesiredFile {
    /// The secret's name in the manifest.
    pub secret: String,
    /// Where the file is declared.
    pub path: TargetPath,
    /// Where its value comes from, for people: `vault:Wifi`; empty for [`Content::Absent`].
    pub from: String,
    /// What it holds.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Permission bits of its directory, if that has to be made and the manifest says so.
    pub directory_mode: Option<u32>,
    /// Owning user.
    pub owner: Owner,
    /// Owning group.
    pub group: Owner,
    /// Users whose hashedPasswordFile this is; nobody's for [`Content::Absent`].
    pub password_users: Vec<String>,
}

/// What a file should hold.
#[derive(Debug)]
pub enum Content {
    /// These bytes.
    Exact(Secret),
    /// A crypt(3) hash of `password`: the one that stands, if it holds, else one that is salted anew.
    Hash {
        /// The scheme asked for.
        scheme: HashScheme,
        /// The value to hash.
        password: Secret,
        /// The target's file, when it is a hash that verifies ([`keep_standing_hashes`]).
        standing: Option<Secret>,
    },
    /// A key that the target makes for itself ([`settle`]).
    Generated(Generated),
    /// The public part of the key in the file before it in the list; none before [`settle`], or when the key's file holds
    /// something else.
    PublicPart(Option<Secret>),
    /// Nothing: the file must not be there, and what else is said about it has no meaning.
    Absent,
}

impl Content {
    /// How many bytes the file will have; none for a hash or a key, which are short, and for no file.
    fn bytes(&self) -> usize {
        match self {
            Self::Exact(bytes) => bytes.len(),
            Self::Hash { .. } | Self::Generated(_) | Self::PublicPart(_) | Self::Absent => 0,
        }
    }
}

/// A value that cannot become the file that the manifest declares.
#[derive(Debug, thiserror::Error)]
#[error("{secret}: {reason}")]
pub struct Unfit {
    /// The secret's name.
    pub secret: String,
    /// What is wrong; never the value.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// Joins the secrets of one host with their values.
///
/// # Errors
/// All secrets whose value does not fit what they are declared to be, in the manifest's order.
pub fn build(specs: &[&SecretSpec], values: &HashMap<Reference, Secret>) -> Result<Vec<DesiredFile>, Vec<Unfit>> {
    let mut files = Vec::with_capacity(specs.len());
    let mut unfit = Vec::new();
    let mut total: usize = 0;
    for spec in specs {
        let content = match content(spec, values) {
            Ok(content) => content,
            Err(error) => {
                unfit.push(error);
                continue;
            }
        };
        total = total.saturating_add(content.bytes());
        if total > MAX_TOTAL {
            let most = MAX_TOTAL / MIB;
            unfit.push(Unfit {
                secret: spec.name.clone(),
                reason: format!("with this one, all files together are over {most} MiB, the most that one run writes"),
                hint: "share the secrets out over several manifests".into(),
            });
            break;
        }
        files.push(DesiredFile {
            secret: spec.name.clone(),
            path: spec.path.clone(),
            from: origin(spec),
            content,
            mode: spec.mode,
            directory_mode: spec.directory_mode,
            owner: spec.owner.clone(),
            group: spec.group.clone(),
            password_users: match spec.value {
                ValueSpec::Generate(_) | ValueSpec::Absent => Vec::new(),
                ValueSpec::From(_) => spec.password_users().map(str::to_owned).collect(),
            },
        });
        files.extend(generated::public_part(spec));
    }
    if unfit.is_empty() { Ok(files) } else { Err(unfit) }
}

/// Where the value comes from, for people.
fn origin(spec: &SecretSpec) -> String {
    match &spec.value {
        ValueSpec::From(reference) => reference.to_string(),
        ValueSpec::Generate(generate) => generated::origin(generate.kind.kind()),
        ValueSpec::Absent => String::new(),
    }
}

fn content(spec: &SecretSpec, values: &HashMap<Reference, Secret>) -> Result<Content, Unfit> {
    let value = match &spec.value {
        ValueSpec::Absent => return Ok(Content::Absent),
        ValueSpec::Generate(generate) => return generated::content(spec, generate),
        ValueSpec::From(reference) => values.get(reference).ok_or_else(|| {
            let reason = format!("no value was read for {reference}");
            Unfit { secret: spec.name.clone(), reason, hint: String::new() }
        })?,
    };
    if let Some(scheme) = spec.hash {
        return match password::check(value.expose()) {
            Ok(()) => Ok(Content::Hash { scheme, password: value.clone(), standing: None }),
            Err(error) => {
                let (reason, hint) = (error.to_string(), error.hint().unwrap_or_default().to_owned());
                Err(Unfit { secret: spec.name.clone(), reason, hint })
            }
        };
    }
    let bytes = if spec.newline { with_newline(value) } else { value.clone() };
    if spec.is_hashed_password_file() && !password::is_accepted_by_nixos(bytes.expose()) {
        return Err(Unfit {
            secret: spec.name.clone(),
            reason: format!(
                "NX012: {} is a hashedPasswordFile, and the value is not one line of crypt(3) text of a scheme that \
                 NixOS accepts: it would corrupt /etc/shadow or lock the user out",
                spec.path
            ),
            hint: "add `hash: yescrypt` to have the value hashed, or store a hash (mkpasswd -m yescrypt)".into(),
        });
    }
    Ok(Content::Exact(bytes))
}

/// The value and a newline.
fn with_newline(value: &Secret) -> Secret {
    let mut bytes = Zeroizing::new(Vec::with_capacity(value.len().saturating_add(1)));
    bytes.extend_from_slice(value.expose());
    bytes.push(b'\n');
    Secret::new(std::mem::take(&mut *bytes))
}

/// What a survey has to look at for these files.
#[must_use]
pub fn wanted(files: &[DesiredFile]) -> Vec<Wanted> {
    files
        .iter()
        .map(|file| Wanted {
            path: file.path.clone(),
            read_limit: match &file.content {
                Content::Exact(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                Content::Hash { .. } => HASH_READ_LIMIT,
                Content::Generated(_) | Content::PublicPart(_) => generate::READ_LIMIT,
                // That it stands is enough to know.
                Content::Absent => 0,
            },
            is_password: !file.password_users.is_empty(),
        })
        .collect()
}

/// Keeps each password hash that stands in the target and verifies against the value, so that a second run changes
/// nothing although salts are random.
pub fn keep_standing_hashes(files: &mut [DesiredFile], survey: &Survey) {
    for (file, place) in files.iter_mut().zip(&survey.places) {
        let Content::Hash { scheme, password, standing } = &mut file.content else { continue };
        let there = place.as_ref().ok().and_then(|place| place.file.as_ref()?.content.as_ref());
        *standing = there
            .filter(|there| {
                let line = there.expose().strip_suffix(b"\n");
                line.is_some_and(|line| password::verifies(line, *scheme, password))
            })
            .cloned();
    }
}
