//! A run over hosts: what `rotate`, and `plan` and `verify` with `--all`, share.
//!
//! Everything that can be wrong here (the manifest, a host's name, a value) is found before any host is contacted. Values are
//! read once, for all hosts together.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deaddrop_core::near;
use deaddrop_core::sys::SignalsWait;

use super::flow::{self, ManifestArgs};
use crate::manifest::{Manifest, SecretSpec, SelectError};
use crate::report::Ui;
use crate::report::live::{Hosts, Turn};
use crate::report::rotate::{self as report, Row, RunKind, Sum};
use crate::rotate::choose::{self, ChooseError, Chosen, Wish};
use crate::rotate::fleet::Fleet;
use crate::rotate::schedule::{Limits, Reason, Schedule, Serial};
use crate::rotate::shard::{Shard, ShardArgument};
use crate::rotate::{self, HostEnd, HostJob, HostStep, Options, Status, rotate_host};
use crate::run::desired::Unfit;
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, Part, Values};
use crate::run::plan::Plan;

/// How hosts are reached.
#[derive(Debug, Clone, clap::Args)]
pub struct SshArgs {
    /// ssh's own configuration file, in place of ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,

    /// An option for ssh's -o, such as ProxyJump=gate (may be given several times)
    #[arg(long, value_name = "OPTION")]
    pub ssh_option: Vec<String>,

    /// Give up a host that has not answered after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,

    /// So many hosts at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub parallel: u16,
}

/// What is asked for.
pub struct Request<'a> {
    /// The manifest's file.
    pub manifest: &'a Path,
    /// Only these secrets, if any.
    pub only: &'a [String],
    /// Which hosts.
    pub hosts: Which<'a>,
    /// Which part of them.
    pub shard: Option<ShardArgument>,
    /// Tags whose hosts go one at a time, besides those of the manifest.
    pub serial: &'a [String],
    /// In which order; `parallel` and `serial` are filled in here.
    pub limits: Limits,
    /// How they are reached.
    pub ssh: &'a SshArgs,
    /// Put the old files back where units fail with the new ones.
    pub rollback: bool,
    /// Of an interrupted run, give up the files in directories that are not there.
    pub forget_list: bool,
    /// What for.
    pub kind: RunKind,
    /// A host that differs is exit code 3, where nothing is written.
    pub tells_differences: bool,
}

