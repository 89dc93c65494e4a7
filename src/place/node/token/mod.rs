//! The token of a k3s or rke2 cluster on one node: what its unit is and says, questions to its server, the request that
//! rotates the token, and restarts. Called by `rotate`, which decides what to do ([`crate::rotate`]).
//!
//! ```text
//! token_look                -> kept                  the file of the kept old token: base64 and `,`
//! KIND                         unit NAME             none of the following without a unit that runs a server or agent
//! PATH                         state ACTIVE SUB
//! KEPT or -                    role server | agent
//! UNIT UNIT …                  program PATH
//!                              reads PATH            the token's file of the unit; nothing if it has none
//!                              same                  that is PATH
//!                              data DIRECTORY
//!                              stale                 its process is older than the file
//!                              url URL               only of a server, like all that follow
//!                              curl                  curl(1) is there
//!                              database              it has data
//!                              own                   `server/token`: base64 and `,`
//!                              agent-file PATH       the file of its agent token, then `agent-same`
//!                              agent                 its agent token: base64 and `,`
//!                              .
//! token_ask                 -> code NNN              the status of each answer; 000 for none
//! CONFIGURATION …              .
//! .
//! token_ready PROGRAM       -> ready | unready | unknown
//! token_restart UNIT LIMIT  -> ended STATUS
//! ```
//!
//! Paths, methods and statuses: k3s-io/k3s, pkg/server/handlers/token.go and router.go.

use std::time::Duration;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use super::apply::{self, ApplyStep, NodeRun, Outcome, OutcomeKind};
use super::error::NodeError;
use super::{NodePlace, text};
use crate::derive::cluster_token::{Cluster, ClusterToken, curl_escaped};

/// The script; only for such a token.
const SCRIPT: &str = include_str!("token.sh");
/// Maximum length of the answer to `token_look`, in bytes: three small files and some paths.
const LONGEST_LOOK: usize = 64 << 10;
/// Maximum size of a file with a token, in bytes.
const LONGEST_FILE: usize = 4096;
/// Time for a server to answer one request, in seconds. (`k3s token rotate` waits 10.)
const PATIENCE: u64 = 30;

/// What to look at on a node.
#[derive(Debug, Clone, Copy)]
pub struct ClusterQuestion<'a> {
    /// Whose token it is.
    pub cluster: Cluster,
    /// The path of its file.
    pub path: &'a str,
    /// Where servers keep the token before.
    pub kept: Option<&'a str>,
    /// Units of the manifest, before those of the program.
    pub units: &'a [String],
}

/// What a node says of its unit.
#[derive(Debug, Default)]
pub struct ClusterFacts {
    /// The unit that runs a server or an agent.
    pub unit: Option<ClusterUnit>,
    /// The token that is kept from before.
    pub kept: Option<ClusterToken>,
}

/// A unit that runs a server or an agent.
#[derive(Debug, Default)]
pub struct ClusterUnit {
    /// Its name.
    pub name: String,
    /// Its `ActiveState` and `SubState` (systemctl(1)).
    pub active: String,
    /// See `active`.
    pub sub: String,
    /// It runs a server; otherwise an agent.
    pub is_server: bool,
    /// The program.
    pub program: String,
    /// The file that it reads its token from; empty for none.
    pub reads: String,
    /// That is the file of the manifest.
    pub reads_ours: bool,
    /// Its data directory.
    pub data: String,
    /// Its process started before the file was written.
    pub is_stale: bool,
    /// Where a server answers.
    pub url: String,
    /// curl is there.
    pub has_curl: bool,
    /// A server with data.
    pub has_data: bool,
    /// A server's own copy, `server/token`.
    pub own: Option<ClusterToken>,
    /// The file of its agent token.
    pub agent_file: Option<String>,
    /// That is the file of the manifest too.
    pub agent_reads_ours: bool,
    /// Its agent token, if that is set.
    pub agent: Option<ClusterToken>,
}

