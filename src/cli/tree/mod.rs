//! `deaddrop tree`: the files of a host alone, as a new directory, for a tool that installs a system.

mod place;
mod program;
mod words;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use deaddrop_core::sys::{SignalsTaken, SignalsWait};
use deaddrop_core::text;
use deaddrop_core::tree::TreeChange;
use deaddrop_image::table::root::Backend;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{getegid, geteuid};

use self::place::Directory;
use self::words::Tool;
use super::args::{ManifestArgs, PlaceArgs, Target};
use super::backend::BackendArgs;
use super::prepare::{HostInput, Planned, open, plan_place, time_of_run, tree_changes};
use super::public_out::{self, PublicOut};
use super::select::{load, select};
use super::{failure, root_directory};
use crate::place::directory::DirectoryPlace;
use crate::place::new_tree::{NewTree, System};
use crate::place::{Change, PlaceError};
use crate::report::{ProgressDisplay, Ui, json, plan as report, print_error_stream, print_output, wrap};
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, HostPart, Values};
use crate::run::remedy;

/// The directory of the stores of NixOS.
const STORE: &str = "/nix/store/";

/// Makes the files of a host alone, as a new directory, for a tool that installs a system: nixos-anywhere or disko.
///
/// Example: deaddrop tree out --for nixos-anywhere --host node1
///
/// With DIR and --for, the words for the tool are printed on standard output, on one line. With PROGRAM in place of DIR
/// (deaddrop tree --for nixos-anywhere --host node1 -- nixos-anywhere --flake .#node1 root@192.0.2.7) the tree is made
/// in memory, PROGRAM is run with these words added, its exit code is given back, and the tree is wiped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The new directory, of mode 0700; it must not exist
    #[arg(value_name = "DIR", required_unless_present = "program", conflicts_with = "program")]
    directory: Option<PathBuf>,

    #[command(flatten)]
    manifest: ManifestArgs,

    /// The host in the manifest
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// The NixOS that will read the files: a system's store path (or a link to it), or an image with one
    ///
    /// From it are the numbers of users and groups, what its mounts do to a path, and every other rule of NixOS.
    /// Without it owners are numbers, and with `persist_root` every path is below that.
    #[arg(long, value_name = "SYSTEM")]
    closure: Option<PathBuf>,

    /// The root partition of an image of --closure, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL", requires = "closure")]
    root_partition: Option<String>,

    /// The NixOS system in an image of --closure, a path in its store, instead of the one that boots
    #[arg(long, value_name = "PATH", requires = "closure")]
    system: Option<String>,

    /// The tool that takes the tree
    #[arg(long = "for", value_name = "TOOL", value_enum)]
    tool: Option<Tool>,

    /// Write the public parts of the generated keys to FILE: a known_hosts line for a host key, public keys and age
    /// recipients as comments; as JSON if FILE ends in .json
    #[arg(long, value_name = "FILE")]
    public_out: Option<PathBuf>,

    /// The program to run, with its arguments
    #[arg(last = true, value_name = "PROGRAM", requires = "tool")]
    program: Vec<OsString>,
}

