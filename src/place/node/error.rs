//! Errors of a node, for people.

use std::io;

use super::login::Login;

/// A node could not be entered, or a session failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A program on this machine cannot be run.
    #[error("{program} cannot be run")]
    Start {
        /// Its name.
        program: &'static str,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// ssh could not connect.
    #[error("{reason}")]
    Unreachable {
        /// ssh's own message.
        reason: String,
        /// The next step for the user.
        hint: String,
    },
    /// The node accepted the connection, and then sent nothing, or not enough.
    #[error(
        "it {} {seconds} s{}",
        if *heard { "was not done with its answer after" } else { "said nothing for" },
        if *greeted { "" } else { ", and was disconnected" }
    )]
    Silent {
        /// For how long, in seconds.
        seconds: u64,
        /// A part of the answer had arrived.
        heard: bool,
        /// The greeting had arrived.
        greeted: bool,
    },
    /// SIGTERM stopped the session.
    #[error("deaddrop was stopped by SIGTERM")]
    Stopped,
    /// The session ended unexpectedly.
    #[error("the session ended before its time{}", as_clause(output))]
    Ended {
        /// The last lines of standard error.
        output: Vec<String>,
    },
    /// A reply does not follow the protocol.
    #[error("it did not answer as asked: {0}")]
    Garbled(&'static str),
    /// The node works, and refuses the request.
    #[error("{reason}")]
    Refused {
        /// The reason.
        reason: String,
        /// The next step for the user.
        hint: String,
    },
}

/// Lines as the end of a sentence.
fn as_clause(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!(":\n{}", lines.join("\n")) }
}

impl NodeError {
    /// Shorthand for [`NodeError::Refused`].
    pub(super) fn refused(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), hint: hint.into() }
    }

    /// Another run holds the lock.
    pub(super) fn locked() -> Self {
        Self::refused("another deaddrop is at work there", "run it again when that one is done")
    }

    /// sudo rejected the password.
    pub(super) fn wrong_password() -> Self {
        Self::refused(
            "sudo did not take the password",
            "is `become_password` that of the user who logs in, and may the user use sudo?",
        )
    }

    /// True if the node was never entered.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Silent { greeted: false, .. })
    }

    /// True if ssh was refused without asking the user for a password.
    #[must_use]
    pub fn needs_user(&self) -> bool {
        matches!(self, Self::Unreachable { reason, .. } if reason.contains("Permission denied"))
    }

    /// The next step for the user, if there is one.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Unreachable { hint, .. } | Self::Refused { hint, .. } => hint,
            Self::Start { program: "ssh", .. } => "install OpenSSH's client",
            Self::Silent { greeted: false, .. } => {
                "does `ssh` to it work by hand, and does its login shell ask for something?"
            }
            Self::Silent { .. } | Self::Ended { .. } | Self::Stopped => {
                "run it again: it finds out what is done and does the rest"
            }
            Self::Garbled(_) => "is its `sh` a POSIX shell, and are `stat` and `base64` those of GNU or busybox?",
            Self::Start { .. } => "",
        }
    }

    /// A session that ended before its greeting: because of ssh, of sudo or of the shell.
    pub(super) fn not_entered(login: &Login, code: Option<i32>, output: Vec<String>) -> Self {
        let last = |word: &str| output.iter().any(|line| line.contains(word));
        let name = login.destination.as_deref().unwrap_or("it");
        let by_ssh = login.destination.is_some() && code == Some(255);
        if by_ssh && last("REMOTE HOST IDENTIFICATION HAS CHANGED") || last("Host key for") && last("has changed") {
            return Self::Unreachable {
                reason: format!("its host key is not the one that is known{}", as_clause(&output)),
                hint: "the connection may be intercepted. If reinstalled: `ssh-keygen -R HOST`, and add its new key"
                    .into(),
            };
        }
        if by_ssh && last("Host key verification failed") {
            return Self::Unreachable {
                reason: format!("its host key is not known{}", as_clause(&output)),
                hint: format!("compare its key, and log in once by hand: `ssh {name}`; or add the key to known_hosts"),
            };
        }
        if by_ssh {
            let hint = match () {
                () if last("Permission denied") => {
                    "which key or password does it take? `ssh -v` tells what was offered"
                }
                () if last("timed out") || last("refused") || last("No route") => {
                    "does it run, and is the address right?"
                }
                () if last("Could not resolve") => "is `ssh` of this host in the manifest right?",
                () => "",
            };
            let reason = if output.is_empty() { "ssh could not connect".to_owned() } else { output.join("\n") };
            return Self::Unreachable { reason, hint: hint.into() };
        }
        match login.becomes {
            Some(becomes) => {
                let program = becomes.name();
                let hint = match (program, last("password is required") || last("a terminal is required")) {
                    ("sudo", true) => {
                        "set `become_password` for this host, or allow it without one: NOPASSWD in sudoers"
                    }
                    ("sudo", false) => "may the user who logs in use sudo, for any command?",
                    _ => "the node's doas.conf needs `permit nopass USER`",
                };
                Self::refused(format!("{program} did not start a shell{}", as_clause(&output)), hint)
            }
            None => Self::refused(
                format!("the login shell did not start `sh`{}", as_clause(&output)),
                "does `ssh HOST sh -c true` work, and does the node have `base64`?",
            ),
        }
    }
}
