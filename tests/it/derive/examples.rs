//! The examples of docs/templates.md, as they stand there: each makes the file that it promises.

use std::collections::BTreeMap;
use std::path::Path;

use super::Place;
use super::readers::python;
use crate::kit::canary::Canary;
use crate::kit::skipped_without_root;

/// The first block of each example, by its heading, without its indentation.
fn examples() -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/templates.md")).unwrap();
    let (_, examples) = page.split_once("\n## Examples\n").expect("a part with examples");
    let examples = examples.split("\n### ").skip(1).map(|section| {
        let (heading, text) = section.split_once('\n').unwrap();
        let lines = text.lines().skip_while(|line| !line.starts_with("    "));
        let block: Vec<&str> = lines.take_while(|line| line.starts_with("    ") || line.is_empty()).collect();
        let block: String =
            block.iter().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
        (heading.to_owned(), block)
    });
    examples.collect()
}

/// A place with one example as its only secret, and an export with these items: name, password, notes.
fn place(example: &str, items: &[(&str, &str, &str)]) -> Place {
    let secret: String = example.lines().map(|line| format!("  {line}\n")).collect();
    let place = Place::new(&format!(
        "sources:\n  vault: {{ type: bitwarden, path: export.json }}\nsecrets:\n{secret}hosts: {{ node1: }}\n"
    ));
    let items: Vec<serde_json::Value> = items
        .iter()
        .map(|(name, password, notes)| {
            serde_json::json!({ "id": name, "type": 1, "name": name, "notes": notes, "login": { "password": password },
                "fields": [{ "name": "known_hosts", "value": "git.example.org ssh-ed25519 AAAA", "type": 0 }] })
        })
        .collect();
    place.scratch.write("export.json", serde_json::json!({ "encrypted": false, "items": items }).to_string());
    place
}

/// Injects an example; what its file holds.
fn made(heading: &str, items: &[(&str, &str, &str)], path: &str) -> (Place, String) {
    let examples = examples();
    let example = examples.get(heading).unwrap_or_else(|| panic!("no example `{heading}` in {:?}", examples.keys()));
    let place = place(example, items);
    let mut run = place.run(&["inject", "root", "--host", "node1"]);
    for value in items.iter().flat_map(|(_, password, notes)| [password, notes]).filter(|value| value.len() >= 8) {
        run = run.plant(&Canary::of("a value", value.as_bytes()));
    }
    run.run().expect_code(0);
    let content = place.read(path);
    (place, content)
}

const HARD: &str = "p\"a'$\\s: # {x} `y`!";

#[test]
fn every_example_is_tested() {
    let tested = [
        "A Kubernetes Secret for FluxCD",
        "A WireGuard key of each host",
        "A netrc",
        "A registry for k3s",
        "Access tokens for Nix",
        "An environment for a service",
        "Wi-Fi: wpa_supplicant's secrets",
    ];
    assert_eq!(examples().keys().collect::<Vec<_>>(), tested);
}

#[test]
fn lines_of_wpa_supplicant_hold_the_value_as_it_is() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let (place, content) = made("Wi-Fi: wpa_supplicant's secrets", &[("Wifi", HARD, "")], "/etc/secrets/wifi.conf");
    assert!(content == format!("home_psk={HARD}\n"));
    // A passphrase that WPA does not take is refused by the example's expectation.
    let example = &examples()["Wi-Fi: wpa_supplicant's secrets"];
    drop(place);
    let place = self::place(example, &[("Wifi", "short", "")]);
    let run = place.run(&["inject", "root", "--host", "node1"]).run();
    run.expect_refusal("short", 1, &["wifi: the value does not match the `regex`"]);
}

#[test]
fn an_environment_is_read_by_systemd_and_a_shell() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let items = [("Database", HARD, ""), ("Mail", "two\nlines", "")];
    let (place, _) = made("An environment for a service", &items, "/etc/secrets/app.env");
    let file = place.at("/etc/secrets/app.env");
    let mut shell = std::process::Command::new("dash");
    shell.args(["-c", ". \"$1\"; printf '%s|%s' \"$DATABASE_PASSWORD\" \"$SMTP_PASSWORD\"", "sh"]).arg(&file);
    let said = crate::kit::tool(&mut shell).stdout;
    assert!(String::from_utf8(said).unwrap() == format!("{HARD}|two\nlines"));
}

#[test]
fn a_registry_of_k3s_has_the_password() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let (place, _) = made("A registry for k3s", &[("Registry", HARD, "")], "/etc/rancher/k3s/registries.yaml");
    let program = "import sys, yaml
configs = yaml.safe_load(open(sys.argv[1]))['configs']
print(configs['registry.example.org']['auth']['password'], end='')";
    assert!(python(program, &[&place.at("/etc/rancher/k3s/registries.yaml")]) == HARD);
}

#[test]
fn a_secret_of_kubernetes_parses_and_its_data_are_the_values() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    let path = "/var/lib/rancher/k3s/server/manifests/flux-git.yaml";
    let (place, _) = made("A Kubernetes Secret for FluxCD", &[("Flux deploy key", "x", key)], path);
    let program = "import base64, sys, yaml
namespace, secret = yaml.safe_load_all(open(sys.argv[1]))
assert (namespace['kind'], secret['kind'], secret['type']) == ('Namespace', 'Secret', 'Opaque')
assert secret['metadata']['namespace'] == 'flux-system'
assert sorted(secret['data']) == ['identity', 'known_hosts']
for name in sorted(secret['data']): print(base64.b64decode(secret['data'][name], validate=True).decode(), end='|')";
    assert!(python(program, &[&place.at(path)]) == format!("{key}|git.example.org ssh-ed25519 AAAA|"));
}

#[test]
fn access_tokens_of_nix_are_a_line_of_its_configuration() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let items = [("GitHub token", "github_pat_11ABC_def", "")];
    let (_, content) = made("Access tokens for Nix", &items, "/etc/nix/access-tokens.conf");
    assert!(content == "access-tokens = github.com=github_pat_11ABC_def\n");
}

#[test]
fn a_netrc_is_read_by_python() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let (place, _) = made("A netrc", &[("Cache", "s3cret-$x'y", "")], "/etc/nix/netrc");
    let program = "import netrc, sys\nprint(netrc.netrc(sys.argv[1]).authenticators('cache.example.org'))";
    let want = "('node1', '', \"s3cret-$x'y\")\n";
    let got = python(program, &[&place.at("/etc/nix/netrc")]);
    assert!(got == want || got == want.replace("'', ", "None, "), "{got}");
}

#[test]
fn a_wireguard_key_is_that_of_its_host() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    let (_, content) = made("A WireGuard key of each host", &[("wg-node1", key, "")], "/etc/secrets/wireguard.key");
    assert!(content == format!("{key}\n"));
}