/// What is to be made, with everything known that could be refused.
struct Ready {
    planned: Planned,
    changes: Vec<TreeChange>,
    time: SystemTime,
    /// Variables that the program must not inherit.
    hidden: Vec<String>,
    started: Instant,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let started = Instant::now();
        let time = time_of_run()?;
        if self.tool == Some(Tool::DiskoInstall) && !geteuid().is_root() {
            let message = Message::new("disko-install keeps the owner of what it copies, and that would be you");
            return Err(Failure::refused(vec![message.hint("run it as root: then the files have their owners")]));
        }
        if let Some(program) = self.program.first().filter(|program| !program::is_there(program)) {
            let message = Message::new(format!("{}: there is no such program", program.display()));
            return Err(Failure::refused(vec![message.hint("is it installed, and in PATH?")]));
        }
        place::wipe_left().iter().for_each(|line| ui.info(line));
        match &self.directory {
            Some(path) => {
                let path = self.absolute(path)?;
                let ready = self.prepare(ui, &path, started, time)?;
                self.make_there(ui, &path, ready)
            }
            None => {
                let parent = place::in_memory().map_err(|looked_at| no_memory(&looked_at))?;
                // Its name is random, and says nothing.
                let ready = self.prepare(ui, Path::new("tree"), started, time)?;
                self.make_and_run(ui, &parent, ready)
            }
        }
    }

    /// DIR as the tool can have it, wherever it is run.
    fn absolute(&self, path: &Path) -> Result<PathBuf, Failure> {
        let refused = |why: &str| Failure::refused(vec![Message::new(format!("{}: {why}", path.display()))]);
        if path.symlink_metadata().is_ok() {
            let failure = refused("it exists, and a tree is a new directory");
            let hint = |message: Message| message.hint("name another, or remove it");
            return Err(Failure { messages: failure.messages.into_iter().map(hint).collect(), ..failure });
        }
        let absolute = std::path::absolute(path).map_err(|error| refused(&error.to_string()))?;
        match absolute.to_str() {
            // Without a `/` at its end.
            Some(text) if !text.contains(char::is_control) => Ok(absolute.components().collect()),
            _ => Err(refused("its path is not UTF-8, or holds a control character")),
        }
    }

    /// Everything up to the first directory that is made. `target` is for messages.
    fn prepare(&self, ui: &Ui, target: &Path, started: Instant, time: SystemTime) -> Result<Ready, Failure> {
        let name = target.display().to_string();
        let manifest = load(&self.manifest.manifest)?;
        let host = self.host.as_deref();
        let secrets = select(&manifest, host, &self.manifest.only)?;
        let part = HostPart { name: host.unwrap_or(&name), host: None, as_host: host, secrets };
        let values = Values::read(&manifest, std::slice::from_ref(&part), ui.tell())?;
        let files = part.files(&manifest, &values).map_err(|unfit| part::does_not_fit(&unfit))?;
        let place_args = self.place_args();
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        let system = self.closure.as_deref().map(|closure| system(ui, closure, &place_args, &watch)).transpose()?;
        let mut place = NewTree { name: name.clone(), system };
        let input = HostInput { manifest: &manifest, part: &part, values: &values, files };
        let mut planned = plan_place(ui, &mut place, false, at(target, &place_args), input)?;
        if let Some(tool) = self.tool {
            let spoiled = words::spoiled(tool, &planned.plan, &name);
            if !spoiled.is_empty() {
                return Err(Failure::refused(spoiled));
            }
            let mut lost = words::lost(tool, &planned.plan);
            manifest.allowances(host).filter(&mut lost);
            planned.plan.warnings.extend(lost);
        }
        let mut changes = tree_changes(&planned.plan, &name)?;
        if !geteuid().is_root() {
            changes.iter_mut().for_each(give_to_caller);
        }
        let hidden = deaddrop_vault::hidden_variables(&manifest.vaults());
        Ok(Ready { planned, changes, time, hidden, started })
    }

    /// The tree as a directory of the user.
    fn make_there(&self, ui: &Ui, path: &Path, ready: Ready) -> Result<Exit, Failure> {
        let public_out = self.public_out(&ready.planned)?;
        let signals = SignalsWait::new();
        let directory = Directory::make(path).map_err(|error| not_made(path, &error))?;
        fill(&directory, &ready)?;
        let words = self.words(&directory, &ready.planned);
        if self.tool.is_some() && !ui.json {
            print_output(format!("{}\n", words::quoted(&words)).as_bytes())?;
        }
        directory.keep();
        signals.committed();
        let name = path.display().to_string();
        ui.print_json_when_done(|| json::tree(&name, &ready.planned.plan, &words));
        tell(ui, &name, &ready.planned, ready.started.elapsed());
        Ok(if put(public_out) { Exit::Done } else { Exit::HalfDone })
    }

    /// The tree in memory, for as long as the program runs.
    fn make_and_run(&self, ui: &Ui, parent: &Path, ready: Ready) -> Result<Exit, Failure> {
        let public_out = self.public_out(&ready.planned)?;
        // In this order: what is made later goes earlier, and a signal that came before the program ends us then.
        let wait = SignalsWait::new();
        let signals = SignalsTaken::new().map_err(|error| not_made(parent, &error))?;
        let directory = Directory::make_in_memory(parent).map_err(|error| not_made(parent, &error))?;
        let limit = getrlimit(Resource::RLIMIT_NOFILE);
        fill(&directory, &ready)?;
        if let Ok((soft, hard)) = limit {
            // Ours was raised, and a program may count on the usual one. Best effort.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
        let name = directory.path().display().to_string();
        let words = self.words(&directory, &ready.planned);
        let object = ui.json.then(|| json::tree(&name, &ready.planned.plan, &words));
        tell(ui, &name, &ready.planned, ready.started.elapsed());
        let mut command = self.command(ui, &words, &ready.hidden)?;
        let is_put = put(public_out);
        // The values are not needed any more, and the program may run for long.
        drop(ready);
        if let Ok(Some(taken)) = signals.next(Some(Duration::ZERO))
            && taken.signal != Signal::SIGCHLD
        {
            // Blocked until the tree is wiped.
            let _ = raise(taken.signal);
            return Err(Failure::refused(Vec::new()));
        }
        let ended = program::run(&mut command, &signals);
        let wiped = directory.wipe();
        drop(signals);
        wait.committed();
        let status = ended.map_err(|error| {
            let message = Message::new(format!("{}: not run", command.get_program().display())).caused_by(&error);
            Failure::refused(vec![message.hint("is it a program for this machine?")])
        })?;
        if let Some(object) = object {
            ui.print_json_when_done(|| object);
        }
        if let Err(error) = &wiped {
            let message = Message::new(format!("{name}: the tree could not be wiped")).caused_by(error);
            print_error_stream(&message.hint("remove it: it holds values").render());
        }
        Ok(match program::code(status) {
            0 if wiped.is_err() || !is_put => Exit::HalfDone,
            code => Exit::OfProgram(code),
        })
    }

    /// How the place of --closure is opened.
    fn place_args(&self) -> PlaceArgs {
        let backend = BackendArgs { backend: Backend::Native, follow_backing: false, subvolume: None };
        let (root_partition, system) = (self.root_partition.clone(), self.system.clone());
        PlaceArgs { root_partition, backend, as_host: false, system }
    }

    fn public_out(&self, planned: &Planned) -> Result<Option<PublicOut>, Failure> {
        public_out::of(self.public_out.as_deref(), &planned.known_as, &planned.public_parts)
    }

    fn words(&self, directory: &Directory, planned: &Planned) -> Vec<String> {
        let path = directory.path().display().to_string();
        self.tool.map(|tool| words::words(tool, &path, &planned.plan)).unwrap_or_default()
    }

    /// The program with the words, and without what the manifest reads from the environment.
    fn command(&self, ui: &Ui, words: &[String], hidden: &[String]) -> Result<Command, Failure> {
        let failed = |error: io::Error| Failure::refused(vec![Message::new(format!("standard error: {error}"))]);
        // OK to fall back: clap asks for one word at least.
        let (program, args) = self.program.split_first().map_or((OsString::new(), &[][..]), |(a, b)| (a.clone(), b));
        let mut command = Command::new(program);
        command.args(args).args(words);
        for name in hidden {
            command.env_remove(name);
        }
        if ui.json {
            // Standard output is for the one object.
            command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned().map_err(failed)?));
        }
        Ok(command)
    }
}

