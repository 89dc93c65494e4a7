//! Keys that are a node's own: made and judged there by `generate.sh`, so that none of them leaves the node.
//!
//! ```text
//! token LENGTH CHARACTERS DEV:INO PATH  -> makes KIND     a line a kind that the node can make and judge: token, ssh, wireguard
//! ssh DEV:INO PATH                         =
//! wireguard DEV:INO PATH                   yes [PUBLIC] | no [WHY]     a line a question, WHY being format, passphrase, damaged or type
//! …
//! .                                        .
//! ```
//!
//! What makes one is a value of `apply`: `token LENGTH CHARACTERS newline|-`, `ssh COMMENT`, `public`, `wireguard`. CHARACTERS are
//! in octal, each `\NNN`.

use std::fmt::Write as _;

use super::error::NodeError;
use super::transport::Session;
use super::tree::NodeTree;
use crate::derive::generate::{
    KeyKind, KeySpec, Public, READ_LIMIT, Recipe, SshPublicKey, Standing, TokenSpec, ssh, wireguard,
};
use crate::place::{KeyMaker, Survey, Wanted};

/// The longest answer about one key, in bytes: a public part, and a comment.
const ABOUT_A_KEY: usize = 1 << 10;

/// The kinds of key that a node can make and judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Able {
    token: bool,
    ssh: bool,
    wireguard: bool,
}

impl Able {
    /// What is assumed of a node that was not asked yet.
    pub(super) const ALL: Self = Self { token: true, ssh: true, wireguard: true };

    fn makes(self, kind: KeyKind) -> bool {
        match kind {
            KeyKind::SshHostEd25519 | KeyKind::SshEd25519 => self.ssh,
            KeyKind::WireGuard => self.wireguard,
            KeyKind::Token => self.token,
            KeyKind::Age => false,
        }
    }
}

/// The same, but that no key is read which the node can judge.
pub(super) fn without_keys(wanted: &[Wanted], able: Able) -> Vec<Wanted> {
    let mut wanted = wanted.to_vec();
    for want in &mut wanted {
        if want.key.as_ref().is_some_and(|key| able.makes(key.kind.kind())) {
            want.read_limit = 0;
        }
    }
    wanted
}

/// The question about the keys that stand, and the index in `wanted` of each that is asked about. What can be told by its size is
/// told here.
pub(super) fn question(tree: &NodeTree, wanted: &[Wanted], survey: &mut Survey, able: Able) -> (String, Vec<usize>) {
    let (mut text, mut asked) = (String::new(), Vec::new());
    for (index, (want, place)) in wanted.iter().zip(&mut survey.places).enumerate() {
        let (Some(key), Ok(place)) = (&want.key, place) else { continue };
        let Some(file) = place.file.as_mut().filter(|file| (1..=READ_LIMIT).contains(&file.stat.size)) else {
            continue;
        };
        let state = tree.at(&place.physical).map_or("", |known| known.state.as_str());
        let file_id: Vec<&str> = state.splitn(3, ':').take(2).collect();
        let (file_id, path) = (file_id.join(":"), &place.physical);
        // OK throughout: writing to a String cannot fail.
        match &key.kind {
            _ if !able.makes(key.kind.kind()) => continue,
            KeySpec::Token(token) => {
                let length = u64::try_from(token.length()).unwrap_or(u64::MAX);
                if file.stat.size != length && file.stat.size != length.saturating_add(1) {
                    file.judged = Some(Standing::OtherToken);
                    continue;
                }
                let _ = writeln!(text, "token {length} {} {file_id} {path}", characters(token));
            }
            KeySpec::WireGuard => drop(writeln!(text, "wireguard {file_id} {path}")),
            _ => drop(writeln!(text, "ssh {file_id} {path}")),
        }
        asked.push(index);
    }
    text.push_str(".\n");
    (text, asked)
}

/// How long the answer can be, in bytes.
pub(super) fn longest_answer(asked: &[usize]) -> usize {
    asked.len().saturating_mul(ABOUT_A_KEY).saturating_add(ABOUT_A_KEY)
}

/// Reads the answer into the survey; what the node can make.
pub(super) fn judged(
    session: &mut Session,
    wanted: &[Wanted],
    survey: &mut Survey,
    asked: &[usize],
) -> Result<Able, NodeError> {
    const GARBLED: NodeError = NodeError::Garbled("the answer about keys");
    let mut able = Able { token: false, ssh: false, wireguard: false };
    loop {
        match session.line()?.as_slice() {
            b"=" => break,
            b"makes token" => able.token = true,
            b"makes ssh" => able.ssh = true,
            b"makes wireguard" => able.wireguard = true,
            _ => return Err(GARBLED),
        }
    }
    for index in asked {
        let line = session.line()?;
        let line = std::str::from_utf8(&line).map_err(|_| GARBLED)?;
        let (Some(key), Some(Ok(place))) =
            (wanted.get(*index).and_then(|want| want.key.as_ref()), survey.places.get_mut(*index))
        else {
            return Err(GARBLED);
        };
        if let Some(file) = &mut place.file
            && able.makes(key.kind.kind())
        {
            file.judged = Some(verdict(&key.kind, line).ok_or(GARBLED)?);
        }
    }
    for (want, place) in wanted.iter().zip(&mut survey.places) {
        if let (Some(key), Ok(place)) = (&want.key, place) {
            place.key_maker = if able.makes(key.kind.kind()) { KeyMaker::Target } else { KeyMaker::HereForNode };
        }
    }
    match session.line()?.as_slice() {
        b"." => Ok(able),
        _ => Err(GARBLED),
    }
}

