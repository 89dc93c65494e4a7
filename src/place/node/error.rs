//! What can go wrong with a node, in words for a person.

use std::io;

use super::transport::Login;

/// A node could not be entered, or a session ended badly.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A program of this machine cannot be run.
    #[error("{program} cannot be run")]
    Start {
        /// Its name.
        program: &'static str,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// ssh did not get there.
    #[error("{reason}")]
    Unreachable {
        /// Why, in ssh's words.
        reason: String,
        /// What a person can do.
        hint: String,
    },
    /// The node took the connection, and then said nothing, or not enough.
    #[error(
        "it {} {seconds} s{}",
        if *heard { "was not done with its answer after" } else { "said nothing for" },
        if *greeted { "" } else { ", and was given up" }
    )]
    Silent {
        /// For how long.
        seconds: u64,
        /// It has said a part.
        heard: bool,
        /// It had said something before.
        greeted: bool,
    },
    /// SIGTERM has ended the session.
    #[error("deaddrop was stopped by SIGTERM")]
    Stopped,
    /// The session ended in the middle.
    #[error("the session ended before its time{}", words(said))]
    Ended {
        /// What was said last on standard error.
        said: Vec<String>,
    },
    /// It said something that is no answer.
    #[error("it did not answer as asked: {0}")]
    Garbled(&'static str),
    /// It is there, and nothing can be done with it.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
        /// What a person can do.
        hint: String,
    },
}

/// Lines as the rest of a sentence.
fn words(said: &[String]) -> String {
    if said.is_empty() { String::new() } else { format!(":\n{}", said.join("\n")) }
}

impl NodeError {
    /// Shorthand for [`NodeError::Refused`].
    pub(super) fn refused(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), hint: hint.into() }
    }

    /// sudo did not take the password.
    pub(super) fn wrong_password() -> Self {
        Self::refused(
            "sudo did not take the password",
            "is `become_password` that of the user who logs in, and may the user use sudo?",
        )
    }

    /// True when the node was never entered.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Silent { greeted: false, .. })
    }

    /// True when ssh was refused without asking a person for a password.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Unreachable { reason, .. } if reason.contains("Permission denied"))
    }

    /// What a person can do next, if there is something.
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

    /// A session that ended before its first word: by ssh, by sudo or by the shell.
    pub(super) fn not_entered(login: &Login, code: Option<i32>, said: Vec<String>) -> Self {
        let last = |word: &str| said.iter().any(|line| line.contains(word));
        let name = login.destination.as_deref().unwrap_or("it");
        let by_ssh = login.destination.is_some() && code == Some(255);
        if by_ssh && last("REMOTE HOST IDENTIFICATION HAS CHANGED") || last("Host key for") && last("has changed") {
            return Self::Unreachable {
                reason: format!("its host key is not the one that is known{}", words(&said)),
                hint: "somebody may be in between. If it was installed anew: `ssh-keygen -R HOST`, and add its new key"
                    .into(),
            };
        }
        if by_ssh && last("Host key verification failed") {
            return Self::Unreachable {
                reason: format!("its host key is not known{}", words(&said)),
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
            let reason = if said.is_empty() { "ssh could not connect".to_owned() } else { said.join("\n") };
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
                Self::refused(format!("{program} did not start a shell{}", words(&said)), hint)
            }
            None => Self::refused(
                format!("the login shell did not start `sh`{}", words(&said)),
                "does `ssh HOST sh -c true` work, and does the node have `base64`?",
            ),
        }
    }
}
