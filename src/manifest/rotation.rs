//! Keys for running nodes: how to become root there, and the actions after a file has changed.

use std::time::Duration;

use deaddrop_core::keys::{Field, NodeId};
use deaddrop_core::privilege::Become;
use deaddrop_vault::Reference;
use schemars::JsonSchema;
use serde::Deserialize;

use super::check::Checker;
use super::schema::{RawBecomePassword, RawHealth, RawReference, RawSecret};
use super::values;
use crate::derive::cluster_token::Cluster;

/// Default time that units are watched, in seconds.
pub(super) const DEFAULT_SETTLE: u64 = 5;
/// Default time limit of a health command, in seconds.
pub(super) const DEFAULT_TIMEOUT: u64 = 30;
/// Maximum of both, in seconds.
pub(super) const LONGEST: u64 = 3600;

/// Maximum number of programs of one `run_after`.
const MAX_COMMANDS: usize = 100;
/// Maximum length of a program with its arguments, in bytes: it is sent to the node in one line, and runs as one
/// `execve`.
const MAX_COMMAND: usize = 64 << 10;

/// Origin of the password that [`Become`] needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BecomePassword {
    /// The user is asked on the terminal.
    Ask,
    /// A source has it.
    From(Reference),
}

/// A kind of secret that needs more than its file on a running node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "kind")]
pub enum SecretKind {
    /// The servers' token of a k3s cluster, which the running cluster stores too.
    #[serde(rename = "k3s-token")]
    K3sToken,
    /// The same of an rke2 cluster.
    #[serde(rename = "rke2-token")]
    Rke2Token,
}

impl SecretKind {
    /// The program whose token it is.
    #[must_use]
    pub fn cluster(self) -> Cluster {
        match self {
            Self::K3sToken => Cluster::K3s,
            Self::Rke2Token => Cluster::Rke2,
        }
    }
}

/// The handling of the output of units and programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "output")]
pub enum Output {
    /// No output is shown.
    Hide,
}

/// Actions on a running node after a secret's file has changed. Each unit and program at most once per run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnChange {
    /// Units to restart, or start if they are not running; full names.
    pub restart: Vec<String>,
    /// Units to reload.
    pub reload: Vec<String>,
    /// Units to restart if they are running.
    pub try_restart: Vec<String>,
    /// Programs and their arguments, run after the units, without a shell.
    pub run_after: Vec<Vec<String>>,
    /// A command that must succeed afterwards.
    pub health: Option<Health>,
    /// Time that the units are watched if there is no `health`.
    pub settle: Duration,
    /// True if the output of units and programs is not shown.
    pub hides_output: bool,
}

/// A program that succeeds if a node works with its new files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The program and its arguments, without a shell.
    pub command: Vec<String>,
    /// Time until it must have succeeded; it is repeated until then.
    pub timeout: Duration,
}

impl Checker<'_, '_> {
    /// Checks the keys for changes of a secret's file, and removes them from `raw`, the mapping `id`.
    pub(super) fn on_change(&self, id: NodeId, raw: &mut RawSecret, settle: Duration) -> Option<OnChange> {
        let unit = |field| self.one_or_many(field, values::unit);
        let restart = unit(std::mem::take(&mut raw.restart));
        let reload = unit(std::mem::take(&mut raw.reload));
        let try_restart = unit(std::mem::take(&mut raw.try_restart));
        let run_after = self.run_after(id, std::mem::take(&mut raw.run_after));
        let health = self.health(std::mem::take(&mut raw.health));
        let own_settle = self.settle(std::mem::take(&mut raw.settle));
        let hides_output = match std::mem::take(&mut raw.output) {
            Field::Missing => Some(false),
            Field::Bad => None,
            Field::Good(_, Output::Hide) => Some(true),
        };
        Some(OnChange {
            restart: restart?,
            reload: reload?,
            try_restart: try_restart?,
            run_after: run_after?,
            health: health?,
            settle: own_settle?.unwrap_or(settle),
            hides_output: hides_output?,
        })
    }

