//! Commands that enter a node: ssh with its options and the first command, or a shell of this machine. Called by
//! `Session`.
//!
//! The first command contains neither values nor the script: it reads the script from its standard input.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use deaddrop_core::privilege::Become;
use deaddrop_core::secret::Secret;

/// How to enter a node.
#[derive(Debug, Clone)]
pub struct Login {
    /// The node's name, for messages.
    pub name: String,
    /// ssh's destination; `None` for this machine, without ssh.
    pub destination: Option<String>,
    /// ssh's configuration file, instead of the user's own.
    pub ssh_config: Option<PathBuf>,
    /// For ssh's `-o`; of two different values ssh takes the first.
    pub ssh_options: Vec<String>,
    /// How the login user becomes root.
    pub becomes: Option<Become>,
    /// The password for sudo.
    pub password: Option<Secret>,
    /// ssh may ask the user on the terminal.
    pub interactive: bool,
    /// Time limit for a node's greeting, and for each short answer.
    pub silence: Duration,
    /// Environment variables that contain values: ssh does not get them.
    pub hidden: Vec<String>,
}

#[cfg(test)]
impl Login {
    /// A shell of this machine.
    pub(super) fn here(silence: Duration) -> Self {
        Self {
            name: "here".into(),
            destination: None,
            ssh_config: None,
            ssh_options: Vec::new(),
            becomes: None,
            password: None,
            interactive: false,
            silence,
            hidden: Vec::new(),
        }
    }
}

/// What sudo records, according to `sudo -l`: options as in sudoers(5), and tags of single commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// The input of the node.
    pub input: bool,
    /// The output of the node.
    pub output: bool,
}

impl Records {
    /// Takes the next word. Of an option that occurs twice the last one wins. A tag may belong to another command than
    /// ours; one that forbids (`NOLOG_OUTPUT`) is ignored.
    pub(super) fn note(&mut self, word: &str) {
        for part in word.split([',', ':']) {
            match part {
                "log_input" | "log_stdin" | "LOG_INPUT" => self.input = true,
                "!log_input" | "!log_stdin" => self.input = false,
                "log_output" | "log_stdout" | "LOG_OUTPUT" => self.output = true,
                "!log_output" | "!log_stdout" => self.output = false,
                _ => {}
            }
        }
    }
}

/// The directories of a system's programs, NixOS included. `survey.sh` has the same, and decides which others are used.
const SYSTEM_PATH: &str =
    "/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The shell as a command that every login shell passes on unchanged: one word in single quotes, without a backslash, a
/// line end or `!`.
///
/// It reads until a line begins with the nonce (sudo may have left the password), and runs the rest of that line; for
/// `base64`, the one program that this takes, the system's directories come first. Below sudo it first prints the words
/// of `sudo -l` about recording: root needs no password for that query.
pub(super) fn shell(nonce: &str, becomes: Option<Become>, says_ready: bool) -> String {
    let ready = if says_ready { format!("echo {nonce}:ready;") } else { String::new() };
    let records = match becomes {
        Some(Become::Sudo) => format!(
            "set -f;for s in $(sudo -n -l -U \"$SUDO_USER\" </dev/null 2>/dev/null);\
             do case $s in *log_std*|*log_input*|*log_output*|*LOG_INPUT*|*LOG_OUTPUT*)\
             echo {nonce}:sudo \"$s\";;esac;done;set +f;"
        ),
        _ => String::new(),
    };
    format!(
        "{ready}{records}while read -r s;do case $s in {nonce}*)\
         eval \"$(PATH={SYSTEM_PATH}:$PATH;printf %s \"${{s#{nonce}}}\"|base64 -d)\";exit;;esac;done"
    )
}

/// Options that the user cannot change: ssh takes the first of two. Only those that every OpenSSH of the last ten years
/// has, because ssh refuses unknown ones.
const FIXED: [&str; 8] = [
    // The host's key must be known; also for loopback, since other users can listen there.
    "StrictHostKeyChecking=yes",
    "NoHostAuthenticationForLocalhost=no",
    "UpdateHostKeys=no",
    // A local command would read ssh's own standard input: values.
    "PermitLocalCommand=no",
    // The node gets no access to this machine.
    "ClearAllForwardings=yes",
    "Tunnel=no",
    "GSSAPIDelegateCredentials=no",
    "RemoteCommand=none",
];

