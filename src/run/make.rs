//! What is random in a run: new keys, and the salts of new password hashes. Made after the survey has told what is missing,
//! and apart from the plan, which is pure.

use std::time::SystemTime;

use deaddrop_core::tree::TreeChange;

use crate::derive::generate::{self, KeyKind, NoRandomness, Public, Recipe};
use crate::derive::password::{self, HashError};
use crate::place::node::NodeChange;
use crate::run::desired::{Content, DesiredFile, Generated, KeyState, with_newline};
use crate::run::plan::{Action, Change, Plan};

/// The public part of a generated key.
#[derive(Debug)]
pub struct PublicPart {
    /// The secret's name.
    pub secret: String,
    /// Which kind of key.
    pub kind: KeyKind,
    /// Where the private key is, as declared.
    pub path: String,
    /// What others may know of it.
    pub public: Public,
}

/// Makes the keys that are missing. Returns the public parts of all keys, in the order of the files.
///
/// # Errors
/// The system gives no random bytes.
pub fn keys(files: &mut [DesiredFile], now: SystemTime) -> Result<Vec<PublicPart>, NoRandomness> {
    let mut parts = Vec::new();
    let mut files = files.iter_mut().peekable();
    while let Some(file) = files.next() {
        let Content::Generated(generated) = &mut file.content else { continue };
        let public = match &generated.key {
            KeyState::Kept(public) => public.clone(),
            KeyState::Missing { comment } => {
                let key = generate::make(&generated.spec, comment, now)?;
                let private = if generated.newline { with_newline(&key.private) } else { key.private };
                generated.key = KeyState::Made(private);
                if let Public::Ssh(key) = &key.public
                    && let Some(beside) = files.next_if(|next| matches!(next.content, Content::PublicPart(_)))
                {
                    beside.content = Content::PublicPart(Some(format!("{}\n", key.line()).into()));
                }
                key.public
            }
            _ => continue,
        };
        if public != Public::Nothing {
            let (secret, path) = (file.secret.clone(), file.path.as_str().to_owned());
            parts.push(PublicPart { secret, kind: generated.spec.kind.kind(), path, public });
        }
    }
    Ok(parts)
}

/// The changes of a plan, as a place of this machine makes them; new password hashes are made here.
///
/// # Errors
/// The system has no randomness for a salt.
pub fn tree_changes(plan: &Plan) -> Result<Vec<TreeChange>, HashError> {
    let tree = |change| match change {
        NodeChange::Tree(change) => Some(change),
        // Only the survey of a node says that it makes keys.
        NodeChange::MakeKey { .. } => None,
    };
    Ok(node_changes(plan)?.into_iter().filter_map(tree).collect())
}

/// The changes of a plan, as a node makes them; new password hashes are made here.
///
/// # Errors
/// The system has no randomness for a salt.
pub fn node_changes(plan: &Plan) -> Result<Vec<NodeChange>, HashError> {
    let directories = plan.directories.iter().map(|directory| TreeChange::MakeDirectory {
        path: directory.path.clone(),
        mode: directory.mode,
        uid: directory.owner.uid,
        gid: directory.owner.gid,
        label: directory.label.clone(),
    });
    let mut all: Vec<NodeChange> = directories.map(NodeChange::Tree).collect();
    // The public part of a key that the node makes is known to the node alone.
    let mut made_there = false;
    for change in &plan.changes {
        let recipe = match &change.content {
            Content::Generated(Generated { key: KeyState::MadeThere(recipe), .. }) => Some(recipe.clone()),
            Content::PublicPart(None) if made_there => Some(Recipe::PublicPart),
            _ => None,
        };
        made_there = recipe.is_some();
        match recipe {
            Some(recipe) => {
                let (path, mode, uid, gid) = (change.physical.clone(), change.mode, change.uid, change.gid);
                all.push(NodeChange::MakeKey { path, recipe, mode, uid, gid });
            }
            None => all.extend(file_change(change)?.map(NodeChange::Tree)),
        }
    }
    all.extend(plan.finishing().into_iter().map(NodeChange::Tree));
    Ok(all)
}

/// What has to happen to one file; `None` when nothing has to.
fn file_change(change: &Change) -> Result<Option<TreeChange>, HashError> {
    let (path, mode, uid, gid) = (change.physical.clone(), change.mode, change.uid, change.gid);
    Ok(match change.action {
        Action::Create | Action::Replace => {
            let content = match &change.content {
                Content::Exact(bytes) => bytes.clone(),
                Content::Hash { scheme, password, .. } => password::hash(*scheme, password)?,
                Content::Generated(Generated { key: KeyState::Made(key), .. }) => key.clone(),
                Content::PublicPart(Some(line)) => line.clone(),
                // Never created or replaced, see the plan.
                Content::Generated(_) | Content::PublicPart(None) | Content::Absent => return Ok(None),
            };
            Some(TreeChange::WriteFile { path, content, mode, uid, gid, label: change.label.clone() })
        }
        Action::Metadata => Some(TreeChange::SetMetadata { path, mode, uid, gid }),
        Action::Remove => Some(TreeChange::RemoveFile { path }),
        Action::Unchanged => None,
    })
}
