//! Joins manifest, values and host: the files that one target should have.

use std::collections::{HashMap, HashSet};

mod generated;
mod ssh_key;

use crate::derive::cluster_token::ClusterToken;
use crate::derive::newline::with_newline;
use crate::derive::password::HashScheme;
use crate::derive::unintended::{self, Unintended, Use};
use crate::derive::{Misfit, generate, password};
use crate::manifest::{Allow, DirectoryOwner, Manifest, Owner, SecretSpec, TemplateSpec, ValueSpec};
use crate::nixos;
use crate::place::{Survey, Wanted};
use deaddrop_core::limits::{MAX_TOTAL, MIB};
use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;
use deaddrop_vault::Reference;

pub use generated::{Generated, KeyState, settle};

/// Maximum size of an existing password hash that is read, in bytes; the longest crypt(3) line is under 400.
const HASH_READ_LIMIT: u64 = 1024;

/// Maximum size of an existing file with the token of a cluster that is read, in bytes.
const TOKEN_READ_LIMIT: u64 = 4096;

/// Maximum size of an existing file that is read from a node, in bytes, to recognise it in the output of programs
/// there. If a file is larger, no output is shown.
const OLD_READ_LIMIT: u64 = 64 << 10;

/// A file that a target should have, or must not have.
#[derive(Debug)]
pub struct DesiredFile {
    /// The secret's name in the manifest.
    pub secret: String,
    /// The declared path.
    pub path: TargetPath,
    /// The origin of its value, for people: `vault:Wifi`; empty for [`Content::Absent`].
    pub from: String,
    /// The declared content.
    pub content: Content,
    /// The secret parts, if not all of it is secret: the references' values in a template; none of a public key.
    pub parts: Option<Vec<Secret>>,
    /// Permission bits.
    pub mode: u32,
    /// Permission bits of its directory, if that is missing and the manifest sets them.
    pub directory_mode: Option<u32>,
    /// Owner of its directory, if that is missing and the manifest sets it.
    pub directory_owner: Option<DirectoryOwner>,
    /// The findings that are allowed for it on this host.
    pub allow: Allow,
    /// Owning user.
    pub owner: Owner,
    /// Owning group.
    pub group: Owner,
    /// True to put the hash into their lines of the shadow file as well.
    pub apply_password: bool,
    /// It is the token of a cluster: another form of the same token is no difference.
    pub is_cluster_token: bool,
    /// Users whose hashedPasswordFile this is; empty for [`Content::Absent`].
    pub password_users: Vec<String>,
    /// Warnings about its values: suspicious characters, and SSH private keys.
    pub findings: Vec<Warning>,
}

/// One reference of one secret, for one host.
#[derive(Debug)]
pub struct Need<'a> {
    /// The secret.
    pub spec: &'a SecretSpec,
    /// The reference, with the host's name inserted.
    pub reference: Reference,
}

/// All references of these secrets, for one host.
pub fn needs<'a>(specs: &[&'a SecretSpec], host: Option<&str>) -> Vec<Need<'a>> {
    let of = |spec: &&'a SecretSpec| {
        let spec = *spec;
        spec.references().map(move |reference| Need { spec, reference: reference.for_host(host) })
    };
    specs.iter().flat_map(of).collect()
}

/// The declared content of a file.
#[derive(Debug)]
pub enum Content {
    /// These bytes.
    Exact(Secret),
    /// A crypt(3) hash of `password`: the existing one if it verifies, otherwise one with a new salt.
    Hash {
        /// The declared scheme.
        scheme: HashScheme,
        /// The value to hash.
        password: Secret,
        /// The existing hash, if it verifies ([`keep_existing_hashes`]).
        existing: Option<Secret>,
        /// A new hash, if it is needed before the plan ([`crate::run::make::hashes`]).
        made: Option<Secret>,
    },
    /// A key that the target generates for itself ([`settle`]).
    Generated(Generated),
    /// The public part of the key in the previous file of the list; `None` before [`settle`], or if the key's file
    /// contains something else.
    PublicPart(Option<Secret>),
    /// The file must not exist; its other fields have no meaning.
    Absent,
    /// A value that was not read: `lint` judges the file without it. Such a file is never planned.
    Unread,
}

impl Content {
    /// The line of a password file: its bytes, or its hash, if that is known yet.
    #[must_use]
    pub fn line(&self) -> Option<&Secret> {
        match self {
            Self::Exact(bytes) => Some(bytes),
            Self::Hash { existing, made, .. } => existing.as_ref().or(made.as_ref()),
            Self::Generated(_) | Self::PublicPart(_) | Self::Absent | Self::Unread => None,
        }
    }

