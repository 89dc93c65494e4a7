//! The keys that a target's sops-nix or agenix decrypts with: whether one is given, and opens the files (NX117, NX118);
//! and passwords that they make and the system does not apply (NX101).
//!
//! `plan` and `inject` tell NX118 of their own keys; the rest is for `lint`.

use std::collections::BTreeMap;

use deaddrop_core::warning::Warning;

use super::desired::{Content, DesiredFile, Generated, KeyState};
use crate::derive::generate::private::{PublicSide, public_side};
use crate::derive::generate::{Public, SshPublicKey};
use crate::nixos::closure::decrypt::{Decrypter, Identity, IdentityKind, Recipients, ssh_tag};
use crate::nixos::decrypt::{self as rules, KnownKey};
use crate::nixos::{self, Finding, passwords};
use crate::place::Survey;
use crate::place::survey::PasswordRule;

/// What a manifest gives at the path of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenKey {
    /// This key.
    Known(KnownKey),
    /// A value that was not read, or is no key that can be judged.
    Unknown,
    /// A new key, which nothing can be encrypted for yet.
    Generated,
    /// No file (`absent: true`).
    Absent,
}

/// A finding about a path of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The path of the key (as the manifest has it, if that gives it), or of the password file; none for a program that
    /// names no key.
    pub path: Option<String>,
    /// The finding, a warning.
    pub finding: Finding,
}

/// What was found of a target's decrypters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// NX117, NX118.
    pub findings: Vec<Told>,
    /// One line for each decrypter: "31 secrets need /etc/ssh/ssh_host_ed25519_key; the manifest gives it".
    pub lines: Vec<String>,
}

/// Judges the keys of a surveyed target. `given` has what the manifest gives at the paths of identities: [`given`]
/// says it of files.
#[must_use]
pub fn judge(survey: &Survey, given: &BTreeMap<String, GivenKey>) -> Judged {
    let mut judged = Judged::default();
    for decrypter in survey.system.iter().flat_map(|system| &system.decrypters) {
        let needed = rules::needed(decrypter);
        let all = decrypter.identities.iter();
        let mut keys: Vec<Standing<'_>> = all.filter_map(|identity| Standing::of(identity, survey, given)).collect();
        let missing = missing(decrypter, &needed, &keys);
        keys.retain(|key| needed.contains(&key.identity));
        let here = if survey.node.is_some() { "on the node" } else { "in the image" };
        judged.lines.push(line(decrypter, &needed, &keys, &missing, here));
        if missing.is_empty() && !needed.is_empty() {
            judged.findings.extend(not_recipients(decrypter, &keys));
        } else {
            let path = missing.first().map(|identity| identity.path.clone());
            judged.findings.push(Told { path, finding: rules::no_key(decrypter, &missing) });
        }
    }
    judged
}

/// The path that a manifest may have for a file which is written to `path`, below its `persist_root`.
fn mapped<'p>(survey: &Survey, path: &'p str) -> Option<&'p str> {
    path.strip_prefix(survey.persist_root.as_deref()?).filter(|rest| rest.starts_with('/'))
}

/// The key at the path of an identity.
struct Standing<'s> {
    identity: &'s Identity,
    /// The path in the manifest, if that gives it.
    given: Option<&'s str>,
    key: GivenKey,
}

impl<'s> Standing<'s> {
    fn of(identity: &'s Identity, survey: &Survey, given: &BTreeMap<String, GivenKey>) -> Option<Self> {
        let paths = [Some(identity.path.as_str()), mapped(survey, &identity.path)];
        match paths.into_iter().flatten().find_map(|path| Some((path, given.get(path)?))) {
            Some((_, GivenKey::Absent)) => None,
            Some((path, key)) => Some(Self { identity, given: Some(path), key: key.clone() }),
            None => {
                let key = known(survey.keys.get(&identity.path)?.expose());
                Some(Self { identity, given: None, key: key.map_or(GivenKey::Unknown, GivenKey::Known) })
            }
        }
    }
}

