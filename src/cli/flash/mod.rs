//! `deaddrop flash`: writes an image to a device, with a host's secrets, in place of dd(1).

mod ask;
mod list;

pub(super) use self::ask::facts;
pub(super) use self::list::devices;

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use deaddrop_core::error::StorageError;
use deaddrop_core::text;
use deaddrop_image::flash::{self, Device, Flash, FlashImage, Options, Report};
use deaddrop_image::native::{Blocks, NativeImage};
use deaddrop_image::open::block_devices::Number;
use deaddrop_image::open::disk::{DiskImage, Trust};
use deaddrop_image::progress::quiet;
use deaddrop_image::table::root::Backend;
use deaddrop_image::tar;

use super::args::{ManifestArgs, PlaceArgs, Target};
use super::backend::BackendArgs;
use super::prepare::{HostInput, Planned, plan_place, time_of_run, tree_changes};
use super::public_out::{self, PublicOut};
use super::select::{load, select};
use super::{failure, inject};
use crate::manifest::Manifest;
use crate::place::image::ImagePlace;
use crate::report::{ProgressDisplay, Ui, json, plan as report, print_error_stream, wrap};
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, HostPart, Values};

/// Writes an image to a device with the secrets of a host in it, and reads it back: in place of dd.
///
/// Example: deaddrop flash result/*.img.zst /dev/sdb --host node1
///
/// Shows the device and asks before it writes. All that is on the device is lost. Until the last write, of the first
/// MiB, it has no partition table: a run that was stopped (exit code 5) leaves nothing that boots. Without arguments,
/// lists the devices that could be meant.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image, in any container that inject reads
    #[arg(value_name = "IMAGE")]
    image: Option<PathBuf>,

    /// The block device, or a file that stands; it is not made larger
    #[arg(value_name = "DEVICE")]
    device: Option<PathBuf>,

    #[command(flatten)]
    manifest: ManifestArgs,

    /// The host in the manifest
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// The root partition, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL")]
    root_partition: Option<String>,

    /// The NixOS system to judge by, a path in the image's store, instead of the one that boots
    #[arg(long, value_name = "PATH")]
    system: Option<String>,

    /// Go on although the image tells, by a key or its /etc/hostname, that it is another host of the manifest
    #[arg(long)]
    as_host: bool,

    /// Read the backing files that a qcow2 image names, too; only for an image that you trust
    #[arg(long)]
    follow_backing: bool,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    /// Write to a disk that is not removable, or to a partition (never to one that is in use)
    #[arg(long)]
    force: bool,

    /// Do not read back and compare what was written
    #[arg(long)]
    no_read_back: bool,

    /// Move the backup of the GPT to the end of the device
    #[arg(long)]
    fix_gpt: bool,

    /// Power the device off afterwards, where that is possible
    #[arg(long)]
    eject: bool,

    /// Only put the secrets into DEVICE, which has its image already: inject DEVICE
    #[arg(long, conflicts_with_all = ["no_read_back", "fix_gpt", "eject"])]
    only_inject: bool,

    /// With --only-inject: directory for an undo file, for a change that does not fit into a journal
    #[arg(long, value_name = "DIR", requires = "only_inject")]
    undo: Option<PathBuf>,

    /// Write the public parts of the generated keys to FILE: a known_hosts line for a host key, public keys and age
    /// recipients as comments; as JSON if FILE ends in .json
    #[arg(long, value_name = "FILE")]
    public_out: Option<PathBuf>,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        match (&self.image, &self.device) {
            (None, None) if !self.only_inject => list::run(ui),
            (Some(device), None) if self.only_inject => self.inject(ui, device),
            (Some(image), Some(device)) if !self.only_inject => self.flash(ui, image, device),
            (Some(_), Some(_)) => Err(usage("--only-inject takes no IMAGE", "deaddrop flash --only-inject DEVICE")),
            _ if self.only_inject => Err(usage("DEVICE is missing", "deaddrop flash --only-inject DEVICE")),
            _ => Err(usage("DEVICE is missing", "deaddrop flash IMAGE DEVICE; `deaddrop flash` lists devices")),
        }
    }

    fn inject(&self, ui: &Ui, device: &Path) -> Result<Exit, Failure> {
        let (host, undo, public_out) = (self.host.as_deref(), self.undo.as_deref(), self.public_out.as_deref());
        let args = inject::Args::on_device(device, self.place(), (&self.manifest, host), self.force, undo, public_out);
        args.run(ui)
    }

    fn flash(&self, ui: &Ui, path: &Path, device: &Path) -> Result<Exit, Failure> {
        let time = time_of_run()?;
        let name = device.display().to_string();
        let manifest = load(&self.manifest.manifest)?;
        let part = self.part(&manifest, path)?;
        let failed = |error: StorageError| failure::failed(&name, &error.into());
        let progress = ProgressDisplay::new(ui);
        let watch = |step| progress.show(step);
        refuse_no_disk(path).map_err(failed)?;
        let options = Options { read_back: !self.no_read_back, fix_gpt: self.fix_gpt };
        let device = Device::open(device, path, self.force).map_err(failed)?;
        let trust = Trust { follow_backing: self.follow_backing };
        let mut image = FlashImage::open(path, trust, &watch).map_err(failed)?;
        let notes = image.check(&device, options).map_err(failed)?;
        let (number, real) = (device.number(), device.real().to_owned());
        let values = Values::read(&manifest, std::slice::from_ref(&part), ui.tell())?;
        let files = part.files(&manifest, &values).map_err(|unfit| part::does_not_fit(&unfit))?;
        let input = HostInput { manifest: &manifest, part: &part, values: &values, files };
        // Not counting the time until the answer.
        let (ready, report, started) = match image.take_image() {
            Some(disk) => {
                // Planned first: a refusal leaves the device as it is.
                let ready = self.prepare(ui, disk, input, time)?;
                ask::ask(ui, &device, &image, &notes, (self.host.as_deref(), part.secrets.len()), self.yes)?;
                let started = Instant::now();
                let mut flash = Flash::new(device, options, &watch);
                let report = flash.write_disk(&image, &ready.blocks).map_err(failed)?;
                (ready, report, started)
            }
            None => {
                ask::ask(ui, &device, &image, &notes, (self.host.as_deref(), part.secrets.len()), self.yes)?;
                let started = Instant::now();
                let mut flash = Flash::new(device, options, &watch);
                let disk = flash.write_stream(&image).map_err(failed)?;
                // From here on every failure leaves a device without a table.
                let ready = self.prepare(ui, disk, input, time).map_err(|failure| half_done(failure, &name))?;
                let report = flash.finish(&image, &ready.blocks).map_err(failed)?;
                (ready, report, started)
            }
        };
        Ok(self.tell(ui, (path, &name), ready, &report, number.map(|number| (real, number)), started))
    }

    /// The host, and its secrets.
    fn part<'a>(&'a self, manifest: &'a Manifest, path: &'a Path) -> Result<HostPart<'a>, Failure> {
        let host = self.host.as_deref();
        let secrets = select(manifest, host, &self.manifest.only)?;
        // A path that is not UTF-8 is no name of a host: only messages have it.
        let name = host.or_else(|| path.to_str()).unwrap_or("the image");
        Ok(HostPart { name, host: None, as_host: host, secrets })
    }

    /// How the root in the image is chosen, and the image judged.
    fn place(&self) -> PlaceArgs {
        PlaceArgs {
            root_partition: self.root_partition.clone(),
            backend: BackendArgs { backend: Backend::Native, follow_backing: self.follow_backing, subvolume: None },
            as_host: self.as_host,
            system: self.system.clone(),
        }
    }

    /// Plans and makes the changes of a host in memory, as the blocks of the disk that they change.
    fn prepare(&self, ui: &Ui, disk: DiskImage, input: HostInput<'_>, time: SystemTime) -> Result<Ready, Failure> {
        let name = disk.name();
        let failed = |error: StorageError| Failure::refused(vec![failure::error_message(&error)]);
        let native = NativeImage::with(disk, None, self.root_partition.as_deref(), &quiet).map_err(failed)?;
        ui.detail(1, &native.details());
        let mut open = ImagePlace::Native(Box::new(native));
        let place = self.place();
        let target = Target::to_read(Path::new(&name), &place);
        let planned = plan_place(ui, &mut open, false, target, input)?;
        let changes = tree_changes(&planned.plan, &name)?;
        let public_out = public_out::of(self.public_out.as_deref(), &planned.known_as, &planned.public_parts)?;
        let ImagePlace::Native(native) = &mut open else {
            return Err(failed(StorageError::corrupt("the image was opened by another back end")));
        };
        let blocks = native.changed_blocks(&changes, time).map_err(failed)?;
        let columns = wrap::columns(std::io::stderr());
        let plan = &planned.plan;
        let lines = if ui.verbose < 2 { report::changed_lines(plan, columns) } else { report::table(plan, columns) };
        if !lines.is_empty() {
            ui.info(&lines);
        }
        Ok(Ready { planned, blocks, public_out })
    }

    /// Reports what was done, and sees to what comes after it.
    fn tell(
        &self,
        ui: &Ui,
        (image, name): (&Path, &str),
        Ready { planned, public_out, .. }: Ready,
        done: &Report,
        device: Option<(PathBuf, Number)>,
        started: Instant,
    ) -> Exit {
        let mut exit = Exit::Done;
        let Planned { plan, public_parts, .. } = &planned;
        ui.print_json_when_done(|| json::plan("flash", name, plan));
        public_parts.iter().flat_map(|part| &part.to_add).for_each(|line| ui.info(line));
        done.notes.iter().for_each(|note| ui.info(note));
        if let Some(Err(message)) = public_out.map(PublicOut::put) {
            // The keys are in place, and stay there.
            print_error_stream(&message.render());
            exit = Exit::HalfDone;
        }
        let read_back = if self.no_read_back { "" } else { " and read back" };
        ui.info(&format!(
            "{name}: {} ({}) written{read_back}; {} ({})",
            image.display(),
            text::size(done.size),
            report::done(plan),
            text::duration(started.elapsed())
        ));
        if self.eject {
            ui.info(&match device.map(|(path, number)| flash::eject(&path, &number)) {
                Some(Ok(true)) => format!("{name}: powered off, and can be taken out"),
                Some(Err(error)) => format!("--eject: {name} stays on: {error}"),
                Some(Ok(false)) => format!("--eject: {name} cannot be powered off, and can be taken out as it is"),
                None => format!("--eject: {name} is a file"),
            });
        }
        exit
    }
}

/// What is to be written, with everything known that could be refused.
struct Ready {
    planned: Planned,
    blocks: Blocks,
    public_out: Option<PublicOut>,
}

/// A tar of a root and a directory are no disks.
fn refuse_no_disk(path: &Path) -> Result<(), StorageError> {
    let what = match path {
        path if path.is_dir() => "a directory",
        path if tar::is_tar(path) => "a tar with a root file system",
        _ => return Ok(()),
    };
    Err(StorageError::refused(
        format!("{} is {what}, and a device takes the image of a disk", path.display()),
        "build a disk image: raw, qcow2, compressed or not",
    ))
}

/// A failure after the device was begun.
fn half_done(failure: Failure, device: &str) -> Failure {
    let mut messages = failure.messages;
    let message = Message::new(format!("{device} holds no partition table now, and nothing that boots"));
    messages.push(message.hint("when that is mended, run the same command again: it begins anew, and finishes it"));
    Failure { exit: Exit::HalfDone, messages }
}

fn usage(what: &str, hint: &str) -> Failure {
    Failure::usage(Message::new(what).hint(hint))
}