/// Which hosts.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Nodes, over SSH.
    Nodes(Wish<'a>),
    /// This machine, and the name that it has in the manifest.
    Local(Option<&'a str>),
}

/// How this machine is called when it has no name in the manifest.
const THIS_MACHINE: &str = "localhost";

/// Runs it to its end.
///
/// # Errors
/// Exit 2 for the manifest and the words of the command line, exit 1 for values; no host was contacted then.
pub fn run(ui: &Ui, request: &Request<'_>) -> Result<Exit, Failure> {
    let started = Instant::now();
    let manifest = load(request)?;
    let mut limits = request.limits.clone();
    limits.parallel = usize::from(request.ssh.parallel);
    let targets = match request.hosts {
        Which::Local(name) => vec![local(&manifest, name, request.only)?],
        Which::Nodes(wish) => {
            let chosen = nodes(&manifest, wish, request)?;
            limits.serial = serial(&manifest, &chosen, request.serial)?;
            secrets_of(&manifest, &chosen, request.only)?
        }
    };
    if targets.is_empty() {
        ui.print_json(|| report::object(&[], request.kind))?;
        ui.say("nothing to do: none of the hosts is in this shard");
        return Ok(Exit::Done);
    }
    let values = Values::read(&manifest, &targets)?;
    part::check_that_values_fit(&manifest, &targets, &values)?;

    // From here on a signal lets the hosts that run end. Where nothing is written it may end us at once.
    let waits = (!request.kind.is_dry()).then(SignalsWait::new);
    let rows = drive(ui, request, &manifest, &targets, &values, limits, waits.as_ref());
    let sum = Sum::of(&rows);
    ui.print_json_when_done(|| report::object(&rows, request.kind));
    let mut warnings: Vec<String> = report::warnings(&rows);
    let secrets = union(&manifest, &targets);
    let ours = flow::manifest_warnings(&manifest, &secrets);
    warnings.extend(ours.iter().map(crate::report::plan::warning_lines));
    warnings.iter().for_each(|warning| ui.say(warning));
    ui.say(&sum.line(request.kind, started.elapsed()));
    report::hints(&rows, request.kind).iter().for_each(|hint| ui.say(hint));
    let exit = exit(&sum, request);
    if let (Some(waits), Exit::Done | Exit::SomeDone) = (waits, exit) {
        waits.committed();
    }
    Ok(exit)
}

/// 0: all hosts are as declared. 4: something was changed, and not all is well. 1: nothing was changed anywhere, and not all
/// is well.
fn exit(sum: &Sum, request: &Request<'_>) -> Exit {
    match request.kind {
        // What is known to differ is said, also where others could not be looked at.
        RunKind::Plan | RunKind::Verify if sum.done > 0 && request.tells_differences => Exit::Differences,
        _ if sum.is_good() => Exit::Done,
        RunKind::Rotate if sum.done > 0 || sum.changed_and_failed > 0 => Exit::SomeDone,
        _ => Exit::Refused,
    }
}

fn load(request: &Request<'_>) -> Result<Manifest, Failure> {
    let args = ManifestArgs { manifest: request.manifest.to_owned(), host: None, only: request.only.to_vec() };
    let manifest = flow::load(&args)?;
    manifest.named(request.only).map_err(|error| flow::wrong_selection(&error))?;
    Ok(manifest)
}

fn wrong_choice(error: &ChooseError) -> Failure {
    let mut message = Message::new(error.to_string()).hint(error.hint());
    if let ChooseError::UnknownHost { name, .. } = error
        && (name.contains(".img") || Path::new(name).exists())
    {
        message = message.hint(format!("{name} is a file? an image is changed by `deaddrop inject`"));
    }
    Failure::usage(message)
}

/// The hosts of this run that are in its shard.
fn nodes<'m>(manifest: &'m Manifest, wish: Wish<'_>, request: &Request<'_>) -> Result<Vec<Chosen<'m>>, Failure> {
    let mut chosen = choose::choose(manifest, wish).map_err(|error| wrong_choice(&error))?;
    if let Some(shard) = shard(request.shard)? {
        chosen.retain(|chosen| shard.holds(chosen.name));
    }
    Ok(chosen)
}

fn shard(argument: Option<ShardArgument>) -> Result<Option<Shard>, Failure> {
    match argument {
        None => Ok(None),
        Some(ShardArgument::Given(shard)) => Ok(Some(shard)),
        Some(ShardArgument::Auto) => {
            // What is no text is no number either.
            let read = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
            let shard = Shard::of_environment(read);
            shard.map(Some).map_err(|error| Failure::usage(Message::new(error.to_string()).hint(error.hint())))
        }
    }
}

