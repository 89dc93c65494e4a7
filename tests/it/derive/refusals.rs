//! Values that are not what they are declared to be: refused by name, with what they are not, and never shown.

use std::process::Command;

use super::Place;
use crate::kit::canary::Canary;
use crate::kit::{skipped_without_root, tool};

/// One secret `a` from an environment variable, with these keys.
fn one(keys: &str) -> Place {
    Place::new(&format!("secrets:\n  a: {{ path: /etc/a, from: env:VALUE, {keys} }}\n"))
}

/// The keys of a secret, what its value is with a planted word in it, and what is said of it.
type Case<'c> = (&'c str, &'c dyn Fn(&str) -> String, &'c [&'c str]);

/// Values that hold a planted word, and the refusal that each is to get.
fn refused(cases: &[Case<'_>]) {
    for (keys, value, want) in cases {
        let canary = Canary::new("the value");
        let place = one(keys);
        for command in [&["inject", "root"][..], &["plan", "root"], &["check", "--values"]] {
            let run = place.run(command).env("VALUE", value(canary.text())).plant(&canary).run();
            run.expect_refusal(keys, 1, &[&["a: "], *want].concat());
        }
        assert!(!place.at("etc/a").exists(), "{keys}");
    }
}

#[test]
fn what_is_not_encoded_as_declared_is_refused_without_showing_it() {
    refused(&[
        ("encoding: base64", &|value| format!("{value}*"), &["the value is not base64", "hint: "]),
        ("encoding: hex", &|value| format!("{value}x"), &["the value is not hexadecimal", "hint: "]),
        ("encoding: hex", &|value| format!("{value}0"), &["the value is not hexadecimal", "even number"]),
    ]);
}

#[test]
fn what_is_not_as_expected_is_refused_without_showing_it() {
    let ssh =
        |value: &str| format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{value}\n-----END OPENSSH PRIVATE KEY-----\n");
    refused(&[
        ("expect: { regex: '[A-Z]+' }", &str::to_owned, &["the value does not match the `regex`"]),
        ("expect: { regex: '[0-9a-f]+' }", &|value| format!("{value}\n"), &["without the newline at its end"]),
        ("expect: { min_length: 100 }", &str::to_owned, &["shorter than `expect` wants (`min_length: 100`)"]),
        ("expect: { kind: crypt-hash }", &str::to_owned, &["the value is no crypt-hash", "mkpasswd"]),
        ("expect: crypt-hash", &str::to_owned, &["the value is no crypt-hash"]),
        ("expect: ssh-private-key", &str::to_owned, &["the value is no ssh-private-key", "-----BEGIN"]),
        ("expect: ssh-private-key", &ssh, &["the value is no ssh-private-key"]),
        ("expect: ssh-private-key", &|value| format!("ssh-ed25519 {value}"), &["it is a public key"]),
        ("expect: pem", &str::to_owned, &["the value is no pem"]),
        ("expect: age-identity", &|value| format!("AGE-SECRET-KEY-1{value}"), &["the value is no age-identity"]),
        ("expect: wireguard-key", &str::to_owned, &["the value is no wireguard-key", "32 bytes"]),
        ("expect: k3s-token", &|value| format!("K10{value}::server:x"), &["the value is no k3s-token"]),
        // All of them have to hold.
        ("expect: { kind: k3s-token, min_length: 64 }", &str::to_owned, &["min_length: 64"]),
    ]);
}

#[test]
fn what_does_not_parse_is_refused_with_its_place_and_without_showing_it() {
    refused(&[
        ("format: json", &|value| format!("{{\n  \"a\": \"{value}\"b\n}}"), &["no json: line 2, column 50", "hint: "]),
        ("format: yaml", &|value| format!("a: \"{value}\n"), &["no yaml: line 1, column 4", "hint: "]),
        (
            "format: dotenv",
            &|value| format!("A={value}\nB=x {value}\n"),
            &["no dotenv: line 2, column 4 of it: white space"],
        ),
        (
            "format: dotenv, newline: true",
            &|value| format!("A=\"{value}"),
            &["no dotenv: line 1, column 3 of it: this quote"],
        ),
        ("format: netrc", &|value| format!("machine a password b {value}"), &["no netrc: line 1, column 22"]),
        ("format: ini", &|value| format!("[a]\n{value}\n"), &["no ini: line 2, column 1"]),
    ]);
}

#[test]
fn the_result_of_a_template_is_held_against_the_same() {
    let canary = Canary::new("the value");
    for (keys, template, want) in [
        ("format: json", "{ \"a\": {{ secret('env:VALUE') }} }", "a: the file would be no json: line 1, column"),
        ("expect: { regex: 'A=[A-Z]+' }", "A={{ secret('env:VALUE') }}", "a: the value does not match"),
        ("", "{% if host == 'other' %}{{ secret('env:VALUE') }}{% endif %}", "a: the template makes an empty file"),
    ] {
        let manifest = format!(
            "secrets:\n  a: {{ path: /etc/a, template: {}, {keys} }}\nhosts: {{ node1: }}\n",
            serde_json::to_string(template).unwrap()
        );
        let place = Place::new(&manifest.replace(", }", " }"));
        let run = place.run(&["inject", "root", "--host", "node1"]).env("VALUE", canary.text()).plant(&canary).run();
        run.expect_refusal(template, 1, &[want]);
    }
}

#[test]
fn what_is_encoded_arrives_decoded() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let place = Place::new(
        "secrets:\n  a: { path: /etc/a, from: env:A, encoding: base64, expect: { min_length: 6 } }\n  \
         b: { path: /etc/b, from: env:B, encoding: hex, newline: true }\n  \
         c: { path: /etc/c, from: env:C, encoding: base64, allow_empty: true }\n",
    );
    let run =
        |c: &str| place.run(&["inject", "root"]).env("A", " aHVu\ndGVyMg== \n").env("B", "61 62\r\n").env("C", c).run();
    run(" \n").expect_code(0);
    assert_eq!(
        (place.read("/etc/a"), place.read("/etc/b"), place.read("/etc/c")),
        ("hunter2".into(), "ab\n".into(), String::new())
    );
    place.declare("secrets:\n  c: { path: /etc/c, from: env:C, encoding: base64 }\n");
    run(" \n").expect_refusal("empty", 1, &["c: the value is empty when it is decoded", "allow_empty"]);
}

#[test]
fn keys_that_their_own_programs_make_are_as_expected() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let place = Place::new(
        "secrets:\n  ed25519: { path: /etc/1, from: file:values/ed25519, expect: ssh-private-key }\n  \
         rsa: { path: /etc/2, from: file:values/rsa, expect: ssh-private-key }\n  \
         ecdsa: { path: /etc/3, from: file:values/ecdsa, expect: ssh-private-key }\n  \
         age: { path: /etc/4, from: file:values/age, expect: age-identity }\n  \
         hash: { path: /etc/5, from: file:values/hash, expect: crypt-hash }\n  \
         pem: { path: /etc/6, from: file:values/ecdsa, expect: pem }\n",
    );
    let key = |name: &str, words: &[&str]| {
        let path = place.scratch.join(format!("values/{name}"));
        tool(Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "x"]).args(words).arg("-f").arg(path));
    };
    key("ed25519", &["-t", "ed25519"]);
    key("rsa", &["-t", "rsa", "-b", "2048", "-m", "PEM"]);
    key("ecdsa", &["-t", "ecdsa", "-m", "PKCS8"]);
    let age = tool(&mut Command::new("age-keygen")).stdout;
    place.value("age", age);
    place.value("hash", tool(Command::new("mkpasswd").args(["-m", "yescrypt", "hunter2"])).stdout);
    place.run(&["inject", "root"]).run().expect_code(0);

    // One that a passphrase protects, in the new and in the old format, and one without its last newline.
    place.declare("secrets:\n  a: { path: /etc/a, from: file:values/a, expect: ssh-private-key }\n");
    for words in [&["-t", "ed25519"][..], &["-t", "rsa", "-b", "2048", "-m", "PEM"], &["-t", "ecdsa", "-m", "PKCS8"]] {
        let path = place.scratch.join("values/a");
        let _ = std::fs::remove_file(&path);
        tool(Command::new("ssh-keygen").args(["-q", "-N", "passphrase"]).args(words).arg("-f").arg(path));
        place.run(&["inject", "root"]).run().expect_refusal(
            "protected",
            1,
            &["is protected by a passphrase", "ssh-keygen -p"],
        );
    }
    let key = std::fs::read_to_string(place.scratch.join("values/ed25519")).unwrap();
    place.value("a", key.trim_end());
    let cut = "secrets:\n  a: { path: /etc/a, from: file:values/a, expect: ssh-private-key, newline: false }\n";
    place.declare(cut);
    place.run(&["inject", "root"]).run().expect_refusal(
        "cut",
        1,
        &["the newline at its end is missing", "remove `newline: false`"],
    );
    place.declare(&cut.replace("false", "true"));
    place.run(&["inject", "root"]).run().expect_code(0);
    assert!(place.read("/etc/a") == key);
}
