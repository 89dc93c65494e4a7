//! What has to be done for one file.

use super::{Action, owner_ids, shadow};
use crate::place::{Refusal, Survey, SurveyedPath};
use crate::run::desired::{Content, DesiredFile, KeyState};

/// A path of a survey.
type Place = Result<SurveyedPath, Refusal>;

/// For each file: it would change, or its password would be applied. Only what is known without the system of a running
/// node counts, so that nothing of that is read if nothing changes.
#[must_use]
pub fn changing(files: &[DesiredFile], survey: &Survey) -> Vec<bool> {
    let changes = |(file, place): (&DesiredFile, &Place)| match (place, owner_ids(file, &survey.users)) {
        (Ok(surveyed), Ok((uid, gid))) => {
            action(file, surveyed, uid, gid) != Action::Unchanged || shadow::may_apply(file, survey)
        }
        (Ok(_), Err(_)) => false,
        // sops-nix or agenix may have made what stands there.
        (Err(_), _) => !file.password_users.is_empty(),
    };
    files.iter().zip(&survey.places).map(changes).collect()
}

/// The action for a file of this owner.
pub(super) fn action(file: &DesiredFile, surveyed: &SurveyedPath, uid: u32, gid: u32) -> Action {
    let Some(there) = &surveyed.file else {
        return if matches!(file.content, Content::Absent) { Action::Unchanged } else { Action::Create };
    };
    if matches!(file.content, Content::Absent) {
        return Action::Remove;
    }
    let same_content = match (&file.content, &there.content) {
        (Content::Exact(want), Some(have)) => want == have,
        (Content::Hash { existing, .. }, _) => existing.is_some(),
        (Content::Generated(generated), _) => {
            !matches!(generated.key, KeyState::Missing { .. } | KeyState::Made(_) | KeyState::MadeThere(_))
        }
        (Content::PublicPart(Some(want)), Some(have)) => want == have,
        (Content::Exact(_) | Content::PublicPart(_), None)
        | (Content::PublicPart(None) | Content::Absent | Content::Unread, _) => false,
    };
    let same_metadata = (there.stat.mode, there.stat.uid, there.stat.gid) == (file.mode, uid, gid);
    match (same_content, same_metadata) {
        (false, _) => Action::Replace,
        (true, false) => Action::Metadata,
        (true, true) => Action::Unchanged,
    }
}
