//! A cluster of nodes that run the stand-in for k3s (`k3s.py`), one datastore for all of its servers.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::kit::canary::Canary;
use crate::kit::node::{Node, NodeBuilder, deaddrop};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, tool, wait_until};

pub const TOKEN: &str = "/etc/secrets/k3s-token";
pub const KEPT: &str = "/etc/secrets/k3s-token.old";
pub const DATA: &str = "/var/lib/rancher/k3s";

pub struct Cluster {
    pub servers: Vec<Node>,
    pub agents: Vec<Node>,
    ports: Vec<u16>,
    program: &'static str,
    /// Every token that there ever was; the last one is that of the manifest.
    pub tokens: Vec<Canary>,
    /// Dropped last, when no node writes into it any more.
    pub scratch: Scratch,
}

/// How a cluster is made.
pub struct Shape {
    pub servers: usize,
    pub agents: usize,
    /// Words for the unit of each server.
    pub more: &'static str,
    pub keys: &'static str,
    /// k3s or rke2.
    pub program: &'static str,
    /// What `sh` is there.
    pub shell: &'static str,
}

pub const SMALL: Shape = Shape { servers: 1, agents: 0, more: "", keys: "", program: "k3s", shell: "/usr/bin/dash" };

impl Cluster {
    /// Starts it with a first token, which stands on all nodes.
    pub fn start(shape: &Shape) -> Self {
        let cluster = Self::make(shape);
        cluster.each(|node| cluster.place(node, cluster.token().bytes()));
        cluster.servers.iter().for_each(systemctl_start);
        cluster.agents.iter().for_each(systemctl_start);
        cluster.wait_until_up();
        cluster
    }

    /// Writes a token's file, as it is declared.
    pub fn place(&self, node: &Node, token: &[u8]) {
        let _ = fs::remove_file(node.at(TOKEN));
        fs::write(node.at(TOKEN), token).unwrap();
        fs::set_permissions(node.at(TOKEN), Permissions::from_mode(0o400)).unwrap();
    }

