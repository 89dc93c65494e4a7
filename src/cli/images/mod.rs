//! A run over several images: one base for many hosts, or an image of each host.
//!
//! Every local error (the manifest, a host's name, a value, an output that exists) is found before anything is written.
//! Values are read once, for all hosts together, and a base is decoded once.

mod drive;
pub mod names;

use std::path::{Path, PathBuf};
use std::time::Instant;

use deaddrop_core::sys::SignalsWait;
use deaddrop_image::output::Destination;
use deaddrop_image::progress::quiet;

use super::args::{HostsArgs, ManifestArgs, PlaceArgs, Target};
use super::fleet::{end_waiting, exit, secrets_of, tell};
use super::prepare::{open_for_all, time_of_run};
use super::public_out::{self, PublicOut};
use super::{failure, select, sidecars};
use crate::manifest::Manifest;
use crate::report::rotate::{HostCounts, HostReport, RunKind};
use crate::report::{ProgressDisplay, Ui, print_error_stream, public};
use crate::rotate::HostStatus;
use crate::rotate::choose::ChosenHost;
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, HostPart, Values};
use crate::run::plan::Action;

/// One run over images, as the command line requests it.
pub struct Request<'a> {
    /// `inject`, `plan` or `verify`.
    pub kind: RunKind,
    /// The base of all hosts; with `{host}`, the image of each.
    pub target: &'a Path,
    /// How images are opened.
    pub place: &'a PlaceArgs,
    /// The manifest, and the secrets.
    pub manifest: &'a ManifestArgs,
    /// The hosts.
    pub hosts: &'a HostsArgs,
    /// The new image of each host; `None` to change its own.
    pub output: Option<&'a Path>,
    /// Where the changes of a host go, by its new image.
    pub destination: &'a (dyn Fn(Option<PathBuf>) -> Destination + Sync),
    /// The file for the public parts of generated keys.
    pub public_out: Option<&'a Path>,
    /// Write the sidecars of each image.
    pub sidecars: bool,
    /// Abandon the entries of an interrupted rotate whose directories are missing.
    pub forget_list: bool,
    /// `plan` only compares.
    pub quick: bool,
    /// Exit with 3 if an image differs, in a run that writes nothing.
    pub exit_on_difference: bool,
}

/// The files of one host.
struct Files {
    /// The image that is read.
    input: PathBuf,
    /// The new one, if the image is not changed itself.
    output: Option<PathBuf>,
}

impl Files {
    /// The file that the host gets.
    fn target(&self) -> &Path {
        self.output.as_deref().unwrap_or(&self.input)
    }
}

/// Runs it on the images of all hosts, and prints the result.
///
/// # Errors
/// Exit 2 for the manifest and the command line, exit 1 for values, for a base that cannot be read, and for an output
/// that is not possible. Nothing was written then.
pub fn run(ui: &Ui, request: &Request<'_>) -> Result<Exit, Failure> {
    let started = Instant::now();
    let time = time_of_run()?;
    let manifest = select::load(&request.manifest.manifest)?;
    let parts = parts(&manifest, request)?;
    let files = files(request, &parts)?;
    let values = Values::read(&manifest, &parts, ui.tell())?;
    part::check_that_values_fit(&manifest, &parts, &values, |_| {})?;
    if let Some(path) = request.public_out {
        // That it can be written is known before the first key is.
        drop(PublicOut::write(path, "")?);
    }

    for files in files.iter().filter(|_| request.sidecars) {
        sidecars::check(files.target())?;
    }
    deaddrop_core::sys::raise_open_files_limit();
    let progress = ProgressDisplay::new(ui);
    let watch = |step| progress.show(step);
    let destinations: Vec<Destination> = match request.kind {
        RunKind::Inject => files.iter().map(|files| (request.destination)(files.output.clone())).collect(),
        _ => Vec::new(),
    };
    let base = if !names::has_mark(request.target) && !request.target.is_dir() {
        let name = request.target.display().to_string();
        let target = Target { by_mark: true, ..Target::to_read(request.target, request.place) };
        let opened = open_for_all(target, parts.len(), &destinations, &watch);
        opened.map_err(|error| failure::failed(&name, &error.into()))?
    } else {
        for (files, destination) in files.iter().zip(&destinations).filter(|(files, _)| files.output.is_some()) {
            let name = files.target().display().to_string();
            let checked = deaddrop_image::output::check(&files.input, destination);
            checked.map_err(|error| failure::failed(&name, &error.into()))?;
        }
        None
    };
    // From here on a signal lets what is committed end, and gives up the rest.
    let waits = (request.kind == RunKind::Inject).then(SignalsWait::new);
    let job = drive::Job { request, manifest: &manifest, parts: &parts, files: &files, values: &values, time };
    let (rows, told) = drive::drive(ui, &job, base, waits.as_ref());
    let public_out = request.public_out.map(|path| {
        let hosts = told.public;
        let text = if public_out::is_json(path) { public::json_of_all(&hosts) } else { public::text_of_all(&hosts) };
        PublicOut::write(path, &text)
            .map_err(|failure| failure.messages)
            .and_then(|file| file.put().map_err(|e| vec![e]))
    });
    let (lines, failed) = see_to_sidecars(request, &files, &rows);
    tell(ui, &rows, &[], request.kind, started)?;
    told.lines.iter().chain(&lines).for_each(|line| ui.info(line));
    let exit = exit(&HostCounts::of(&rows), request.kind, request.exit_on_difference);
    end_waiting(waits, exit);
    let failed: Vec<Message> = public_out.and_then(Result::err).into_iter().flatten().chain(failed).collect();
    failed.iter().for_each(|message| print_error_stream(&message.render()));
    // The images and their keys are written, and stay.
    Ok(if failed.is_empty() { exit } else { Exit::HalfDone })
}