/// The identities of which one has to be given; none if enough is given.
fn missing<'s>(decrypter: &'s Decrypter, needed: &[&'s Identity], keys: &[Standing<'s>]) -> Vec<&'s Identity> {
    let has = |identity: &Identity| keys.iter().any(|key| key.identity == identity);
    let is_made = |identity: &Identity| decrypter.made_key.as_ref() == Some(&identity.path);
    if let Some(required) = rules::required(decrypter).filter(|required| !has(required) && !is_made(required)) {
        return vec![required];
    }
    // What GnuPG's directory holds is not known.
    let may_be_by_gpg = decrypter.gnupg_home.is_some() && decrypter.files.values().any(|file| file.pgp);
    let is_enough = may_be_by_gpg || needed.iter().any(|identity| has(identity) || is_made(identity));
    if is_enough { Vec::new() } else { needed.to_vec() }
}

/// NX120: what a running node decrypts, and after the change of a key's file cannot decrypt any more. Keys that the run
/// makes are kept: nothing stood in their place.
#[must_use]
pub fn locked_out(files: &[DesiredFile], survey: &Survey) -> Vec<Told> {
    if survey.node.is_none() {
        return Vec::new();
    }
    let given = given(files, survey);
    let mut told = Vec::new();
    for file in files {
        let new = match &file.content {
            Content::Exact(value) => Some(value),
            Content::Absent => None,
            _ => continue,
        };
        let path = file.path.as_str();
        for decrypter in survey.system.iter().flat_map(|system| &system.decrypters) {
            let reads = |identity: &&Identity| identity.path == path || mapped(survey, &identity.path) == Some(path);
            let Some(identity) = decrypter.identities.iter().find(reads) else { continue };
            // One that stays, or was never there, locks nothing.
            if survey.keys.get(&identity.path) == new {
                continue;
            }
            let closed = closed_files(decrypter, survey, &given);
            if !closed.is_empty() {
                let key = new.and_then(|value| known(value.expose()));
                let finding = rules::locked_out(decrypter, &identity.path, key.as_ref(), &closed);
                told.push(Told { path: Some(path.to_owned()), finding });
            }
        }
    }
    told
}

/// The files that no key opens, as far as that is known.
fn closed_files<'d>(decrypter: &'d Decrypter, survey: &Survey, given: &BTreeMap<String, GivenKey>) -> Vec<&'d str> {
    let keys: Vec<Standing<'_>> =
        decrypter.identities.iter().filter_map(|identity| Standing::of(identity, survey, given)).collect();
    let lacks_required = rules::required(decrypter)
        .is_some_and(|required| !keys.iter().any(|key| key.identity == required) && decrypter.made_key.is_none());
    let is_closed = |key: &Standing<'_>, file| match &key.key {
        GivenKey::Known(known) => rules::opens(key.identity, known, file) == Some(false),
        // sops-nix takes no other SSH key than those that are known here; a file of age may name a plugin.
        GivenKey::Unknown => key.given.is_some() && key.identity.kind == IdentityKind::SshAsAge,
        GivenKey::Generated | GivenKey::Absent => false,
    };
    let by_gpg = |file: &Recipients| decrypter.gnupg_home.is_some() && file.pgp;
    let files = decrypter.files.iter().filter(|(_, file)| {
        file.keys.is_some()
            && !file.others
            && !by_gpg(file)
            && (lacks_required || keys.iter().all(|key| is_closed(key, file)))
    });
    files.map(|(path, _)| path.as_str()).collect()
}

