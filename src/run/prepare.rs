//! The preparation of a place: surveys its files, and plans their changes.

use std::time::SystemTime;

use super::desired::{self, DesiredFile};
use super::identity::Identity;
use super::make::{self, PublicPart};
use super::plan::{self, Plan, Refused};
use crate::derive::generate::NoRandomness;
use crate::derive::password::HashError;
use crate::manifest::Allow;
use crate::place::{Need, Survey, Wanted};

/// The result of the preparation.
#[derive(Debug)]
pub struct Prepared {
    /// The plan, with its new keys.
    pub plan: Plan,
    /// The public parts of the generated keys.
    pub public_parts: Vec<PublicPart>,
    /// What the plan was made from.
    pub survey: Survey,
}

/// The reason why there is no plan.
#[derive(Debug)]
pub enum Unprepared<E> {
    /// The place could not be surveyed.
    Survey(E),
    /// The system has no random bytes.
    NoRandomness(NoRandomness),
    /// No password hash could be made.
    Hash(HashError),
    /// Files that must not be written where they are declared.
    Refused(Vec<Refused>),
}

/// What a place is asked.
#[derive(Debug)]
pub enum Ask<'a> {
    /// [`crate::place::Place::survey`] of these paths.
    Survey(&'a [Wanted]),
    /// [`crate::place::Place::examine`]: something would change.
    Examine(&'a [Wanted], Box<Survey>, &'a Need),
}

/// What the system of a running node is asked; `None` if nothing would change.
fn need(files: &[DesiredFile], survey: &Survey) -> Option<Need> {
    let changing = plan::changing(files, survey);
    let wants = files.iter().zip(&changing).any(|(file, changes)| *changes && plan::readers_matter(file));
    changing.contains(&true).then_some(Need { changing, wants, all: false })
}

/// Surveys a place, decides what to keep of its existing files, generates the missing keys, and plans. `wanted` selects
/// what is surveyed: [`desired::wanted`] or [`desired::wanted_on_node`]. `host` is used in the comments of new keys,
/// `allow` has the findings that are allowed for the place as a whole, `identity` the host that a place on a disk is to
/// be.
///
/// # Errors
/// The error of `survey`, or why there is no plan.
pub fn prepare<E>(
    mut files: Vec<DesiredFile>,
    host: Option<&str>,
    allow: &Allow,
    identity: Option<Identity<'_>>,
    wanted: fn(&[DesiredFile]) -> Vec<Wanted>,
    mut survey: impl FnMut(Ask<'_>) -> Result<Survey, E>,
) -> Result<Prepared, Unprepared<E>> {
    let wanted = wanted(&files);
    let mut found = survey(Ask::Survey(&wanted)).map_err(Unprepared::Survey)?;
    desired::keep_existing_hashes(&mut files, &found);
    desired::keep_existing_tokens(&mut files, &found);
    desired::settle(&mut files, &found, host);
    if let Some(need) = need(&files, &found) {
        found = survey(Ask::Examine(&wanted, Box::new(found), &need)).map_err(Unprepared::Survey)?;
    }
    let survey = found;
    let told = match identity.map(|identity| identity.check(&files, &survey, allow)).transpose() {
        Ok(warning) => warning.flatten(),
        Err(refusal) => return Err(Unprepared::Refused(vec![Refused { secret: None, refusal }])),
    };
    let public_parts = make::keys(&mut files, &survey, SystemTime::now()).map_err(Unprepared::NoRandomness)?;
    make::hashes(&mut files, &survey).map_err(Unprepared::Hash)?;
    let mut plan = plan::plan(files, &survey).map_err(Unprepared::Refused)?;
    plan.warnings.retain(|warning| warning.secret.is_some() || !allow.contains_key(warning.code));
    plan.warnings.extend(told);
    Ok(Prepared { plan, public_parts, survey })
}
