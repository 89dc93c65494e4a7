//! Host keys of a node's sshd: which files they are, how sshd is told, and which key it then serves.
//!
//! ```text
//! host_keys                      -> yes | no               for each file: sshd has it as a host key
//! PATH                              sshd sshd|ssh|socket|none
//! DECLARED                          listens ADDRESS:PORT
//! …                                 .
//! .
//! ```
//!
//! In `apply`: `sshd UNIT VERIFY`; the reply `step serving` asks for the line `served NONCE`, or any other.

use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::NodePlace;
use super::apply::{MadeKey, NodeRun};
use super::error::NodeError;
use super::login::{self, Login};

/// Maximum size of the answer, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;
/// How long sshd may take until it serves a new key.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval between two looks.
const PAUSE: Duration = Duration::from_millis(300);
/// How much of ssh's words is read, in bytes.
const MOST_WORDS: usize = 256 << 10;

/// A key of sshd that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Its file, without links.
    pub path: String,
    /// Its public part, `TYPE BASE64`; `None` if the node makes it.
    pub new: Option<String>,
    /// That of the key that stands there.
    pub old: Option<String>,
}

/// What sshd is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sshd {
    /// What `systemctl` calls it: `sshd`, `ssh`; `socket`: each connection has its own; `none`: nothing tells it.
    pub unit: String,
    /// `ADDRESS:PORT`, if it says one.
    listens: String,
}

impl Sshd {
    /// True if the new key can be seen there after the change.
    pub(super) fn is_verified(&self) -> bool {
        self.unit != "none"
    }
}

impl NodePlace<'_> {
    /// Which of these files, each with its declared path, sshd has as host keys; `None` if none of them.
    ///
    /// # Errors
    /// If the session ends.
    pub fn find_host_keys(&mut self, files: &[(&str, &str)]) -> Result<Option<(Vec<bool>, Sshd)>, NodeError> {
        const GARBLED: NodeError = NodeError::Garbled("the answer about host keys");
        self.load_host_keys("host_keys");
        let lines: String = files.iter().map(|(path, declared)| format!("{path}\n{declared}\n")).collect();
        self.session.queue(format!("{lines}.\n").as_bytes());
        self.session.limits().expect(LONGEST_ANSWER, self.login.silence);
        let mut line = || Ok(String::from_utf8_lossy(&self.session.line()?).into_owned());
        let mut are = Vec::with_capacity(files.len());
        for _ in files {
            are.push(match line()?.as_str() {
                "yes" => true,
                "no" => false,
                _ => return Err(GARBLED),
            });
        }
        let unit = line()?.strip_prefix("sshd ").map(str::to_owned).ok_or(GARBLED)?;
        let listens = line()?.strip_prefix("listens ").map(str::to_owned).ok_or(GARBLED)?;
        if line()? != "." || !["sshd", "ssh", "socket", "none"].contains(&unit.as_str()) {
            return Err(GARBLED);
        }
        Ok(are.contains(&true).then_some((are, Sshd { unit, listens })))
    }
}

/// True if sshd serves every new key of a run. `made` has the public parts that the node has made, by path. Asks until
/// it does, or for [`PATIENCE`].
pub(super) fn are_served(login: &Login, run: &NodeRun<'_>, made: &[MadeKey]) -> bool {
    let until = Instant::now() + PATIENCE;
    let Some(sshd) = &run.sshd else { return false };
    run.host_keys.iter().all(|key| {
        let of_node = made.iter().find(|made| made.path == key.path).map(|made| &made.public);
        let Some(new) = key.new.as_ref().or(of_node).and_then(|key| without_comment(key)) else { return false };
        let known: Vec<String> = key.old.iter().cloned().chain([new.clone()]).collect();
        loop {
            if is_served(login, sshd, &new, &known) {
                return true;
            }
            if Instant::now() >= until || deaddrop_core::sys::is_terminated() {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
    })
}

/// `TYPE BASE64` of a line of a `.pub` file.
fn without_comment(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    Some(format!("{} {}", words.next()?, words.next()?))
}

/// One contact that accepts these keys and no other, and goes no further than the exchange of keys: true if the node
/// has proved that it has `new`.
fn is_served(login: &Login, sshd: &Sshd, new: &str, known: &[String]) -> bool {
    let Some((kind, encoded)) = new.split_once(' ') else { return false };
    let Ok(blob) = STANDARD.decode(encoded) else { return false };
    let lines: String = known.iter().map(|key| format!("* {key}\n")).collect();
    // In memory: ssh opens it anew, as often as it wants.
    let Ok(memory) = memfd_create("deaddrop", MFdFlags::MFD_CLOEXEC) else { return false };
    let mut file = std::fs::File::from(memory);
    if file.write_all(lines.as_bytes()).is_err() {
        return false;
    }
    let place = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let algorithms = if kind == "ssh-rsa" { "rsa-sha2-512,rsa-sha2-256" } else { kind };
    let destination = login.destination.clone().unwrap_or_else(|| own_address(&sshd.listens));
    let mut command = login::key_exchange(login, &destination, &place, algorithms);
    let words = words_of(&mut command, login.silence);
    let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&blob)));
    let shows = |line: &str| line.contains("Server host key: ") && line.trim_end().ends_with(&fingerprint);
    words.lines().any(shows) && words.contains("SSH2_MSG_NEWKEYS received")
}

/// What ssh says on standard error.
fn words_of(command: &mut Command, patience: Duration) -> String {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return String::new() };
    let output = child.stderr.take();
    let reader = std::thread::spawn(move || {
        use std::io::Read as _;
        let mut words = Vec::new();
        let limit = u64::try_from(MOST_WORDS).unwrap_or(u64::MAX);
        // Best effort: what could not be read shows no key.
        let _ = output.map(|output| output.take(limit).read_to_end(&mut words));
        words
    });
    let until = Instant::now() + patience;
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Best effort: it may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

/// The sshd of this machine, from what it says of its addresses.
fn own_address(listens: &str) -> String {
    let (address, port) = listens.rsplit_once(':').unwrap_or(("", "22"));
    let address = match address {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        address => address,
    };
    format!("ssh://{address}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_sshd_is_found_where_it_listens() {
        for (listens, want) in [
            ("0.0.0.0:22", "ssh://127.0.0.1:22"),
            ("[::]:2222", "ssh://[::1]:2222"),
            ("192.168.1.2:22", "ssh://192.168.1.2:22"),
            ("", "ssh://127.0.0.1:22"),
        ] {
            assert_eq!(own_address(listens), want);
        }
    }
}