/// NX118, of the key that the manifest gives, else of the one that stands.
fn not_recipients(decrypter: &Decrypter, keys: &[Standing<'_>]) -> Option<Told> {
    // Whoever makes a key anew is told what is to be done with it.
    if keys.iter().any(|standing| standing.key == GivenKey::Generated) {
        return None;
    }
    let by_gpg = decrypter.gnupg_home.is_some();
    let is_closed = |standing: &Standing<'_>, file| match &standing.key {
        GivenKey::Known(key) => rules::opens(standing.identity, key, file) == Some(false),
        GivenKey::Unknown | GivenKey::Generated | GivenKey::Absent => false,
    };
    let mut closed = Vec::new();
    for (path, file) in &decrypter.files {
        let may_be_opened = file.keys.is_none() || (by_gpg && file.pgp);
        if !may_be_opened && keys.iter().all(|key| is_closed(key, file)) {
            closed.push(path.as_str());
        }
    }
    let of = |is_given: bool| keys.iter().find(move |standing| standing.given.is_some() == is_given);
    let standing = of(true).or_else(|| of(false)).filter(|_| !closed.is_empty())?;
    let GivenKey::Known(key) = &standing.key else { return None };
    let finding = rules::not_a_recipient(decrypter, standing.identity, key, &closed);
    Some(Told { path: Some(standing.given.unwrap_or(&standing.identity.path).to_owned()), finding })
}