/// ssh with its options, or a shell here.
pub(super) fn command(login: &Login, shell: &str, prompt: Option<&str>) -> Command {
    let Some(destination) = &login.destination else {
        let mut command = Command::new("sh");
        command.args(["-c", shell]).env_clear();
        // Programs of `run_after` get the same environment as over ssh, and no other variables of the user.
        for name in ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        return command;
    };
    let mut command = Command::new("ssh");
    if let Some(config) = &login.ssh_config {
        command.arg("-F").arg(config);
    }
    // No terminal, no agent and no display for the node.
    command.args(["-T", "-a", "-x"]);
    for option in FIXED {
        command.args(["-o", option]);
    }
    if !login.interactive {
        command.args(["-o", "BatchMode=yes"]);
    }
    for option in &login.ssh_options {
        command.arg("-o").arg(option);
    }
    let seconds = login.silence.as_secs().max(1);
    command.arg("-o").arg(format!("ConnectTimeout={seconds}"));
    command.args(["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]);
    let shell = match (login.becomes, prompt) {
        (None, _) => format!("exec sh -c '{shell}'"),
        // -k: with a valid ticket sudo would not read the password, and the shell would.
        (Some(Become::Sudo), Some(prompt)) => format!("exec sudo -k -S -p '{prompt}' sh -c '{shell}'"),
        (Some(Become::Sudo), None) => format!("exec sudo -n sh -c '{shell}'"),
        (Some(Become::Doas), _) => format!("exec doas -n sh -c '{shell}'"),
    };
    command.arg("--").arg(destination).arg(shell);
    command
}

/// ssh that goes no further than the exchange of keys: it accepts the keys of the file `known_hosts` with these
/// algorithms, whatever the user's configuration says, and authenticates by nothing.
pub(super) fn key_exchange(login: &Login, destination: &str, known_hosts: &str, algorithms: &str) -> Command {
    let mut command = Command::new("ssh");
    for name in &login.hidden {
        command.env_remove(name);
    }
    if let Some(config) = &login.ssh_config {
        command.arg("-F").arg(config);
    }
    command.args(["-v", "-T", "-a", "-x", "-n"]);
    let seconds = login.silence.as_secs().max(1);
    let own = [
        // Only newer ones know these.
        "IgnoreUnknown=KnownHostsCommand,GSSAPIKeyExchange".to_owned(),
        "KnownHostsCommand=none".to_owned(),
        "GSSAPIKeyExchange=no".to_owned(),
        "VerifyHostKeyDNS=no".to_owned(),
        "CheckHostIP=no".to_owned(),
        "ControlMaster=no".to_owned(),
        "ControlPath=none".to_owned(),
        "BatchMode=yes".to_owned(),
        "PreferredAuthentications=none".to_owned(),
        format!("UserKnownHostsFile={known_hosts}"),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        format!("HostKeyAlgorithms={algorithms}"),
        format!("ConnectTimeout={seconds}"),
    ];
    for option in FIXED.map(str::to_owned).iter().chain(&own).chain(&login.ssh_options) {
        command.arg("-o").arg(option);
    }
    command.arg("--").arg(destination).arg("exit");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_command_holds_nothing_that_a_login_shell_could_take_for_its_own() {
        for (becomes, says_ready) in [(None, false), (Some(Become::Doas), false), (Some(Become::Sudo), true)] {
            let shell = shell("deaddrop00ff", becomes, says_ready);
            assert!(!shell.contains(['\'', '\\', '!', '\n', '`']), "{shell}");
        }
    }

    #[test]
    fn what_sudo_records_is_read_from_its_own_words() {
        for (words, input, output) in [
            ("", false, false),
            ("log_output,", false, true),
            ("env_reset,log_input, !log_output", true, false),
            ("log_output, log_input, !log_input, !log_output", false, false),
            ("!log_output, NOPASSWD: LOG_OUTPUT: ALL", false, true),
            ("LOG_INPUT:", true, false),
            ("!log_stderr, log_stdout, logfile=/log_output", false, true),
            ("log_output NOLOG_OUTPUT:", false, true),
        ] {
            let mut records = Records::default();
            words.split(' ').for_each(|word| records.note(word));
            assert_eq!(records, Records { input, output }, "{words}");
        }
    }
}
