//! The options: they are the manifest's keys, with its types; where a secret goes; what is refused and warned of when a
//! configuration is evaluated.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::{evaluate, refused, repository, texts_of, value_of};
use crate::kit::Scratch;
use crate::kit::run::Deaddrop;

fn schema() -> Value {
    serde_json::from_slice(&fs::read(repository().join("docs/manifest.schema.json")).unwrap()).unwrap()
}

/// The keys of an object of the schema.
fn keys(object: &Value) -> BTreeSet<String> {
    object["properties"].as_object().unwrap().keys().cloned().collect()
}

fn set(names: Vec<String>) -> BTreeSet<String> {
    names.into_iter().collect()
}

#[test]
fn every_key_of_the_manifest_is_an_option_and_every_option_is_a_key() {
    let schema = schema();
    let names = |of: &str| {
        let node = r#"(node { deaddrop.secrets.x.from = "env:X"; }).config.deaddrop"#;
        set(texts_of(&format!("builtins.attrNames {node}{of}")))
    };
    // What a host gets is declared in its own configuration.
    let mut secret = keys(&schema["$defs"]["secret"]);
    assert!(secret.remove("hosts"));
    assert_eq!(names(".secrets.x"), secret);
    assert_eq!(names(".defaults"), keys(&schema["$defs"]["defaults"]));

    let mut node = keys(&schema["$defs"]["host"]);
    node.extend(keys(&schema));
    node.retain(|key| key != "version" && key != "hosts");
    // What the manifest is made from; internal.
    node.insert("manifest".to_owned());
    assert_eq!(names(""), node);
}

#[test]
fn every_option_has_the_description_of_its_key() {
    let without = r#"builtins.filter (key: (options.${key}.description or "") == "") (builtins.attrNames options)"#;
    assert_eq!(value_of(&format!("let options = (node {{ }}).options.deaddrop; in {without}")), json!([]));
    let ssh = value_of("(node { }).options.deaddrop.ssh.description");
    assert_eq!(ssh, schema()["$defs"]["host"]["properties"]["ssh"]["description"]);
}

