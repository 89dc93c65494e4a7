//! `deaddrop sources`: lists the items of a source, by name.

use deaddrop_core::near;
use deaddrop_vault::Sources;

use super::args::ManifestArgs;
use super::select;
use crate::report::plan::warning_lines;
use crate::report::{Ui, json, sources as report};
use crate::run::message::{Exit, Failure, Message};

/// Inspects the sources of a manifest.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
}

/// Lists the items of a source: names of folders, items and fields, never a value.
///
/// Example: deaddrop sources list vault
#[derive(Debug, clap::Args)]
struct List {
    /// A name under `sources`, or env, or file
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    manifest: ManifestArgs,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let Command::List(list) = &self.command;
        list.run(ui)
    }
}

impl List {
    fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let manifest = select::load(&self.manifest.manifest)?;
        if !manifest.has_source(&self.name) {
            return Err(self.unknown(manifest.sources.keys().map(String::as_str)));
        }
        let sources = Sources { tell: ui.tell(), ..manifest.vaults() };
        let (items, mut warnings) = deaddrop_vault::list(&sources, &self.name).map_err(|error| {
            Failure::refused(vec![Message::from_error(&error).hint(error.hint().unwrap_or_default())])
        })?;
        manifest.allowances(None).filter(&mut warnings);
        ui.print_json(|| json::sources(&self.name, &items, &warnings))?;
        ui.print(&report::table(&items))?;
        warnings.iter().for_each(|warning| ui.info(&warning_lines(warning)));
        ui.info(&report::closing_line(&self.name, &items));
        Ok(Exit::Done)
    }

    fn unknown<'n>(&self, named: impl Iterator<Item = &'n str>) -> Failure {
        let names: Vec<&str> = named.collect();
        let there_are = match names.as_slice() {
            [] => "sources here: env and file; others are named under `sources`".to_owned(),
            names => format!("sources here: {} (and always env, file)", near::list(names.iter().copied())),
        };
        let near = near::near(&self.name, names.iter().copied());
        let hint = match near::did_you_mean(&near) {
            Some(question) => format!("{question} {there_are}"),
            None => there_are,
        };
        let name = deaddrop_core::text::shown_text(&self.name).unwrap_or_default();
        Failure::usage(Message::new(format!("unknown source `{name}`")).hint(hint))
    }
}
