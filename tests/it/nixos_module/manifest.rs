//! The manifest of several configurations.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{refused, repository, value_of};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, block_below};

/// The manifest of these configurations, by host; deaddrop accepts it.
#[track_caller]
fn manifest(hosts: &[(&str, &str)]) -> Value {
    let manifest = value_of(&expression(hosts));
    let scratch = Scratch::new();
    scratch.write("secrets.json", manifest.to_string());
    Deaddrop::new(&scratch).args(["check", "-m", "secrets.json"]).run().expect_code(0);
    manifest
}

fn expression(hosts: &[(&str, &str)]) -> String {
    let hosts: Vec<String> =
        hosts.iter().map(|(host, deaddrop)| format!("{host} = node {{ deaddrop = {{ {deaddrop} }}; }};")).collect();
    format!("manifest {{ {} }}", hosts.join(" "))
}

#[test]
fn what_all_hosts_have_is_for_all_and_what_some_have_names_them() {
    let all = r#"secrets.all.from = "vault:{host} key"; sources.vault = { type = "bitwarden"; path = "a.json"; };"#;
    let some = format!(r#"{all} secrets.some.from = "env:S";"#);
    let manifest = manifest(&[("node1", all), ("node2", &some), ("node3", &some)]);
    assert_eq!(
        manifest,
        json!({
            "version": 1,
            "allow": {},
            "sources": { "vault": { "type": "bitwarden", "path": "a.json" } },
            "hosts": { "node1": {}, "node2": {}, "node3": {} },
            "secrets": {
                "all": { "from": "vault:{host} key", "path": "/etc/secrets/all" },
                "some": { "from": "env:S", "path": "/etc/secrets/some", "hosts": ["node2", "node3"] },
            },
            "serial": [],
        })
    );
}

#[test]
fn secrets_of_one_name_that_differ_are_one_entry_for_each_form_named_after_its_first_host() {
    let here = r#"secrets.key = { from = "env:K"; path = "/etc/ssh/key"; };"#;
    let there = r#"secrets.key = { from = "env:K"; path = "/persist/ssh/key"; };"#;
    let manifest = manifest(&[("node1", here), ("node2", there), ("node3", here), ("node4", "")]);
    assert_eq!(
        manifest["secrets"],
        json!({
            "key@node1": { "from": "env:K", "path": "/etc/ssh/key", "hosts": ["node1", "node3"] },
            "key@node2": { "from": "env:K", "path": "/persist/ssh/key", "hosts": ["node2"] },
        })
    );
    let clash =
        [("a", r#"secrets = { "k@a".from = "env:A"; k.from = "env:A"; };"#), ("b", r#"secrets.k.from = "env:B";"#)];
    refused(&expression(&clash), "two secrets would be named `k@a`");
}

#[test]
fn the_token_of_a_cluster_is_not_parted() {
    let token = |more: &str| format!(r#"secrets.token = {{ from = "env:T"; kind = "k3s-token"; {more} }};"#);
    let (one, elsewhere) = (token(""), token(r#"path = "/persist/token";"#));
    let of = |nodes: &[&str]| {
        let named: Vec<(String, &str)> =
            nodes.iter().enumerate().map(|(at, node)| (format!("node{at}"), *node)).collect();
        expression(&named.iter().map(|(name, node)| (name.as_str(), *node)).collect::<Vec<_>>())
    };
    refused(&of(&[&one, &one, &elsewhere]), "the token `token` of a cluster is not declared alike on node0 and node2");
    let other = token("").replace("env:T", "env:U");
    let manifest = value_of(&of(&[&one, &one, &other]));
    assert_eq!(manifest["secrets"]["token@node0"]["hosts"], json!(["node0", "node1"]));
    assert_eq!(manifest["secrets"]["token@node2"]["hosts"], json!(["node2"]));
}

#[test]
fn settings_of_hosts_are_their_own_and_serial_is_of_all() {
    let one = r#"ssh = "root@10.0.0.1"; tags = [ "server" ]; serial = [ "server" "db" ]; allow.NX114 = "why";"#;
    let two =
        r#"ssh = "node2"; become = "doas"; defaults.persist_root = "/persist"; serial = "server"; tags = [ "db" ];"#;
    let manifest = manifest(&[("node1", one), ("node2", two)]);
    assert_eq!(
        manifest["hosts"],
        json!({
            "node1": { "ssh": "root@10.0.0.1", "tags": ["server"], "allow": { "NX114": "why" } },
            "node2": { "ssh": "node2", "become": "doas", "persist_root": "/persist", "tags": ["db"] },
        })
    );
    assert_eq!(manifest["serial"], json!(["db", "server"]));
}

#[test]
fn what_all_hosts_allow_is_allowed_of_their_sources_too() {
    let all = r#"allow.DD308 = "a test";"#;
    let text = [("node1", all), ("node2", r#"allow = { DD308 = "the same"; NX101 = "why"; };"#)];
    let manifest = manifest(&text);
    assert_eq!(manifest["allow"], json!({ "DD308": "a test" }));
    assert_eq!(manifest["hosts"]["node2"]["allow"], json!({ "DD308": "the same", "NX101": "why" }));

    let source = r#"sources.v = { type = "dotenv"; path = "v.env"; }; secrets.a.from = "v:A";"#;
    let scratch = Scratch::new();
    let values = scratch.write("v.env", "A=made-up\n");
    fs::set_permissions(values, Permissions::from_mode(0o644)).unwrap();
    for (allow, told) in [("", true), (all, false)] {
        let node = format!("{source} {allow}");
        let manifest = value_of(&expression(&[("node1", &node), ("node2", &node)]));
        scratch.write("secrets.json", manifest.to_string());
        let run = Deaddrop::new(&scratch).args(["check", "--values", "--json", "-m", "secrets.json"]).run();
        let warnings = run.expect_code(0).json()["warnings"].take();
        assert_eq!(warnings[0]["code"] == "DD308", told, "{warnings}");
    }
}

#[test]
fn a_source_is_one_for_all_hosts() {
    let source = |path: &str| format!(r#"sources.vault = {{ type = "bitwarden"; path = "{path}"; }};"#);
    let (one, other) = (source("a.json"), source("b.json"));
    assert_eq!(manifest(&[("a", &one), ("b", ""), ("c", &one)])["sources"].as_object().unwrap().len(), 1);
    let differing = expression(&[("a", ""), ("b", &one), ("c", &one), ("d", &other)]);
    refused(&differing, "the source `vault` is not the same on b and d");
}

#[test]
fn a_configuration_without_the_module_is_left_out() {
    let text = r#"manifest { iso = lib.evalModules { modules = [ { options.a = lib.mkOption { }; } ]; };
      node1 = node { deaddrop.secrets.a.from = "env:A"; }; }"#;
    let manifest = value_of(text);
    assert_eq!(manifest["hosts"], json!({ "node1": {} }));
    assert_eq!(manifest["secrets"]["a"], json!({ "from": "env:A", "path": "/etc/secrets/a" }));
    assert_eq!(value_of("manifest { }")["hosts"], json!({}));
}

#[test]
fn a_hundred_hosts_are_one_manifest() {
    let text = r#"manifest (builtins.listToAttrs (map (at: { name = "node${toString at}"; value = node {
      deaddrop = { secrets.a.from = "env:A"; secrets.b.from = "env:B${toString (at / 50)}"; }; }; })
      (builtins.genList (at: at) 100)))"#;
    let manifest = value_of(text);
    assert_eq!(manifest["hosts"].as_object().unwrap().len(), 100);
    let names: Vec<&String> = manifest["secrets"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["a", "b@node0", "b@node50"]);
}

#[test]
fn the_configuration_of_the_manual_gives_the_manifest_of_the_manual() {
    let page = fs::read_to_string(repository().join("docs/nixos-module.md")).unwrap();
    let node = block_below(&page, "node");
    let manifest = value_of(&format!("manifest {{ node1 = node ({node}); }}"));
    assert_eq!(manifest, serde_json::from_str::<Value>(&block_below(&page, "manifest")).unwrap());
    assert_eq!(value_of(&format!("(node ({node})).config.services.k3s.tokenFile")), json!("/etc/secrets/k3s-token"));
}
