//! Runs the images of a run side by side.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::sys::{SignalsWait, is_deferred};
use deaddrop_image::progress::quiet;
use deaddrop_image::table::root::Backend;

use super::{Files, Request};
use crate::cli::args::Target;
use crate::cli::failure;
use crate::cli::prepare::{Base, HostInput, Opened, Prepared, open, plan_of, tree_changes};
use crate::manifest::Manifest;
use crate::report::Ui;
use crate::report::live::HostsDisplay;
use crate::report::public::KnownAs;
use crate::report::rotate::{HostReport, RunKind};
use crate::rotate::fleet::Fleet;
use crate::rotate::schedule::{Limits, Schedule};
use crate::rotate::{HostResult, HostStatus, HostStep};
use crate::run::make::PublicPart;
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, HostPart, Values};
use crate::run::plan::Plan;

/// Maximum number of images at a time: each takes memory, and the disk is shared.
const MOST_AT_A_TIME: usize = 4;

/// What is to be run.
pub struct Job<'a> {
    pub request: &'a Request<'a>,
    pub manifest: &'a Manifest,
    pub parts: &'a [HostPart<'a>],
    pub files: &'a [Files],
    pub values: &'a Values,
    pub time: SystemTime,
}

/// What the hosts have to tell beside their results, in the order of the hosts.
#[derive(Default)]
pub struct Told {
    /// The public parts of the generated keys of the images that were made.
    pub public: Vec<(KnownAs, Vec<PublicPart>)>,
    /// Notes.
    pub lines: Vec<String>,
}

/// What one host has to tell.
struct HostTold {
    host: usize,
    known_as: KnownAs,
    public: Vec<PublicPart>,
    notes: Vec<String>,
}

/// Runs the images of all hosts.
pub fn drive(ui: &Ui, job: &Job<'_>, base: Option<Vec<Base>>, waits: Option<&SignalsWait>) -> (Vec<HostReport>, Told) {
    let targets = job.files.iter().map(|files| files.target().display().to_string()).collect();
    let names = job.parts.iter().map(|part| part.name).collect();
    let display = HostsDisplay::new(ui, job.request.kind, names).on(targets);
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // The kernel's back end works in the mount namespace of the whole process.
    let is_alone = job.request.place.backend.backend == Backend::Mount;
    let parallel = if is_alone { 1 } else { cores.min(job.parts.len()).min(MOST_AT_A_TIME) };
    let runner = Runner {
        job,
        ui: Ui { quiet: true, verbose: 0, ..*ui },
        base: base.map(|images| images.into_iter().map(|image| Mutex::new(Some(image))).collect()),
        told: Mutex::default(),
    };
    let stopped = || waits.is_some_and(SignalsWait::is_pending);
    let run = |host: usize, progress: &(dyn Fn(HostStep) + Sync)| runner.run(host, progress);
    let limits = Limits { parallel, ..Limits::default() };
    let threads = NonZeroUsize::new(parallel).unwrap_or(NonZeroUsize::MIN);
    Fleet { run: &run, watcher: &display, stopped: &stopped }.drive(Schedule::new(job.parts.len(), limits), threads);
    let mut of_hosts = runner.told.into_inner().unwrap_or_else(PoisonError::into_inner);
    of_hosts.sort_by_key(|told| told.host);
    let mut told = Told::default();
    for HostTold { known_as, public, notes, .. } in of_hosts {
        told.lines.extend(public.iter().flat_map(|part| part.to_add.iter().cloned()));
        told.lines.extend(notes);
        told.public.push((known_as, public));
    }
    (display.finish(), told)
}

/// Everything that is needed to run any of the hosts.
struct Runner<'a> {
    job: &'a Job<'a>,
    /// Of the single steps: the lines of the hosts are the display's.
    ui: Ui,
    /// Each is taken by its host.
    base: Option<Vec<Mutex<Option<Base>>>>,
    told: Mutex<Vec<HostTold>>,
}

