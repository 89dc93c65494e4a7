//! Generated keys are recognised, and nothing else is. tests/it/generate checks them with other programs.

use std::time::{Duration, SystemTime};

use super::*;
use crate::derive::generate::KeyKind;

fn spec(kind: KeyKind) -> GenerateSpec {
    GenerateSpec::new(kind, None, None, None).unwrap()
}

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

#[test]
fn each_kind_is_recognised_as_itself_and_as_no_other() {
    for made in KeyKind::ALL {
        let key = make(&spec(made), "a comment", NOW + Duration::from_secs(1_768_638_600)).unwrap();
        for looked_for in KeyKind::ALL {
            let found = recognise(&spec(looked_for), key.private.expose());
            let same = made == looked_for || (made.has_public_file() && looked_for.has_public_file());
            match (same, looked_for) {
                (true, _) => assert_eq!(found, ExistingKey::Key(key.public.clone()), "{made:?} as {looked_for:?}"),
                (false, KeyKind::Token) => assert_eq!(found, ExistingKey::OtherToken, "{made:?}"),
                (false, _) => {
                    assert!(matches!(found, ExistingKey::Foreign(_)), "{made:?} as {looked_for:?}: {found:?}")
                }
            }
        }
    }
    for kind in KeyKind::ALL {
        assert_eq!(recognise(&spec(kind), b""), ExistingKey::Empty, "{kind:?}");
    }
}

#[test]
fn an_ssh_key_becomes_the_age_recipient_that_ssh_to_age_prints() {
    // Test data of ssh-to-age: cmd/ssh-to-age/test-assets/id_ed25519.pub and keyscan.txt; results from its README.md.
    for (line, want) in [
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOHz+U0YtjINc54dZiJNclfmEFifF7RXCFlNlTbuZBji joerg@turingmachine",
            "age17044m9wgakla6pzftf4srtl3h5mcsr85jysgt5fg23zpnta8sfdqhzn452",
        ),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF/KPU3Z5LSjbBI6hrq25wCcseq2UpqSzUFZRr+ux6LM",
            "age1hjm3aujg9e79f5yth8a2cejzdjg5n9vnu96l05p70uvfpeltnpms7yy3pp",
        ),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIL2vjdqpppuCn7yPdF2muINriAG7zBWrsELKpPWkhn5",
            "age1v8zjc47jmlqwefyu66s0d4ke98qr4vnuj3cpvs4z9npfdw833dxqwjrhzv",
        ),
    ] {
        let key = SshPublicKey::parse(line).unwrap();
        assert_eq!(key.line(), line);
        assert_eq!(key.age_recipient().as_deref(), Some(want));
    }
}

#[test]
fn the_public_file_is_in_step_whatever_its_comment_is() {
    let Public::Ssh(key) = make(&spec(KeyKind::SshEd25519), "deploy@node1", NOW).unwrap().public else { panic!() };
    let Public::Ssh(other) = make(&spec(KeyKind::SshEd25519), "deploy@node1", NOW).unwrap().public else { panic!() };
    let bare = key.without_comment();
    for (content, want) in [
        (format!("{}\n", key.line()), true),
        (format!("{bare}\n"), true),
        (format!("{bare} root@elsewhere\n"), true),
        (bare.clone(), true),
        (format!("{bare}x\n"), false),
        (format!("{bare}\n{bare}\n"), false),
        (format!("{}\n", other.line()), false),
        (String::new(), false),
    ] {
        assert_eq!(key.is_in(content.as_bytes()), want, "{content}");
    }
}

/// A key's file with one bit of each decoded byte flipped, one byte at a time.
fn damaged(file: &[u8]) -> Vec<Vec<u8>> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let text = std::str::from_utf8(file).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let bytes = STANDARD.decode(base64).unwrap();
    let broken = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let base64 = STANDARD.encode(bytes);
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{base64}\n-----END OPENSSH PRIVATE KEY-----\n").into_bytes()
    };
    (0..bytes.len()).map(broken).collect()
}

#[test]
fn a_key_with_any_bit_turned_is_no_key_and_is_never_taken_for_one() {
    let key = make(&spec(KeyKind::SshEd25519), "c", NOW).unwrap();
    let same = damaged(key.private.expose())
        .iter()
        .filter(|file| recognise(&spec(KeyKind::SshEd25519), file) == ExistingKey::Key(key.public.clone()))
        .count();
    assert_eq!(same, 0);
    // Except the byte of the comment, which nothing authenticates.
    let foreign = damaged(key.private.expose());
    let others = foreign
        .iter()
        .filter(|file| matches!(recognise(&spec(KeyKind::SshEd25519), file), ExistingKey::Key(_)))
        .count();
    assert_eq!(others, 1);
    for cut in 0..key.private.len() - 1 {
        let found = recognise(&spec(KeyKind::SshEd25519), &key.private.expose()[..cut]);
        assert!(!matches!(found, ExistingKey::Key(_)), "{cut}");
    }
}

#[test]
fn a_comment_that_is_more_than_a_line_is_left_out_of_the_public_part() {
    for (comment, want) in [("root@node1", "root@node1"), ("a\nb", ""), ("a\u{1b}[2J", ""), ("\u{202e}x", ""), ("", "")]
    {
        let (file, _) = ssh::encode(&[7; 32], 1, comment);
        let ExistingKey::Key(Public::Ssh(public)) = recognise(&spec(KeyKind::SshEd25519), file.expose()) else {
            panic!("{comment:?}")
        };
        assert_eq!(public.line().split(' ').nth(2).unwrap_or_default(), want, "{comment:?}");
    }
}

#[test]
fn what_is_there_instead_is_told() {
    let ssh = spec(KeyKind::SshEd25519);
    for (name, content, want) in [
        ("text", "hello\n", "it is no private key in OpenSSH's format"),
        (
            "PEM",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "it is no private key in OpenSSH's format",
        ),
        (
            "nothing inside",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
            "it is a damaged key of OpenSSH",
        ),
    ] {
        assert_eq!(recognise(&ssh, content.as_bytes()), ExistingKey::Foreign(want), "{name}");
    }
    // 31 and 33 bytes. A public key has the same form as a private one.
    for content in
        ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", "x"]
    {
        assert!(
            matches!(recognise(&spec(KeyKind::WireGuard), content.as_bytes()), ExistingKey::Foreign(_)),
            "{content}"
        );
    }
    for content in ["# only a comment\n", "age1c2srarecsn39hxekm55akmw630v88vjfxgnqqv9xll8x0rx4rgmsllxlvz\n", "x"] {
        assert!(matches!(recognise(&spec(KeyKind::Age), content.as_bytes()), ExistingKey::Foreign(_)), "{content}");
    }
}

#[test]
fn an_age_identity_has_the_comments_of_age_keygen() {
    let key = make(&spec(KeyKind::Age), "", NOW + Duration::from_secs(1_768_638_600)).unwrap();
    let Public::Age(recipient) = key.public else { panic!() };
    let text = std::str::from_utf8(key.private.expose()).unwrap();
    let start = format!("# created: 2026-01-17T08:30:00Z\n# public key: {recipient}\nAGE-SECRET-KEY-1");
    assert!(text.starts_with(&start) && text.ends_with('\n') && text.lines().count() == 3);
}
