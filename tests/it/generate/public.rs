//! What others may know of the keys: `--public-out`, exactly; and that it says nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::{Setup, age_public, piped, private_part, ssh_public, wg_public};

#[test]
fn the_file_is_known_hosts_and_names_each_public_part() {
    let setup = Setup::each_kind();
    setup.run("inject", &["--public-out", "keys"]).expect_code(0);
    let host_key = ssh_public(&setup.file("/etc/ssh/ssh_host_ed25519_key"));
    let deploy_key = ssh_public(&setup.file("/etc/secrets/deploy-key"));
    let wg = wg_public(&setup.content("/etc/secrets/wg0").unwrap());
    let age = age_public(&setup.content("/etc/secrets/backup.age").unwrap());
    let bare: Vec<&str> = host_key.split(' ').take(2).collect();
    let bare = bare.join(" ");
    let recipient = recipient_of(&bare);
    let want = format!(
        "# Public parts of the generated keys of node1, by deaddrop. Lines without # are known_hosts lines.\n\n\
         # host-key: ssh-host-ed25519, /etc/ssh/ssh_host_ed25519_key\n\
         # ssh public key: {host_key}\n\
         # age recipient: {recipient}\n\
         node1,192.168.1.11 {bare}\n\n\
         # deploy-key: ssh-ed25519, /etc/secrets/deploy-key\n\
         # ssh public key: {deploy_key}\n\n\
         # wg0: wireguard, /etc/secrets/wg0\n\
         # wireguard public key: {wg}\n\n\
         # backup: age, /etc/secrets/backup.age\n\
         # age recipient: {age}\n"
    );
    let path = setup.scratch.join("keys");
    assert_eq!(fs::read_to_string(&path).unwrap(), want);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    // ssh-keygen finds the host by both of its names.
    for name in ["node1", "192.168.1.11"] {
        let found = piped(Command::new("ssh-keygen").args(["-F", name, "-f"]).arg(&path), b"");
        assert!(found.contains(&bare), "{name}: {found}");
    }
    // The keys are kept now: a second run tells the same.
    fs::remove_file(&path).unwrap();
    setup.run("inject", &["--public-out", "keys"]).expect_code(0).expect_error("nothing to do");
    assert_eq!(fs::read_to_string(&path).unwrap(), want);

    setup.run("inject", &["--public-out", "keys.json"]).expect_code(0);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(setup.scratch.join("keys.json")).unwrap()).unwrap();
    let want = serde_json::json!({ "version": 1, "host": "node1", "keys": [
        { "secret": "host-key", "kind": "ssh-host-ed25519", "path": "/etc/ssh/ssh_host_ed25519_key",
          "ssh_public_key": host_key, "age_recipient": recipient, "known_hosts": format!("node1,192.168.1.11 {bare}") },
        { "secret": "deploy-key", "kind": "ssh-ed25519", "path": "/etc/secrets/deploy-key",
          "ssh_public_key": deploy_key },
        { "secret": "wg0", "kind": "wireguard", "path": "/etc/secrets/wg0", "wireguard_public_key": wg },
        { "secret": "backup", "kind": "age", "path": "/etc/secrets/backup.age", "age_recipient": age },
    ] });
    assert_eq!(json, want);
}

/// The age recipient of an SSH key by another program than ours: age encrypts to what we print, and decrypts with the
/// key.
fn recipient_of(public: &str) -> String {
    const SCRIPT: &str = "
import base64, sys
p = 2**255 - 19
alphabet = 'qpzry9x8gf2tvdw0s3jn54khce6mua7l'
def polymod(values):
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1ffffff) << 5 ^ value
        for i, g in enumerate((0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3)):
            check ^= g if top >> i & 1 else 0
    return check
y = int.from_bytes(base64.b64decode(sys.stdin.read().split()[1])[-32:], 'little') & (2**255 - 1)
u = ((1 + y) * pow(1 - y, p - 2, p) % p).to_bytes(32, 'little')
bits = int.from_bytes(u, 'big') << 4
data = [bits >> 5 * i & 31 for i in reversed(range(52))]
prefix = [ord(c) >> 5 for c in 'age'] + [0] + [ord(c) & 31 for c in 'age']
check = polymod(prefix + data + [0] * 6) ^ 1
print('age1' + ''.join(alphabet[i] for i in data + [check >> 5 * i & 31 for i in reversed(range(6))]))
";
    // RFC 7748 (the map from Edwards to Montgomery) and BIP 173 (Bech32), written down once more.
    piped(Command::new("python3").args(["-c", SCRIPT]), public.as_bytes()).trim_end().to_owned()
}