impl NodePlace<'_> {
    /// Looks at the unit of a cluster. Writes nothing.
    ///
    /// # Errors
    /// If the session fails.
    pub fn look_at_cluster(&mut self, question: &ClusterQuestion<'_>) -> Result<ClusterFacts, NodeError> {
        let mut units: Vec<&str> = question.units.iter().map(String::as_str).collect();
        units.extend(question.cluster.units());
        let kept = question.kept.unwrap_or("-");
        let lines = format!("{}\n{}\n{kept}\n{}\n", question.cluster.name(), question.path, units.join(" "));
        self.run_token("token_look", lines.as_bytes());
        self.session.limits().expect(LONGEST_LOOK, self.login.silence);
        let mut facts = ClusterFacts::default();
        let mut unit = ClusterUnit::default();
        loop {
            let line = self.session.line()?;
            let line = std::str::from_utf8(&line).map_err(|_| NodeError::Garbled("a line about its cluster"))?;
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let text = || rest.to_owned();
            match word {
                "." => break,
                "kept" => facts.kept = self.read_token()?,
                "own" => unit.own = self.read_token()?,
                "agent" => unit.agent = self.read_token()?,
                // One of those that were asked for.
                "unit" if units.contains(&rest) => unit.name = text(),
                "state" => {
                    let (active, sub) = rest.split_once(' ').unwrap_or((rest, ""));
                    (unit.active, unit.sub) = (active.to_owned(), sub.to_owned());
                }
                "role" => unit.is_server = rest == "server",
                "program" => unit.program = text(),
                "reads" => unit.reads = text(),
                "same" => unit.reads_ours = true,
                "data" => unit.data = text(),
                "stale" => unit.is_stale = true,
                "url" if is_url(rest) => unit.url = text(),
                "url" => {}
                "curl" => unit.has_curl = true,
                "database" => unit.has_data = true,
                "agent-file" => unit.agent_file = Some(text()),
                "agent-same" => unit.agent_reads_ours = true,
                _ => return Err(NodeError::Garbled("a line about its cluster")),
            }
        }
        facts.unit = Some(unit).filter(|unit| !unit.name.is_empty());
        Ok(facts)
    }

    /// The token in a small file that follows.
    fn read_token(&mut self) -> Result<Option<ClusterToken>, NodeError> {
        let mut encoded = Zeroizing::new(Vec::new());
        loop {
            let line = self.session.line()?;
            if line.as_slice() == b"," {
                break;
            }
            encoded.extend_from_slice(&line);
        }
        let file = text::from_base64(&encoded).filter(|file| file.len() <= LONGEST_FILE);
        let token = file.and_then(|file| ClusterToken::parse(&file));
        if let Some(token) = &token {
            self.hide_token(token.secret());
        }
        Ok(token)
    }

    /// Whether a regular file stands at this physical path of the last survey, and the token in it.
    #[must_use]
    pub fn token_at(&self, path: &str) -> (bool, Option<ClusterToken>) {
        let content = self.tree.at(path).and_then(|known| known.content.as_ref());
        (self.tree.at(path).is_some(), content.and_then(|content| ClusterToken::parse(content.expose())))
    }

    /// The content of the file at this physical path of the last survey, if it was read.
    #[must_use]
    pub fn content_at(&self, path: &str) -> Option<Secret> {
        self.tree.at(path)?.content.clone()
    }

    /// From now on no output of the node is shown that contains this token.
    pub fn hide_token(&mut self, token: &Secret) {
        self.session.values.add("the token of the cluster", token);
    }

    /// Asks a server whether it runs with each of these tokens: the status of each answer. 405 (older versions: 400)
    /// means yes, 401 no, 403 and 404 that it is too old to rotate, 0 no answer. No effect on the server.
    ///
    /// # Errors
    /// If the session fails.
    pub fn ask_for_tokens(
        &mut self,
        cluster: Cluster,
        unit: &ClusterUnit,
        tokens: &[Secret],
    ) -> Result<Vec<u16>, NodeError> {
        let questions = tokens.iter().map(|token| configuration(cluster, unit, token, None)).collect();
        self.ask_server(questions)
    }

    /// Asks a server to change the cluster's token from `old`, with which it runs. 200 means that it is done. The same
    /// request again has no further effect.
    ///
    /// # Errors
    /// If the session fails: then the server may have done it.
    pub fn request_token(
        &mut self,
        cluster: Cluster,
        unit: &ClusterUnit,
        old: &Secret,
        new: &Secret,
    ) -> Result<u16, NodeError> {
        let codes = self.ask_server(vec![configuration(cluster, unit, old, Some(new))])?;
        Ok(codes.first().copied().unwrap_or_default())
    }

    fn ask_server(&mut self, questions: Vec<Zeroizing<Vec<u8>>>) -> Result<Vec<u16>, NodeError> {
        let mut lines = Zeroizing::new(Vec::new());
        for question in &questions {
            lines.extend_from_slice(&apply::printf_line(question));
        }
        lines.extend_from_slice(b".\n");
        self.run_token("token_ask", &lines);
        let time = PATIENCE.saturating_mul(u64::try_from(questions.len()).unwrap_or(u64::MAX));
        self.session.limits().expect(1 << 10, self.login.silence.saturating_add(Duration::from_secs(time)));
        let mut codes = Vec::with_capacity(questions.len());
        for _ in &questions {
            let line = self.session.line()?;
            let code = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("code "));
            // Without curl, or if that fails early, there is no code.
            codes.push(code.and_then(|code| code.parse().ok()).unwrap_or_default());
        }
        self.end_of_answer()?;
        Ok(codes)
    }

    /// True if a server says that it is ready, or cannot be asked by the program's own kubectl.
    ///
    /// # Errors
    /// If the session fails.
    pub fn is_server_ready(&mut self, cluster: Cluster, unit: &ClusterUnit) -> Result<bool, NodeError> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let mut argv = match cluster {
            Cluster::K3s => words(&[&unit.program, "kubectl"]),
            Cluster::Rke2 => {
                words(&[&format!("{}/bin/kubectl", unit.data), "--kubeconfig", "/etc/rancher/rke2/rke2.yaml"])
            }
        };
        argv.extend(words(&["get", "--raw", "/readyz"]));
        self.run_token(&format!("token_ready {}", *text::base64(text::quoted(&argv).as_bytes())), b"");
        self.session.limits().expect(1 << 10, self.login.silence.saturating_add(Duration::from_secs(200)));
        let is_ready = match self.session.line()?.as_slice() {
            b"ready" | b"unknown" => true,
            b"unready" => false,
            _ => return Err(NodeError::Garbled("whether its server is ready")),
        };
        self.end_of_answer()?;
        Ok(is_ready)
    }

    /// Restarts a unit, or starts it, and waits for systemd for at most `limit`. True if systemd says that it started.
    ///
    /// # Errors
    /// If the session fails: systemd goes on then.
    pub fn restart_cluster_unit(&mut self, unit: &str, limit: Duration) -> Result<bool, NodeError> {
        self.run_token(&format!("token_restart {unit} {}", limit.as_secs()), b"");
        self.session.limits().expect(1 << 10, self.login.silence.saturating_add(limit));
        let ended = self.session.line()?.as_slice() == b"ended 0";
        self.end_of_answer()?;
        Ok(ended)
    }

    /// The last lines of a unit's journal, without values.
    ///
    /// # Errors
    /// If the session fails.
    pub fn cluster_journal(&mut self, unit: &str) -> Result<Vec<String>, NodeError> {
        self.run_token(&format!("show_journal {unit}"), b"");
        self.session.limits().expect(200 << 10, self.login.silence);
        if !self.session.line()?.starts_with(b"output") {
            return Err(NodeError::Garbled("a journal"));
        }
        apply::read_output(&mut self.session, &apply::hidden_output_hint(Some(unit)))
    }

    /// The unit needs no restart to read this file, although its process is older.
    ///
    /// # Errors
    /// If the session fails.
    pub fn mark_as_read(&mut self, path: &str) -> Result<(), NodeError> {
        self.run_token(&format!("token_awaited {}", text::quoted(&[path.to_owned()])), b"");
        self.session.limits().expect(1 << 10, self.login.silence);
        self.end_of_answer()
    }

    /// As [`NodePlace::apply_all`], in a subshell: the session goes on.
    pub fn apply_and_stay(&mut self, run: &NodeRun<'_>, on_step: &dyn Fn(ApplyStep)) -> Outcome {
        self.load();
        self.send_program("(apply)\nsay gone\n");
        let run = NodeRun { stays: true, ..run.clone() };
        // A token is no host key.
        let outcome = apply::apply(&mut self.session, &self.tree, &run, on_step, &|_| false);
        if !matches!(outcome.kind, OutcomeKind::Unknown(_)) {
            // OK to ignore: a session that is lost is noticed by its next use.
            let _ = self.session.line();
        }
        outcome
    }

    /// Loads the script if it is not there yet, and runs a function of it, with these lines for it to read.
    fn run_token(&mut self, call: &str, lines: &[u8]) {
        self.load();
        let script = if self.runs_tokens { "" } else { SCRIPT };
        self.runs_tokens = true;
        self.send_program(&format!("{script}\n{call}\n"));
        self.session.queue(lines);
    }

    fn end_of_answer(&mut self) -> Result<(), NodeError> {
        match self.session.line()?.as_slice() {
            b"." => Ok(()),
            _ => Err(NodeError::Garbled("the end of an answer about its cluster")),
        }
    }
}