/// What a line says of a key; `None` where it says nothing.
fn verdict(kind: &KeySpec, line: &str) -> Option<Standing> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    Some(match (kind, word) {
        (KeySpec::Token(_), "yes") => Standing::Key(Public::Nothing),
        (KeySpec::Token(_), "no") => Standing::OtherToken,
        (KeySpec::WireGuard, "yes") if wireguard::is_public(rest) => Standing::Key(Public::WireGuard(rest.to_owned())),
        (KeySpec::WireGuard, "no") => Standing::Foreign(wireguard::OTHER),
        (KeySpec::SshHostEd25519 | KeySpec::SshEd25519, "yes") => {
            Standing::Key(Public::Ssh(SshPublicKey::parse(rest)?))
        }
        (KeySpec::SshHostEd25519 | KeySpec::SshEd25519, "no") => Standing::Foreign(match rest {
            "format" => ssh::NO_FORMAT,
            "passphrase" => ssh::PASSPHRASE,
            "type" => ssh::OTHER_TYPE,
            "damaged" => ssh::DAMAGED,
            _ => return None,
        }),
        _ => return None,
    })
}

/// True when a key stands that the node cannot judge after all, and that was not `asked` for.
pub(super) fn is_unread(asked: &[Wanted], wanted: &[Wanted], survey: &Survey, able: Able) -> bool {
    asked.iter().zip(wanted).zip(&survey.places).any(|((asked, want), place)| {
        let stands = place.as_ref().is_ok_and(|place| place.file.as_ref().is_some_and(|file| file.stat.size > 0));
        let is_judged = want.key.as_ref().is_none_or(|key| able.makes(key.kind.kind()));
        stands && !is_judged && asked.read_limit != want.read_limit
    })
}

/// The line by which a key is made.
pub(super) fn line(recipe: &Recipe) -> Result<String, NodeError> {
    Ok(match recipe {
        Recipe::Token { token, newline } => {
            let newline = if *newline { "newline" } else { "-" };
            format!("token {} {} {newline}\n", token.length(), characters(token))
        }
        Recipe::Ssh { comment } if comment.contains(['\n', '\0']) => {
            return Err(NodeError::Garbled("a comment with a line end"));
        }
        Recipe::Ssh { comment } => format!("ssh {comment}\n"),
        Recipe::PublicPart => "public\n".to_owned(),
        Recipe::WireGuard => "wireguard\n".to_owned(),
    })
}

/// An alphabet as tr(1) takes it, with nothing in it that has another meaning there.
fn characters(token: &TokenSpec) -> String {
    token.alphabet().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:03o}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::generate::GenerateSpec;

    fn kind(kind: KeyKind) -> KeySpec {
        GenerateSpec::new(kind, None, None, None).unwrap().kind
    }

    #[test]
    fn a_verdict_is_one_of_ours_or_nothing() {
        const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0pE/x/7hyW7HPqV1AviQbF2CY4qm1qZYQdNxZTAV+A";
        const WIREGUARD: &str = "pGhnFYU2SA+gmKJCbZWoTbtyUC4cMm8i/4dcRcV97EU=";
        let shown = |of: KeyKind, line: &str| match verdict(&kind(of), line) {
            None => "none".to_owned(),
            Some(Standing::Key(Public::Ssh(key))) => key.line(),
            Some(Standing::Key(Public::WireGuard(key))) => key,
            Some(Standing::Foreign(why)) => why.to_owned(),
            Some(other) => format!("{other:?}"),
        };
        for (of, line, want) in [
            (KeyKind::Token, "yes", "Key(Nothing)"),
            (KeyKind::Token, "no", "OtherToken"),
            (KeyKind::Token, "", "none"),
            (KeyKind::SshEd25519, &format!("yes {SSH}"), SSH),
            (KeyKind::SshEd25519, &format!("yes {SSH} a comment"), &format!("{SSH} a comment")),
            (KeyKind::SshEd25519, &format!("yes {SSH} \u{1b}[2J"), SSH),
            (KeyKind::SshEd25519, &format!("yes {}", SSH.replace("AAAAC3", "AAAAC4")), "none"),
            (KeyKind::SshEd25519, &format!("yes {}", SSH.replace("ssh-ed25519", "ssh-rsa")), "none"),
            (KeyKind::SshEd25519, "yes", "none"),
            (KeyKind::SshHostEd25519, "no passphrase", ssh::PASSPHRASE),
            (KeyKind::SshHostEd25519, "no reason", "none"),
            (KeyKind::WireGuard, &format!("yes {WIREGUARD}"), WIREGUARD),
            (KeyKind::WireGuard, "yes AAAA", "none"),
            (KeyKind::WireGuard, "no", wireguard::OTHER),
        ] {
            assert_eq!(shown(of, line), want, "{line}");
        }
    }

    #[test]
    fn what_makes_a_key_is_one_line() {
        let recipe = |kind, alphabet, comment| {
            let spec = GenerateSpec::new(kind, None, alphabet, comment).unwrap();
            line(&Recipe::of(&spec, "a@b", true).unwrap()).unwrap()
        };
        let token = recipe(KeyKind::Token, Some("-\\ab"), None);
        assert_eq!(token, "token 40 \\055\\134\\141\\142 newline\n");
        assert_eq!(recipe(KeyKind::SshEd25519, None, None), "ssh a@b\n");
        assert_eq!(recipe(KeyKind::SshHostEd25519, None, Some("x y")), "ssh x y\n");
        assert_eq!(recipe(KeyKind::WireGuard, None, None), "wireguard\n");
        assert_eq!(line(&Recipe::PublicPart).unwrap(), "public\n");
        assert!(line(&Recipe::Ssh { comment: "a\nb".into() }).is_err());
        let age = GenerateSpec::new(KeyKind::Age, None, None, None).unwrap();
        assert_eq!(Recipe::of(&age, "a@b", false), None);
    }
}
