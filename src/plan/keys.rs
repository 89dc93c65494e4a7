//! What is said of keys that a target makes for itself.

use super::Warning;
use crate::desired::{Content, DesiredFile, Generated, KeyState};
use crate::manifest::KeyKind;
use crate::target::{KeyMaker, Refusal, Standing};

/// The refusal of what stands in the place of a key, and is none of its kind.
pub(super) fn foreign_key(file: &DesiredFile) -> Option<Refusal> {
    let Content::Generated(Generated { spec, key: KeyState::Foreign(reason), .. }) = &file.content else { return None };
    Some(Refusal {
        code: None,
        reason: format!(
            "{} holds something else than a key of the kind {}, and it may be in use: {reason}",
            file.path,
            spec.kind.kind().name()
        ),
        hint: "it is never overwritten: move it away in the target, or choose another path".into(),
    })
}

/// DD402: a token that is kept is not what the manifest asks for.
pub(super) fn token_warning(file: &DesiredFile) -> Option<Warning> {
    matches!(file.content, Content::Generated(Generated { key: KeyState::KeptOther, .. })).then(|| Warning {
        code: "DD402",
        secret: Some(file.secret.clone()),
        message: format!(
            "{} is kept, and is not of the length and alphabet that are declared: it may be in use",
            file.path
        ),
        hint: "to have a new one, remove the file in the target, and run this again".into(),
    })
}

/// DD403: a running node does not make a key by itself.
pub(super) fn sent_warning(file: &DesiredFile, standing: &Standing) -> Option<Warning> {
    let Content::Generated(Generated { spec, key: KeyState::Made(_), .. }) = &file.content else { return None };
    if standing.key_maker != KeyMaker::HereForNode {
        return None;
    }
    let (path, kind) = (&file.path, spec.kind.kind());
    let (why, hint) = match kind {
        KeyKind::Age => ("no node makes keys of age", "if it must not leave the node: age-keygen there, by hand"),
        KeyKind::WireGuard => ("the node has no wg", "with wireguard-tools on the node it is made there"),
        KeyKind::Token => ("the node has no tr, wc or dd", "with coreutils or busybox on the node it is made there"),
        KeyKind::SshEd25519 | KeyKind::SshHostEd25519 => {
            ("the node has no ssh-keygen", "with ssh-keygen on the node it is made there")
        }
    };
    Some(Warning {
        code: "DD403",
        secret: Some(file.secret.clone()),
        message: format!("the key of {path} is made here and sent, once: {why}"),
        hint: hint.into(),
    })
}
