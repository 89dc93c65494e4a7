//! What `lint` finds: the files of a manifest held against the system of a target, and that system by itself.

use std::collections::BTreeMap;

use super::desired::{Content, DesiredFile};
use super::{decrypt, plan};
use crate::manifest::{Allow, SecretSpec};
use crate::nixos::closure::Closure;
use crate::nixos::closure::wants::Kind;
use crate::nixos::{self, Finding};
use crate::place::{Facts, Refusal, Standing, Survey};

/// Maximum number of missing paths that are compared with a path that nothing reads.
const MOST_NEAR: usize = 300;

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `NX…`; `None` for a refusal that is no rule of NixOS: a directory stands at the path.
    pub code: Option<&'static str>,
    /// True if `plan` and `inject` refuse it, false for a warning.
    pub refuse: bool,
    /// The secret that it concerns.
    pub secret: Option<String>,
    /// The path that it concerns.
    pub path: Option<String>,
    /// The effect, and its cause.
    pub message: String,
    /// What to do instead.
    pub hint: String,
}

/// Who gives a path that the system reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Giver {
    /// The secret of this name.
    Secret(String),
    /// It stands in the target.
    Target,
    /// sops-nix or agenix makes it.
    Made,
    /// Nothing, and it may be missing.
    NotNeeded,
    /// Nothing.
    Nothing,
    /// It is on another file system.
    Unknown,
}

/// A path that the system reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The path.
    pub path: String,
    /// What reads it, each once.
    pub by: Vec<String>,
    /// How the first of them does.
    pub kind: Kind,
    /// Who gives it.
    pub giver: Giver,
}

/// The result.
#[derive(Debug, Default)]
pub struct Linted {
    /// Findings about secrets, in the manifest's order; then those about the system.
    pub findings: Vec<Found>,
    /// What the system reads, by path.
    pub wanted: Vec<Wanted>,
    /// A line for each program that decrypts: the key that it needs, and who gives it.
    pub keys: Vec<String>,
    /// It was held against a manifest.
    pub has_manifest: bool,
}

impl Linted {
    /// Number of refusals.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.findings.iter().filter(|found| found.refuse).count()
    }
}

/// The secrets of a manifest that are linted.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// Their files, in the order of the survey's places.
    pub files: &'a [DesiredFile],
    /// They.
    pub specs: &'a [&'a SecretSpec],
    /// What is allowed for the target as a whole.
    pub allow: &'a Allow,
}

/// Judges a target. Without a manifest, only the system by itself.
#[must_use]
pub fn lint(given: Option<Given<'_>>, survey: &Survey) -> Linted {
    let mut findings = given.map_or_else(Vec::new, |given| of_files(given, survey));
    let nothing_allowed = Allow::new();
    let allow = given.map_or(&nothing_allowed, |given| given.allow);
    let mut add = |found: Finding, secret: Option<&str>, path: Option<String>, allow: &Allow| {
        findings.extend(found.unless_allowed(allow).map(|found| of_finding(found, secret, path)));
    };
    for finding in &survey.findings {
        add(finding.clone(), None, None, allow);
    }
    let (Some(system), Some(facts)) = (&survey.system, &survey.facts) else {
        return Linted { findings, has_manifest: given.is_some(), ..Linted::default() };
    };
    let wanted = wanted(given, survey, system, facts);
    let judged = decrypt::judge(survey, &given.map(|given| decrypt::given(given.files, survey)).unwrap_or_default());
    let locked_out = given.map(|given| decrypt::locked_out(given.files, survey)).unwrap_or_default();
    for told in locked_out.into_iter().chain(judged.findings).chain(decrypt::passwords_not_applied(survey)) {
        // Without a manifest nothing is given yet.
        if given.is_some() || told.finding.code != "NX117" {
            let of_file = |file: &&DesiredFile| told.path.as_deref() == Some(file.path.as_str());
            let file = given.and_then(|given| given.files.iter().find(of_file));
            let allow = file.map_or(allow, |file| &file.allow);
            add(told.finding, file.map(|file| file.secret.as_str()), told.path.clone(), allow);
        }
    }
    if let Some(given) = given {
        // A key to decrypt with that nothing gives is NX117.
        let is_missing =
            |wanted: &&Wanted| wanted.giver == Giver::Nothing && !decrypt::is_identity(survey, &wanted.path);
        let missing: Vec<&Wanted> = wanted.iter().filter(is_missing).collect();
        for Wanted { path, by, kind, .. } in &missing {
            add(nixos::wants::missing(path, by, *kind), None, Some(path.clone()), allow);
        }
        for (file, surveyed) in given.files.iter().zip(&survey.places) {
            let spec = given.specs.iter().find(|spec| spec.name == file.secret);
            let is_said = spec.is_none_or(|spec| !spec.used_by.is_empty());
            let is_read = surveyed.as_ref().is_ok_and(|surveyed| !surveyed.wants.is_empty());
            let is_about_it = matches!(file.content, Content::Absent | Content::PublicPart(_));
            let path = file.path.as_str();
            let is_named = nixos::wants::is_named(system, path) || decrypt::is_identity(survey, path);
            if !is_said && !is_read && !is_about_it && !is_named {
                let near = missing.iter().take(MOST_NEAR).map(|wanted| wanted.path.as_str());
                let found = nixos::wants::unused(path, near);
                add(found, Some(&file.secret), Some(path.to_owned()), &file.allow);
            }
        }
    }
    for (file, finding) in nixos::wants::in_clear(system) {
        add(finding, None, Some(file), allow);
    }
    if let Some(finding) = nixos::wants::other_systems(system, &facts.others, facts.more) {
        add(finding, None, None, allow);
    }
    if let Some(finding) = facts.device.clone() {
        add(finding, None, None, allow);
    }
    Linted { findings, wanted, keys: judged.lines, has_manifest: given.is_some() }
}

