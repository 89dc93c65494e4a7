//! Manifests that are accepted, and what they become.

use super::*;
use crate::derive::newline::Newline;

#[test]
fn a_manifest_with_everything_is_read_as_it_is_written() {
    let manifest = parse(FULL).unwrap();
    assert_eq!(manifest.directory, PathBuf::from("dir"));
    let sources: Vec<String> = manifest.sources.iter().map(|(name, source)| format!("{name} {source:?}")).collect();
    assert_eq!(
        sources,
        [
            "ci Env(EnvSpec { prefix: \"HOMELAB_\" })",
            "dot Dotenv(FileSpec { path: \"/srv/secrets.env\", identity: None, password: None, kdf_limit: Bounded })",
            "keys File(DirectorySpec { path: Some(\"keys\") })",
            "vault Bitwarden(FileSpec { path: \"exports/homelab.json\", identity: None, password: None, \
             kdf_limit: Bounded })",
        ]
    );
    let names: Vec<&str> = manifest.secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, ["admin-password", "k3s-token", "public", "host-key-1", "host-key-2"]);

    let admin = &manifest.secrets[0];
    assert_eq!(admin.location, Location { line: 12, column: 3 });
    assert_eq!(admin.path.as_str(), "/etc/secrets/admin-password");
    assert_eq!(from(admin).to_string(), "vault:Homelab admin");
    assert_eq!(admin.hash, Some(HashScheme::Yescrypt));
    assert_eq!((admin.owner.to_string(), admin.group.to_string()), ("root".into(), "root".into()));
    assert_eq!((admin.mode, admin.directory_mode), (0o400, Some(0o711)));
    assert!(admin.is_hashed_password_file() && admin.hosts.is_empty() && admin.newline.is_none() && !admin.allow_empty);

    let token = &manifest.secrets[1];
    assert_eq!(*from(token), Reference { source: "ci".into(), item: "K3S:TOKEN#1".into(), field: None });
    assert_eq!((&token.owner, &token.group, token.mode), (&Owner::Id(0), &Owner::Name("keys".into()), 0o440));
    assert_eq!(token.hosts, [HostSelector::Host("node1".into()), HostSelector::Tag("server".into())]);
    assert_eq!(token.used_by, ["services.k3s.tokenFile", "services.k3s.agentTokenFile"]);
    assert!(
        token.newline == Some(Newline::Always)
            && token.allow_empty
            && token.hash.is_none()
            && token.directory_mode.is_none()
    );

    let public = &manifest.secrets[2];
    assert_eq!(from(public).field.as_deref(), Some("notes"));
    assert_eq!((public.mode, &public.hosts), (0o444, &token.hosts));
    assert_eq!(manifest.secrets[3].hash, Some(HashScheme::Sha512crypt));

    assert_eq!(manifest.hosts["node1"].ssh.as_deref(), Some("root@192.168.1.11"));
    assert_eq!(manifest.hosts["node1"].tags, ["server", "rack1"]);
    assert!(manifest.hosts["node3"].ssh.is_none() && manifest.hosts["node3"].tags.is_empty());
    assert_eq!((public.path.as_str(), public.location.line), ("/var/tmp/public", 28));
    assert!(manifest.warnings.is_empty(), "{:?}", manifest.warnings);
}

#[test]
fn the_least_manifest_has_a_version_and_defaults_are_root_and_0400() {
    for text in ["version: 1", "version: 1\nsecrets:\n", "version: 1\nsecrets: {}\nsources:\nhosts:\ndefaults:\n"] {
        assert!(parse(text).unwrap().secrets.is_empty(), "{text}");
    }
    let manifest = parse("{version: 1, secrets: {a: {path: /a, from: 'env:A'}}}").unwrap();
    let secret = &manifest.secrets[0];
    assert_eq!((secret.mode, secret.owner.fixed_id(), secret.group.fixed_id()), (0o400, Some(0), Some(0)));
}

#[test]
fn a_file_that_must_not_be_there_needs_a_path_and_no_more() {
    // The defaults do not matter here, not even a mode that a secret must allow explicitly.
    let text = "{version: 1, defaults: {mode: '0444', owner: nobody}, hosts: {n: }, secrets: {\
                a: {path: /a, absent: true, hosts: [n], used_by: services.x.file}, \
                b: {path: /b, absent: false, from: 'env:A', mode: '0400'}}}";
    let manifest = parse(text).unwrap();
    let absent: Vec<bool> = manifest.secrets.iter().map(SecretSpec::is_absent).collect();
    assert_eq!(absent, [true, false]);
    assert_eq!(manifest.secrets[0].hosts, [HostSelector::Host("n".into())]);
}

#[test]
fn the_manual_s_example_is_a_manifest_and_every_key_is_in_the_manual() {
    let manual = include_str!("../../../docs/manifest.md");
    let example = manual.lines().skip_while(|line| !line.starts_with("    #"));
    let example: String =
        example.take_while(|line| line.starts_with("    ")).flat_map(|line| [&line[4..], "\n"]).collect();
    assert_eq!(parse(&example).unwrap().secrets.len(), 2);

    let mut rest: Vec<serde_json::Value> = vec![serde_json::from_str(&json_schema()).unwrap()];
    let mut keys = 0;
    while let Some(schema) = rest.pop() {
        if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
            for key in properties.keys() {
                assert!(manual.contains(&format!("`{key}`")), "{key}");
                keys += 1;
            }
        }
        match schema {
            serde_json::Value::Object(members) => rest.extend(members.into_iter().map(|(_, value)| value)),
            serde_json::Value::Array(items) => rest.extend(items),
            _ => {}
        }
    }
    assert!(keys > 25, "{keys}");
}
