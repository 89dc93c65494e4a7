//! Keys that a target makes for itself: kept if it holds one, made if it does not.
//!
//! A secret with `generate` is one file, or two: where the convention has it, the public part stands beside the key. That
//! file comes right after the key's in the list of desired files, and [`settle`] fills both in, once it is known what
//! stands in the target.

use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;

use super::{Content, DesiredFile};
use crate::derive::Misfit;
use crate::derive::generate::{self, GenerateSpec, KeyKind, PUBLIC_SUFFIX, Public, Recipe, Standing};
use crate::manifest::{Owner, SecretSpec, ValueSpec};
use crate::nixos;
use crate::place::{KeyMaker, Survey};

/// A file that holds a generated key.
#[derive(Debug)]
pub struct Generated {
    /// What is asked for.
    pub spec: GenerateSpec,
    /// Whether a newline follows a token.
    pub newline: bool,
    /// What the target has.
    pub key: KeyState,
}

/// What becomes of a generated key.
#[derive(Debug)]
pub enum KeyState {
    /// The target was not looked at yet, or its file may not be touched.
    Unsettled,
    /// The target holds one: it stays.
    Kept(Public),
    /// The target holds a token of another length or alphabet: it stays.
    KeptOther,
    /// The target holds none: one is to be made, with this comment if it is an SSH key.
    Missing {
        /// The comment.
        comment: String,
    },
    /// The target holds none: this one, made now, is written.
    Made(Secret),
    /// The target holds none, and makes one by itself.
    MadeThere(Recipe),
    /// Something else stands there, for this reason, and is not overwritten.
    Foreign(&'static str),
}

/// What is in the file of a secret's generated key, before the target is looked at.
///
/// # Errors
/// A generated key is no password hash.
pub(super) fn content(spec: &SecretSpec, generate: &GenerateSpec) -> Result<Content, Misfit> {
    if spec.is_hashed_password_file() {
        return Err(super::misfit(nixos::passwords::generated_key(spec.path.as_str())));
    }
    Ok(Content::Generated(Generated { spec: generate.clone(), newline: spec.newline, key: KeyState::Unsettled }))
}

/// The file of the public part of a secret's generated key; `None` for kinds without one, and for other secrets. It comes
/// right after the key's own file.
pub(super) fn public_part(spec: &SecretSpec) -> Option<DesiredFile> {
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
        allow: spec.allow.clone(),
        owner: Owner::Name("root".into()),
        group: Owner::Name("root".into()),
        password_users: Vec::new(),
        oddities: Vec::new(),
    })
}

/// Where the public part of a key goes; `None` for kinds without such a file. (The manifest was checked: the path is
/// not too long.)
fn public_path(path: &TargetPath, kind: KeyKind) -> Option<TargetPath> {
    if kind.has_public_file() { TargetPath::parse(&format!("{path}{PUBLIC_SUFFIX}")).ok() } else { None }
}

/// Where a generated key comes from, in words.
pub(super) fn origin(kind: KeyKind) -> String {
    format!("generated ({})", kind.name())
}

/// Decides what becomes of each generated key and its public part: what stands in the target stays, if it is one. `host` is
/// in the comments of new SSH keys. Makes nothing: [`crate::run::make::keys`] does.
pub fn settle(files: &mut [DesiredFile], survey: &Survey, host: Option<&str>) {
    let mut pairs = files.iter_mut().zip(&survey.places).peekable();
    while let Some((file, place)) = pairs.next() {
        let Content::Generated(generated) = &mut file.content else { continue };
        // What may not be written is refused later, with its reason.
        let Ok(place) = place else { continue };
        let there = match &place.file {
            None => Standing::Empty,
            Some(file) => match (&file.judged, &file.content) {
                (Some(judged), _) => judged.clone(),
                (None, Some(content)) => generate::recognise(&generated.spec, content.expose()),
                _ if file.stat.size == 0 => Standing::Empty,
                _ if generated.spec.kind.kind() == KeyKind::Token => Standing::OtherToken,
                _ => Standing::Foreign("it is too large for a key"),
            },
        };
        let comment = || comment(&file.secret, host);
        let recipe = (place.key_maker == KeyMaker::Target)
            .then(|| Recipe::of(&generated.spec, &comment(), generated.newline))
            .flatten();
        generated.key = match there {
            Standing::Key(public) => KeyState::Kept(public),
            Standing::OtherToken => KeyState::KeptOther,
            Standing::Foreign(reason) => KeyState::Foreign(reason),
            Standing::Empty => recipe.map_or_else(|| KeyState::Missing { comment: comment() }, KeyState::MadeThere),
        };
        if let KeyState::Kept(Public::Ssh(key)) = &generated.key
            && let Some((beside, place)) = pairs.next_if(|(next, _)| matches!(next.content, Content::PublicPart(_)))
        {
            let standing = place.as_ref().ok().and_then(|place| place.file.as_ref()?.content.as_ref());
            // Another comment of the same key is no difference.
            let line = standing.filter(|standing| key.is_in(standing.expose())).cloned();
            beside.content = Content::PublicPart(Some(line.unwrap_or_else(|| format!("{}\n", key.line()).into())));
        }
    }
}

/// The comment of a new SSH key: whose it is.
fn comment(secret: &str, host: Option<&str>) -> String {
    host.map_or_else(|| secret.to_owned(), |host| format!("{secret}@{host}"))
}
