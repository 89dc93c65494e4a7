//! The public parts of generated keys: as a known_hosts file whose other lines are comments, and as JSON.
//! docs/generate.md.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::derive::generate::Public;
use crate::manifest::Host;
use crate::run::make::PublicPart;

/// The names by which SSH clients know a host.
#[derive(Debug, Default)]
pub struct KnownAs {
    /// The host's name in the manifest.
    pub host: Option<String>,
    /// Its names for known_hosts: its name, and its address if it has one.
    names: Vec<String>,
}

impl KnownAs {
    /// A host of the manifest.
    #[must_use]
    pub fn new(name: &str, host: &Host) -> Self {
        let mut names: Vec<String> = Vec::new();
        if is_plain(name) {
            names.push(name.to_owned());
        }
        names.extend(host.ssh.as_deref().and_then(address).filter(|address| address != name));
        Self { host: Some(name.to_owned()), names }
    }

    /// `node1,192.168.1.11 ssh-ed25519 AAAA…`; none without a name. sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
    #[must_use]
    pub fn line(&self, part: &PublicPart) -> Option<String> {
        let key = match &part.public {
            Public::Ssh(key) => key.without_comment(),
            Public::Rsa(key) => key.clone(),
            Public::WireGuard(_) | Public::Age(_) | Public::Nothing => return None,
        };
        (part.is_host_key && !self.names.is_empty()).then(|| format!("{} {key}", self.names.join(",")))
    }
}

/// The address in a host's `ssh`, as known_hosts has it: with a port that is not 22, `[address]:port`.
fn address(ssh: &str) -> Option<String> {
    let (url, rest) = ssh.strip_prefix("ssh://").map_or((false, ssh), |rest| (true, rest.trim_end_matches('/')));
    // `user@address`: a user's name may contain an `@`, an address does not.
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
    let (address, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((inner, port)) if url => (inner, port.strip_prefix(':')),
        _ if url => address.rsplit_once(':').map_or((address, None), |(address, port)| (address, Some(port))),
        _ => (address, None),
    };
    match port.filter(|port| *port != "22") {
        _ if !is_plain(address) => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(format!("[{address}]:{port}")),
        Some(_) => None,
        None => Some(address.to_owned()),
    }
}

/// A name without the characters that have a meaning in known_hosts (`*`, `?`, `!`, `|`, `@` and `,`).
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:%".contains(&byte))
}

/// Name and value of each form of a key's public part, each on one line.
fn lines(part: &PublicPart) -> Vec<(&'static str, String)> {
    match &part.public {
        Public::Ssh(key) => {
            let mut lines = vec![("ssh public key", key.line())];
            if part.is_host_key || !part.to_add.is_empty() {
                lines.extend(key.age_recipient().map(|recipient| ("age recipient", recipient)));
            }
            lines
        }
        Public::Rsa(key) => vec![("ssh public key", key.clone())],
        Public::WireGuard(key) => vec![("wireguard public key", key.clone())],
        Public::Age(recipient) => vec![("age recipient", recipient.clone())],
        Public::Nothing => Vec::new(),
    }
}

/// A known_hosts file: a line for each host key, and everything else as comments.
#[must_use]
pub fn text(known_as: &KnownAs, parts: &[PublicPart]) -> String {
    let of = known_as.host.as_ref().map_or(String::new(), |host| format!(" of {host}"));
    let mut text =
        format!("# Public parts of the generated keys{of}, by deaddrop. Lines without # are known_hosts lines.\n");
    for part in parts {
        let _ = writeln!(text, "\n# {}: {}, {}", part.secret, part.kind, part.path);
        for (name, value) in lines(part) {
            let _ = writeln!(text, "# {name}: {value}");
        }
        for line in &part.to_add {
            let _ = writeln!(text, "# {line}");
        }
        if let Some(line) = known_as.line(part) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// The lines that are told of the new keys of a host: what is to be added, and the line for known_hosts.
#[must_use]
pub fn of_new(known_as: &KnownAs, parts: &[PublicPart]) -> Vec<String> {
    let mut lines = Vec::new();
    for part in parts.iter().filter(|part| part.is_new) {
        lines.extend(part.to_add.iter().cloned());
        let line = known_as.line(part);
        lines.extend(line.into_iter().flat_map(|line| [format!("{}: its line for known_hosts:", part.secret), line]));
    }
    lines
}

/// The same as JSON.
#[must_use]
pub fn json(known_as: &KnownAs, parts: &[PublicPart]) -> String {
    file(known_as.host.as_deref(), keys(known_as, parts))
}

/// The text of several hosts.
#[must_use]
pub fn text_of_all(hosts: &[(KnownAs, Vec<PublicPart>)]) -> String {
    hosts.iter().map(|(known_as, parts)| text(known_as, parts)).collect::<Vec<_>>().join("\n")
}

/// The JSON of several hosts: each key has its `host`.
#[must_use]
pub fn json_of_all(hosts: &[(KnownAs, Vec<PublicPart>)]) -> String {
    let of_host = |(known_as, parts): &(KnownAs, Vec<PublicPart>)| {
        let mut keys = keys(known_as, parts);
        keys.iter_mut().for_each(|key| key["host"] = json!(known_as.host));
        keys
    };
    file(None, hosts.iter().flat_map(of_host).collect())
}

fn file(host: Option<&str>, keys: Vec<Value>) -> String {
    format!("{:#}\n", json!({ "version": 1, "host": host, "keys": keys }))
}

fn keys(known_as: &KnownAs, parts: &[PublicPart]) -> Vec<Value> {
    parts
        .iter()
        .map(|part| {
            let mut key = json!({ "secret": part.secret, "kind": part.kind, "path": part.path });
            for (name, value) in lines(part) {
                key[name.replace(' ', "_")] = value.into();
            }
            if let Some(line) = known_as.line(part) {
                key["known_hosts"] = line.into();
            }
            if !part.to_add.is_empty() {
                key["to_add"] = part.to_add.clone().into();
            }
            key
        })
        .collect()
}

/// For people, on standard error: `age recipient: age1…`.
#[must_use]
pub fn for_people(part: &PublicPart) -> Vec<String> {
    lines(part).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_its_name_and_its_address_and_by_nothing_that_means_more() {
        for (name, ssh, want) in [
            ("node1", Some("root@192.168.1.11"), "node1,192.168.1.11"),
            ("node1", Some("node1"), "node1"),
            ("node1", Some("root@fe80::1%eth0"), "node1,fe80::1%eth0"),
            ("node1", Some("a@b@node1.example.org"), "node1,node1.example.org"),
            ("node1", None, "node1"),
            ("node1", Some("ssh://root@192.168.1.11:2222"), "node1,[192.168.1.11]:2222"),
            ("node1", Some("ssh://root@192.168.1.11:22"), "node1,192.168.1.11"),
            ("node1", Some("ssh://ops@[::1]:2222"), "node1,[::1]:2222"),
            ("node1", Some("ssh://node1.example.org"), "node1,node1.example.org"),
            ("*", Some("root@192.168.1.?"), ""),
            ("!node1", Some("root@a,b"), ""),
            ("@cert-authority", Some("|1|x|y"), ""),
            ("my node", Some("node1"), "node1"),
        ] {
            let host = Host { ssh: ssh.map(str::to_owned), ..Host::default() };
            assert_eq!(KnownAs::new(name, &host).names.join(","), want, "{name} {ssh:?}");
        }
    }
}
