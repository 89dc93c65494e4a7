//! `deaddrop rotate` on many nodes, as a whole: real sshds on loopback, each with its own /etc and /var.

mod asked;
mod look;
pub mod nodes;
mod order;
mod stop;
mod table;
mod workers;
mod wrong;

use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;
use nodes::Nodes;

/// Ten secrets, s00 to s09, each from a variable.
pub const SECRETS: usize = 10;

/// A manifest of ten secrets for all nodes; `keys` stand at each host, `more` at the first secret, and `top` at the
/// top.
pub fn manifest(nodes: &Nodes, keys: &str, more: &str, top: &str) {
    let mut text = format!("version: 1\n{top}secrets:\n");
    for number in 0..SECRETS {
        let more = if number == 0 { more } else { "" };
        text.push_str(&format!(
            "  s{number:02}: {{ path: /etc/secrets/s{number:02}, from: env:S{number:02}{more} }}\n"
        ));
    }
    text.push_str(&format!("hosts:\n{}", nodes.hosts(keys)));
    nodes.scratch.write("secrets.yaml", text);
}

/// The ten values: planted, so that a run that leaks one fails.
pub struct Values(Vec<Canary>);

impl Values {
    /// Texts that begin with `old`.
    pub fn old() -> Self {
        Self::beginning_with("old")
    }

    /// Others, which begin with `new`.
    pub fn others() -> Self {
        Self::beginning_with("new")
    }

    fn beginning_with(start: &str) -> Self {
        let value = |number| {
            let text = format!("{start}-{}", Canary::new("random").text());
            Canary::of(&format!("s{number:02}"), text.as_bytes())
        };
        Self((0..SECRETS).map(value).collect())
    }

    /// One of them.
    pub fn text(&self, number: usize) -> &str {
        self.0[number].text()
    }

    /// The environment that holds them.
    pub fn environment(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().enumerate().map(|(number, value)| (format!("S{number:02}"), value.text()))
    }

    /// A run of `deaddrop` with these values, for these nodes' manifest and ssh configuration.
    pub fn deaddrop<'a>(&self, nodes: &'a Nodes, args: &[&str]) -> Deaddrop<'a> {
        let run = Deaddrop::new(&nodes.scratch).args(args).args(["--ssh-config", "ssh_config"]);
        self.0
            .iter()
            .enumerate()
            .fold(run, |run, (number, value)| run.env(format!("S{number:02}"), value.text()).plant(value))
    }

    /// Panics unless the node holds all of them.
    #[track_caller]
    pub fn assert_on(&self, nodes: &Nodes, node: usize) {
        for number in 0..SECRETS {
            // Compared without being printed.
            let found = nodes.read(node, &format!("/etc/secrets/s{number:02}"));
            assert!(found.as_deref() == Some(self.0[number].bytes()), "{}: s{number:02} is another", Nodes::name(node));
        }
    }
}

/// The statuses of the JSON object's hosts, in its order.
pub fn statuses(object: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    object["hosts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|host| (text(&host["host"]), text(&host["status"])))
        .collect()
}

/// Panics unless the node has none of the secrets.
#[track_caller]
pub fn assert_empty(nodes: &Nodes, node: usize) {
    assert!(!nodes.path(node, "/etc/secrets").exists(), "{} was written to", Nodes::name(node));
}
