//! Tests of whole manifests, with what they share.

mod accepted;
mod limits;
mod messages;
mod mistakes;
mod schema;
mod sources;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use deaddrop_vault::Reference;

use super::*;
use crate::derive::password::HashScheme;

/// A manifest with every feature.
const FULL: &str = r##"# a comment
version: 1
sources:
  vault: { type: bitwarden, path: exports/homelab.json }
  ci:    { type: env, prefix: HOMELAB_ }
  dot:   { type: dotenv, path: /srv/secrets.env }
  keys:
    type: file
    path: keys
defaults: { owner: 0, group: keys, mode: "0440" }
secrets:
  admin-password:
    path: /etc/secrets/admin-password
    from: vault:Homelab admin
    hash: yescrypt
    owner: root
    group: root
    mode: "400"
    directory_mode: "0711"
    used_by: users.users.admin.hashedPasswordFile
  k3s-token:
    path: /etc/secrets/k3s-token
    from: { source: ci, item: "K3S:TOKEN#1" }
    hosts: &servers [node1, "tag:server"]
    newline: true
    allow_empty: true
    used_by: [services.k3s.tokenFile, services.k3s.agentTokenFile]
  public:
    path: /var/tmp/public
    from: "vault:home/Router#notes"
    mode: "0444"
    allow_world_readable: true
    hosts: *servers
  host-key-1: { path: /etc/ssh/key, from: keys:node1, hosts: [node1], hash: sha512crypt }
  host-key-2: { path: /etc/ssh/key, from: "env:KEY", hosts: [node2] }
hosts:
  node1: { ssh: root@192.168.1.11, tags: [server, rack1] }
  node2: { tags: [agent] }
  node3:
"##;

/// What the program says of a manifest. The JSON schema must accept what it accepts.
fn parse(text: &str) -> Result<Manifest, ManifestErrors> {
    let parsed = Manifest::parse(text, Path::new("dir/secrets.yaml"));
    if parsed.is_ok() && text.len() < 64 << 10 {
        assert!(schema::accepts(text), "the JSON schema refuses what `check` accepts:\n{text}");
    }
    parsed
}

/// The reference of a secret with `from`.
fn from(secret: &SecretSpec) -> &Reference {
    match &secret.value {
        ValueSpec::From(reference) => reference,
        other => panic!("{}: {other:?}", secret.name),
    }
}

/// All problems, as `line:column+length message`.
fn complaints(text: &str) -> Vec<String> {
    let Err(errors) = parse(text) else { return Vec::new() };
    errors
        .problems()
        .iter()
        .map(|problem| match problem.location {
            Some(at) => format!("{}:{}+{} {}", at.line, at.column, problem.length, problem.message),
            None => problem.message.clone(),
        })
        .collect()
}

/// A manifest with the sources `vault` and `ci`, the hosts node1 and node2 (tag server), and these lines under
/// `secrets`, from line 9 on.
fn with_secrets(lines: &str) -> String {
    format!(
        "version: 1
sources:
  vault: {{ type: bitwarden, path: x.json }}
  ci: {{ type: env }}
hosts:
  node1: {{ tags: [server] }}
  node2:
secrets:
{lines}\n"
    )
}