/// `here` is where a key stands.
fn line(
    decrypter: &Decrypter,
    needed: &[&Identity],
    keys: &[Standing<'_>],
    missing: &[&Identity],
    here: &str,
) -> String {
    let count = decrypter.secrets.len();
    let verb = if count == 1 { "needs" } else { "need" };
    let need = match (missing, needed) {
        ([_], _) => rules::paths(missing),
        (_, []) => "a key".to_owned(),
        _ => rules::paths(needed),
    };
    let chosen = keys.iter().find(|key| key.given.is_some()).or_else(|| keys.first()).filter(|_| missing.is_empty());
    let how = match chosen {
        None if missing.is_empty() && decrypter.gnupg_home.is_some() => "GnuPG's own directory may give it".to_owned(),
        None if missing.is_empty() && decrypter.made_key.is_some() => "the system makes it".to_owned(),
        None => "nothing provides it".to_owned(),
        Some(key) => {
            let it = if needed.len() == 1 { "it".to_owned() } else { rules::paths(&[key.identity]) };
            match key.given {
                Some(_) => format!("the manifest gives {it}"),
                None => format!("{it} stands {here}"),
            }
        }
    };
    format!("{} of {} {verb} {need}; {how}", rules::count(count, "secret"), decrypter.tool.name())
}

/// True for a path in a manifest at which a decrypter of the target reads a key.
#[must_use]
pub fn is_identity(survey: &Survey, path: &str) -> bool {
    // A file for `path` may be written below persist_root.
    let persisted = survey.persist_root.as_ref().map(|root| format!("{root}{path}"));
    let mut paths = [Some(path), persisted.as_deref()].into_iter().flatten();
    survey.system.as_ref().is_some_and(|system| paths.any(|path| system.is_identity(path)))
}

/// What a manifest gives to the decrypters of a target, from its files after the survey: values, and the keys that are
/// kept or made. Other values are not looked into.
#[must_use]
pub fn given(files: &[DesiredFile], survey: &Survey) -> BTreeMap<String, GivenKey> {
    let known = |key: Option<KnownKey>| key.map_or(GivenKey::Unknown, GivenKey::Known);
    let mut all = BTreeMap::new();
    for file in files.iter().filter(|file| is_identity(survey, file.path.as_str())) {
        let key = match &file.content {
            Content::Exact(value) => known(self::known(value.expose())),
            Content::Generated(Generated { key: KeyState::Kept(public), .. }) => known(of_public(public)),
            Content::Generated(Generated {
                key: KeyState::Missing { .. } | KeyState::Made(_) | KeyState::MadeThere(_),
                ..
            }) => GivenKey::Generated,
            Content::Absent => GivenKey::Absent,
            Content::Generated(_) | Content::Hash { .. } | Content::PublicPart(_) | Content::Unread => {
                GivenKey::Unknown
            }
        };
        all.insert(file.path.as_str().to_owned(), key);
    }
    all
}

/// What is known of a private key's file; `None` if it is none, or one that a passphrase protects.
#[must_use]
pub fn known(file: &[u8]) -> Option<KnownKey> {
    Some(match public_side(file)? {
        PublicSide::Ed25519(key) => of_ssh(&key),
        PublicSide::Rsa(blob) => KnownKey { tag: Some(ssh_tag("ssh-rsa", &blob)), ..KnownKey::default() },
        PublicSide::Age(recipients) => KnownKey { recipients, ..KnownKey::default() },
    })
}

fn of_ssh(key: &SshPublicKey) -> KnownKey {
    KnownKey {
        recipients: key.age_recipient().into_iter().collect(),
        tag: Some(ssh_tag("ssh-ed25519", &key.blob())),
        public: Some(key.without_comment()),
    }
}

/// The same of the public part of a key that was made or kept.
fn of_public(public: &Public) -> Option<KnownKey> {
    match public {
        Public::Ssh(key) => Some(of_ssh(key)),
        Public::Age(recipient) => Some(KnownKey { recipients: vec![recipient.clone()], ..KnownKey::default() }),
        Public::Rsa(_) | Public::WireGuard(_) | Public::Nothing => None,
    }
}

/// What is to be done so that a new key at this path opens what the target decrypts with it: a line for each program.
#[must_use]
pub fn to_add(survey: &Survey, path: &str, public: &Public) -> Vec<String> {
    let Some(key) = of_public(public) else { return Vec::new() };
    let decrypters = survey.system.iter().flat_map(|system| &system.decrypters);
    let reads = |decrypter: &&Decrypter| {
        let mut identities = decrypter.identities.iter();
        let is_at = |identity: &Identity| identity.path == path || mapped(survey, &identity.path) == Some(path);
        identities.any(|identity| is_at(identity) && identity.kind != IdentityKind::SshAsGpg)
    };
    let line = |decrypter: &Decrypter| {
        let files: Vec<&str> = decrypter.files.keys().map(String::as_str).collect();
        let advice = rules::advice(decrypter.tool, &key, path, &files);
        format!("{} decrypts with the new key of {path}: {advice}", decrypter.tool.name())
    };
    decrypters.filter(reads).map(line).collect()
}

/// NX118 about the files of a manifest, in their order.
#[must_use]
pub fn warnings(files: &[DesiredFile], survey: &Survey) -> Vec<Warning> {
    if survey.system.as_ref().is_none_or(|system| system.decrypters.is_empty()) {
        return Vec::new();
    }
    let found = judge(survey, &given(files, survey)).findings;
    let mut warnings = Vec::new();
    for file in files.iter().filter(|file| !matches!(file.content, Content::Absent)) {
        let of_file = |told: &&Told| told.finding.code == "NX118" && told.path.as_deref() == Some(file.path.as_str());
        let findings = found.iter().filter(of_file).map(|told| told.finding.clone());
        let told = findings.filter_map(|finding| finding.unless_allowed(&file.allow));
        warnings.extend(told.map(|finding| finding.warning(&file.secret)));
    }
    warnings
}

/// NX101, as a warning, about the passwords that sops-nix or agenix makes: at the build of the image there was no key
/// for them, and the line that the shadow file got then stays.
#[must_use]
pub fn passwords_not_applied(survey: &Survey) -> Vec<Told> {
    let system = survey.system.iter().filter(|_| survey.passwords == PasswordRule::LineStays);
    let made = system.flat_map(|system| system.made_passwords());
    made.filter(|(user, ..)| survey.users.shadow_hash(user).is_some())
        .map(|(user, path, tool)| {
            let (user, shown) = (nixos::closure::view::shown(user), nixos::closure::view::shown(path));
            let finding = passwords::made_line_stays(&user, &shown, tool.name());
            Told { path: Some(path.to_owned()), finding }
        })
        .collect()
}
