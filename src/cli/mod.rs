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

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

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

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Args),
    Inspect(inspect::Args),
    Plan(plan::Args),
    Inject(inject::Args),
    Flash(flash::Args),
    Tree(tree::Args),
    Verify(verify::Args),
    Rotate(rotate::Args),
    Recover(recover::Args),
    Scrub(scrub::Args),
    Lint(lint::Args),
    Scan(scan::Args),
    Sources(sources::Args),
    Generate(generate::Args),
    Init(init::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
}

/// The command line's definitions, for completions and man pages.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments, runs the command, prints errors, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
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
    let result = match cli.command {
        Command::Check(args) => args.run(&ui),
        Command::Inspect(args) => args.run(&ui),
        Command::Plan(args) => args.run(&ui),
        Command::Inject(args) => args.run(&ui),
        Command::Flash(args) => args.run(&ui),
        Command::Tree(args) => args.run(&ui),
        Command::Verify(args) => args.run(&ui),
        Command::Rotate(args) => args.run(&ui),
        Command::Recover(args) => args.run(&ui),
        Command::Scrub(args) => args.run(&ui),
        Command::Lint(args) => args.run(&ui),
        Command::Scan(args) => args.run(&ui),
        Command::Sources(args) => args.run(&ui),
        Command::Generate(args) => args.run(&ui),
        Command::Init(args) => args.run(&ui),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
    };
    let exit = result.unwrap_or_else(|failure| show(&failure));
    ExitCode::from(exit.code())
}

fn show(failure: &Failure) -> Exit {
    for message in &failure.messages {
        print_error_stream(&message.render());
    }
    failure.exit
}