/// Makes the files, all or none.
fn fill(directory: &Directory, ready: &Ready) -> Result<(), Failure> {
    let path = directory.path();
    // Whatever the error says of what it left: the directory goes with it.
    let failed = |error: PlaceError| {
        let message = Message::nothing_changed(&path.display().to_string()).caused_by(&error);
        Failure::refused(vec![message.hint(remedy::place_hint(&error))])
    };
    let mut place = DirectoryPlace::open(path).map_err(|error| failed(error.into()))?;
    place.apply(&ready.changes, ready.time).map(drop).map_err(failed)
}

/// What was made, for people.
fn tell(ui: &Ui, name: &str, planned: &Planned, elapsed: Duration) {
    let (plan, columns) = (&planned.plan, wrap::columns(io::stderr()));
    let lines = if ui.verbose < 2 { report::changed_lines(plan, columns) } else { report::table(plan, columns) };
    if !lines.is_empty() {
        ui.info(&lines);
    }
    planned.public_parts.iter().flat_map(|part| &part.to_add).for_each(|line| ui.info(line));
    ui.info(&format!("{name}: {} ({})", report::done(plan), text::duration(elapsed)));
}

/// Puts the public parts in place; false, and said, if that fails.
fn put(public_out: Option<PublicOut>) -> bool {
    match public_out.map(PublicOut::put) {
        Some(Err(message)) => {
            print_error_stream(&message.render());
            false
        }
        _ => true,
    }
}