    fn run_after(&self, secret: NodeId, field: Field<Vec<Field<Vec<Field<String>>>>>) -> Option<Vec<Vec<String>>> {
        let (id, commands) = match field {
            Field::Missing => return Some(Vec::new()),
            Field::Bad => return None,
            Field::Good(id, commands) => (id, commands),
        };
        if commands.len() > MAX_COMMANDS {
            let hint = "let a program on the node run them";
            self.push(self.mark(id), "over 100 programs", Some(hint.to_owned()));
            return None;
        }
        // An argument may be a value: `argv` keeps all of them out of messages.
        let node = self.context.tree.child(secret, "run_after");
        let checked: Vec<Option<Vec<String>>> =
            commands.into_iter().map(|command| self.command(node, command)).collect();
        checked.into_iter().collect()
    }

    /// Checks a program for a node. `node` is hidden from messages.
    fn command(&self, node: Option<NodeId>, field: Field<Vec<Field<String>>>) -> Option<Vec<String>> {
        let place = field.place();
        let argv = self.keys().argv(node, field)?;
        let bytes: usize = argv.iter().map(String::len).sum();
        if bytes > MAX_COMMAND {
            let mark = self.mark(place.or(node)?);
            self.push(mark, "a program with its arguments is over 64 KiB", Some("put them into a file".to_owned()));
            return None;
        }
        Some(argv)
    }

    /// `Some(None)` if it is absent, `None` if it is wrong.
    fn health(&self, field: Field<RawHealth>) -> Option<Option<Health>> {
        let (id, raw) = match field {
            Field::Missing => return Some(None),
            Field::Bad => return None,
            Field::Good(id, raw) => (id, raw),
        };
        if raw.command.is_missing() {
            let hint = "the program and its arguments, such as `command: [curl, -f, http://localhost:8080/healthz]`";
            self.push(self.mark(id), "`health` needs a `command`", Some(hint.to_owned()));
            return None;
        }
        let command = self.command(self.context.tree.child(id, "command"), raw.command);
        let timeout = self.seconds(raw.timeout, 1, DEFAULT_TIMEOUT, "no health command can be given this time");
        Some(Some(Health { command: command?, timeout: timeout?.unwrap_or(Duration::from_secs(DEFAULT_TIMEOUT)) }))
    }

    /// `Some(None)` if it is absent, `None` if it is wrong.
    pub(super) fn settle(&self, field: Field<u64>) -> Option<Option<Duration>> {
        self.seconds(field, 0, DEFAULT_SETTLE, "no unit can be watched for this time")
    }

    fn seconds(&self, field: Field<u64>, least: u64, default: u64, message: &str) -> Option<Option<Duration>> {
        match field {
            Field::Missing => Some(None),
            Field::Bad => None,
            Field::Good(_, seconds) if (least..=LONGEST).contains(&seconds) => Some(Some(Duration::from_secs(seconds))),
            Field::Good(id, _) => {
                let hint = format!("seconds, from {least} to {LONGEST}; {default} without it");
                self.push(self.mark(id), message, Some(hint));
                None
            }
        }
    }

    pub(super) fn ssh_options(&self, field: Field<Vec<Field<String>>>) -> Option<Vec<String>> {
        let options = match field {
            Field::Missing => return Some(Vec::new()),
            Field::Bad => return None,
            Field::Good(_, options) => options,
        };
        let checked: Vec<Option<String>> = options
            .into_iter()
            .map(|option| {
                let (id, option) = option.good()?;
                self.accept(id, values::ssh_option(&option)).map(|()| option)
            })
            .collect();
        checked.into_iter().collect()
    }

