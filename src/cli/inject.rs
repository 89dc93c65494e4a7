//! `deaddrop inject`: writes secrets into an image or a directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use deaddrop_image::container::Format;
use deaddrop_image::output::Destination;
use deaddrop_image::table::root::Backend;

use super::args::{HostsArgs, ManifestArgs, PlaceArgs, Target, TargetArgs};
use super::failure;
use super::images::{self, names};
use super::prepare::{prepare, time_of_run, tree_changes};
use super::public_out::{self, PublicOut};
use super::sidecars;
use crate::report::rotate::RunKind;
use crate::report::{ProgressDisplay, Ui, json, plan as report, print_error_stream, wrap};
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

    #[command(flatten)]
    hosts: HostsArgs,

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

    /// Make OUT a thin qcow2 image: what differs from TARGET, which has to be raw or qcow2, and stay as it is
    #[arg(long, requires = "output", conflicts_with = "format")]
    qcow2_overlay: bool,

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
    /// The secrets of one host into a device that was written already.
    pub(super) fn on_device(
        device: &Path,
        place: PlaceArgs,
        (manifest, host): (&ManifestArgs, Option<&str>),
        force: bool,
        undo: Option<&Path>,
        public_out: Option<&Path>,
    ) -> Self {
        Self {
            target: TargetArgs { target: device.to_owned(), place },
            manifest: manifest.clone(),
            hosts: HostsArgs { host: host.map(str::to_owned).into_iter().collect(), all_hosts: false },
            output: None,
            format: None,
            qcow2_overlay: false,
            sidecars: false,
            in_place: false,
            force,
            keep_mode: false,
            undo: undo.map(Path::to_owned),
            forget_list: false,
            new_root: false,
            public_out: public_out.map(Path::to_owned),
        }
    }

    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let started = Instant::now();
        let time = time_of_run()?;
        let destination = |output: Option<PathBuf>| match output {
            Some(path) => {
                Destination::File { path, force: self.force, format: self.format, overlay: self.qcow2_overlay }
            }
            None => Destination::InPlace { keep_mode: self.keep_mode, force: self.force, undo: self.undo.clone() },
        };
        if self.hosts.are_several() {
            return self.run_on_several(ui, &destination);
        }
        let host = self.hosts.one();
        let path = names::of_host(&self.target.target, host)?;
        let output = self.output.as_deref().map(|output| names::of_host(output, host)).transpose()?;
        let written = output.as_ref().unwrap_or(&path).clone();
        let name = written.display().to_string();
        let destination = destination(output);
        self.check_in_place(&path, &name)?;
        let place = &self.target.place;
        let by_mark = names::has_mark(self.output.as_ref().unwrap_or(&self.target.target));
        let target =
            Target { path: &path, place, ssh: None, forget_list: self.forget_list, new_root: self.new_root, by_mark };
        if self.new_root && !path.is_dir() {
            let message = format!("--new-root is for a directory, and `{}` is none", path.display());
            return Err(Failure::usage(Message::new(message).hint("leave it out")));
        }
        if self.sidecars {
            sidecars::check(&written)?;
        }
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        let mut prepared = prepare(ui, target, &self.manifest, host, Some(&destination), &watch)?;
        let plan = &prepared.plan;

        let columns = wrap::columns(std::io::stderr());
        let changed_lines =
            if ui.verbose < 2 { report::changed_lines(plan, columns) } else { report::table(plan, columns) };
        let changes = tree_changes(plan, &name)?;
        let public_out = public_out::of(self.public_out.as_deref(), &prepared.known_as, &prepared.public_parts)?;
        let rewrites = prepared.place.place().packed_as().filter(|_| self.output.is_none() && !changes.is_empty());
        // Even without changes: -o still writes an image, and an interrupted run is finished.
        let applied =
            prepared.place.change(&name)?.apply(&changes, time).map_err(|error| failure::failed(&name, &error))?;
        applied.details.iter().for_each(|line| ui.detail(1, line));

        let target = path.display().to_string();
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
        if changed || self.output.is_some() || self.sidecars {
            match sidecars::see_to(&written, self.sidecars, &watch) {
                Ok(lines) => lines.iter().for_each(|line| ui.info(line)),
                Err(message) => {
                    print_error_stream(&message.render());
                    exit = Exit::HalfDone;
                }
            }
        }
        Ok(exit)
    }

    /// With the mount back end a change in place has to be asked for.
    fn check_in_place(&self, path: &Path, name: &str) -> Result<(), Failure> {
        let through_kernel = self.target.place.backend.backend == Backend::Mount && !path.is_dir();
        match through_kernel && self.output.is_none() && !self.in_place {
            true => Err(failure::failed(name, &in_place_must_be_asked_for().into())),
            false => Ok(()),
        }
    }

    /// An image of each of several hosts.
    fn run_on_several(
        &self,
        ui: &Ui,
        destination: &(dyn Fn(Option<PathBuf>) -> Destination + Sync),
    ) -> Result<Exit, Failure> {
        let target = self.target.target.as_path();
        self.check_in_place(target, &target.display().to_string())?;
        if self.new_root {
            let message = Message::new("--new-root is for one directory");
            return Err(Failure::usage(message.hint("run it for each host by itself")));
        }
        let request = images::Request {
            kind: RunKind::Inject,
            target,
            place: &self.target.place,
            manifest: &self.manifest,
            hosts: &self.hosts,
            output: self.output.as_deref(),
            destination,
            public_out: self.public_out.as_deref(),
            sidecars: self.sidecars,
            forget_list: self.forget_list,
            quick: false,
            exit_on_difference: false,
        };
        images::run(ui, &request)
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