#[test]
fn age_decrypts_with_the_host_key_what_was_encrypted_to_its_ssh_public_key() {
    let setup = Setup::each_kind();
    setup.run("inject", &["--public-out", "keys"]).expect_code(0);
    let key = setup.file("/etc/ssh/ssh_host_ed25519_key");
    let public = ssh_public(&key);
    let encrypted = setup.scratch.join("encrypted");
    piped(Command::new("age").args(["-r", &public, "-o"]).arg(&encrypted), b"a message");
    assert_eq!(piped(Command::new("age").arg("-d").arg("-i").arg(&key).arg(&encrypted), b""), "a message");
    let identity = setup.file("/etc/secrets/backup.age");
    let recipient = age_public(&fs::read(&identity).unwrap());
    piped(Command::new("age").args(["-r", &recipient, "-o"]).arg(&encrypted), b"another");
    assert_eq!(piped(Command::new("age").arg("-d").arg("-i").arg(&identity).arg(&encrypted), b""), "another");
}

#[test]
fn without_a_host_there_is_no_line_for_known_hosts() {
    let setup = Setup::new("version: 1\nsecrets:\n  key: { path: /etc/ssh/key, generate: ssh-host-ed25519 }\n");
    super::Deaddrop::new(&setup.scratch).args(["inject", "raw-efi.img", "--public-out", "keys"]).run().expect_code(0);
    let text = fs::read_to_string(setup.scratch.join("keys")).unwrap();
    let public = ssh_public(&setup.file("/etc/ssh/key"));
    assert!(public.ends_with(" key"), "{public}");
    assert!(text.contains(&format!("# ssh public key: {public}\n")), "{text}");
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
}

#[test]
fn no_private_key_is_in_anything_that_is_said_or_left() {
    let setup = Setup::each_kind();
    let mut said = Vec::new();
    for args in [&["-vv", "--public-out", "keys"][..], &["-vv", "--public-out", "keys.json"], &["--json", "-vv"]] {
        let run = setup.deaddrop("inject", args).traced("%file,write").run().expect_code(0);
        assert!(run.trace().children().is_empty());
        said.extend([run.stdout(), run.stderr()]);
    }
    for command in ["plan", "verify"] {
        let run = setup.run(command, &["-vv"]).expect_code(0);
        said.extend([run.stdout(), run.stderr()]);
    }
    for file in ["keys", "keys.json"] {
        said.push(fs::read_to_string(setup.scratch.join(file)).unwrap());
    }
    let canaries = setup.canaries();
    assert_eq!(canaries.len(), 5);
    for text in &said {
        for canary in &canaries {
            assert_eq!(canary.found_in(text.as_bytes()), None);
        }
    }
    // The search itself finds what is there.
    let key = setup.content("/etc/secrets/deploy-key").unwrap();
    assert!(private_part("x", &key).unwrap().found_in(&key).is_some());
}

#[test]
fn a_file_that_cannot_be_made_stops_the_run_before_anything_is_changed() {
    let setup = Setup::each_kind();
    let before = crate::kit::sha256_of(&setup.image.path);
    fs::create_dir(setup.scratch.join("directory")).unwrap();
    symlink("/dev/null", setup.scratch.join("link")).unwrap();
    for (path, want) in [
        ("missing/keys", "No such file or directory"),
        ("directory", "no regular file"),
        ("link", "no regular file"),
        ("secrets.yaml/keys", "Not a directory"),
    ] {
        setup.run("inject", &["--public-out", path]).expect_refusal(
            path,
            1,
            &["--public-out", path, "nothing was changed", want],
        );
        assert_eq!(crate::kit::sha256_of(&setup.image.path), before, "{path}");
    }
    // What stands is replaced in one step, and a run that fails leaves it.
    setup.scratch.write("keys", "old\n");
    setup.run("inject", &["--root-partition", "9", "--public-out", "keys"]).expect_code(1);
    assert_eq!(fs::read_to_string(setup.scratch.join("keys")).unwrap(), "old\n");
    setup.run("inject", &["--public-out", "keys"]).expect_code(0);
    assert!(fs::read_to_string(setup.scratch.join("keys")).unwrap().contains("node1,192.168.1.11 ssh-ed25519 "));
}
