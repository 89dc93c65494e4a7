//! `deaddrop init`: writes a first manifest, from flags or from answers.

mod answers;
mod first;
mod ignore;
mod image;
mod vault;

use std::path::{Path, PathBuf};

use deaddrop_core::error::CommitError;

use super::args::{PlaceArgs, USUAL_MANIFEST};
use super::backend::BackendArgs;
use super::failure::nothing_changed;
use super::public_out::unfinished;
use crate::manifest::Manifest;
use crate::report::{Ui, json};
use crate::run::message::{Exit, Failure, Message};
use answers::Questions;
use first::{FirstManifest, NamedHost, Usual};
use vault::Vault;

/// The names that --secrets takes.
pub(super) fn usual_secrets() -> impl Iterator<Item = &'static str> {
    Usual::ALL.into_iter().map(Usual::name).chain(["all"])
}

/// Writes a first manifest, with comments: your hosts, your vault and the usual secrets.
///
/// Example: deaddrop init --host node1=root@192.168.1.11 --vault bitwarden:vault.json --secrets login,wifi
/// -o homelab.yaml
///
/// Asks on the terminal for everything that no flag sets; Return accepts the default. Writes the file, and in a git
/// repository, if you agree, lines of .gitignore. Item names in it are guesses: `deaddrop sources list vault` shows
/// yours.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A host and its SSH address (repeatable)
    #[arg(long, value_name = "NAME[=USER@ADDRESS]")]
    host: Vec<String>,

    /// The source of the values: bitwarden, onepassword, keepass, proton-pass, lastpass, pass, gopass, passage, dotenv,
    /// env, bw, rbw or op; with the file of an export
    #[arg(long, value_name = "TYPE[:PATH]")]
    vault: Option<String>,

    /// Which of login, k3s-token, wifi, deploy-key, host-key and flux, separated by commas; or all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    secrets: Option<Vec<String>>,

    /// Write what the NixOS system in this image, block device or directory reads, instead of the usual secrets
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["secrets", "user"])]
    image: Option<PathBuf>,

    /// The root partition of the image, by number or label, instead of the one chosen automatically
    #[arg(long, value_name = "N|LABEL", requires = "image")]
    root_partition: Option<String>,

    /// The NixOS system in the image, a path in its store, instead of the one that boots
    #[arg(long, value_name = "PATH", requires = "image")]
    system: Option<String>,

    #[command(flatten)]
    backend: BackendArgs,

    /// The user of the login password [default: admin]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Add vaults, exports and images with secrets to .gitignore, without a question
    #[arg(long)]
    gitignore: bool,

    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = USUAL_MANIFEST)]
    output: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,

    /// Do not ask: use the default for everything that no flag sets
    #[arg(long)]
    yes: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, ui: &Ui) -> Result<Exit, Failure> {
        // Before any question, so that no answer is lost.
        if !self.force && self.output.symlink_metadata().is_ok() {
            return Err(exists(&self.output));
        }
        let image = match &self.image {
            Some(image) => {
                let (partition, system) = (self.root_partition.as_deref(), self.system.as_deref());
                let place = PlaceArgs::to_read(partition, &self.backend, system);
                Some(image::read(ui, image, &place)?)
            }
            None => None,
        };
        let (first, ignore) = self.collect(image.as_ref())?;
        let text = first.text();
        // The written file must pass `check`, so its own checks report errors here.
        let manifest = Manifest::parse(&text, &self.output)
            .map_err(|errors| Failure::usage(Message::rendered(errors.to_string())))?;
        write(&self.output, &text, self.force)?;
        let added = match &ignore {
            Some(file) => {
                ignore::add(file, first.vault.path()).map_err(|error| not_ignored(&self.output, file, &error))?
            }
            None => 0,
        };
        let (name, hosts, secrets) = (self.output.display(), manifest.hosts.len(), manifest.secrets.len());
        ui.print_json_when_done(|| json::init(&name.to_string(), hosts, secrets));
        let plural = if hosts == 1 { "" } else { "s" };
        if added > 0 {
            ui.info(&format!(".gitignore: {added} lines for vaults, exports and images with secrets"));
        }
        ui.info(&format!(
            "{name}: {}, {hosts} host{plural}. Look at the names of items in it, then:",
            crate::report::plan::secrets(secrets)
        ));
        let manifest = if self.output == Path::new(USUAL_MANIFEST) { String::new() } else { format!(" -m {name}") };
        ui.info(&format!("  deaddrop check --values{manifest}"));
        let host = first.hosts.first().map_or("NAME", |host| host.name.as_str());
        let image = self.image.as_ref().map_or("IMAGE".to_owned(), |image| image.display().to_string());
        ui.info(&format!("  deaddrop plan {image}{manifest} --host {host}"));
        Ok(Exit::Done)
    }

    /// The values of the flags, and the user's answers for the rest; with the `.gitignore` to extend.
    fn collect(&self, image: Option<&image::Read>) -> Result<(FirstManifest, Option<PathBuf>), Failure> {
        // What an image says needs no question; where none can be asked, the usual vault can be changed later.
        let mut questions = Questions::new(self.yes || (image.is_some() && !Questions::new(false).can_ask()));
        let hosts = match self.host.as_slice() {
            [] => questions.ask(
                "--host",
                "Hosts, separated by commas or spaces, each NAME or NAME=USER@ADDRESS",
                image.map_or("node1", image::Read::host),
                |answer| answers::words(answer).map(NamedHost::parse).collect(),
            )?,
            flags => flags
                .iter()
                .map(|host| NamedHost::parse(host))
                .collect::<Result<_, _>>()
                .map_err(|message| wrong("--host", message))?,
        };
        let vault = match &self.vault {
            Some(flag) => Vault::parse(flag).map_err(|message| wrong("--vault", message))?,
            None => {
                let question = format!("Vault, TYPE or TYPE:PATH; a type is one of {}", vault::names());
                questions.ask("--vault", &question, "bitwarden:vault.json", Vault::parse)?
            }
        };
        let secrets = match (&self.secrets, image) {
            (_, Some(_)) => Vec::new(),
            (Some(names), None) => {
                Usual::list(names.iter().map(String::as_str)).map_err(|message| wrong("--secrets", message))?
            }
            (None, None) => {
                let question = format!("Secrets, separated by commas or spaces, of {}; or all", Usual::names());
                let usual = "login, k3s-token, wifi, deploy-key";
                questions.ask("--secrets", &question, usual, |answer| Usual::list(answer.split(',')))?
            }
        };
        let user = match &self.user {
            Some(user) => first::user(user).map_err(|message| wrong("--user", message))?,
            None if secrets.contains(&Usual::Login) && questions.can_ask() => {
                questions.ask("--user", "User whose login password it is", "admin", first::user)?
            }
            None => "admin".to_owned(),
        };
        let ignore = ignore::file_beside(&self.output);
        let ignore = match (self.gitignore, ignore.is_some() && questions.can_ask()) {
            (false, false) => None,
            (false, true) => {
                let question = "Add vaults, exports and images with secrets to .gitignore, yes or no";
                let agreed = questions.ask("--gitignore", question, "yes", answers::yes_or_no)?;
                ignore.filter(|_| agreed)
            }
            (true, _) if ignore.is_none() => {
                return Err(wrong("--gitignore", format!("{} is in no git repository", self.output.display())));
            }
            (true, _) => ignore,
        };
        let secrets = match image {
            Some(image) => image.secrets(&vault),
            None => secrets.into_iter().map(|usual| usual.lines(&vault, &user)).collect(),
        };
        Ok((FirstManifest { hosts, vault, secrets }, ignore))
    }
}