/// Only root may give a file away: the caller's own files have the modes, and the words for the tool the owners.
fn give_to_caller(change: &mut TreeChange) {
    if let TreeChange::MakeDirectory { uid, gid, .. } | TreeChange::WriteFile { uid, gid, .. } = change {
        (*uid, *gid) = (geteuid().as_raw(), getegid().as_raw());
    }
}

/// Where the system of `--closure` lies.
fn system<'w>(
    ui: &Ui,
    closure: &Path,
    args: &PlaceArgs,
    watch: deaddrop_image::progress::Watch<'w>,
) -> Result<System<'w>, Failure> {
    let name = format!("--closure {}", closure.display());
    let failed = |error: &PlaceError| Failure::refused(vec![failure::place_message(&name, error)]);
    let path = closure.canonicalize().map_err(|error| {
        let message = Message::new(format!("{name}: not read")).caused_by(&error);
        Failure::refused(vec![
            message.hint("build it first: nix build .#nixosConfigurations.NAME.config.system.build.toplevel"),
        ])
    })?;
    // A store may be below another root than this machine's: that of `nix --store DIR`, or of `nixos-install`.
    let in_store = path.to_str().filter(|_| path.is_dir()).and_then(|path| path.split_once(STORE));
    if let Some((root, below)) = in_store {
        if args.root_partition.is_some() || args.system.is_some() {
            let message =
                Message::new(format!("{name} is a system itself: --root-partition and --system are for an image"));
            return Err(Failure::usage(message.hint("leave them out")));
        }
        let root = if root.is_empty() { "/" } else { root };
        let place = DirectoryPlace::open(Path::new(root)).map_err(|error| failed(&error.into()))?;
        return Ok(System { place: Box::new(place), path: Some(format!("{STORE}{below}")) });
    }
    if path.is_dir() {
        root_directory::check(&path, false).map_err(|error| failed(&error.into()))?;
    }
    let place = open(ui, at(&path, args), None, watch).map_err(|error| failed(&error.into()))?;
    Ok(System { place, path: args.system.clone() })
}

fn at<'a>(path: &'a Path, place: &'a PlaceArgs) -> Target<'a> {
    Target { path, place, ssh: None, forget_list: false, new_root: true, by_mark: false }
}

fn not_made(path: &Path, error: &io::Error) -> Failure {
    let hint = if error.kind() == io::ErrorKind::NotFound { "make the directory above it first" } else { "" };
    let message = Message::new(format!("{}: no tree was made", path.display())).caused_by(error);
    Failure::refused(vec![message.hint(hint)])
}

fn no_memory(looked_at: &[PathBuf]) -> Failure {
    let places: Vec<String> = looked_at.iter().map(|path| path.display().to_string()).collect();
    let what = "no tmpfs is here for the tree, and values do not go to a disk without being asked for";
    let message = Message::new(what).cause(format!("looked at {}", places.join(", ")));
    Failure::refused(vec![
        message
            .hint("set XDG_RUNTIME_DIR to a tmpfs of yours; or name a directory: tree DIR, then run the tool by hand"),
    ])
}
