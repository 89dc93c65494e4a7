//! `deaddrop scan`: searches a target for values where others can read them.

use std::path::PathBuf;

use super::args::{ManifestArgs, PlaceArgs, Target};
use super::backend::BackendArgs;
use super::prepare::open;
use super::{failure, select};
use crate::place::SystemChoice;
use crate::report::plan::warning_lines;
use crate::report::{ProgressDisplay, Ui, json, scan as report};
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::Values;
use crate::run::scan::{self, Scanned};

/// Searches the Nix store of a target, and every file that others can read, for the values of the manifest: as they
/// are, in base64, in hexadecimal, or as a password hash.
///
/// Example: deaddrop scan node1.img -m secrets.yaml
///
/// Writes nothing, and never shows a value. Without --host the values of all hosts are searched for. Values under 8
/// bytes are not searched for, and counted. Exits with 3 if a value is found.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An image, a block device, or a directory or tar with a root file system
    #[arg(value_name = "TARGET")]
    target: PathBuf,

    #[command(flatten)]
    manifest: ManifestArgs,

    /// The target's host in the manifest
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// The root partition, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL")]
    root_partition: Option<String>,

    #[command(flatten)]
    backend: BackendArgs,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let name = self.target.display().to_string();
        if let Some(host) = name.strip_prefix('@') {
            let message = Message::new(format!("{name}: the files of a running node are not searched"));
            let hint = format!("name the image of {host}; or run it on the node, as root: deaddrop scan /");
            return Err(Failure::usage(message.hint(hint)));
        }
        let manifest = select::load(&self.manifest.manifest)?;
        let parts = scan::parts(&manifest, self.host.as_deref(), &self.manifest.only)
            .map_err(|error| select::wrong_selection(&error))?;
        let values = Values::read(&manifest, &parts, ui.tell())?;
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        let place = PlaceArgs::to_read(self.root_partition.as_deref(), &self.backend, None);
        let target = Target::to_read(&self.target, &place);
        let failed = |error| Failure::refused(vec![failure::place_message(&name, &error)]);
        let mut place = open(ui, target, None, &watch).map_err(|error| failed(error.into()))?;
        let persist_root = manifest.persist_root(self.host.as_deref()).map(|path| path.as_str().to_owned());
        let choice = SystemChoice { persist_root, ..SystemChoice::default() };
        let scanned = scan::scan(&manifest, &parts, &values, place.as_mut(), &choice, &watch).map_err(failed)?;
        if scanned.total == 0 && scanned.unread.count > 0 {
            return Err(incomplete(&name, &scanned));
        }
        values.warnings().iter().for_each(|warning| ui.info(&warning_lines(warning)));
        scanned.unread.reasons.iter().for_each(|reason| ui.info(&format!("not searched: {reason}")));
        ui.print_json(|| json::scan(&name, &scanned, values.warnings()))?;
        let columns = ui.columns_of_result();
        ui.result(&report::text(&name, &place.title(), &scanned, columns))?;
        Ok(if scanned.total == 0 { Exit::Done } else { Exit::Differences })
    }
}

/// Nothing was found, and not everything was searched.
fn incomplete(name: &str, scanned: &Scanned) -> Failure {
    const SHOWN: usize = 5;
    let count = scanned.unread.count;
    let files = if count == 1 { "1 file or directory".to_owned() } else { format!("{count} files and directories") };
    let message = Message::new(format!("{name}: {files} could not be searched, and nothing was found in the others"));
    let message = scanned.unread.reasons.iter().take(SHOWN).fold(message, Message::cause);
    Failure::refused(vec![message.hint("run it as root; is the file system whole? (`e2fsck -fn`)")])
}