fn wrong(flag: &str, message: String) -> Failure {
    Failure::usage(Message::new(format!("{flag}: {message}")))
}

/// The manifest is written, and its `.gitignore` could not be.
fn not_ignored(output: &Path, file: &Path, error: &std::io::Error) -> Failure {
    let what = format!("{}: it is written, but {} could not be extended", output.display(), file.display());
    let hint = "keep the vault's file and images with secrets out of git by hand";
    Failure { exit: Exit::HalfDone, messages: vec![Message::new(what).caused_by(error).hint(hint)] }
}

fn exists(path: &Path) -> Failure {
    let message = Message::new(format!("{}: there is such a file already, and nothing was changed", path.display()));
    Failure::refused(vec![message.hint("-o FILE writes another one, --force replaces it")])
}

/// Writes the file, completely or not at all.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let written = unfinished(path, text).map_err(CommitError::Before).and_then(|file| match force {
        true => file.replace(path),
        false => file.publish(path),
    });
    written.map_err(|error| match error {
        CommitError::Before(error) if error.kind() == std::io::ErrorKind::AlreadyExists => exists(path),
        CommitError::Before(error) => nothing_changed(&path.display().to_string(), &error),
        CommitError::After(error) => {
            let what = format!("{}: it is written, but its directory could not be synced", path.display());
            Failure { exit: Exit::HalfDone, messages: vec![Message::new(what).caused_by(&error)] }
        }
    })
}
