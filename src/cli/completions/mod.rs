//! `deaddrop completions`: the script of a shell, and the answer that the script asks for at each Tab.
//!
//! The script runs `_DEADDROP_COMPLETE=SHELL deaddrop -- WORDS`. The answer has a candidate on each line: the word to
//! insert, a tab, and its description. Nothing is read for it but the command line, the manifest, names of files, and
//! `/sys`; no error is printed.

mod files;
mod line;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ValueEnum;
use clap_complete::engine::{CompletionCandidate, complete};
use deaddrop_core::shown;

use self::line::{Line, Shell};
use crate::report::{Ui, print_output};
use crate::run::message::{Exit, Failure};

/// The variable that asks for an answer. Its value is the shell.
const VARIABLE: &str = "_DEADDROP_COMPLETE";

/// Maximum number of characters of a description.
const LONGEST: usize = 80;

/// Prints the completions of a shell.
///
/// Example: source <(deaddrop completions bash)
///
/// They know the hosts, tags, secrets and sources of the manifest (-m, else secrets.yaml), images, and the devices of
/// flash. Those of elvish and powershell know commands and options only.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// bash, zsh, fish, nushell, elvish or powershell
    #[arg(value_name = "SHELL", value_enum, hide_possible_values = true)]
    shell: Shell,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, _: &Ui) -> Result<Exit, Failure> {
        let generated = |shell| {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut super::command(), "deaddrop", &mut script);
            script
        };
        print_output(&match self.shell {
            Shell::Bash => include_bytes!("deaddrop.bash").to_vec(),
            Shell::Zsh => include_bytes!("deaddrop.zsh").to_vec(),
            Shell::Fish => include_bytes!("deaddrop.fish").to_vec(),
            Shell::Nushell => include_bytes!("deaddrop.nu").to_vec(),
            Shell::Elvish => generated(clap_complete::Shell::Elvish),
            Shell::Powershell => generated(clap_complete::Shell::PowerShell),
        })?;
        Ok(Exit::Done)
    }
}

/// Answers a script of ours, if it is one that runs the program; `None` otherwise.
pub(super) fn answer() -> Option<ExitCode> {
    let shell = std::env::var_os(VARIABLE)?;
    let mut args = std::env::args_os().skip(1);
    if args.next()? != "--" {
        return None;
    }
    let shell = Shell::from_str(shell.to_str()?, false).ok()?;
    let line = Line::of(shell, args.collect());
    super::ask_for(line.as_ref().and_then(|line| line.words.get(1)).map(String::as_str));
    let text = line.map(|line| lines(&line)).unwrap_or_default();
    // Best effort: a shell that does not read its answer any more needs none.
    let _ = print_output(text.as_bytes());
    Some(ExitCode::SUCCESS)
}

/// The candidates for the last word, as the lines of the answer.
fn lines(line: &Line) -> String {
    let mut command = words::attach(super::command(), line);
    let last = line.words.len().saturating_sub(1);
    let words = line.words.iter().map(OsString::from).collect();
    let candidates = complete(&mut command, words, last, None).unwrap_or_default();
    let is_option = line.current().starts_with('-');
    let mut text = String::new();
    for candidate in &candidates {
        // Options only where one has begun: there are many, and words are meant otherwise.
        let value = candidate.get_value().to_str().filter(|value| is_option || !value.starts_with('-'));
        if let Some(word) = value.filter(|value| !value.contains(shown::is_hidden)).and_then(|value| line.quoted(value))
        {
            text.push_str(&format!("{word}\t{}\n", description(candidate)));
        }
    }
    text
}

/// The first line of the help, cut.
fn description(candidate: &CompletionCandidate) -> String {
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    let first = help.lines().next().unwrap_or_default();
    let cut = if first.chars().count() > LONGEST { "…" } else { "" };
    let kept: String = first.chars().take(LONGEST).collect();
    format!("{}{cut}", shown::text(&kept).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_line_makes_it_fail() {
        const WORDS: [&str; 24] = [
            "",
            "-",
            "--",
            "---",
            "-m",
            "-mx",
            "--manifest",
            "--manifest=",
            "--host",
            "--host=a",
            "=",
            "-=",
            "--=",
            "-vqx",
            "inject",
            "sources",
            "list",
            "rotate",
            "--image",
            "ä",
            "--ä",
            "-ä",
            "help",
            "--secrets",
        ];
        let mut state = 1_usize;
        for _ in 0..100 {
            let mut words = vec![OsString::from("deaddrop")];
            for _ in 0..5 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                words.push(WORDS[(state >> 33) % WORDS.len()].into());
            }
            for end in 2..=words.len() {
                let line = Line::of(Shell::Zsh, words[..end].to_vec()).unwrap();
                assert!(lines(&line).lines().all(|line| line.contains('\t')), "{words:?}");
            }
        }
    }
}