/// The findings about each file, which `plan` and `inject` tell as well.
fn of_files(given: Given<'_>, survey: &Survey) -> Vec<Found> {
    let mut all = Vec::new();
    for (file, place) in given.files.iter().zip(&survey.places) {
        let path = || Some(file.path.as_str().to_owned());
        let mut refused = |refusal: &Refusal| {
            all.push(Found {
                code: refusal.code,
                refuse: true,
                secret: Some(file.secret.clone()),
                path: path(),
                message: refusal.reason.clone(),
                hint: refusal.hint.clone(),
            });
        };
        if let Err(refusal) = plan::owner_ids(file, &survey.users) {
            refused(&refusal);
        }
        let surveyed = match place {
            Ok(surveyed) => surveyed,
            Err(refusal) => {
                refused(refusal);
                continue;
            }
        };
        if let Err(refusal) = plan::needs_user(file, survey) {
            refused(&refusal);
        }
        // A warning about the path alone, which `check` tells as well.
        let by_path = nixos::paths::judge(file.path.as_str()).filter(|finding| !finding.refuse);
        for finding in by_path.into_iter().chain(plan::nixos_findings(file, surveyed, survey)) {
            let finding = finding.unless_allowed(&file.allow);
            all.extend(finding.map(|finding| of_finding(finding, Some(&file.secret), path())));
        }
    }
    all
}

fn of_finding(finding: Finding, secret: Option<&str>, path: Option<String>) -> Found {
    let hint = finding.advice();
    let secret = secret.map(str::to_owned);
    Found { code: Some(finding.code), refuse: finding.refuse, secret, path, message: finding.reason, hint }
}

/// What the system reads, and who gives it.
fn wanted(given: Option<Given<'_>>, survey: &Survey, system: &Closure, facts: &Facts) -> Vec<Wanted> {
    let mut by_secret: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for (file, place) in given.iter().flat_map(|given| given.files.iter().zip(&survey.places)) {
        let secret = (!matches!(file.content, Content::Absent)).then_some(file.secret.as_str());
        let read = place.iter().flat_map(|surveyed| surveyed.wants.iter().map(|want| want.path.as_str()));
        for path in read.chain([file.path.as_str()]) {
            by_secret.insert(path, secret);
        }
    }
    let mut all: BTreeMap<&str, Wanted> = BTreeMap::new();
    for want in &system.wants.list {
        let giver = match (by_secret.get(want.path.as_str()), facts.standing.get(&want.path)) {
            (Some(Some(secret)), _) => Giver::Secret((*secret).to_owned()),
            (None, _) if system.makes(&want.path) => Giver::Made,
            (None, Some(Standing::There)) => Giver::Target,
            (None, Some(Standing::Unknown)) => Giver::Unknown,
            _ if want.optional => Giver::NotNeeded,
            _ => Giver::Nothing,
        };
        let entry = all.entry(&want.path).or_insert_with(|| Wanted {
            path: want.path.clone(),
            by: Vec::new(),
            kind: want.kind,
            giver: giver.clone(),
        });
        if !entry.by.contains(&want.by) {
            entry.by.push(want.by.clone());
        }
        // One reader that needs it is enough.
        if giver == Giver::Nothing {
            entry.giver = giver;
        }
    }
    all.into_values().collect()
}