/// The groups of hosts that go one at a time: those of the manifest, and those of the command line.
fn serial(manifest: &Manifest, chosen: &[Chosen<'_>], named: &[String]) -> Result<Vec<Serial>, Failure> {
    let mut tags: Vec<&String> = manifest.serial.iter().chain(named).collect();
    let mut seen = HashSet::new();
    tags.retain(|tag| seen.insert(*tag));
    let group = |tag: &String| {
        // `--serial tag:NAME` is meant as well.
        let tag = tag.strip_prefix("tag:").unwrap_or(tag);
        let hosts = choose::with_tag(manifest, chosen, tag).map_err(|error| wrong_choice(&error))?;
        Ok(Serial { tag: tag.to_owned(), hosts })
    };
    tags.into_iter().map(group).collect()
}

/// What is for each host. With `only`, hosts that get none of these stay in the run and have nothing to do.
fn secrets_of<'m>(manifest: &'m Manifest, chosen: &[Chosen<'m>], only: &[String]) -> Result<Vec<Part<'m>>, Failure> {
    let mut targets = Vec::with_capacity(chosen.len());
    let mut got: HashSet<&str> = HashSet::new();
    for chosen in chosen {
        let mut secrets = manifest.select(Some(chosen.name), &[]).map_err(|error| flow::wrong_selection(&error))?;
        secrets.retain(|secret| only.is_empty() || only.contains(&secret.name));
        if !only.is_empty() {
            got.extend(secrets.iter().map(|secret| secret.name.as_str()));
        }
        targets.push(Part { name: chosen.name, host: Some(chosen.host), as_host: Some(chosen.name), secrets });
    }
    match only.iter().find(|name| !targets.is_empty() && !got.contains(name.as_str())) {
        None => Ok(targets),
        Some(name) => {
            let hint = "look at its `hosts` in the manifest, or leave it out of --only";
            Err(Failure::usage(Message::new(format!("secret `{name}` is for none of these hosts")).hint(hint)))
        }
    }
}

/// This machine. Its name may be left out where no secret has `hosts`.
fn local<'m>(manifest: &'m Manifest, name: Option<&str>, only: &[String]) -> Result<Part<'m>, Failure> {
    let secrets = manifest.select(name, only).map_err(|error| match &error {
        SelectError::HostNeeded { hosts } if !hosts.is_empty() => {
            let hosts = near::list(hosts.iter().map(String::as_str));
            let hint = format!("say which of them this machine is: --host NAME; hosts here: {hosts}");
            Failure::usage(Message::new(error.to_string()).hint(hint))
        }
        _ => flow::wrong_selection(&error),
    })?;
    let as_host = name.and_then(|name| manifest.hosts.get_key_value(name)).map(|(name, _)| name.as_str());
    Ok(Part { name: as_host.unwrap_or(THIS_MACHINE), host: None, as_host, secrets })
}

