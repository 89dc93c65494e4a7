//! The command line. One file per command: its arguments and its `run()`.

mod args;
mod backend;
mod check;
mod completions;
mod failure;
mod flash;
mod fleet;
mod generate;
mod images;
mod init;
mod inject;
mod inspect;
mod lint;
mod man;
mod plan;
mod prepare;
mod public_out;
mod recover;
mod root_directory;
mod rotate;
mod scan;
mod scrub;
mod select;
mod sidecars;
mod sources;
mod tree;
mod verify;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::report::{Ui, print_error_stream};
use crate::run::message::{Exit, Failure};

/// The heading of these in the help.
const GLOBAL: &str = "Global options";

/// The arguments of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// Print one JSON object on standard output
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,

    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = GLOBAL)]
    quiet: bool,

    /// More output: -v the partition and why it was chosen, the read-back, the commit; -vv each file
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    verbose: u8,

    /// Print help (-h: in short)
    #[arg(short, long, global = true, action = clap::ArgAction::Help, help_heading = GLOBAL)]
    help: Option<bool>,
}

/// Puts secrets into disk images offline, and rotates them on running nodes: root-only files at declared paths, with
/// values from your password manager.
#[derive(Debug, Parser)]
#[command(name = "deaddrop", version, arg_required_else_help = true, disable_help_flag = true, max_term_width = 100)]
#[command(after_help = THREE_USES)]
struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

const THREE_USES: &str = "\
Three uses:
  an image, after its build and before dd
      deaddrop inject node1.img -m secrets.yaml --host node1
  running nodes, over SSH
      deaddrop rotate node1 tag:server -m secrets.yaml
  CI, in an unprivileged container: the build result is unchanged
      deaddrop inject result/*.img -m secrets.yaml --host node1 -o node1.img

What a command is asked for (plan, inspection, differences, lists, a new key) goes to standard output; what is told of
work, warnings about the run, questions and errors go to standard error.

Exit codes: 0 done, or nothing to do; 1 failed or refused, nothing changed; 2 wrong usage or a wrong manifest;
3 differences or findings (verify, plan --exit-code, lint, scan); 4 some hosts done and some not (rotate, several images);
5 interrupted during the commit; the next run finishes it; that of the program which tree ran;
130 and 143 stopped by SIGINT or SIGTERM before anything was changed.";

/// The commands: the name and the module of each, in the order of the help.
macro_rules! commands {
    ($($kind:ident $name:literal $module:ident),* $(,)?) => {
        #[derive(Debug)]
        enum Command {
            $($kind($module::Args)),*
        }

        impl Command {
            fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
                match self {
                    $(Self::$kind(args) => args.run(ui)),*
                }
            }
        }

        impl Subcommand for Command {
            fn augment_subcommands(program: clap::Command) -> clap::Command {
                let of = |name: &'static str, augment: fn(clap::Command) -> clap::Command| {
                    let is_unused = ASKED.get().is_some_and(|asked| asked != name);
                    if is_unused { clap::Command::new(name) } else { augment(clap::Command::new(name)) }
                };
                program.subcommand_required(true).arg_required_else_help(true).subcommands([
                    $(of($name, <$module::Args as clap::Args>::augment_args)),*
                ])
            }

            fn augment_subcommands_for_update(program: clap::Command) -> clap::Command {
                Self::augment_subcommands(program)
            }

            fn has_subcommand(name: &str) -> bool {
                [$($name),*].contains(&name)
            }
        }

        impl FromArgMatches for Command {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                match matches.subcommand() {
                    $(Some(($name, matches)) => FromArgMatches::from_arg_matches(matches).map(Self::$kind),)*
                    _ => Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand)),
                }
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                Self::from_arg_matches(matches).map(|command| *self = command)
            }
        }
    };
}

commands! {
    Check "check" check,
    Inspect "inspect" inspect,
    Plan "plan" plan,
    Inject "inject" inject,
    Flash "flash" flash,
    Tree "tree" tree,
    Verify "verify" verify,
    Rotate "rotate" rotate,
    Recover "recover" recover,
    Scrub "scrub" scrub,
    Lint "lint" lint,
    Scan "scan" scan,
    Sources "sources" sources,
    Generate "generate" generate,
    Init "init" init,
    Completions "completions" completions,
    Man "man" man,
}

/// The only command whose options are defined, if the arguments begin with its name: those of the others, some hundred,
/// take as long as the rest of parsing. Set by [`ask_for`].
static ASKED: OnceLock<String> = OnceLock::new();

/// The command line's definitions, for completions and man pages.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Defines the options of this command only, if it is one.
fn ask_for(first: Option<&str>) {
    // What these print is made from all definitions.
    let needs_all = |name: &str| ["completions", "man"].contains(&name);
    if let Some(name) = first.filter(|first| Command::has_subcommand(first) && !needs_all(first)) {
        // Set once: `main` or an answer calls this.
        let _ = ASKED.set(name.to_owned());
    }
}

/// Parses the arguments, runs the command, prints errors, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = completions::answer() {
        return code;
    }
    ask_for(std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            match error.use_stderr() {
                // clap's error repeats arguments, and these may contain control characters.
                true => print_error_stream(error.render().ansi().to_string().trim_end()),
                // Best effort: help on a closed pipe is no failure.
                false => drop(error.print()),
            }
            // clap's code is 2 for wrong usage and 0 for --help.
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let ui = Ui { json: cli.global.json, quiet: cli.global.quiet, verbose: cli.global.verbose };
    let result = cli.command.run(&ui);
    let exit = result.unwrap_or_else(|failure| show(&failure));
    ExitCode::from(exit.code())
}

fn show(failure: &Failure) -> Exit {
    for message in &failure.messages {
        print_error_stream(&message.render());
    }
    failure.exit
}
