//! Files that exceed a limit or are not supported. Files of gpg are tested with the exports.

use std::time::{Duration, Instant};

use super::*;

/// A packet in the new format.
fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc0 | tag, 0xff];
    packet.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    packet.extend(body);
    packet
}

/// A key for a passphrase (SKESK), version 4, AES-256, with this S2K specifier.
fn key(s2k: &[u8]) -> Vec<u8> {
    packet(3, &[&[4, 9], s2k].concat())
}

/// Iterated and salted SHA-256, with the largest count.
fn iterated() -> Vec<u8> {
    [&[3, 8][..], &[1; 8], &[255]].concat()
}

fn argon2(t: u8, p: u8, m: u8) -> Vec<u8> {
    [&[4][..], &[1; 16], &[t, p, m]].concat()
}

fn data() -> Vec<u8> {
    packet(18, &[&[1][..], &[7; 60]].concat())
}

fn error_text(file: &[u8]) -> String {
    let secret = deaddrop_core::secret::Secret::new(b"planted".to_vec());
    let derivation = kdf::Derivation { whose: "s".to_owned(), limit: KdfLimit::Bounded, tell: None };
    let mut password = Password::new(secret, "s", &crate::PasswordSpec::File("pw".into()), derivation);
    let OpenPgpError(what, _) = decrypt(Zeroizing::new(file.to_vec()), &mut password).unwrap_err();
    assert!(!what.contains("planted"));
    what
}

#[test]
fn what_is_asked_for_is_judged_before_it_is_done() {
    let started = Instant::now();
    for (name, file, want) in [
        ("2 GiB", [key(&argon2(1, 4, 21)), data()].concat(), "asks for 2^21 KiB of memory (Argon2), and at most 1 GiB"),
        ("2^255 KiB", [key(&argon2(1, 4, 255)), data()].concat(), "asks for 2^255 KiB of memory"),
        ("passes", [key(&argon2(33, 4, 16)), data()].concat(), "asks for 33 passes and 4 lanes (Argon2)"),
        ("lanes", [key(&argon2(1, 255, 16)), data()].concat(), "asks for 1 passes and 255 lanes (Argon2)"),
        ("another S2K", [key(&[100, 1, 2, 3]), data()].concat(), "its key derivation (S2K) is one that is not known"),
        ("five keys", [key(&iterated()).repeat(5), data()].concat(), "encrypted to over 4 keys or passphrases"),
        (
            "very many keys",
            [key(&iterated()).repeat(100_000), data()].concat(),
            "encrypted to over 4 keys or passphrases",
        ),
        ("no key", data(), "it is encrypted to a person's key, and not with a passphrase"),
        (
            "unprotected",
            [key(&iterated()), packet(9, &[7; 60])].concat(),
            "it is encrypted without protection against changes",
        ),
        ("a signature", packet(4, &[0; 20]), "this is OpenPGP, but not an encrypted file"),
        ("a literal", packet(11, b"b\0\0\0\0\0x"), "this is OpenPGP, but not an encrypted file"),
        ("only a key", key(&iterated()), "the encrypted file is damaged"),
        ("nothing", Vec::new(), "the encrypted file is damaged"),
        ("no packet", b"planted".to_vec(), "the encrypted file is damaged"),
        ("a long packet", vec![0xc3, 0xff, 0xff, 0xff, 0xff, 0xff], "the encrypted file is damaged"),
        (
            "empty armour",
            b"-----BEGIN PGP MESSAGE-----\n\n-----END PGP MESSAGE-----\n".to_vec(),
            "the encrypted file is damaged",
        ),
        ("no armour", b"-----BEGIN CERTIFICATE-----\n".to_vec(), "the encrypted file is damaged"),
        (
            "armour without end",
            [b"-----BEGIN PGP MESSAGE-----\nA: ".to_vec(), b"x".repeat(1 << 20)].concat(),
            "the encrypted file is damaged",
        ),
    ] {
        let told = error_text(&file);
        assert!(told.contains(want), "{name}: {told}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn four_keys_are_tried_and_a_little_argon2_is_done() {
    assert_eq!(
        error_text(&[key(&iterated()).repeat(2), key(&argon2(1, 1, 8)).repeat(2), data()].concat()),
        "its password is wrong"
    );
}

#[test]
fn headers_are_read_in_both_formats() {
    let body = |bytes: &[u8]| {
        PacketHeader::read(&[bytes, &[0; 300]].concat(), 0).map(|header| (header.tag, header.body, header.end))
    };
    for (bytes, want) in [
        (&[0xcb, 5][..], Some((11, 2, Some(7)))),
        (&[0xcb, 192, 1], Some((11, 3, Some(196)))),
        (&[0xcb, 255, 0, 0, 1, 0], Some((11, 6, Some(262)))),
        (&[0xcb, 224], Some((11, 2, None))),
        (&[0xac, 5], Some((11, 2, Some(7)))),
        (&[0xad, 1, 0], Some((11, 3, Some(259)))),
        (&[0xae, 0, 0, 1, 0], Some((11, 5, Some(261)))),
        (&[0xa3], Some((8, 1, None))),
        (&[0xcb, 255, 255, 255, 255, 255], None),
        (&[0x4b, 5], None),
    ] {
        assert_eq!(body(bytes), want, "{bytes:x?}");
    }
    assert!(
        PacketHeader::read(&[0xcb], 0).is_none()
            && PacketHeader::read(&[], 0).is_none()
            && PacketHeader::read(&[1], usize::MAX).is_none()
    );
}