impl Runner<'_> {
    fn run(&self, host: usize, progress: &(dyn Fn(HostStep) + Sync)) -> HostResult {
        let started = Instant::now();
        let result = match self.attempt(host, progress) {
            Ok((status, plan)) => HostResult { plan: Some(plan), ..HostResult::new(status) },
            Err(_) if self.is_given_up() => {
                let error = Some(Message::new("not made: the run was stopped"));
                HostResult { error, ..HostResult::new(HostStatus::Skipped) }
            }
            Err(failure) => {
                let changed_anything = failure.exit == Exit::HalfDone;
                HostResult { error: one(failure), changed_anything, ..HostResult::new(HostStatus::Failed) }
            }
        };
        HostResult { seconds: started.elapsed().as_secs_f64(), ..result }
    }

    /// True if a new image that failed was stopped by a signal.
    fn is_given_up(&self) -> bool {
        self.job.request.kind == RunKind::Inject && self.job.request.output.is_some() && is_deferred()
    }

    fn attempt(&self, host: usize, progress: &(dyn Fn(HostStep) + Sync)) -> Result<(HostStatus, Plan), Failure> {
        let (job, request, place) = (self.job, self.job.request, self.job.request.place);
        let (part, files) = (&job.parts[host], &job.files[host]);
        progress(HostStep::Comparing);
        let desired = part.files(job.manifest, job.values).map_err(|unfit| part::does_not_fit(&unfit))?;
        let path = files.target();
        let name = path.display().to_string();
        let read = Target { forget_list: request.forget_list, by_mark: true, ..Target::to_read(&files.input, place) };
        let opened = self.open(host, read).map_err(|error| failure::failed(&name, &error.into()))?;
        let input = HostInput { manifest: job.manifest, part, values: job.values, files: desired };
        let mut prepared = plan_of(&self.ui, opened, Target { path, ..read }, input)?;
        let is_same = prepared.plan.is_empty();
        let status = match request.kind {
            RunKind::Inject => {
                progress(HostStep::Writing);
                self.apply(host, &name, &mut prepared)?;
                HostStatus::Done
            }
            kind => {
                if kind == RunKind::Plan && !request.quick && !path.is_dir() {
                    let changes = tree_changes(&prepared.plan, &name)?;
                    let place = prepared.place.change(&name)?;
                    place.dry_run(&changes, job.time).map_err(|error| failure::failed(&name, &error))?;
                }
                if is_same { HostStatus::Unchanged } else { HostStatus::Done }
            }
        };
        Ok((status, prepared.plan))
    }

    fn open<'w>(&self, host: usize, read: Target<'_>) -> Result<Opened<'w>, StorageError> {
        let request = self.job.request;
        let Some(base) = &self.base else {
            let output: Option<PathBuf> = self.job.files[host].output.clone();
            let destination = (request.kind == RunKind::Inject).then(|| (request.destination)(output));
            return open(&self.ui, read, destination.as_ref(), &quiet).map(Opened::Files);
        };
        let taken = base.get(host).and_then(|image| image.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Each host is run once.
        let Some(base) = taken else { return Err(StorageError::corrupt("the image was taken already")) };
        base.place(request.place.root_partition.as_deref()).map(Opened::Files)
    }

    fn apply(&self, host: usize, name: &str, prepared: &mut Prepared<'_>) -> Result<(), Failure> {
        let changes = tree_changes(&prepared.plan, name)?;
        let place = prepared.place.change(name)?;
        let applied = place.apply(&changes, self.job.time).map_err(|error| failure::failed(name, &error))?;
        let mut notes: Vec<String> = applied.notes;
        notes.extend(prepared.plan.finished_message().map(|message| format!("{name}: {message}")));
        let known_as = std::mem::take(&mut prepared.known_as);
        let public = std::mem::take(&mut prepared.public_parts);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(HostTold { host, known_as, public, notes });
        Ok(())
    }
}

/// One error of all.
fn one(failure: Failure) -> Option<Message> {
    let mut messages = failure.messages.into_iter();
    let first = messages.next()?;
    Some(messages.fold(first, |first, message| {
        let hints = message.hints().join("\n");
        first.cause(message.reason()).hint(hints)
    }))
}
