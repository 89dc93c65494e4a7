//! A run over hosts: shared by `rotate`, and by `plan` and `verify` with `--all`.
//!
//! Every local error (the manifest, a host's name, a value) is found before any host is contacted. Values are read
//! once, for all hosts together.

mod drive;
mod hosts;
mod token;

pub use hosts::secrets_of;

use std::path::Path;
use std::time::Instant;

use deaddrop_core::sys::SignalsWait;
use deaddrop_core::warning::Warning;

use super::args::SshArgs;
use super::public_out::{self, PublicOut};
use super::select;
use crate::manifest::Manifest;
use crate::report::public::{self, KnownAs};
use crate::report::rotate::{self as report, HostCounts, HostReport, RunKind};
use crate::report::{Ui, print_error_stream};
use crate::rotate::choose::Selection;
use crate::rotate::schedule::Limits;
use crate::rotate::shard::ShardArgument;
use crate::run::make::PublicPart;
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, HostPart, Values};

/// One run over hosts, as the command line requests it.
pub struct Request<'a> {
    /// The manifest's file.
    pub manifest: &'a Path,
    /// Only these secrets; all if empty.
    pub only: &'a [String],
    /// The hosts.
    pub hosts: Machines<'a>,
    /// The part of the hosts that this worker runs.
    pub shard: Option<ShardArgument>,
    /// Tags whose hosts run one at a time, in addition to those of the manifest.
    pub serial: &'a [String],
    /// Order and limits. [`run`] sets `parallel` and `serial`.
    pub limits: Limits,
    /// How ssh reaches them.
    pub ssh: &'a SshArgs,
    /// Restore the old files if units fail with the new ones.
    pub rollback: bool,
    /// Abandon the entries of an interrupted run whose directories are missing.
    pub forget_list: bool,
    /// The file for the public parts of keys.
    pub public_out: Option<&'a Path>,
    /// The command.
    pub kind: RunKind,
    /// Exit with 3 if a host differs, in a run that writes nothing.
    pub exit_on_difference: bool,
}

impl Request<'_> {
    /// True if it rotates, or shows what would be rotated.
    fn rotates(&self) -> bool {
        matches!(self.kind, RunKind::Rotate | RunKind::DryRun)
    }
}