    /// Size of the file; 0 for a hash or a key, which are short, and for no file.
    fn bytes(&self) -> usize {
        match self {
            Self::Exact(bytes) => bytes.len(),
            Self::Hash { .. } | Self::Generated(_) | Self::PublicPart(_) | Self::Absent | Self::Unread => 0,
        }
    }
}

/// A value that does not fit the declaration of its file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{secret}: {reason}")]
pub struct Unfit {
    /// The secret's name.
    pub secret: String,
    /// The error, without the value.
    pub reason: String,
    /// The next step for the user.
    pub hint: String,
}

/// Joins the secrets of one host with their values, those of [`needs`].
///
/// # Errors
/// All secrets whose value does not fit their declaration, in the manifest's order.
pub fn build(
    manifest: &Manifest,
    specs: &[&SecretSpec],
    values: &HashMap<Reference, Secret>,
    host: Option<&str>,
) -> Result<Vec<DesiredFile>, Vec<Unfit>> {
    let allowances = manifest.allowances(host);
    let mut files = Vec::with_capacity(specs.len());
    let mut unfit = Vec::new();
    let mut total: usize = 0;
    let mut told = Told::default();
    for spec in specs {
        let maker = Maker { manifest, spec, values, host };
        let (content, key_findings) = match maker.content() {
            Ok(content) => content,
            Err(Misfit { reason, hint }) => {
                unfit.push(Unfit { secret: spec.name.clone(), reason, hint });
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
        let allow = allowances.of(spec);
        let findings = told.of_values(&spec.name, &allow, maker.oddities());
        let parts = if matches!(content, Content::Exact(_)) { maker.parts() } else { None };
        let findings = findings.into_iter().chain(key_findings).collect();
        files.push(DesiredFile { parts, findings, ..maker.file(allow, content) });
        files.extend(generated::public_part(spec, &allowances.of(spec)));
    }
    if unfit.is_empty() { Ok(files) } else { Err(unfit) }
}

/// The files of [`build`], without their values: to judge where they are.
///
/// # Errors
/// A key that cannot be generated as it is declared.
pub fn build_unread(
    manifest: &Manifest,
    specs: &[&SecretSpec],
    host: Option<&str>,
) -> Result<Vec<DesiredFile>, Vec<Unfit>> {
    let (allowances, values) = (manifest.allowances(host), HashMap::new());
    let mut files = Vec::with_capacity(specs.len());
    let mut unfit = Vec::new();
    for spec in specs {
        let maker = Maker { manifest, spec, values: &values, host };
        let content = match &spec.value {
            ValueSpec::Absent => Ok(Content::Absent),
            ValueSpec::Generate(generate) => generated::content(spec, generate),
            ValueSpec::From(_) | ValueSpec::Template(_) => Ok(Content::Unread),
        };
        match content {
            Ok(content) => files.push(maker.file(allowances.of(spec), content)),
            Err(Misfit { reason, hint }) => unfit.push(Unfit { secret: spec.name.clone(), reason, hint }),
        }
    }
    if unfit.is_empty() { Ok(files) } else { Err(unfit) }
}

/// Suspicious values that were reported: each is reported once, by the first secret that has it.
#[derive(Default)]
struct Told(HashSet<(&'static str, Reference)>);

impl Told {
    /// The warnings about the values of a secret that are new. One that the secret allows is not the first: another
    /// secret with the same value may not allow it.
    fn of_values(&mut self, secret: &str, allow: &Allow, oddities: Vec<(Reference, Unintended)>) -> Vec<Warning> {
        let is_new = |(from, oddity): &(Reference, Unintended)| {
            allow.contains_key(oddity.code()) || self.0.insert((oddity.code(), from.clone()))
        };
        let warning = |(from, oddity): (Reference, Unintended)| Warning {
            code: oddity.code(),
            secret: Some(secret.to_owned()),
            message: format!("the value of {from} {oddity}"),
            hint: "it is written as it is; if that is not meant, correct it in the source".into(),
        };
        oddities.into_iter().filter(is_new).map(warning).collect()
    }
}

/// Builds the content of one secret's file, for one host.
struct Maker<'a> {
    manifest: &'a Manifest,
    spec: &'a SecretSpec,
    values: &'a HashMap<Reference, Secret>,
    host: Option<&'a str>,
}

impl Maker<'_> {
    /// The file, as declared.
    fn file(&self, allow: Allow, content: Content) -> DesiredFile {
        let spec = self.spec;
        DesiredFile {
            secret: spec.name.clone(),
            path: spec.path.clone(),
            from: self.origin(),
            parts: None,
            content,
            mode: spec.mode,
            directory_mode: spec.directory_mode,
            directory_owner: spec.directory_owner.clone(),
            allow,
            owner: spec.owner.clone(),
            group: spec.group.clone(),
            apply_password: spec.apply_password,
            is_cluster_token: spec.cluster().is_some(),
            password_users: match spec.value {
                ValueSpec::Generate(_) | ValueSpec::Absent => Vec::new(),
                ValueSpec::From(_) | ValueSpec::Template(_) => spec.password_users().map(str::to_owned).collect(),
            },
            findings: Vec::new(),
        }
    }

    /// The origin of the value, for people.
    fn origin(&self) -> String {
        match &self.spec.value {
            ValueSpec::From(reference) => reference.for_host(self.host).to_string(),
            ValueSpec::Template(TemplateSpec { file: Some(file), .. }) => format!("template {file}"),
            ValueSpec::Template(_) => "template".to_owned(),
            ValueSpec::Generate(generate) => generated::origin(generate.kind.kind()),
            ValueSpec::Absent => String::new(),
        }
    }

    fn value(&self, reference: &Reference) -> Result<&Secret, Misfit> {
        let reference = reference.for_host(self.host);
        self.values
            .get(&reference)
            .ok_or_else(|| Misfit { reason: format!("no value was read for {reference}"), hint: String::new() })
    }

    /// The content, and the warnings about it.
    fn content(&self) -> Result<(Content, Vec<Warning>), Misfit> {
        let spec = self.spec;
        let value = match &spec.value {
            ValueSpec::Absent => return Ok((Content::Absent, Vec::new())),
            ValueSpec::Generate(generate) => return Ok((generated::content(spec, generate)?, Vec::new())),
            ValueSpec::Template(template) => self.render(template)?,
            ValueSpec::From(reference) => self.decoded(self.value(reference)?)?,
        };
        let (newline, findings) = ssh_key::check(spec, &value, &self.origin())?;
        spec.expect.check(value.expose(), newline)?;
        if let Some(scheme) = spec.hash {
            return match password::check(value.expose()) {
                Ok(()) => Ok((Content::Hash { scheme, password: value, existing: None, made: None }, findings)),
                Err(error) => {
                    Err(Misfit { reason: error.to_string(), hint: error.hint().unwrap_or_default().to_owned() })
                }
            };
        }
        let bytes = if newline { with_newline(&value) } else { value };
        if let Some(format) = spec.format {
            format.check(bytes.expose())?;
        }
        if spec.is_hashed_password_file() && !password::is_accepted_by_nixos(bytes.expose()) {
            return Err(misfit(nixos::passwords::not_a_hash(spec.path.as_str())));
        }
        Ok((Content::Exact(bytes), findings))
    }

    /// The value with its `encoding` decoded.
    fn decoded(&self, value: &Secret) -> Result<Secret, Misfit> {
        let Some(encoding) = self.spec.encoding else { return Ok(value.clone()) };
        let decoded = encoding.decode(value.expose())?;
        self.not_empty(decoded, "the value is empty when it is decoded")
    }

    /// The references' values in a template; `None` if all of the content is a value.
    fn parts(&self) -> Option<Vec<Secret>> {
        let ValueSpec::Template(spec) = &self.spec.value else { return None };
        // If a value is missing, there is no content either.
        Some(spec.template.parts(&self.values_of(spec).ok()?))
    }

    fn values_of<'t>(&'t self, spec: &'t TemplateSpec) -> Result<HashMap<&'t str, &'t Secret>, Misfit> {
        spec.references.iter().map(|(text, reference)| Ok((text.as_str(), self.value(reference)?))).collect()
    }

    fn render(&self, spec: &TemplateSpec) -> Result<Secret, Misfit> {
        let values = self.values_of(spec)?;
        let rendered = spec.template.render(self.host, &values).map_err(|failure| {
            let place = match (&spec.file, failure.line) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                (Some(file), None) => format!("{file}: "),
                (None, Some(line)) => format!("line {line} of its template: "),
                (None, None) => "its template: ".to_owned(),
            };
            Misfit { reason: format!("{place}{}", failure.reason), hint: failure.hint }
        })?;
        self.not_empty(rendered, "the template makes an empty file")
    }

    fn not_empty(&self, value: Secret, reason: &str) -> Result<Secret, Misfit> {
        if value.is_empty() && !self.spec.allow_empty {
            let hint = "if that is meant, add `allow_empty: true` to the secret";
            return Err(Misfit { reason: reason.to_owned(), hint: hint.to_owned() });
        }
        Ok(value)
    }

    /// DD301 to DD304: suspicious characters in the values, each with the value's origin. Encoded values are skipped:
    /// they are not text yet.
    fn oddities(&self) -> Vec<(Reference, Unintended)> {
        let mut findings = Vec::new();
        for reference in self.spec.references().filter(|_| self.spec.encoding.is_none()) {
            let Ok(value) = self.value(reference) else { continue };
            let from = reference.for_host(self.host);
            findings.extend(
                unintended::find(value.expose(), self.usage(reference))
                    .into_iter()
                    .map(|oddity| (from.clone(), oddity)),
            );
        }
        findings
    }

    /// How the ends of a value matter.
    fn usage(&self, reference: &Reference) -> Use {
        let is_trimmed = |spec: &TemplateSpec| {
            let mut texts = spec.references.iter().filter(|(_, other)| other == reference).map(|(text, _)| text);
            texts.all(|text| spec.template.mentions().iter().any(|mention| mention.text == *text && mention.is_trimmed))
        };
        match &self.spec.value {
            ValueSpec::Template(spec) if is_trimmed(spec) => Use::Trimmed,
            ValueSpec::From(_) if self.spec.is_file_of_lines() => Use::Lines,
            _ if self.keeps_files(reference) => Use::Lines,
            _ => Use::Exact,
        }
    }

    /// True for a source whose values are whole files or a program's output, and not fields of a form.
    fn keeps_files(&self, reference: &Reference) -> bool {
        match self.manifest.sources.get(&reference.source) {
            Some(spec) => spec.keeps_files(),
            None => reference.source == "file",
        }
    }
}

