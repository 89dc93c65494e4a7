//! The hosts of a run, and their secrets. Pure, except for the environment variables of `--shard auto`.

use std::collections::HashSet;
use std::path::Path;

use deaddrop_core::near;

use super::Request;
use crate::cli::select::wrong_selection;
use crate::manifest::{Manifest, SecretSpec, SelectError};
use crate::rotate::choose::{self, ChooseError, ChosenHost, Selection};
use crate::rotate::schedule::Serial;
use crate::rotate::shard::{Shard, ShardArgument};
use crate::run::message::{Failure, Message};
use crate::run::part::HostPart;

/// Name of this machine if it has none in the manifest.
const THIS_MACHINE: &str = "localhost";

pub(super) fn wrong_choice(error: &ChooseError) -> Failure {
    let mut message = Message::new(error.to_string()).hint(error.hint());
    if let ChooseError::UnknownHost { name, .. } = error
        && (name.contains(".img") || Path::new(name).exists())
    {
        message = message.hint(format!("{name} is a file? an image is changed by `deaddrop inject`"));
    }
    Failure::usage(message)
}

/// The hosts of this run that are in its shard.
pub(super) fn nodes<'m>(
    manifest: &'m Manifest,
    selection: Selection<'_>,
    request: &Request<'_>,
) -> Result<Vec<ChosenHost<'m>>, Failure> {
    let mut chosen = choose::choose(manifest, selection).map_err(|error| wrong_choice(&error))?;
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
            // A value that is not text is not a number either.
            let read = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
            let shard = Shard::of_environment(read);
            shard.map(Some).map_err(|error| Failure::usage(Message::new(error.to_string()).hint(error.hint())))
        }
    }
}

/// The groups of hosts that run one at a time: those of the manifest, and those of the command line.
pub(super) fn serial(manifest: &Manifest, chosen: &[ChosenHost<'_>], named: &[String]) -> Result<Vec<Serial>, Failure> {
    let mut tags: Vec<&String> = manifest.serial.iter().chain(named).collect();
    let mut seen = HashSet::new();
    tags.retain(|tag| seen.insert(*tag));
    let group = |tag: &String| {
        // `--serial tag:NAME` is accepted too.
        let tag = tag.strip_prefix("tag:").unwrap_or(tag);
        let hosts = choose::with_tag(manifest, chosen, tag).map_err(|error| wrong_choice(&error))?;
        Ok(Serial { tag: tag.to_owned(), hosts })
    };
    tags.into_iter().map(group).collect()
}

/// The secrets of each host. With `only`, hosts that get none of these stay in the run and have nothing to do.
pub fn secrets_of<'m>(
    manifest: &'m Manifest,
    chosen: &[ChosenHost<'m>],
    only: &[String],
) -> Result<Vec<HostPart<'m>>, Failure> {
    let mut parts = Vec::with_capacity(chosen.len());
    let mut got: HashSet<&str> = HashSet::new();
    for chosen in chosen {
        let mut secrets = manifest.select(Some(chosen.name), &[]).map_err(|error| wrong_selection(&error))?;
        secrets.retain(|secret| only.is_empty() || only.contains(&secret.name));
        if !only.is_empty() {
            got.extend(secrets.iter().map(|secret| secret.name.as_str()));
        }
        parts.push(HostPart { name: chosen.name, host: Some(chosen.host), as_host: Some(chosen.name), secrets });
    }
    match only.iter().find(|name| !parts.is_empty() && !got.contains(name.as_str())) {
        None => Ok(parts),
        Some(name) => {
            let hint = "look at its `hosts` in the manifest, or leave it out of --only";
            Err(Failure::usage(Message::new(format!("secret `{name}` is for none of these hosts")).hint(hint)))
        }
    }
}

/// This machine. Its name may be omitted if no secret has `hosts`.
pub(super) fn local<'m>(manifest: &'m Manifest, name: Option<&str>, only: &[String]) -> Result<HostPart<'m>, Failure> {
    let secrets = manifest.select(name, only).map_err(|error| match &error {
        SelectError::HostNeeded { hosts } if !hosts.is_empty() => {
            let hosts = near::list(hosts.iter().map(String::as_str));
            let hint = format!("say which of them this machine is: --host NAME; hosts here: {hosts}");
            Failure::usage(Message::new(error.to_string()).hint(hint))
        }
        _ => wrong_selection(&error),
    })?;
    let as_host = name.and_then(|name| manifest.hosts.get_key_value(name)).map(|(name, _)| name.as_str());
    Ok(HostPart { name: as_host.unwrap_or(THIS_MACHINE), host: None, as_host, secrets })
}

/// The secrets of all hosts, each once, in the manifest's order.
pub(super) fn union<'m>(manifest: &'m Manifest, parts: &[HostPart<'m>]) -> Vec<&'m SecretSpec> {
    let names: HashSet<&str> = parts.iter().flat_map(|part| &part.secrets).map(|secret| secret.name.as_str()).collect();
    manifest.secrets.iter().filter(|secret| names.contains(secret.name.as_str())).collect()
}