    /// The nodes, with nothing that runs.
    pub fn make(shape: &Shape) -> Self {
        let scratch = Scratch::new();
        let store = scratch.join("store");
        fs::create_dir(&store).unwrap();
        let (certificate, key) = (scratch.join("ca.crt"), scratch.join("ca.key"));
        tool(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
                .args(["-subj", "/CN=k3s-server-ca", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        );
        let mut ports = Vec::new();
        // Held until all are found, so that none comes twice.
        let mut held = Vec::new();
        let mut node = |name: String, role: &str, first: Option<u16>| {
            let builder = NodeBuilder::new(&name).mounts(&format!(
                "mkdir -p \"$root/srv/store\"\nmount --bind '{}' \"$root/srv/store\"",
                store.display()
            ));
            let node = builder.shell(shape.shell).start(&scratch);
            let unit_name = match (shape.program, role) {
                ("k3s", _) => "k3s.service".to_owned(),
                (program, role) => format!("{program}-{role}.service"),
            };
            fs::write(node.at("/srv/unit"), &unit_name).unwrap();
            for (program, text) in
                [(shape.program, include_str!("k3s.py")), ("systemctl", include_str!("systemctl.py"))]
            {
                node.add_program(program, text);
            }
            fs::create_dir_all(node.at("/etc/systemd/system")).unwrap();
            fs::create_dir_all(node.at("/srv/do")).unwrap();
            fs::write(node.at("/srv/name"), &name).unwrap();
            fs::copy(&certificate, node.at("/srv/ca.crt")).unwrap();
            fs::copy(&key, node.at("/srv/ca.key")).unwrap();
            let (socket, port) = free_port();
            held.push(socket);
            let server = first.map_or(String::new(), |port| format!("--server https://127.0.0.1:{port}"));
            let flag = if shape.program == "k3s" { "--https-listen-port" } else { "--supervisor-port" };
            let own = if role == "server" { format!("{flag} {port} {}", shape.more) } else { String::new() };
            let program = shape.program;
            let unit = format!(
                "[Service]\nExecStart=/usr/local/bin/{program} {role} \\\n  --token-file {TOKEN} \\\n  {server} {own}\n"
            );
            fs::write(node.at("/etc/systemd/system").join(unit_name), unit).unwrap();
            ports.push(port);
            (node, port)
        };
        let mut servers = Vec::new();
        let mut first = None;
        for number in 1..=shape.servers {
            let (server, port) = node(format!("server{number}"), "server", first);
            first.get_or_insert(port);
            servers.push(server);
        }
        let agents = (1..=shape.agents).map(|number| node(format!("agent{number}"), "agent", first).0).collect();
        drop(held);
        let mut cluster = Self { scratch, servers, agents, ports, tokens: Vec::new(), program: shape.program };
        cluster.new_token();
        cluster.write_manifest(shape.keys);
        cluster
    }

    /// The manifest, with more keys for the token.
    pub fn write_manifest(&self, keys: &str) {
        self.write_manifest_with(keys, "");
    }

    /// The same with other secrets.
    pub fn write_manifest_with(&self, keys: &str, others: &str) {
        let hosts: String = self.all().map(|node| format!("  {0}: {{ ssh: {0} }}\n", node.name)).collect();
        let text = format!(
            "version: 1\nsecrets:\n  token: {{ path: {TOKEN}, from: 'file:token', kind: {}-token, settle: 0{keys} }}\n\
             {others}hosts:\n{hosts}",
            self.program
        );
        self.scratch.write("secrets.yaml", text);
    }

    pub fn all(&self) -> impl Iterator<Item = &Node> {
        self.servers.iter().chain(&self.agents)
    }

    pub fn each(&self, step: impl Fn(&Node)) {
        self.all().for_each(step);
    }

    pub fn token(&self) -> &Canary {
        self.tokens.last().expect("there is one")
    }

    /// A new token in the manifest.
    pub fn new_token(&mut self) {
        self.set_token(Canary::new("token"));
    }

    pub fn set_token(&mut self, token: Canary) {
        self.scratch.write_private("token", token.bytes());
        self.tokens.push(token);
    }

    pub fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        self.tokens.iter().fold(deaddrop(&self.scratch, args), Deaddrop::plant)
    }

    pub fn rotate(&self) -> Finished {
        self.deaddrop(&["rotate", "--all"]).run()
    }

    /// What happened in the cluster since: `server1: PUT`, `server1: restart`, `server1: ready`.
    pub fn events(&self) -> Vec<String> {
        let log = fs::read_to_string(self.scratch.join("store/log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    pub fn forget_events(&self) {
        fs::write(self.scratch.join("store/log"), "").unwrap();
    }

    /// Waits until every unit is active.
    pub fn wait_until_up(&self) {
        for node in self.all() {
            wait_until(&format!("{} is not up", node.name), || state(node).starts_with("active running"));
        }
        for agent in &self.agents {
            wait_until("the agent has not joined", || agent.at("/srv/agent-token").exists());
        }
    }

    /// Panics unless files, servers, agents and the datastore all have the manifest's token, and nothing is left.
    #[track_caller]
    pub fn assert_on_one_token(&self) {
        let token = self.token();
        for node in self.all() {
            assert!(fs::read(node.at(TOKEN)).unwrap() == token.bytes(), "{}: another file", node.name);
            node.assert_clean();
        }
        for (server, port) in self.servers.iter().zip(&self.ports) {
            assert!(state(server).starts_with("active running"), "{}: {}", server.name, state(server));
            assert_eq!(self.status(*port, token), "405", "{} runs with another token", server.name);
            let own = fs::read_to_string(server.at(&DATA.replace("k3s", self.program)).join("server/token")).unwrap();
            assert!(own.trim().ends_with(&format!("::server:{}", token.text())), "{}: its own copy", server.name);
        }
        for agent in &self.agents {
            wait_until("the agent has another token", || {
                fs::read(agent.at("/srv/agent-token")).is_ok_and(|held| held == token.bytes())
            });
        }
    }

    /// What a server answers when it is asked whether it runs with a token.
    fn status(&self, port: u16, token: &Canary) -> String {
        let config = format!(
            "url = \"https://127.0.0.1:{port}/v1-{}/token\"\nuser = \"server:{}\"\ncacert = \"{}\"\nsilent\n\
             output = \"/dev/null\"\nwrite-out = \"%{{http_code}}\"\nnoproxy = \"*\"\n",
            self.program,
            token.text(),
            self.scratch.join("ca.crt").display()
        );
        let answer = crate::kit::fed(Command::new("curl").args(["-q", "-K", "-"]), config.as_bytes());
        String::from_utf8(answer.stdout).unwrap()
    }

    /// True if the server of this number runs with the token.
    pub fn runs_with(&self, server: usize, token: &Canary) -> bool {
        self.status(self.ports[server], token) == "405"
    }

    /// Runs it until a line of standard error begins with `line` (after the secret's name), and then does something
    /// to it, and waits for its end.
    pub fn rotate_until(&self, line: &str, then: impl FnOnce(&Child)) -> (i32, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_deaddrop"))
            .args(["rotate", "--all", "--ssh-config"])
            .arg(self.scratch.join("ssh/config"))
            .current_dir(self.scratch.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let mut is_there = false;
        while let Some(Ok(text)) = lines.next() {
            said.push_str(&format!("{text}\n"));
            is_there = text.starts_with(&format!("token: {line}"));
            if is_there {
                break;
            }
        }
        if is_there {
            then(&child);
        }
        said.extend(lines.map_while(Result::ok).map(|text| format!("{text}\n")));
        let code = child.wait().unwrap().code().unwrap_or(-1);
        assert!(is_there, "it does not come to {line}: {said}");
        (code, said)
    }
}

/// A port that stays free while a server is restarted: below those that the kernel gives out.
fn free_port() -> (TcpListener, u16) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = u32::from(NEXT.fetch_add(1, Ordering::SeqCst)) * 7 + std::process::id() * 31;
        let port = u16::try_from(10_000 + number % 20_000).expect("under 30,000");
        if let Ok(socket) = TcpListener::bind(("127.0.0.1", port)) {
            return (socket, port);
        }
    }
}

/// `ActiveState SubState MainPID SUPERVISOR` of the node's unit.
pub fn state(node: &Node) -> String {
    fs::read_to_string(node.at("/srv/state")).unwrap_or_default()
}

/// Starts the unit of a node, as its own administrator, and does not wait.
pub fn systemctl_start(node: &Node) {
    systemctl(node, "start");
}

/// Runs the node's systemctl there.
pub fn systemctl(node: &Node, verb: &str) {
    let scratch = node.root.parent().expect("it is in the scratch directory");
    tool(
        Command::new("ssh")
            .arg("-F")
            .arg(scratch.join("ssh/config"))
            .arg(&node.name)
            .arg(format!("/usr/local/bin/systemctl {verb} $(cat /srv/unit); true"))
            .stdin(Stdio::null()),
    );
}

/// The same, and does not wait for its end, but until the unit is on its way.
pub fn systemctl_begin(node: &Node, verb: &str) {
    let scratch = node.root.parent().expect("it is in the scratch directory");
    let words = format!("/usr/local/bin/systemctl {verb} $(cat /srv/unit) >/dev/null 2>&1 </dev/null &");
    let config = scratch.join("ssh/config");
    tool(Command::new("ssh").arg("-F").arg(config).arg(&node.name).arg(words).stdin(Stdio::null()));
    wait_until("it does not start", || state(node).starts_with("activ"));
}

/// Writes what a test wants of a server.
pub fn wish(node: &Node, name: &str, text: &str) {
    fs::write(node.at("/srv/do").join(name), text).unwrap();
}

/// Takes it back.
pub fn unwish(node: &Node, name: &str) {
    let _ = fs::remove_file(node.at("/srv/do").join(name));
}
