//! The tokens of clusters in a run of `rotate`: which runs may rotate them, and their rotation, before all other
//! secrets.

use std::collections::HashSet;

use deaddrop_core::contain::contain;
use deaddrop_core::{near, shown};

use super::{Machines, Request, hosts};
use crate::manifest::{Manifest, SecretSpec};
use crate::report::Ui;
use crate::rotate::choose;
use crate::rotate::token::{TokenEnd, TokenHost, TokenJob, rotate_token};
use crate::rotate::{self, HostResult, HostStatus, Options};
use crate::run::message::{Failure, Message};
use crate::run::part::{HostPart, Values};

/// What was done about tokens.
pub(super) struct Rotated {
    /// The result of each host, if it has such a secret.
    pub results: Vec<Option<HostResult>>,
    /// The secrets that were dealt with.
    pub secrets: HashSet<String>,
    /// The run ends: the result of the host of each number is all that there is.
    pub ends: bool,
}

/// The tokens of clusters among the secrets of these hosts, in the manifest's order.
fn tokens<'m>(manifest: &'m Manifest, parts: &[HostPart<'m>]) -> Vec<&'m SecretSpec> {
    let mut all = hosts::union(manifest, parts);
    all.retain(|spec| spec.cluster().is_some());
    all
}

/// Checks that a run may rotate the tokens that it includes.
///
/// # Errors
/// Exit 1: an option under which not all hosts are done, or hosts that are missing.
pub(super) fn check(manifest: &Manifest, request: &Request<'_>, parts: &[HostPart<'_>]) -> Result<(), Failure> {
    if !request.rotates() {
        return Ok(());
    }
    // A shard may have no host of the cluster.
    let whole = match request.hosts {
        Machines::Nodes(selection) if request.shard.is_some() => {
            let chosen = choose::choose(manifest, selection).map_err(|error| hosts::wrong_choice(&error))?;
            Some(hosts::secrets_of(manifest, &chosen, request.only)?)
        }
        _ => None,
    };
    let parts = whole.as_deref().unwrap_or(parts);
    for spec in tokens(manifest, parts) {
        let refused = |why: String, hint: String| {
            let name = shown::text(&spec.name);
            Err(Failure::refused(vec![Message::new(format!("{name}: nothing was changed")).cause(why).hint(hint)]))
        };
        let limits = &request.limits;
        let options = [
            ("--local", matches!(request.hosts, Machines::Local(_))),
            ("--shard", request.shard.is_some()),
            ("--canary", limits.canary > 0),
            ("--batch", limits.batch.is_some()),
            ("--max-failures", limits.max_failures.is_some()),
        ];
        if let Some((option, _)) = options.iter().find(|(_, is_given)| *is_given) {
            return refused(
                format!("a cluster's token is rotated on all of its hosts in one run, and {option} would part them"),
                format!("leave {option} out; or rotate the other secrets with it: --only SECRET"),
            );
        }
        let has = |name: &str| parts.iter().any(|part| part.name == name);
        let mut missing: Vec<&str> = Vec::new();
        for name in manifest.hosts.keys().map(String::as_str).filter(|name| !has(name)) {
            let secrets = manifest.select(Some(name), &[]).unwrap_or_default();
            if secrets.iter().any(|secret| secret.name == spec.name) {
                missing.push(name);
            }
        }
        if !missing.is_empty() {
            let missing = near::list(missing.into_iter());
            return refused(
                format!("all hosts that get a cluster's token must be chosen, and these are missing: {missing}"),
                "name them too, or say --all; or rotate the other secrets: --only SECRET".to_owned(),
            );
        }
    }
    Ok(())
}

/// Rotates the tokens, one cluster after another.
///
/// # Errors
/// Exit 1 if the hosts of one have different values; none was contacted then.
pub(super) fn rotate(
    ui: &Ui,
    request: &Request<'_>,
    manifest: &Manifest,
    parts: &[HostPart<'_>],
    values: &Values,
    stopped: &(dyn Fn() -> bool + Sync),
) -> Result<Rotated, Failure> {
    let results = parts.iter().map(|_| None).collect();
    let mut rotated = Rotated { results, secrets: HashSet::new(), ends: false };
    if !request.rotates() {
        return Ok(rotated);
    }
    deaddrop_core::sys::raise_open_files_limit();
    let options =
        Options { dry_run: request.kind.is_dry(), forget_list: request.forget_list, ..request.ssh.options(manifest) };
    let asking = rotate::has_terminal().then(|| Options { interactive: true, ..options.clone() });
    for spec in tokens(manifest, parts) {
        let Some(cluster) = spec.cluster() else { continue };
        let numbers: Vec<usize> =
            (0..parts.len()).filter(|number| parts[*number].secrets.iter().any(|own| own.name == spec.name)).collect();
        let own: Vec<&HostPart<'_>> = numbers.iter().map(|number| &parts[*number]).collect();
        let declared = TokenJob::declared(spec, manifest, values, &own);
        let declared = declared.map_err(|message| Failure::refused(vec![message]))?;
        let hosts: Vec<TokenHost<'_>> = own
            .iter()
            // A missing password is told by the connection, as without one.
            .map(|part| TokenHost { part, become_password: part.become_password(values).unwrap_or_default() })
            .collect();
        let job = TokenJob {
            spec,
            cluster,
            manifest,
            values,
            options: &options,
            asking: asking.as_ref(),
            parallel: usize::from(request.ssh.parallel),
            stopped,
            tell: &|line| ui.info(line),
            declared,
        };
        let end = contain(|| rotate_token(&job, &hosts));
        let (is_done, ended) = match end {
            Some(TokenEnd::Ordinary) => continue,
            Some(TokenEnd::Done(ended)) => (true, ended),
            Some(TokenEnd::Ended(ended)) => (false, ended),
            None => (false, hosts.iter().map(|_| rotate::fleet::lost()).collect()),
        };
        rotated.ends |= !is_done;
        rotated.secrets.insert(spec.name.clone());
        for (number, end) in numbers.into_iter().zip(ended) {
            let slot = &mut rotated.results[number];
            *slot = Some(match slot.take() {
                Some(before) => end.after(before),
                None => end,
            });
        }
        if rotated.ends {
            break;
        }
    }
    // The hosts that are done stay done in the report of a run that is stopped here.
    rotated.ends |= !rotated.secrets.is_empty() && stopped();
    if rotated.ends {
        rotated.results.iter_mut().for_each(|result| {
            result.get_or_insert_with(|| {
                let error =
                    Some(Message::new("not begun: the token of a cluster comes first, and the run ended with it"));
                HostResult { error, ..HostResult::new(HostStatus::Skipped) }
            });
        });
    }
    Ok(rotated)
}
