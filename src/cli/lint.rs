//! `deaddrop lint`: what the system in a target reads, and whether the manifest gives it where it takes effect.

use std::path::{Path, PathBuf};

use super::args::{PlaceArgs, SshArgs, Target, USUAL_MANIFEST};
use super::backend::BackendArgs;
use super::prepare::{look, look_at, open_node};
use super::select;
use crate::manifest::Manifest;
use crate::place::{Survey, SystemChoice};
use crate::report::{Ui, lint as report};
use crate::run::desired::{self, DesiredFile};
use crate::run::lint::{self, Given};
use crate::run::message::{Exit, Failure, Message};
use crate::run::part::{self, HostPart, Values};

/// Lists what the NixOS system in an image, a block device or a directory, or of a running node, reads, and tells what
/// the manifest gives that takes no effect, and what nothing gives.
///
/// Example: deaddrop lint node1.img -m secrets.yaml --host node1
///
/// Writes nothing, and opens no vault without --values. Exits with 3 if a file would be refused, and with 1 if no system
/// can be read. Without a manifest it lists what the system reads.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An image, a block device, a directory or tar with a root file system, or @HOST for a running node of the manifest
    #[arg(value_name = "TARGET")]
    target: PathBuf,

    /// The manifest; without it, secrets.yaml if that is here
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// The target's host in the manifest
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Read the values too: whether a password is in force, and whether a key decrypts, is known by them alone
    #[arg(long)]
    values: bool,

    /// Exit with 3 on a warning as well
    #[arg(long)]
    strict: bool,

    /// The root partition, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL")]
    root_partition: Option<String>,

    /// The NixOS system to judge by, a path in the target's store, instead of the one that boots
    #[arg(long, value_name = "PATH")]
    system: Option<String>,

    #[command(flatten)]
    backend: BackendArgs,

    #[command(flatten)]
    ssh: SshArgs,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        let name = self.target.display().to_string();
        let node = name.strip_prefix('@');
        let manifest = self.manifest_file().map(select::load).transpose()?;
        if manifest.is_none() && node.is_some() {
            let message = format!("{name} is a host of a manifest, and there is none: no {USUAL_MANIFEST} is here");
            return Err(Failure::usage(Message::new(message).hint("name it with -m FILE")));
        }
        if manifest.is_none() && (self.host.is_some() || self.values) {
            let option = if self.host.is_some() { "--host" } else { "--values" };
            let message =
                Message::new(format!("{option} is for a manifest, and there is none: no {USUAL_MANIFEST} is here"));
            return Err(Failure::usage(message.hint("name it with -m FILE")));
        }
        let host = node.or(self.host.as_deref());
        let specs = match (&manifest, node) {
            (Some(manifest), Some(node)) => select::select_of_node(manifest, self.host.as_deref(), &[], node)?,
            (Some(manifest), None) => select::select(manifest, host, &[])?,
            (None, _) => Vec::new(),
        };
        let part = HostPart {
            name: host.unwrap_or(&name),
            host: manifest.as_ref().and_then(|manifest| manifest.hosts.get(node?)),
            as_host: host,
            // What opens no vault reads a node's password alone.
            secrets: if self.values { specs.clone() } else { Vec::new() },
        };
        let values = match &manifest {
            Some(manifest) if self.values || node.is_some() => {
                Values::read(manifest, std::slice::from_ref(&part), ui.tell())?
            }
            _ => Values::default(),
        };
        let files = match &manifest {
            Some(manifest) if self.values => part.files(manifest, &values),
            Some(manifest) => desired::build_unread(manifest, &specs, host),
            None => Ok(Vec::new()),
        };
        let mut files = files.map_err(|unfit| part::does_not_fit(&unfit))?;
        let (survey, title) = self.survey(ui, manifest.as_ref(), &part, &values, &files)?;
        if self.values {
            desired::keep_existing_hashes(&mut files, &survey);
        }
        desired::settle(&mut files, &survey, host);
        let allow = manifest.as_ref().map(|manifest| manifest.allowances(host).of_target()).unwrap_or_default();
        let given = manifest.as_ref().map(|_| Given { files: &files, specs: &specs, allow: &allow });
        let linted = lint::lint(given, &survey);
        ui.print_json(|| report::object(&name, &linted))?;
        ui.result(&report::text(&name, &title, survey.system.as_deref(), &linted, ui.columns_of_result()))?;
        let is_bad = linted.refused() > 0 || (self.strict && !linted.findings.is_empty());
        Ok(if is_bad { Exit::Differences } else { Exit::Done })
    }

    fn manifest_file(&self) -> Option<&Path> {
        let usual = Path::new(USUAL_MANIFEST);
        self.manifest.as_deref().or_else(|| usual.exists().then_some(usual))
    }

    /// The survey of the target, and its title.
    fn survey(
        &self,
        ui: &Ui,
        manifest: Option<&Manifest>,
        part: &HostPart<'_>,
        values: &Values,
        files: &[DesiredFile],
    ) -> Result<(Survey, String), Failure> {
        let place = PlaceArgs::to_read(self.root_partition.as_deref(), &self.backend, self.system.as_deref());
        let target = Target { ssh: Some(&self.ssh), ..Target::to_read(&self.target, &place) };
        let persist_root = manifest.and_then(|manifest| manifest.persist_root(part.as_host));
        let choice = SystemChoice {
            system: self.system.clone(),
            persist_root: persist_root.map(|path| path.as_str().to_owned()),
            with_facts: true,
            system_only: false,
        };
        let wanted = desired::wanted(files);
        match manifest.filter(|_| target.is_node()) {
            Some(manifest) => {
                let mut node = open_node(manifest, target, &self.ssh, part, values)?;
                look_at(&target.path.display().to_string(), &mut node, &choice, &wanted)
            }
            None => look(ui, target, &choice, &wanted),
        }
    }
}