/// The hosts of a run.
#[derive(Debug, Clone, Copy)]
pub enum Machines<'a> {
    /// Nodes, over SSH.
    Nodes(Selection<'a>),
    /// This machine, and its name in the manifest.
    Local(Option<&'a str>),
}

/// Runs it on all hosts, and prints the result.
///
/// # Errors
/// Exit 2 for the manifest and the command line, exit 1 for values. No host was contacted then.
pub fn run(ui: &Ui, request: &Request<'_>) -> Result<Exit, Failure> {
    let started = Instant::now();
    let manifest = load(request)?;
    let mut limits = request.limits.clone();
    limits.parallel = usize::from(request.ssh.parallel);
    let mut parts = match request.hosts {
        Machines::Local(name) => vec![hosts::local(&manifest, name, request.only)?],
        Machines::Nodes(selection) => {
            let chosen = hosts::nodes(&manifest, selection, request)?;
            limits.serial = hosts::serial(&manifest, &chosen, request.serial)?;
            hosts::secrets_of(&manifest, &chosen, request.only)?
        }
    };
    token::check(&manifest, request, &parts)?;
    if parts.is_empty() {
        ui.print_json(|| report::object(&[], &[], request.kind))?;
        ui.info("nothing to do: none of the hosts is in this shard");
        return Ok(Exit::Done);
    }
    let values = Values::read(&manifest, &parts, ui.tell())?;
    part::check_that_values_fit(&manifest, &parts, &values, |_| {})?;
    if let Some(path) = request.public_out {
        // The keys are known when they are in place: whether it can be written is to be known before.
        drop(PublicOut::write(path, "")?);
    }

    // From here on a signal lets running hosts finish. A run that writes nothing may be terminated at any time.
    let waits = (!request.kind.is_dry()).then(SignalsWait::new);
    let secrets = hosts::union(&manifest, &parts);
    let stopped = || waits.as_ref().is_some_and(SignalsWait::is_pending);
    let before = token::rotate(ui, request, &manifest, &parts, &values, &stopped)?;
    parts.iter_mut().for_each(|part| part.secrets.retain(|secret| !before.secrets.contains(&secret.name)));
    let order = match before.ends {
        // Its results are all that there is, whatever order and signals say.
        true => drive::Order { limits: Limits { serial: Vec::new(), ..limits }, stopped: &|| false, before },
        false => drive::Order { limits, stopped: &stopped, before },
    };
    let mut rows = drive::drive(ui, request, &manifest, &parts, &values, order);
    let keys = public_parts(&manifest, &parts, &mut rows);
    let mut ours = select::manifest_warnings(&manifest, &secrets, None);
    ours.extend_from_slice(values.warnings());
    let written = request.public_out.map(|path| write_public(path, &keys));
    tell(ui, &rows, &ours, request.kind, started)?;
    keys.iter().flat_map(|(known_as, parts)| public::of_new(known_as, parts)).for_each(|line| ui.info(&line));
    let exit = exit(&HostCounts::of(&rows), request.kind, request.exit_on_difference);
    end_waiting(waits, exit);
    match written {
        Some(Err(failed)) => {
            // The keys are in place, and stay there.
            failed.iter().for_each(|message| print_error_stream(&message.render()));
            Ok(Exit::HalfDone)
        }
        _ => Ok(exit),
    }
}

/// The public parts of each host, and the names by which SSH clients know it.
fn public_parts(
    manifest: &Manifest,
    parts: &[HostPart<'_>],
    rows: &mut [HostReport],
) -> Vec<(KnownAs, Vec<PublicPart>)> {
    let known_as = |part: &HostPart<'_>| {
        part.as_host.and_then(|name| Some(KnownAs::new(name, manifest.hosts.get(name)?))).unwrap_or_default()
    };
    parts.iter().zip(rows).map(|(part, row)| (known_as(part), std::mem::take(&mut row.public_parts))).collect()
}

fn write_public(path: &Path, keys: &[(KnownAs, Vec<PublicPart>)]) -> Result<(), Vec<Message>> {
    let text = match (public_out::is_json(path), keys) {
        (true, [(known_as, parts)]) => public::json(known_as, parts),
        (true, keys) => public::json_of_all(keys),
        (false, keys) => public::text_of_all(keys),
    };
    let file = PublicOut::write(path, &text).map_err(|failure| failure.messages)?;
    file.put().map_err(|message| vec![message])
}

/// Prints the result of all hosts; `found` are the warnings that are not a host's own.
///
/// # Errors
/// If standard output cannot be written.
pub fn tell(ui: &Ui, rows: &[HostReport], found: &[Warning], kind: RunKind, started: Instant) -> Result<(), Failure> {
    ui.print_json_when_done(|| report::object(rows, found, kind));
    let mut lines: Vec<String> = Vec::new();
    if kind.is_result() && !ui.json {
        lines.extend(report::lines(rows, kind));
    }
    lines.extend(report::warnings(rows));
    lines.extend(found.iter().map(crate::report::plan::warning_lines));
    lines.push(HostCounts::of(rows).line(kind, started.elapsed()));
    for line in lines {
        if kind.is_result() { ui.result(&line)? } else { ui.info(&line) }
    }
    report::hints(rows, kind).iter().for_each(|hint| ui.info(hint));
    Ok(())
}

/// 0: all hosts are as declared. 4: at least one host was changed, and not all succeeded. 1: no host was changed, and
/// not all succeeded. 3: a host differs, and that is asked for.
#[must_use]
pub fn exit(sum: &HostCounts, kind: RunKind, on_difference: bool) -> Exit {
    match kind {
        // A known difference is reported even if other hosts could not be surveyed.
        RunKind::Plan | RunKind::Verify if sum.done > 0 && on_difference => Exit::Differences,
        _ if sum.is_good() => Exit::Done,
        RunKind::Rotate | RunKind::Inject if sum.done > 0 || sum.changed_and_failed > 0 => Exit::SomeDone,
        _ => Exit::Refused,
    }
}

/// Ends the wait of signals: one that came is ignored if something was changed, and else ends the process.
pub fn end_waiting(waits: Option<SignalsWait>, exit: Exit) {
    if let (Some(waits), Exit::Done | Exit::SomeDone) = (waits, exit) {
        waits.committed();
    }
}

fn load(request: &Request<'_>) -> Result<Manifest, Failure> {
    let manifest = select::load(request.manifest)?;
    manifest.named(request.only).map_err(|error| select::wrong_selection(&error))?;
    Ok(manifest)
}