/// The secrets of all targets, each once, in the manifest's order.
fn union<'m>(manifest: &'m Manifest, targets: &[Part<'m>]) -> Vec<&'m SecretSpec> {
    let names: HashSet<&str> =
        targets.iter().flat_map(|target| &target.secrets).map(|secret| secret.name.as_str()).collect();
    manifest.secrets.iter().filter(|secret| names.contains(secret.name.as_str())).collect()
}

/// Runs all of them; returns how they ended, in the order in which they were chosen.
fn drive(
    ui: &Ui,
    request: &Request<'_>,
    manifest: &Manifest,
    targets: &[Part<'_>],
    values: &Values,
    limits: Limits,
    waits: Option<&SignalsWait>,
) -> Vec<Row> {
    deaddrop_core::sys::raise_open_files_limit();
    let hidden = deaddrop_vault::hidden_variables(&manifest.vaults());
    let hosts = Hosts::new(ui, request.kind, targets.iter().map(|target| target.name).collect());
    let most = limits.parallel.min(targets.len());
    let threads = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
    // A person is there to answer what ssh asks.
    let attended = rotate::has_terminal();
    let options = |interactive| Options {
        hidden: hidden.clone(),
        ssh_config: request.ssh.ssh_config.clone(),
        ssh_options: request.ssh.ssh_option.clone(),
        rollback: request.rollback,
        forget_list: request.forget_list,
        dry_run: request.kind.is_dry(),
        contact_timeout: Duration::from_secs(request.ssh.timeout),
        interactive,
    };
    let hands = Hands {
        manifest,
        targets,
        values,
        some_only: !request.only.is_empty(),
        silent: options(false),
        asking: options(true),
        turn: Turn::default(),
        hosts: &hosts,
    };
    let one_at_a_time = most == 1;
    let stopped = || waits.is_some_and(SignalsWait::has_come);
    let run = |host: usize, progress: &(dyn Fn(HostStep) + Sync)| match attended {
        false => hands.run(host, &hands.silent, progress),
        true if one_at_a_time => hands.ask(host, &stopped, progress).unwrap_or_else(|| {
            let error = Some(Message::new(Reason::Stopped.to_string()));
            HostEnd { error, ..HostEnd::new(Status::Skipped) }
        }),
        true => {
            // All at once without questions first; the few that need an answer wait for their turn at the terminal.
            let end = hands.run(host, &hands.silent, progress);
            if end.needs_an_answer { hands.ask(host, &stopped, progress).unwrap_or(end) } else { end }
        }
    };
    Fleet { run: &run, watcher: &hosts, stopped: &stopped }.drive(Schedule::new(targets.len(), limits), threads);
    hosts.finish()
}

/// What it takes to run any of the hosts.
struct Hands<'a, 'u> {
    manifest: &'a Manifest,
    targets: &'a [Part<'a>],
    values: &'a Values,
    /// `--only` was said.
    some_only: bool,
    /// ssh asks nothing.
    silent: Options,
    /// ssh may ask.
    asking: Options,
    turn: Turn,
    hosts: &'a Hosts<'u>,
}

impl Hands<'_, '_> {
    fn run(&self, host: usize, options: &Options, progress: &(dyn Fn(HostStep) + Sync)) -> HostEnd {
        let target = &self.targets[host];
        if target.secrets.is_empty() && self.some_only {
            // --only names nothing of this host's: it need not be asked.
            let plan = Plan { directories: Vec::new(), changes: Vec::new(), warnings: Vec::new(), interrupted: None };
            return HostEnd { plan: Some(plan), ..HostEnd::new(Status::Unchanged) };
        }
        let failed = |why: String| {
            let message = Message::new(format!("{}: nothing was changed", target.name)).cause(why);
            HostEnd { error: Some(message), ..HostEnd::new(Status::Failed) }
        };
        let become_password = match target.become_password(self.values) {
            Ok(password) => password,
            Err(why) => return failed(why.to_owned()),
        };
        // Should not fail, for the same was made before: a host that then had no files would be told to be as declared.
        let files = match target.files(self.manifest, self.values) {
            Ok(files) => files,
            Err(unfit) => return failed(unfit.iter().map(Unfit::to_string).collect::<Vec<_>>().join("\n")),
        };
        let specs = target.secrets.clone();
        let job = HostJob { name: target.name, host: target.host, files, specs, become_password, options };
        rotate_host(job, progress)
    }

    /// With the terminal for itself until it is connected; `None` when the run was stopped before its turn.
    fn ask(&self, host: usize, stopped: &dyn Fn() -> bool, progress: &(dyn Fn(HostStep) + Sync)) -> Option<HostEnd> {
        let asks = std::sync::atomic::AtomicBool::new(true);
        let is_connected = || {
            if asks.swap(false, std::sync::atomic::Ordering::SeqCst) {
                self.hosts.resume();
                self.turn.give();
            }
        };
        self.turn.take();
        if stopped() {
            self.turn.give();
            return None;
        }
        self.hosts.pause();
        let end = self.run(host, &self.asking, &|step| {
            if step != HostStep::Connecting {
                is_connected();
            }
            progress(step);
        });
        is_connected();
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{BecomePassword, Host as ManifestHost};
    use deaddrop_core::privilege::Become;

    #[test]
    fn a_host_whose_files_or_password_are_not_there_fails_and_is_not_told_unchanged() {
        let text = "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n";
        let manifest = Manifest::parse(text, Path::new("m")).expect("a manifest");
        let host = ManifestHost {
            become_password: Some(BecomePassword::Ask),
            becomes: Some(Become::Sudo),
            ..Manifest::parse("version: 1\nhosts: { h: { ssh: h } }\n", Path::new("m")).expect("a manifest").hosts["h"]
                .clone()
        };
        let target = |host| Part { name: "here", host, as_host: None, secrets: manifest.secrets.iter().collect() };
        let targets = [target(None), target(Some(&host))];
        let values = Values::default();
        let ui = Ui { json: false, quiet: true, verbose: 0 };
        let hosts = Hosts::new(&ui, RunKind::DryRun, vec!["here"; 2]);
        let options = || Options { dry_run: true, ..Options::default() };
        let hands = Hands {
            manifest: &manifest,
            targets: &targets,
            values: &values,
            some_only: false,
            silent: options(),
            asking: options(),
            turn: Turn::default(),
            hosts: &hosts,
        };
        for (number, why) in
            ["a: no value was read for env:A", "no value was read for its `become_password`"].iter().enumerate()
        {
            let end = hands.run(number, &hands.silent, &|_| panic!("it is not contacted"));
            assert_eq!(end.status, Status::Failed);
            assert!(!end.changed_anything && end.error.expect("a reason").reason().ends_with(why));
        }
    }
}