/// `https://HOST:PORT`.
fn is_url(text: &str) -> bool {
    let host = text.strip_prefix("https://").and_then(|rest| rest.rsplit_once(':'));
    host.is_some_and(|(host, port)| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
            && port.parse::<u16>().is_ok()
    })
}

/// The configuration of curl (curl(1), `--config`): a question with the password `token`, or the request for `new`.
fn configuration(cluster: Cluster, unit: &ClusterUnit, token: &Secret, new: Option<&Secret>) -> Zeroizing<Vec<u8>> {
    let mut lines = Zeroizing::new(Vec::new());
    let mut add = |key: &str, parts: &[&[u8]]| {
        lines.extend_from_slice(key.as_bytes());
        lines.extend_from_slice(b" = \"");
        parts.iter().for_each(|part| lines.extend_from_slice(&curl_escaped(part)));
        lines.extend_from_slice(b"\"\n");
    };
    add("url", &[format!("{}/v1-{}/token", unit.url, cluster.name()).as_bytes()]);
    add("user", &[b"server:", token.expose()]);
    add("cacert", &[format!("{}/server/tls/server-ca.crt", unit.data).as_bytes()]);
    add("noproxy", &[b"*"]);
    add("output", &[b"/dev/null"]);
    add("write-out", &[b"%{http_code}"]);
    add("max-time", &[PATIENCE.to_string().as_bytes()]);
    if let Some(new) = new {
        // A string of JSON has the same two escapes.
        add("request", &[b"PUT"]);
        add("header", &[b"Content-Type: application/json"]);
        add("data-raw", &[b"{\"newToken\":\"", &curl_escaped(new.expose()), b"\"}"]);
    }
    lines.extend_from_slice(b"silent\n");
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_each_value_escaped_for_curl_and_for_json() {
        let unit = ClusterUnit { url: "https://127.0.0.1:6443".into(), data: "/d".into(), ..ClusterUnit::default() };
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        let text = configuration(Cluster::Rke2, &unit, &secret("o\"ld"), Some(&secret("n\\ew")));
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert_eq!(
            text.lines().filter(|line| !line.starts_with(['n', 'o', 'w', 'm', 's', 'h'])).collect::<Vec<_>>(),
            [
                "url = \"https://127.0.0.1:6443/v1-rke2/token\"",
                "user = \"server:o\\\"ld\"",
                "cacert = \"/d/server/tls/server-ca.crt\"",
                "request = \"PUT\"",
                r#"data-raw = "{\"newToken\":\"n\\\\ew\"}""#,
            ]
        );
    }

    /// What `token_look` says of a unit's file: the lines about its settings.
    fn looked(shell: &str, kind: &str, unit: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("unit"), unit.replace("@", &at(""))).unwrap();
        std::fs::write(at("env"), "A=b\nexport K3S_TOKEN_FILE=\"/of/env\"\nK3S_TOKEN=planted\n").unwrap();
        std::fs::write(at("config.yaml"), "token-file: '/of/config' # here\nother:\n  data-dir: /no\n").unwrap();
        std::fs::create_dir(at("config.yaml.d")).unwrap();
        std::fs::write(at("config.yaml.d/a.yaml"), "data-dir: /of/part\ntoken: planted").unwrap();
        // systemd that shows no ExecStart, and the parts of the other scripts that are used.
        let fakes = format!(
            "set -f\nIFS=' '\nnl='\n'\nsay() {{ printf '%s\\n' \"$*\"; }}\nhas() {{ :; }}\nstart_of() {{ :; }}\n\
             {SCRIPT}\n\
             find_unit() {{ unit=$1; unit_said=FragmentPath={}; read_unit; }}\ntoken_look\n",
            at("unit")
        );
        let mut command = std::process::Command::new("env");
        command.args(shell.split(' ')).args(["-c", &fakes]);
        let mut child =
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let lines = format!("{kind}\n/of/flag\n-\n{kind}.service\n");
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(!said.contains("planted"), "a token is not told in clear");
        let words = ["role", "program", "reads", "same", "data", "url"];
        said.lines().filter(|line| words.iter().any(|word| line.starts_with(word))).map(str::to_owned).collect()
    }

    #[test]
    fn the_settings_of_a_unit_are_its_flags_then_its_configuration_then_its_environment() {
        let flags = "[Service]\nExecStartPre=/bin/true\nExecStart=@/bin/k3s \\\n  server \\\n  '--token-file' \
                     \"/of/flag\" \\\n  --data-dir=/of/flag -c /none --https-listen-port 7443\n";
        let config = "ExecStart=/bin/k3s agent --config @config.yaml\nEnvironment=K3S_DATA_DIR=/of/unit\n";
        let environment =
            "ExecStart=-/bin/k3s server --config /none\nEnvironmentFile=-@env\nEnvironment=\"K3S_DATA_DIR=/of/unit\"\n";
        let rke2 = "ExecStart=/bin/rke2 server --token-file /x --config /none\n";
        for shell in ["sh", "bash --posix", "busybox sh"] {
            for (kind, unit, want) in [
                (
                    "k3s",
                    &flags.replace("@", ""),
                    "role server|program /bin/k3s|reads /of/flag|same|data /of/flag|url https://127.0.0.1:7443",
                ),
                ("k3s", &config.to_owned(), "role agent|program /bin/k3s|reads /of/config|data /of/part"),
                (
                    "k3s",
                    &environment.to_owned(),
                    "role server|program /bin/k3s|reads /of/env|data /of/unit|url https://127.0.0.1:6443",
                ),
                (
                    "rke2",
                    &rke2.to_owned(),
                    "role server|program /bin/rke2|reads /x|data /var/lib/rancher/rke2|url https://127.0.0.1:9345",
                ),
            ] {
                assert_eq!(looked(shell, kind, unit).join("|"), want, "{shell}");
            }
        }
    }

    #[test]
    fn a_url_is_that_of_a_host_and_a_port() {
        for (text, is) in [
            ("https://127.0.0.1:6443", true),
            ("https://[::1]:6443", true),
            ("https://a.b-c:1", true),
            ("http://127.0.0.1:6443", false),
            ("https://127.0.0.1", false),
            ("https://a/b:1", false),
            ("https://a\"b:1", false),
            ("https://:1", false),
        ] {
            assert_eq!(is_url(text), is, "{text}");
        }
    }
}
