//! `deaddrop generate`: one new key, for the vault.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::SystemTime;

use deaddrop_core::secret::Secret;

use super::public_out::{self, PublicOut};
use crate::derive::generate::{self, GenerateSpec, Key, KeyKind};
use crate::report::{Ui, public};
use crate::run::make::PublicPart;
use crate::run::message::{Exit, Failure, Message};

/// Prints a new key on standard output, for a vault, and its public part on standard error.
///
/// Example: deaddrop generate token
///
/// For a value that several hosts share. A key of one host needs no vault: `generate:` in the manifest generates it on
/// the host.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// ssh-host-ed25519, ssh-ed25519, wireguard, age or token
    #[arg(value_name = "KIND", value_enum, hide_possible_values = true)]
    kind: KeyKind,

    /// Length of a token, in characters [default: 40]
    #[arg(long, value_name = "N")]
    length: Option<u64>,

    /// Characters to choose from for a token, each once [default: letters and digits]
    #[arg(long, value_name = "CHARACTERS")]
    alphabet: Option<String>,

    /// The comment of an SSH key [default: none]
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,

    /// Write the public part of the key to this file instead of standard error; as JSON if it ends in .json
    #[arg(long, value_name = "FILE")]
    public_out: Option<PathBuf>,
}

impl clap::ValueEnum for KeyKind {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        if ui.json {
            let message =
                Message::new("generate has no --json: what it prints is the key, and no value is ever in JSON");
            return Err(Failure::usage(message.hint("leave --json out; --public-out FILE.json has the public part")));
        }
        let (length, alphabet) = (self.length, self.alphabet.as_deref());
        let spec = GenerateSpec::new(self.kind, length, alphabet, self.comment.as_deref()).map_err(|wrong| {
            Failure::usage(Message::new(format!("--{}: {}", wrong.part.name(), wrong.message)).hint(wrong.hint))
        })?;
        let key = generate::make(&spec, "", SystemTime::now())
            .map_err(|error| Failure::refused(vec![Message::from_error(&error)]))?;
        let Key { private, public } = key;
        let name = self.kind.name().to_owned();
        let part = PublicPart::generated(&name, self.kind, "standard output", public, Vec::new());
        let known_as = public::KnownAs::default();
        let file = match &self.public_out {
            Some(path) if public_out::is_json(path) => Some((path, public::json(&known_as, &[part]))),
            Some(path) => Some((path, public::text(&known_as, &[part]))),
            None => {
                public::for_people(&part).iter().for_each(|line| ui.info(line));
                None
            }
        };
        let file = file.map(|(path, text)| PublicOut::write(path, &text)).transpose()?;
        print_private(&private)?;
        match file.map(PublicOut::put) {
            Some(Err(message)) => Err(Failure::refused(vec![message])),
            _ => Ok(Exit::Done),
        }
    }
}

/// Prints the key without the standard library's buffer of standard output, which is not wiped. Adds a newline to a
/// token; the other kinds end in one.
fn print_private(private: &Secret) -> Result<(), Failure> {
    let print = || {
        let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        output.write_all(private.expose())?;
        if private.expose().last() == Some(&b'\n') { Ok(()) } else { output.write_all(b"\n") }
    };
    match print() {
        // A reader that closes the pipe is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::refused(vec![Message::new(format!("standard output: {error}"))]))
        }
        _ => Ok(()),
    }
}
