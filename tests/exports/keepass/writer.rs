//! Writes KeePass databases around any document, well-formed or not: for tests of what no other program would write.

use std::io::Write;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use flate2::Compression;
use flate2::write::GzEncoder;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};

/// A database of version 4 around `document`, with the password "x": one round of AES-KDF, ChaCha20, values not
/// encrypted.
pub fn database(document: &[u8], gzip: bool) -> Vec<u8> {
    let sha = |parts: &[&[u8]]| {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        <[u8; 32]>::from(hash.finalize())
    };
    let field = |id: u8, value: &[u8]| {
        let length = u32::try_from(value.len()).expect("it fits");
        [&[id], length.to_le_bytes().as_slice(), value].concat()
    };
    let item = |kind: u8, name: &str, value: &[u8]| {
        let name_length = u32::try_from(name.len()).expect("it fits").to_le_bytes();
        let length = u32::try_from(value.len()).expect("it fits").to_le_bytes();
        [&[kind], name_length.as_slice(), name.as_bytes(), &length, value].concat()
    };
    let uuid = b"\xc9\xd9\xf3\x9a\x62\x8a\x44\x60\xbf\x74\x0d\x08\xc1\x8a\x4f\xea";
    let kdf = [
        &[0, 1][..],
        &item(0x42, "$UUID", uuid),
        &item(5, "R", &1_u64.to_le_bytes()),
        &item(0x42, "S", &[7; 32]),
        &[0],
    ]
    .concat();
    let cipher = b"\xd6\x03\x8a\x2b\x8b\x6f\x4c\xb5\xa5\x24\x33\x9a\x31\xdb\xb5\x9a";
    let header = [
        &b"\x03\xd9\xa2\x9a\x67\xfb\x4b\xb5\x01\0\x04\0"[..],
        &field(2, cipher),
        &field(3, &u32::from(gzip).to_le_bytes()),
        &field(4, &[8; 32]),
        &field(7, &[9; 12]),
        &field(11, &kdf),
        &field(0, b"\r\n\r\n"),
    ]
    .concat();
    let block = |half: &[u8]| {
        let mut block = <[u8; 16]>::try_from(half).expect("16 bytes").into();
        Aes256::new_from_slice(&[7; 32]).expect("a key of 32 bytes").encrypt_block(&mut block);
        block
    };
    let composite = sha(&[&sha(&[b"x"])]);
    let transformed = sha(&[&block(&composite[..16]), &block(&composite[16..])]);
    let master = sha(&[&[8; 32], &transformed]);
    let hmac_key = Sha512::digest([&[8; 32], transformed.as_slice(), &[1]].concat());
    let mac = |index: u64, parts: &[&[u8]]| {
        let key = Sha512::digest([index.to_le_bytes().as_slice(), &hmac_key].concat());
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("it fits");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().to_vec()
    };
    let inner = [field(1, &0_u32.to_le_bytes()), field(2, b"key"), field(0, b"")].concat();
    let mut payload = Vec::new();
    if gzip {
        let mut encoder = GzEncoder::new(&mut payload, Compression::fast());
        encoder.write_all(&inner).expect("it fits");
        encoder.write_all(document).expect("it fits");
        encoder.finish().expect("it fits");
    } else {
        payload = [&inner, document].concat();
    }
    ChaCha20::new_from_slices(&master, &[9; 12]).expect("it fits").apply_keystream(&mut payload);
    let size = u32::try_from(payload.len()).expect("it fits").to_le_bytes();
    let zero = 0_u32.to_le_bytes();
    [
        header.clone(),
        sha(&[&header]).to_vec(),
        mac(u64::MAX, &[&header]),
        mac(0, &[&0_u64.to_le_bytes(), &size, &payload]),
        size.to_vec(),
        payload,
        mac(1, &[&1_u64.to_le_bytes(), &zero]),
        zero.to_vec(),
    ]
    .concat()
}
