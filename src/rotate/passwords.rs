//! Passwords on a running node: what applies each of them, and what is said of it.

use deaddrop_core::near;

use crate::nixos::closure::UsersScript;
use crate::place::node::{Action, NodePassword, NodeRun, Unit};
use crate::run::plan::Plan;
use crate::run::plan::applied::{AppliedPassword, Applying};

/// The unit that makes the users (nixpkgs, `nixos/modules/services/system/userborn.nix`).
const USERBORN: &str = "userborn.service";
/// The PATH of an activation script that sets none.
const PATH: &str = "/run/wrappers/bin:/run/current-system/sw/bin";

/// A password that is in force after a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The secret's name.
    pub secret: String,
    /// The user.
    pub user: String,
    /// What has applied it: a unit, a command, chpasswd.
    pub by: String,
}

/// Adds to `run` what the plan's passwords take.
pub(super) fn collect(plan: &Plan, run: &mut NodeRun<'_>) {
    for password in &plan.passwords {
        match &password.how {
            // It comes before the units that may use the users.
            Applying::Userborn if run.units.first().is_none_or(|first| first.name != USERBORN) => {
                run.units.retain(|unit| unit.name != USERBORN);
                run.units.insert(0, Unit { name: USERBORN.to_owned(), action: Action::Restart, watch: false });
            }
            Applying::Script(script) => run.users_program = Some(command(script)),
            Applying::Userborn | Applying::Chpasswd => {}
        }
        let (user, hash, old) = (password.user.clone(), password.hash.clone(), password.old.clone());
        run.passwords.push(NodePassword { user, sets: password.how == Applying::Chpasswd, hash, old });
    }
}

/// The script's command, with its own PATH.
fn command(script: &UsersScript) -> Vec<String> {
    let path = format!("PATH={}", script.path.as_deref().unwrap_or(PATH));
    ["env".to_owned(), path].into_iter().chain(script.command.iter().cloned()).collect()
}

/// What is done for the passwords, before it is done: "run `perl …`", "set the password of admin by chpasswd".
pub(super) fn announced(plan: &Plan) -> Vec<String> {
    let script = plan.passwords.iter().find_map(|password| match &password.how {
        Applying::Script(script) => Some(format!("run {}", shown(script))),
        Applying::Userborn | Applying::Chpasswd => None,
    });
    let set = plan.passwords.iter().filter(|password| password.how == Applying::Chpasswd);
    let users: Vec<String> = set.map(|password| quoted_user(&password.user)).collect();
    let set = (!users.is_empty())
        .then(|| format!("set the password of {} by chpasswd", near::list(users.iter().map(String::as_str))));
    script.into_iter().chain(set).collect()
}

/// The plan's passwords, after they were found in force.
pub(super) fn in_force(plan: &Plan) -> Vec<InForce> {
    let of = |password: &AppliedPassword| InForce {
        secret: password.secret.clone(),
        user: quoted_user(&password.user),
        by: match &password.how {
            Applying::Userborn => USERBORN.to_owned(),
            Applying::Script(script) => shown(script),
            Applying::Chpasswd => "chpasswd".to_owned(),
        },
    };
    plan.passwords.iter().map(of).collect()
}

/// The words are those of the node's own system.
fn shown(script: &UsersScript) -> String {
    format!("`{}`", deaddrop_core::shown::text(&script.command.join(" ")))
}

fn quoted_user(user: &str) -> String {
    deaddrop_core::shown::text(user)
}