/// A NixOS rule as the reason why a value does not fit.
fn misfit(finding: nixos::Finding) -> Misfit {
    Misfit { reason: format!("{}: {}", finding.code, finding.reason), hint: finding.instead }
}

/// The paths to survey for these files.
#[must_use]
pub fn wanted(files: &[DesiredFile]) -> Vec<Wanted> {
    files
        .iter()
        .map(|file| Wanted {
            path: file.path.clone(),
            read_limit: match &file.content {
                Content::Exact(bytes) => {
                    // The long form of a token is longer.
                    let least = if file.is_cluster_token { TOKEN_READ_LIMIT } else { 0 };
                    u64::try_from(bytes.len()).unwrap_or(u64::MAX).max(least)
                }
                Content::Hash { .. } => HASH_READ_LIMIT,
                Content::Generated(_) | Content::PublicPart(_) => generate::READ_LIMIT,
                // Its existence is enough.
                Content::Absent | Content::Unread => 0,
            },
            is_password: !file.password_users.is_empty(),
            key: match &file.content {
                Content::Generated(generated) => Some(generated.spec.clone()),
                _ => None,
            },
        })
        .collect()
}

/// The same for a node, with a larger limit for existing contents that programs there may print.
#[must_use]
pub fn wanted_on_node(files: &[DesiredFile]) -> Vec<Wanted> {
    let mut wanted = wanted(files);
    for (want, file) in wanted.iter_mut().zip(files) {
        // The node checks keys itself, and any program that could print a key has written it.
        if matches!(file.content, Content::Exact(_) | Content::Absent) {
            want.read_limit = want.read_limit.max(OLD_READ_LIMIT);
        }
    }
    wanted
}

