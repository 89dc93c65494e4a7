//! The one preparation of a place: its files are surveyed, and what has to happen to them is planned.

use std::time::SystemTime;

use super::desired::{self, DesiredFile};
use super::make::{self, PublicPart};
use super::plan::{self, Plan, Refused};
use crate::derive::generate::NoRandomness;
use crate::place::{Survey, Wanted};

/// What has to happen to a place.
#[derive(Debug)]
pub struct Prepared {
    /// The plan; its new keys are made.
    pub plan: Plan,
    /// The public parts of the generated keys.
    pub public_parts: Vec<PublicPart>,
}

/// Why there is no plan.
#[derive(Debug)]
pub enum Unprepared<E> {
    /// The place could not be surveyed.
    Survey(E),
    /// The system gives no random bytes.
    NoRandomness(NoRandomness),
    /// Files that may not be put where they are declared.
    Refused(Vec<Refused>),
}

/// Surveys a place, settles what depends on what stands there, makes the keys that are missing, and plans. `wanted` says what
/// of each file has to be looked at: [`desired::wanted`] or [`desired::wanted_on_node`]. `host` is in the comments of new keys.
///
/// # Errors
/// What `survey` says, or why there is no plan.
pub fn prepare<E>(
    mut files: Vec<DesiredFile>,
    host: Option<&str>,
    wanted: fn(&[DesiredFile]) -> Vec<Wanted>,
    survey: impl FnOnce(&[Wanted]) -> Result<Survey, E>,
) -> Result<Prepared, Unprepared<E>> {
    let survey = survey(&wanted(&files)).map_err(Unprepared::Survey)?;
    desired::keep_standing_hashes(&mut files, &survey);
    desired::settle(&mut files, &survey, host);
    let public_parts = make::keys(&mut files, SystemTime::now()).map_err(Unprepared::NoRandomness)?;
    let plan = plan::plan(files, &survey).map_err(Unprepared::Refused)?;
    Ok(Prepared { plan, public_parts })
}
