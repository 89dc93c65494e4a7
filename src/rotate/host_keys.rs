//! Host keys on a running node: which changes are such, how sshd is told, and the public parts afterwards.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::derive::generate::private::{PublicSide, public_side};
use crate::derive::generate::{KeyKind, Public, SshPublicKey, wireguard};
use crate::place::node::{HostKey, MadeKey, NodeError, NodeRun};
use crate::place::{Survey, SurveyedPath};
use crate::run::decrypt;
use crate::run::desired::{Content, Generated, KeyState};
use crate::run::make::PublicPart;
use crate::run::plan::{Action, Change, Plan};

use super::Node;

/// Asks the node which of the changed SSH keys its sshd has as host keys, and adds them to `run`.
///
/// # Errors
/// If the session ends.
pub(super) fn collect(
    target: &mut Node<'_>,
    plan: &Plan,
    survey: &Survey,
    run: &mut NodeRun<'_>,
) -> Result<(), NodeError> {
    let changed: Vec<&Change> = plan.changes.iter().filter(|change| is_ssh_key(change)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let files: Vec<(&str, &str)> =
        changed.iter().map(|change| (change.physical.as_str(), change.path.as_str())).collect();
    let Some((are, sshd)) = target.find_host_keys(&files)? else { return Ok(()) };
    let served = changed.iter().zip(are).filter(|(_, is)| *is).map(|(change, _)| *change);
    run.host_keys = served.map(|change| host_key(change, survey)).collect();
    run.sshd = Some(sshd);
    Ok(())
}

/// True for a new private key of SSH.
fn is_ssh_key(change: &Change) -> bool {
    matches!(change.action, Action::Create | Action::Replace)
        && match &change.content {
            Content::Exact(file) => public_of(file.expose()).is_some(),
            Content::Generated(Generated { spec, .. }) => {
                matches!(spec.kind.kind(), KeyKind::SshHostEd25519 | KeyKind::SshEd25519)
            }
            _ => false,
        }
}

fn host_key(change: &Change, survey: &Survey) -> HostKey {
    let is_at = |place: &&SurveyedPath| place.physical == change.physical;
    let there = survey.places.iter().flatten().find(is_at).and_then(|place| place.file.as_ref()?.content.as_ref());
    let new = match &change.content {
        Content::Exact(file) | Content::Generated(Generated { key: KeyState::Made(file), .. }) => {
            public_of(file.expose())
        }
        _ => None,
    };
    let old = there.and_then(|file| public_of(file.expose()));
    let line = |public: Public| line(&public);
    HostKey { path: change.physical.clone(), new: new.and_then(line), old: old.and_then(line) }
}

/// `TYPE BASE64`, as in known_hosts.
fn line(public: &Public) -> Option<String> {
    match public {
        Public::Ssh(key) => Some(key.without_comment()),
        Public::Rsa(key) => Some(key.clone()),
        Public::WireGuard(_) | Public::Age(_) | Public::Nothing => None,
    }
}

/// The public part of a private key of SSH.
fn public_of(file: &[u8]) -> Option<Public> {
    match public_side(file)? {
        PublicSide::Ed25519(key) => Some(Public::Ssh(key)),
        PublicSide::Rsa(blob) => Some(Public::Rsa(format!("ssh-rsa {}", STANDARD.encode(blob)))),
        PublicSide::Age(_) => None,
    }
}

/// What sshd is told, before it is done; none without a host key.
pub(super) fn announced(run: &NodeRun<'_>) -> Option<String> {
    Some(match run.sshd.as_ref()?.unit.as_str() {
        "none" => "check sshd's configuration".to_owned(),
        "socket" => "check sshd's configuration, and that it serves the new host key".to_owned(),
        unit => format!("reload {unit}.service, and check that it serves the new host key"),
    })
}

/// The public parts of the keys that the node has made itself, and of host keys from a source.
pub(super) fn public_parts(plan: &Plan, survey: &Survey, host_keys: &[HostKey], made: &[MadeKey]) -> Vec<PublicPart> {
    let of = |change: &Change| {
        let (path, is_new) = (change.path.as_str(), true);
        match &change.content {
            Content::Generated(Generated { spec, key: KeyState::MadeThere(_), .. }) => {
                let kind = spec.kind.kind();
                let text = &made.iter().find(|made| made.path == change.physical)?.public;
                let public = match kind {
                    KeyKind::WireGuard if wireguard::is_public(text) => Public::WireGuard(text.clone()),
                    KeyKind::SshHostEd25519 | KeyKind::SshEd25519 => Public::Ssh(SshPublicKey::parse(text)?),
                    KeyKind::WireGuard | KeyKind::Age | KeyKind::Token => return None,
                };
                let to_add = decrypt::to_add(survey, path, &public);
                Some(PublicPart { is_new, ..PublicPart::generated(&change.secret, kind, path, public, to_add) })
            }
            Content::Exact(file) if host_keys.iter().any(|key| key.path == change.physical) => {
                let public = public_of(file.expose())?;
                let kind = if matches!(public, Public::Rsa(_)) { "ssh-host-rsa" } else { "ssh-host-ed25519" };
                let (secret, path, to_add) = (change.secret.clone(), path.to_owned(), Vec::new());
                Some(PublicPart { secret, kind, is_host_key: true, path, public, to_add, is_new })
            }
            _ => None,
        }
    };
    plan.changes.iter().filter_map(of).collect()
}
