//! Keys that a target generates for itself: an existing key is kept, a missing one is generated.
//!
//! A secret with `generate` has one file, or two: by convention the public part of some kinds is in a file next to the
//! key. That file follows the key's in the list of desired files. [`settle`] fills in both after the survey.

use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;

use super::{Content, DesiredFile};
use crate::derive::Misfit;
use crate::derive::generate::{self, ExistingKey, GenerateSpec, KeyKind, PUBLIC_SUFFIX, Public, Recipe};
use crate::derive::newline::Newline;
use crate::manifest::{Allow, Owner, SecretSpec, ValueSpec};
use crate::nixos;
use crate::place::{KeyMaker, Survey};

/// A file with a generated key.
#[derive(Debug)]
pub struct Generated {
    /// The declared key.
    pub spec: GenerateSpec,
    /// True if a newline follows a token.
    pub newline: bool,
    /// The state of the key in the target.
    pub key: KeyState,
}

/// The state of a generated key.
#[derive(Debug)]
pub enum KeyState {
    /// Not surveyed yet, or the file must not be changed.
    Unsettled,
    /// The target has one: it is kept.
    Kept(Public),
    /// The target has a token of another length or alphabet: it is kept.
    KeptOther,
    /// The target has none: one must be generated.
    Missing {
        /// The comment of an SSH key.
        comment: String,
    },
    /// The target has none: this new key is written.
    Made(Secret),
    /// The target has none, and generates one itself.
    MadeThere(Recipe),
    /// The file contains something else, for this reason, and is not overwritten.
    Foreign(&'static str),
}

/// The content of a secret's key file, before the survey.
///
/// # Errors
/// If the file is a password hash: a generated key is none.
pub(super) fn content(spec: &SecretSpec, generate: &GenerateSpec) -> Result<Content, Misfit> {
    if spec.is_hashed_password_file() {
        return Err(super::misfit(nixos::passwords::generated_key(spec.path.as_str())));
    }
    // A token has no newline of its own, so `ensure` adds one as well.
    let newline = matches!(spec.newline, Some(Newline::Always | Newline::Ensure));
    Ok(Content::Generated(Generated { spec: generate.clone(), newline, key: KeyState::Unsettled }))
}

/// The file of the public part of a secret's generated key; `None` for kinds without one, and for other secrets. It
/// follows the key's own file.
pub(super) fn public_part(spec: &SecretSpec, allow: &Allow) -> Option<DesiredFile> {
    let ValueSpec::Generate(generate) = &spec.value else { return None };
    let kind = generate.kind.kind();
    Some(DesiredFile {
        secret: spec.name.clone(),
        path: public_path(&spec.path, kind)?,
        from: origin(kind),
        content: Content::PublicPart(None),
        parts: Some(Vec::new()),
        mode: 0o644,
        directory_mode: spec.directory_mode,
        directory_owner: spec.directory_owner.clone(),
        allow: allow.clone(),
        owner: Owner::Name("root".into()),
        group: Owner::Name("root".into()),
        apply_password: false,
        is_cluster_token: false,
        password_users: Vec::new(),
        findings: Vec::new(),
    })
}

/// The path of a key's public part; `None` for kinds without such a file. (The path is not too long: the manifest was
/// checked.)
fn public_path(path: &TargetPath, kind: KeyKind) -> Option<TargetPath> {
    if kind.has_public_file() { TargetPath::parse(&format!("{path}{PUBLIC_SUFFIX}")).ok() } else { None }
}

/// The origin of a generated key, for people.
pub(super) fn origin(kind: KeyKind) -> String {
    format!("generated ({})", kind.name())
}

/// Decides the state of each generated key and its public part: an existing key is kept. `host` is used in the comments
/// of new SSH keys. Generates nothing: see [`crate::run::make::keys`].
pub fn settle(files: &mut [DesiredFile], survey: &Survey, host: Option<&str>) {
    let mut pairs = files.iter_mut().zip(&survey.places).peekable();
    while let Some((file, place)) = pairs.next() {
        let Content::Generated(generated) = &mut file.content else { continue };
        // A path with a refusal is reported later, by the plan.
        let Ok(place) = place else { continue };
        let there = match &place.file {
            None => ExistingKey::Empty,
            Some(file) => match (&file.judged, &file.content) {
                (Some(judged), _) => judged.clone(),
                (None, Some(content)) => generate::recognise(&generated.spec, content.expose()),
                _ if file.stat.size == 0 => ExistingKey::Empty,
                _ if generated.spec.kind.kind() == KeyKind::Token => ExistingKey::OtherToken,
                _ => ExistingKey::Foreign("it is too large for a key"),
            },
        };
        let comment = || comment(&file.secret, host);
        let recipe = (place.key_maker == KeyMaker::Target)
            .then(|| Recipe::of(&generated.spec, &comment(), generated.newline))
            .flatten();
        generated.key = match there {
            ExistingKey::Key(public) => KeyState::Kept(public),
            ExistingKey::OtherToken => KeyState::KeptOther,
            ExistingKey::Foreign(reason) => KeyState::Foreign(reason),
            ExistingKey::Empty => recipe.map_or_else(|| KeyState::Missing { comment: comment() }, KeyState::MadeThere),
        };
        if let KeyState::Kept(Public::Ssh(key)) = &generated.key
            && let Some((beside, place)) = pairs.next_if(|(next, _)| matches!(next.content, Content::PublicPart(_)))
        {
            let line = place.as_ref().ok().and_then(|place| place.file.as_ref()?.content.as_ref());
            // The same key with another comment is no difference.
            let line = line.filter(|line| key.is_in(line.expose())).cloned();
            beside.content = Content::PublicPart(Some(line.unwrap_or_else(|| format!("{}\n", key.line()).into())));
        }
    }
}

/// The comment of a new SSH key: its owner.
fn comment(secret: &str, host: Option<&str>) -> String {
    host.map_or_else(|| secret.to_owned(), |host| format!("{secret}@{host}"))
}