/// The sidecars of the images that were written: lines for the user, and errors.
fn see_to_sidecars(request: &Request<'_>, files: &[Files], rows: &[HostReport]) -> (Vec<String>, Vec<Message>) {
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    for (files, row) in files.iter().zip(rows).filter(|(_, row)| row.status == HostStatus::Done) {
        let is_written = files.output.is_some() || row.changes.iter().any(|(.., action)| *action != Action::Unchanged);
        if request.kind == RunKind::Inject && (is_written || request.sidecars) {
            match sidecars::see_to(files.target(), request.sidecars, &quiet) {
                Ok(told) => lines.extend(told),
                Err(message) => failed.push(message),
            }
        }
    }
    (lines, failed)
}

/// The hosts, each once: all by name, or in the order of the command line.
fn parts<'m>(manifest: &'m Manifest, request: &Request<'_>) -> Result<Vec<HostPart<'m>>, Failure> {
    let only = &request.manifest.only;
    manifest.named(only).map_err(|error| select::wrong_selection(&error))?;
    let names: Vec<&str> = match request.hosts.all_hosts {
        true => manifest.hosts.keys().map(String::as_str).collect(),
        false => request.hosts.host.iter().map(String::as_str).collect(),
    };
    if names.is_empty() {
        let message = Message::new("--all-hosts: the manifest has no hosts");
        return Err(Failure::usage(message.hint("they are named under `hosts`")));
    }
    let mut chosen: Vec<ChosenHost<'m>> = Vec::with_capacity(names.len());
    for name in names {
        // The error of an unknown host.
        select::select(manifest, Some(name), &[])?;
        let found = manifest.hosts.get_key_value(name).map(|(name, host)| ChosenHost { name, host });
        chosen.extend(found.filter(|found| chosen.iter().all(|other| other.name != found.name)));
    }
    let parts = secrets_of(manifest, &chosen, only)?;
    // An image is not reached over SSH.
    Ok(parts.into_iter().map(|part| HostPart { host: None, ..part }).collect())
}

/// The files of each host.
fn files(request: &Request<'_>, parts: &[HostPart<'_>]) -> Result<Vec<Files>, Failure> {
    if request.target.display().to_string().starts_with('@') {
        let message = Message::new(format!("{}: several hosts are images here", request.target.display()));
        return Err(Failure::usage(message.hint("--all is for all running nodes")));
    }
    let hosts: Vec<&str> = parts.iter().map(|part| part.name).collect();
    let of_each = |pattern: &Path| -> Result<Vec<PathBuf>, Failure> {
        hosts.iter().map(|host| names::of_host(pattern, Some(host))).collect()
    };
    let inputs = match request.output {
        // A base of all is planned for each of them.
        None if request.kind == RunKind::Plan && !names::has_mark(request.target) => of_each(request.target)?,
        None => names::of_hosts(request.target, &hosts, "TARGET")?,
        Some(_) => of_each(request.target)?,
    };
    let outputs = match request.output {
        Some(output) => names::of_hosts(output, &hosts, "OUT")?.into_iter().map(Some).collect(),
        None => vec![None; hosts.len()],
    };
    Ok(inputs.into_iter().zip(outputs).map(|(input, output)| Files { input, output }).collect())
}
