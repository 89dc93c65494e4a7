//! `deaddrop inject`: writes secrets into an image or a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use deaddrop_image::container::Format;
use deaddrop_image::output::Destination;
use deaddrop_image::progress::Watch;
use deaddrop_image::sidecars;
use deaddrop_image::table::root::Backend;

use super::args::{ManifestArgs, Target, TargetArgs};
use super::failure;
use super::prepare::{prepare, time_of_run, tree_changes};
use super::public_out::{self, PublicOut};
use crate::report::{ProgressDisplay, Ui, json, plan as report, print_error_stream, public, wrap};
use crate::run::message::{Exit, Failure, Message};
use crate::run::plan::Plan;

/// Writes the declared secrets into an image or a tar with a root file system, in place or as a new file, or into a
/// directory with a root file system.
///
/// Example: deaddrop inject result/*.img -m secrets.yaml --host node1 -o node1.img
///
/// All or none: nothing is written to the image before the whole change is made and read back. (With --backend mount
/// only with -o OUT; see --in-place.)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    manifest: ManifestArgs,

    /// Write a new image, and leave TARGET unchanged; the suffix sets the compression (.zst, .gz, .xz, .bz2, otherwise
    /// none); for a tar of a root: .tar, .tar.gz, …
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,

    /// Write OUT in this format [default: TARGET's]; all but raw and qcow2 need the program qemu-img
    ///
    /// `vpc`, as qemu calls it, is vhd. Without --format, an OUT whose suffix tells another format is refused.
    #[arg(long, value_name = "raw|qcow2|vmdk|vdi|vhd|vhdx", value_parser = formats(), hide_possible_values = true,
          requires = "output")]
    format: Option<Format>,

    /// Write OUT.sha256, OUT.bmap (not for qcow2 and the like) and OUT's line of SHA256SUMS beside it, too
    ///
    /// Without -o, those of TARGET. Without this option, one that does not fit any more is named.
    #[arg(long)]
    sidecars: bool,

    /// Change TARGET itself; required by --backend mount without -o (the native back end's default)
    ///
    /// The kernel writes immediately: a power cut can leave some files new and some old, each complete. With -o, OUT is
    /// complete or absent.
    #[arg(long, conflicts_with = "output")]
    in_place: bool,

    /// Replace OUT if it exists; without OUT, write to an image file even if it is mounted or in use, or to a block
    /// device that is not removable (never to one that is in use)
    #[arg(long)]
    force: bool,

    /// Keep the mode of an image changed in place (default: set it to 0600)
    #[arg(long, conflicts_with = "output")]
    keep_mode: bool,

    /// Directory for an undo file, for a block device whose change does not fit into a journal
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    undo: Option<PathBuf>,

    /// Give up files of an interrupted rotate whose directories are missing
    ///
    /// The others are finished as usual. Without this option such a list is refused, because its entries for the
    /// missing files would be lost.
    #[arg(long)]
    forget_list: bool,

    /// Accept an empty directory that is to become a root
    #[arg(long, conflicts_with = "output")]
    new_root: bool,

    /// Write the public parts of the generated keys to FILE: a known_hosts line for a host key, public keys and age
    /// recipients as comments; as JSON if FILE ends in .json
    #[arg(long, value_name = "FILE")]
    public_out: Option<PathBuf>,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let started = Instant::now();
        let time = time_of_run()?;
        let destination = match &self.output {
            Some(path) => Destination::File { path: path.clone(), force: self.force, format: self.format },
            None => Destination::InPlace { keep_mode: self.keep_mode, force: self.force, undo: self.undo.clone() },
        };
        let name = self.output.as_ref().unwrap_or(&self.target.target).display().to_string();
        let through_kernel = self.target.place.backend.backend == Backend::Mount && !self.target.target.is_dir();
        if through_kernel && self.output.is_none() && !self.in_place {
            return Err(failure::failed(&name, &in_place_must_be_asked_for().into()));
        }
        let (path, place) = (self.target.target.as_path(), &self.target.place);
        let target = Target { path, place, ssh: None, forget_list: self.forget_list, new_root: self.new_root };
        if self.new_root && !path.is_dir() {
            let message = format!("--new-root is for a directory, and `{}` is none", path.display());
            return Err(Failure::usage(Message::new(message).hint("leave it out")));
        }
        if self.sidecars && !is_file(self.output.as_deref().unwrap_or(path)) {
            let message = format!("--sidecars is for an image file, and `{}` is none", path.display());
            return Err(Failure::usage(Message::new(message).hint("leave it out")));
        }
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        let mut prepared = prepare(ui, target, &self.manifest, Some(&destination), &watch)?;
        let plan = &prepared.plan;

        let columns = wrap::columns(std::io::stderr());
        let changed_lines =
            if ui.verbose < 2 { report::changed_lines(plan, columns) } else { report::table(plan, columns) };
        let changes = tree_changes(plan, &name)?;
        let public_out = self.public_out.as_ref().map(|path| {
            let (known_as, parts) = (&prepared.known_as, &prepared.public_parts);
            let text = match public_out::is_json(path) {
                true => public::json(known_as, parts),
                false => public::text(known_as, parts),
            };
            PublicOut::write(path, &text)
        });
        let public_out = public_out.transpose()?;
        let rewrites = prepared.place.place().packed_as().filter(|_| self.output.is_none() && !changes.is_empty());
        // Even without changes: -o still writes an image, and an interrupted run is finished.
        let applied =
            prepared.place.change(&name)?.apply(&changes, time).map_err(|error| failure::failed(&name, &error))?;
        applied.details.iter().for_each(|line| ui.detail(1, line));

        let target = self.target.target.display().to_string();
        ui.print_json_when_done(|| json::plan("inject", &target, plan));
        if !changed_lines.is_empty() {
            ui.info(&changed_lines);
        }
        // What is encrypted for these keys is to be told now: only a new key has it.
        prepared.public_parts.iter().flat_map(|part| &part.to_add).for_each(|line| ui.info(line));
        for note in applied.notes {
            ui.info(&note);
        }
        if let Some(message) = plan.finished_message() {
            ui.info(&format!("{name}: {message}"));
        }
        let mut exit = Exit::Done;
        if let Some(Err(message)) = public_out.map(PublicOut::put) {
            // The keys are in place, and stay there.
            print_error_stream(&message.render());
            exit = Exit::HalfDone;
        }
        ui.info(&self.closing_line(&name, plan, rewrites, started.elapsed()));
        let changed = !changes.is_empty();
        // The image is read again, and is locked until then.
        drop((changes, prepared));
        if let Err(message) = self.see_to_sidecars(ui, changed, &watch) {
            print_error_stream(&message.render());
            exit = Exit::HalfDone;
        }
        Ok(exit)
    }

    /// Writes the sidecars of the image that was written, or names those that it does not fit any more.
    fn see_to_sidecars(&self, ui: &Ui, changed: bool, watch: Watch<'_>) -> Result<(), Message> {
        let image = self.output.as_deref().unwrap_or(&self.target.target);
        if !self.sidecars {
            if (changed || self.output.is_some()) && is_file(image) {
                for sidecar in sidecars::of(image) {
                    ui.info(&format!("{sidecar} does not fit the new {} (--sidecars writes it)", image.display()));
                }
            }
            return Ok(());
        }
        let written = sidecars::write(image, watch).map_err(|error| {
            let message = Message::new("--sidecars: the image is written, and what is beside it does not fit it");
            message.caused_by(&error).hint("the same command again writes the sidecars; with -o, add --force")
        })?;
        written.iter().for_each(|sidecar| ui.info(&format!("{sidecar} written")));
        Ok(())
    }

    /// `rewrites`: all of the image was written anew, since it is that.
    fn closing_line(&self, name: &str, plan: &Plan, rewrites: Option<&str>, elapsed: Duration) -> String {
        let time = text::duration(elapsed);
        let rewrites = rewrites.map_or(String::new(), |packed| format!("; rewrites {name}, which is {packed}"));
        if !plan.is_empty() {
            return format!("{name}: {}{rewrites} ({time})", report::done(plan));
        }
        let declared = report::secrets(plan.secrets().len());
        match self.output {
            Some(_) => format!("{name}: a copy, {declared} already as declared ({time})"),
            None => format!("{name}: nothing to do, {declared} as declared"),
        }
    }
}

/// True for a regular file, and for a name that nothing has yet.
fn is_file(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file())
}

fn formats() -> impl TypedValueParser<Value = Format> {
    let named = |format: Format| PossibleValue::new(format.name()).aliases((format == Format::Vhd).then_some("vpc"));
    // Only these names get here.
    PossibleValuesParser::new(Format::MADE.map(named)).map(|name| Format::named(&name).unwrap_or(Format::Raw))
}

fn in_place_must_be_asked_for() -> StorageError {
    StorageError::refused(
        "with --backend mount the kernel writes as it goes, and a power cut in the middle can leave some files new and \
         some old",
        "-o OUT makes a new image, which is whole or not there; --in-place changes this one all the same",
    )
}