    /// `Some(None)` if it is absent, `None` if it is wrong. `becomes` is `None` if it is wrong itself.
    pub(super) fn become_password(
        &self,
        field: Field<RawBecomePassword>,
        becomes: Option<Option<Become>>,
    ) -> Option<Option<BecomePassword>> {
        let (id, raw) = match field {
            Field::Missing => return Some(None),
            Field::Bad => return None,
            Field::Good(id, raw) => (id, raw),
        };
        match becomes {
            None | Some(Some(Become::Sudo)) => {}
            Some(None) => {
                let hint = "add `become: sudo`, or remove `become_password`".to_owned();
                self.push(self.mark(id), "`become_password` without `become` has no meaning", Some(hint));
                return None;
            }
            Some(Some(Become::Doas)) => {
                // doas(1) reads a password only from a terminal, and there is none.
                let hint = "allow it without one in the node's doas.conf: `permit nopass USER`; or use sudo".to_owned();
                self.push(self.mark(id), "doas takes no password that is sent to it", Some(hint));
                return None;
            }
        }
        let raw = match raw {
            RawBecomePassword::Short(word) if word == "ask" => return Some(Some(BecomePassword::Ask)),
            RawBecomePassword::Short(text) => RawReference::Short(text),
            RawBecomePassword::Long(long) => RawReference::Long(long),
        };
        self.reference(id, raw).map(|reference| Some(BecomePassword::From(reference)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::{Manifest, ManifestErrors};

    fn parse(text: &str) -> Result<Manifest, ManifestErrors> {
        Manifest::parse(text, Path::new("m"))
    }

    #[test]
    fn what_is_done_on_a_node_is_read_with_the_defaults() {
        let manifest = parse(
            "version: 1
defaults: { settle: 7 }
secrets:
  a:
    path: /etc/a
    from: env:A
    restart: k3s
    reload: [nginx.service, dbus.socket]
    try_restart: [getty@tty1]
    run_after: [[logger, -t, x y, '$HOME'], ['true']]
    health: { command: [curl, -f, 'http://localhost'], timeout: 9 }
    kind: k3s-token
    keep_old: /etc/a.old
  b: { path: /etc/b, from: env:B, settle: 0, health: { command: ['true'] } }
  c: { path: /etc/c, absent: true, restart: [x.service] }
hosts:
  n1: { ssh: 'ssh://ops@[::1]:2222', become: sudo, become_password: 'env:SUDO', ssh_options: [Port=22, ProxyJump a] }
  n2: { ssh: n2, become: doas }
  n3: { ssh: n3, become: sudo, become_password: ask }
  n4: { become: sudo, become_password: { source: env, item: 'A:B' } }
",
        )
        .unwrap();
        let [a, b, c] = manifest.secrets.as_slice() else { panic!("three secrets") };
        assert_eq!(a.on_change.restart, ["k3s.service"]);
        assert_eq!(a.on_change.reload, ["nginx.service", "dbus.socket"]);
        assert_eq!(a.on_change.try_restart, ["getty@tty1.service"]);
        assert_eq!(a.on_change.run_after, [vec!["logger", "-t", "x y", "$HOME"], vec!["true"]]);
        assert_eq!(a.on_change.health.as_ref().unwrap().timeout, Duration::from_secs(9));
        assert_eq!((a.on_change.settle, a.kind), (Duration::from_secs(7), Some(SecretKind::K3sToken)));
        assert_eq!(a.keep_old.as_ref().map(ToString::to_string).as_deref(), Some("/etc/a.old"));
        assert_eq!(b.on_change.settle, Duration::ZERO);
        assert_eq!(b.on_change.health.as_ref().unwrap().timeout, Duration::from_secs(DEFAULT_TIMEOUT));
        assert_eq!(c.on_change.restart, ["x.service"]);
        let host = |name: &str| manifest.hosts.get(name).unwrap();
        assert_eq!(host("n1").ssh_options, ["Port=22", "ProxyJump a"]);
        let reference = |item: &str| {
            let (source, item) = ("env".to_owned(), item.to_owned());
            Some(BecomePassword::From(Reference { source, item, field: None }))
        };
        assert_eq!((host("n1").becomes, &host("n1").become_password), (Some(Become::Sudo), &reference("SUDO")));
        assert_eq!((host("n2").becomes, &host("n2").become_password), (Some(Become::Doas), &None));
        assert_eq!(host("n3").become_password, Some(BecomePassword::Ask));
        assert_eq!(host("n4").become_password, reference("A:B"));
    }

    #[test]
    fn what_is_wrong_about_nodes_is_told_with_its_place() {
        // The arrow precedes the wrong text.
        let secret = |key: &str| format!("version: 1\nsecrets:\n  a: {{ path: /a, from: env:A, {key} }}\n");
        let host = |keys: &str| format!("version: 1\nhosts:\n  n: {{ {keys} }}\n");
        for (text, want) in [
            (secret("restart: →'*.service'"), "`*.service` is not the name of a unit"),
            (secret("restart: [→-x]"), "`-x` is not the name of a unit"),
            (secret("restart: [x, →'a b']"), "`a b` is not the name of a unit"),
            (secret("reload: [→'x@.service']"), "`x@.service` is a template, and no unit that runs"),
            (secret("restart: →{}"), "`restart` is text or a list, and this is a mapping"),
            (secret("run_after: →[reboot]"), "`run_after` is a list of programs, each a list itself"),
            (secret("run_after: [[reboot], →hunter2]"), "a program with its arguments is a list, and this is text"),
            (secret("run_after: →echo hunter2"), "`run_after` is a list, and this is text"),
            (secret("health: →test hunter2"), "`health` is a mapping (command, timeout), and this is text"),
            (secret("run_after: [→[]]"), "there is no program in this list"),
            (secret("run_after: [[sleep, →5]]"), "an item of this list is text, and this is a number"),
            (secret("health: →{}"), "`health` needs a `command`"),
            (secret("health: { command: ['true'], timeout: →0 }"), "no health command can be given this time"),
            (secret("settle: →3601"), "no unit can be watched for this time"),
            (secret("kind: →k8s"), "unknown kind `k8s`"),
            (secret("keep_old: →/etc/old"), "`keep_old` is for the token of a cluster"),
            (secret("kind: k3s-token, keep_old: →old"), "a path starts with `/`"),
            (
                secret("kind: k3s-token, keep_old: →/var/lib/rancher/k3s/server/token/../x"),
                "`..` is not allowed in a path",
            ),
            (
                secret("kind: rke2-token, keep_old: →/a"),
                "`/a` is where the old token goes, and `a` (line 3) has it as well",
            ),
            (host("become: →su"), "unknown become `su`"),
            (host("become_password: →ask"), "`become_password` without `become` has no meaning"),
            (host("become: doas, become_password: →ask"), "doas takes no password that is sent to it"),
            (host("become: sudo, become_password: →hunter2"), "a reference has a source, a `:` and an item"),
            (host("become: sudo, become_password: →x:y"), "unknown source `x`"),
            (host("ssh_options: [→Port]"), "an option for ssh is `Name=value`"),
            (host("ssh_options: [→'-v']"), "an option for ssh is `Name=value`"),
            (
                host("ssh_options: [Port=22, →KnownHostsCommand=/bin/x]"),
                "KnownHostsCommand lets a host in whose key is not in known_hosts, which is not for a manifest to say",
            ),
            (
                host("ssh_options: [→knownHOSTScommand /bin/x]"),
                "KnownHostsCommand lets a host in whose key is not in known_hosts, which is not for a manifest to say",
            ),
            (
                host("ssh_options: [→'verifyhostkeydns = yes']"),
                "VerifyHostKeyDNS lets a host in whose key is not in known_hosts, which is not for a manifest to say",
            ),
            (
                host("ssh_options: [→ControlPath=/tmp/x]"),
                "ControlPath lets a host in whose key is not in known_hosts, which is not for a manifest to say",
            ),
            (host("ssh_options: [→'\"KnownHostsCommand\"=/x']"), "an option for ssh is `Name=value`"),
            (host("ssh: →a@-b"), "`a@-b` is not an address for SSH"),
            (host("ssh: →'a@b:22'"), "`a@b:22` is not an address for SSH: a port needs the URL form"),
            (host("ssh: →'a@[::1]'"), "`a@[::1]` is not an address for SSH: a port needs the URL form"),
            (host("→port: 22"), "unknown key `port`"),
            (
                host("ssh: →'ssh://a:0'"),
                "`ssh://a:0` is not an address for SSH: its port is no number from 1 to \
            65535",
            ),
            (host("ssh: →'ssh://-a@b'"), "`ssh://-a@b` is not an address for SSH"),
            (host("ssh: →a@$(b)"), "`a@$(b)` is not an address for SSH: it holds `$`"),
        ] {
            let column = text.lines().nth(2).and_then(|line| line.chars().position(|character| character == '→'));
            let text = text.replace('→', "");
            let errors = parse(&text).unwrap_err();
            let [problem] = errors.problems() else { panic!("{text}: one problem\n{errors}") };
            let location = problem.location.unwrap();
            assert_eq!(
                (location.line, location.column, problem.message.as_str()),
                (3, column.unwrap() + 1, want),
                "{text}"
            );
            assert!(!errors.to_string().contains("hunter2"), "{errors}");
        }
    }
}