/// Keeps the form in which a cluster's token stands already.
pub fn keep_existing_tokens(files: &mut [DesiredFile], survey: &Survey) {
    for (file, place) in files.iter_mut().zip(&survey.places).filter(|(file, _)| file.is_cluster_token) {
        let there = place.as_ref().ok().and_then(|place| place.file.as_ref()?.content.as_ref());
        let Content::Exact(declared) = &file.content else { continue };
        let token = ClusterToken::parse(declared.expose());
        if let Some(there) = there.filter(|there| token.is_some() && ClusterToken::parse(there.expose()) == token) {
            file.content = Content::Exact(there.clone());
        }
    }
}

/// Keeps each existing password hash that verifies against the value, so that a second run changes nothing although
/// salts are random.
pub fn keep_existing_hashes(files: &mut [DesiredFile], survey: &Survey) {
    for (file, place) in files.iter_mut().zip(&survey.places) {
        let Content::Hash { scheme, password, existing, .. } = &mut file.content else { continue };
        let there = place.as_ref().ok().and_then(|place| place.file.as_ref()?.content.as_ref());
        *existing = there
            .filter(|there| {
                let line = there.expose().strip_suffix(b"\n");
                line.is_some_and(|line| password::verifies(line, *scheme, password))
            })
            .cloned();
    }
}