/// For each key of a secret a right value, in Nix, and a wrong one.
const SECRET: [(&str, &str, &str); 29] = [
    ("path", r#""/etc/x""#, r#""etc/x""#),
    ("from", r#"{ source = "env"; item = "X"; }"#, r#"{ item = "X"; }"#),
    ("template", r#""a""#, "1"),
    ("template_file", r#""a.tmpl""#, "[ ]"),
    ("encoding", r#""base64""#, r#""base65""#),
    ("expect", r#"{ kind = "pem"; min_length = 4; }"#, r#"{ kind = "pen"; }"#),
    ("format", r#""dotenv""#, r#""value""#),
    ("generate", r#"{ kind = "token"; length = 20; per_host = true; }"#, r#"{ kind = "token"; length = 4097; }"#),
    ("absent", "true", r#""true""#),
    ("hash", r#""yescrypt""#, r#""md5""#),
    ("owner", "1000", "(-1)"),
    ("group", r#""users""#, r#""a b""#),
    ("mode", r#""0440""#, r#""0777""#),
    ("directory_mode", r#""0750""#, "750"),
    ("directory_owner", r#""root:users""#, r#""a:b:c""#),
    ("newline", r#""ensure""#, r#""yes""#),
    ("used_by", r#""services.k3s.tokenFile""#, "{ }"),
    ("kind", r#""k3s-token""#, r#""k8s-token""#),
    ("keep_old", r#""/etc/secrets/old""#, r#""old""#),
    ("restart", r#"[ "a.service" "b" ]"#, "[ 1 ]"),
    ("reload", r#""a.service""#, "true"),
    ("try_restart", r#"[ "a.service" ]"#, "null"),
    ("run_after", r#"[ [ "logger" "x" ] ]"#, r#"[ "logger" ]"#),
    ("health", r#"{ command = [ "true" ]; timeout = 10; }"#, r#"{ command = "true"; }"#),
    ("settle", "60", "3601"),
    ("output", r#""hide""#, r#""show""#),
    ("apply_password", "true", "1"),
    ("allow_empty", "true", r#""""#),
    ("allow_world_readable", "false", "0"),
];

#[test]
fn each_option_takes_what_the_manifest_takes_and_refuses_the_rest() {
    let mut tested: BTreeSet<String> = SECRET.iter().map(|(key, _, _)| (*key).to_owned()).collect();
    tested.extend(["allow".to_owned(), "hosts".to_owned()]);
    assert_eq!(tested, keys(&schema()["$defs"]["secret"]), "a key has no line in the table");
    let taken = |key: &str, value: &str| {
        let secrets = format!("(node {{ deaddrop.secrets.x.{key} = {value}; }}).config.deaddrop.secrets");
        format!("(builtins.tryEval (builtins.deepSeq {secrets}.x.{key} true)).success")
    };
    let cases: Vec<String> = SECRET
        .iter()
        .map(|(key, right, wrong)| {
            format!(r#"{{ name = "{key}"; value = [ {} {} ]; }}"#, taken(key, right), taken(key, wrong))
        })
        .collect();
    let found = value_of(&format!("builtins.listToAttrs [ {} ]", cases.join(" ")));
    for (key, _, _) in SECRET {
        assert_eq!(found[key], json!([true, false]), "{key}");
    }
}

#[test]
fn what_the_options_give_is_a_manifest_that_holds() {
    // Keys that go with each other.
    let text = r#"manifest { node1 = node {
      users.users.bob = { };
      deaddrop.ssh = "ssh://ops@node1.example.org:2222";
      deaddrop.tags = [ "a" ];
      deaddrop.become = "sudo";
      deaddrop.become_password = "vault:node1";
      deaddrop.ssh_options = [ "ProxyJump=bastion" ];
      deaddrop.allow.NX113 = "known";
      deaddrop.serial = "a";
      deaddrop.sources.vault = { type = "keepass"; path = "a.kdbx"; key_file = "k"; password.exec = [ "pw" ]; };
      deaddrop.sources.table = { type = "csv"; path = "a.csv"; columns = { item = 1; password = 2; }; };
      deaddrop.defaults = { owner = "bob"; mode = "0440"; group = 100; settle = 7; };
      deaddrop.secrets = {
        a = { from = "vault:a#b"; encoding = "hex"; expect = "pem"; newline = true; restart = "a"; reload = "b";
          try_restart = "c"; run_after = [ [ "true" ] ]; health.command = [ "true" ]; output = "hide"; settle = 1;
          directory_mode = "0750"; directory_owner = "bob:users"; allow.DD301 = "why"; kind = "k3s-token"; };
        b = { from = { source = "vault"; item = "b: c"; field = "d"; }; hash = "yescrypt"; apply_password = true;
          used_by = "users.users.bob.hashedPasswordFile"; };
        c = { template = "{{ secret('vault:c') }}"; format = "ini"; allow_empty = true; };
        d = { generate = { kind = "token"; length = 60; alphabet = "abc"; }; };
        e = { generate = "wireguard"; owner = "root"; mode = "0400"; group = "root"; };
        f.absent = true;
        g = { from = "env:G"; mode = "0444"; allow_world_readable = true; };
      };
    }; }"#;
    let manifest = value_of(text);
    let scratch = Scratch::new();
    scratch.write("secrets.json", manifest.to_string());
    Deaddrop::new(&scratch).args(["check", "-m", "secrets.json"]).run().expect_code(0);
    let a = &manifest["secrets"]["a"];
    assert_eq!((&a["restart"], &a["owner"], &a["mode"]), (&json!(["a"]), &json!("bob"), &json!("0440")));
    assert_eq!((&a["settle"], &manifest["secrets"]["c"]["settle"]), (&json!(1), &json!(7)));
    assert_eq!(manifest["secrets"]["e"]["mode"], json!("0400"));
    assert_eq!(manifest["secrets"]["f"], json!({ "absent": true, "path": "/etc/secrets/f", "settle": 7 }));
}

#[test]
fn every_kind_of_source_can_be_declared_with_all_of_its_keys() {
    let schema = schema();
    for form in schema["$defs"]["source"]["oneOf"].as_array().unwrap() {
        let kind = form["properties"]["type"]["const"].as_str().unwrap();
        let given: Vec<String> = keys(form)
            .iter()
            .map(|key| match key.as_str() {
                "type" => format!(r#"type = "{kind}";"#),
                "password" => r#"password.env = "PW";"#.to_owned(),
                "kdf_limit" => r#"kdf_limit = "none";"#.to_owned(),
                "columns" => r#"columns.item = "Title";"#.to_owned(),
                "format" => r#"format = "json";"#.to_owned(),
                "argv" => r#"argv = [ "vault" ];"#.to_owned(),
                "timeout" => "timeout = 9;".to_owned(),
                other => format!(r#"{other} = "a";"#),
            })
            .collect();
        let text =
            format!("(manifest {{ a = node {{ deaddrop.sources.s = {{ {} }}; }}; }}).sources.s", given.join(" "));
        let found: BTreeSet<String> = value_of(&text).as_object().unwrap().keys().cloned().collect();
        assert_eq!(found, keys(form), "{kind}");
    }
    refused(r#"(node { deaddrop.sources.s.type = "bitwarded"; }).config.deaddrop.sources.s.type"#, "is not of type");
    refused(r#"(node { deaddrop.sources.s.path = "a"; }).config.deaddrop.sources.s.type"#, "sources.s.type");
}

#[test]
fn a_secret_without_a_path_goes_where_the_node_keeps_it() {
    let overlay = "system.etc.overlay.enable = true;";
    for (configuration, path) in [
        ("", "/etc/secrets/a"),
        (overlay, "/etc/secrets/a"),
        ("system.etc.overlay = { enable = true; mutable = false; };", "/var/lib/secrets/a"),
        (r#"system.etc.overlay = { enable = true; mutable = false; }; deaddrop.persist_root = "/p";"#, "/p/secrets/a"),
        (r#"deaddrop.persist_root = "/persist/";"#, "/persist/secrets/a"),
        (r#"deaddrop.defaults.persist_root = "/persist";"#, "/persist/secrets/a"),
        (r#"deaddrop.defaults.persist_root = "/a"; deaddrop.persist_root = "/b";"#, "/b/secrets/a"),
        (r#"deaddrop.secrets.a.path = "/root/a";"#, "/root/a"),
    ] {
        let secret = r#"imports = [ { deaddrop.secrets.a.from = "env:A"; } ];"#;
        let text = format!("(node {{ {secret} {configuration} }}).config.deaddrop.secrets.a.path");
        assert_eq!(value_of(&text), json!(path), "{configuration}");
    }
    let host = r#"(manifest { a = node { deaddrop.defaults.persist_root = "/persist"; }; }).hosts.a"#;
    assert_eq!(value_of(host), json!({ "persist_root": "/persist" }));
}

/// Of NixOS the module needs `assertions`, `warnings`, and the users and groups: another age has other options.
#[test]
fn a_system_without_overlays_and_userborn_is_taken() {
    let text = r#"let
      any = default: lib.mkOption { type = lib.types.anything; inherit default; };
      bare = { options = { assertions = any [ ]; warnings = any [ ]; users.users = any { }; users.groups = any { }; }; };
      node = lib.evalModules { modules = [ bare MODULE {
        users.users.admin.hashedPasswordFile = "/etc/secrets/a";
        deaddrop.secrets.a = { from = "env:A"; owner = "admin"; group = "ops"; };
      } ]; };
    in [ node.config.deaddrop.secrets.a.path (errors node) (builtins.length (warnings node)) ]"#;
    let module = repository().join("nix/module.nix").display().to_string();
    let no_group = "deaddrop.secrets.a.group: there is no group `ops`. Declare users.groups.ops, or write a number.";
    assert_eq!(value_of(&text.replace("MODULE", &module)), json!(["/etc/secrets/a", [no_group], 1]));
}

#[test]
fn several_modules_add_to_one_secret() {
    let restarts = r#"(node {
      imports = [ { deaddrop.secrets.a.restart = "a"; } { deaddrop.secrets.a.restart = [ "b" ]; } ];
      deaddrop.secrets.a.restart = lib.mkIf false "c"; }).config.deaddrop.secrets.a.restart"#;
    assert_eq!(value_of(restarts).as_array().unwrap().len(), 2);
    refused(
        r#"(node { imports = [ { deaddrop.secrets.a.from = "env:A"; } ]; deaddrop.secrets.a.from = "env:B";
          }).config.deaddrop.secrets.a.from"#,
        "conflicting definition values",
    );
}

#[test]
fn a_key_that_the_manifest_does_not_have_is_refused() {
    refused(
        r#"(node { deaddrop.secrets.a.form = "env:A"; }).config.deaddrop.secrets.a.path"#,
        "deaddrop.secrets.a.form",
    );
    refused(
        r#"(node { deaddrop.secrets.a.hosts = [ "b" ]; }).config.deaddrop.secrets.a.path"#,
        "deaddrop.secrets.a.hosts",
    );
    refused(r#"(node { deaddrop.secret.a.from = "env:A"; }).config.deaddrop.secrets"#, "deaddrop.secret");
    // A code that does not exist, and one that cannot be allowed.
    refused(r#"manifest { a = node { deaddrop.allow.NX999 = "why"; }; }"#, "deaddrop.allow.NX999");
    refused(
        r#"(node { deaddrop.secrets.a = { from = "env:A"; allow.NX001 = "why"; }; }).config.deaddrop.secrets.a.allow"#,
        "deaddrop.secrets.a.allow.NX001",
    );
}

/// Each a configuration, and what is said of it: as an assertion of the configuration, and by the manifest.
#[test]
fn what_cannot_work_is_an_assertion_of_the_configuration_and_stops_the_manifest() {
    for (configuration, wants) in [
        (
            r#"secrets.a = { from = "env:A"; path = "/nix/store/x-a"; };"#,
            &["deaddrop.secrets.a.path is in the store"][..],
        ),
        (r#"secrets.a.from = "file:/nix/store/x-a";"#, &["deaddrop.secrets.a.from names a file in the store"]),
        (r#"secrets.a.from = { source = "file"; item = "/nix/store/x"; };"#, &["deaddrop.secrets.a.from names a file"]),
        (
            r#"sources.v = { type = "keepass"; path = "/nix/store/x"; key_file = "/nix/store/y"; };"#,
            &["deaddrop.sources.v.key_file is in the store"],
        ),
        (r#"sources.v = { type = "dotenv"; path = "/nix/store/x"; };"#, &["deaddrop.sources.v.path is in the store"]),
        (
            r#"sources.v = { type = "age"; path = "/nix/store/x.age"; password.file = "/nix/store/y"; };"#,
            &["deaddrop.sources.v.password.file is in the store"],
        ),
        (r#"secrets.a = { from = "env:A"; owner = "bob"; };"#, &["deaddrop.secrets.a.owner: there is no user `bob`"]),
        (r#"secrets.a = { from = "env:A"; group = "bob"; };"#, &["deaddrop.secrets.a.group: there is no group `bob`"]),
        (
            r#"secrets.a = { from = "env:A"; directory_owner = "bob:ops"; };"#,
            &["directory_owner: there is no user `bob`", "directory_owner: there is no group `ops`"],
        ),
        (r#"secrets.a.from = "env:A"; defaults.owner = "bob";"#, &["there is no user `bob`. Declare users.users.bob"]),
        (
            r#"secrets = { a.from = "env:A"; b = { from = "env:B"; path = "/etc/secrets/a"; }; };"#,
            &["deaddrop.secrets: a and b have one path, /etc/secrets/a"],
        ),
        ("secrets.a = { };", &["deaddrop.secrets.a has none: it needs one of from, template"]),
        (r#"secrets.a = { from = "env:A"; generate = "age"; };"#, &["deaddrop.secrets.a has from and generate"]),
    ] {
        let node = format!("(node {{ deaddrop = {{ {configuration} }}; }})");
        let errors = texts_of(&format!("errors {node}"));
        assert_eq!(errors.len(), wants.len(), "{configuration}: {errors:?}");
        for want in wants {
            assert!(errors.iter().any(|error| error.contains(want)), "{configuration}: {errors:?}");
            refused(&format!("manifest {{ node7 = {node}; }}"), want);
        }
        refused(&format!("manifest {{ node7 = {node}; }}"), "nixosConfigurations.node7");
    }
}

#[test]
fn owners_that_exist_numbers_absent_files_and_encrypted_sources_are_no_error() {
    let text = r#"errors (node {
      users.users.bob = { };
      users.users.deploy.name = "ci";
      deaddrop.sources.s = { type = "sops"; path = "/nix/store/x.yaml"; };
      deaddrop.secrets = {
        a = { from = "env:A"; owner = "bob"; group = "keys"; directory_owner = "1000:100"; };
        b = { from = "env:B"; owner = 1000; group = 100; directory_owner = 1000; };
        c = { from = "env:C"; owner = "root"; group = "root"; directory_owner = "ci"; };
        d = { absent = true; };
        e = { template = "exec=/nix/store/x/bin/e {{ secret('env:E') }}"; };
      };
    })"#;
    assert_eq!(value_of(text), json!([]));
    let text =
        r#"errors (node { users.users.bob.enable = false; deaddrop.secrets.a = { from = "env:A"; owner = "bob"; }; })"#;
    assert_eq!(texts_of(text).len(), 1);
}

#[test]
fn the_shadow_trap_is_a_warning_where_nixos_keeps_the_line() {
    let trap = r#"users.users.admin.hashedPasswordFile = "/etc/secrets/admin";
      imports = [ { deaddrop.secrets.admin = { from = "env:A"; hash = "yescrypt"; }; } ];"#;
    let warnings = |more: &str| texts_of(&format!("warnings (node {{ {trap} {more} }})"));
    let [warning] = &warnings("")[..] else { panic!("one warning") };
    for part in ["NX101", "users.users.admin.hashedPasswordFile", "users.mutableUsers = false", "deaddrop.allow.NX101"]
    {
        assert!(warning.contains(part), "{warning}");
    }
    for way_out in [
        "users.mutableUsers = false;",
        "services.userborn.enable = true;",
        "systemd.sysusers.enable = true;",
        "system.etc.overlay.enable = true;",
        r#"deaddrop.allow.NX101 = "an SD image: it was never activated";"#,
        r#"deaddrop.secrets.admin.allow.NX101 = "the same";"#,
        "deaddrop.secrets.admin.apply_password = true;",
    ] {
        assert_eq!(warnings(way_out), Vec::<String>::new(), "{way_out}");
    }
    // Of another file nothing is known.
    let other = r#"warnings (node { users.users.admin.hashedPasswordFile = "/run/secrets/admin"; })"#;
    assert_eq!(value_of(other), json!([]));
    let allowed = r#"(manifest { a = node { deaddrop.allow.NX101 = "why"; }; }).hosts.a"#;
    assert_eq!(value_of(allowed), json!({ "allow": { "NX101": "why" } }));
    assert!(evaluate("(node { deaddrop.allow.NX101 = true; }).config.deaddrop.allow").is_err());
}
