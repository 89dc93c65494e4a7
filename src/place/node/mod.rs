//! A running node: over the system's ssh, or this machine itself. One session per run.
//!
//! deaddrop sends the node a script for its POSIX shell, in parts; nothing is installed there. `survey.sh` reports what
//! exists, mostly in one answer (more if symbolic links lead elsewhere). The rules for images ([`super::survey`]) are
//! applied to it here. `apply.sh` (with `lock.sh`, `recover.sh` and `units.sh`) makes all changes, or none.
//! `generate.sh` generates and checks keys.
//!
//! Called by `rotate`, and by `plan` and `verify` as a [`Place`]. Does not depend on the manifest's hosts or on
//! sources.

mod apply;
mod closure;
mod error;
mod host_keys;
mod keys;
mod limits;
mod login;
mod output;
mod protocol;
mod recovery;
mod session;
mod terminal;
mod text;
mod token;
mod tree;

use std::time::Duration;

use deaddrop_core::error::{Hint, StorageError};
use deaddrop_core::shown;
use deaddrop_core::warning::Warning;

use super::survey::survey;
use super::{Need, Place, PlaceError, Survey, SystemChoice, Wanted};
use session::Session;
use tree::NodeTree;

pub use apply::{Action, ApplyStep, Fault, MadeKey, NodeChange, NodePassword, NodeRun, Outcome, OutcomeKind, Unit};
pub use error::NodeError;
pub use host_keys::{HostKey, Sshd};
pub use login::Login;
pub use output::{Composed, RunFile};
pub use recovery::Recovery;
pub use token::{ClusterFacts, ClusterQuestion, ClusterUnit};

/// Surveys, and loads the other parts.
const SURVEY: &str = include_str!("survey.sh");
/// Applies and rolls back changes.
const APPLY: &str = concat!(include_str!("apply.sh"), include_str!("lock.sh"), include_str!("recover.sh"));
/// Generates and checks keys.
const GENERATE: &str = include_str!("generate.sh");
/// Applies passwords.
const PASSWORDS: &str = include_str!("passwords.sh");
/// Finds sshd's host keys, and tells sshd of new ones.
const HOST_KEYS: &str = include_str!("host_keys.sh");
/// Restarts and watches the units.
const UNITS: &str = include_str!("units.sh");

/// Maximum number of questions of a survey: one more each time symbolic links lead to unknown paths.
const MOST_ROUNDS: usize = 45;
/// How often a survey starts again because files were created or removed during it.
const MOST_TRIES: usize = 3;
/// Maximum size of a node's report about an interrupted run, in bytes.
const LONGEST_RECOVERY: usize = 4 << 20;
/// Time limit for finishing an interrupted run, or for waiting for another run.
const RECOVERY: Duration = Duration::from_secs(120);

/// A node as a place.
pub struct NodePlace<'w> {
    session: Session,
    login: Login,
    tree: NodeTree,
    /// Called once, when the node has answered.
    on_contact: &'w (dyn Fn() + Sync),
    greeted: bool,
    loaded: bool,
    /// The script for keys was sent.
    makes_keys: bool,
    /// The script for a cluster's token was sent.
    runs_tokens: bool,
    unfinished: bool,
    /// A file that changed during the survey.
    changed: Option<String>,
    /// Where files are written that would not be kept, on a NixOS.
    pub persist_root: Option<String>,
    /// What is mounted, once it was asked; `None` within it without NixOS.
    mounts: Option<Option<closure::Mounts>>,
    /// The script for the system was sent.
    reads_system: bool,
    /// The script for host keys was sent.
    knows_host_keys: bool,
    /// The known files of its system.
    system_tree: Option<NodeTree>,
}

impl<'w> NodePlace<'w> {
    /// Starts ssh (or a shell here), without waiting for it. Calls `on_contact` when the node has answered.
    ///
    /// # Errors
    /// If ssh cannot be run, or if sudo rejects the password.
    pub fn open(login: Login, on_contact: &'w (dyn Fn() + Sync)) -> Result<Self, NodeError> {
        let session = Session::start(&login, &text::without_comments(SURVEY))?;
        let tree = NodeTree::default();
        Ok(Self {
            session,
            login,
            tree,
            on_contact,
            greeted: false,
            loaded: false,
            makes_keys: false,
            runs_tokens: false,
            unfinished: false,
            changed: None,
            persist_root: None,
            mounts: None,
            reads_system: false,
            knows_host_keys: false,
            system_tree: None,
        })
    }

    /// True if the last survey found an interrupted run.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Surveys the wanted paths, as [`Place::survey`].
    ///
    /// # Errors
    /// If the node cannot be entered or read. The inner error is that of the rules.
    pub fn survey_paths(&mut self, wanted: &[Wanted]) -> Result<Result<Survey, StorageError>, NodeError> {
        let located = self.located(wanted)?;
        let mut survey = self.survey_located(&located)?;
        if let Ok(survey) = &mut survey {
            // A running node's shadow file is changed by its own programs.
            survey.shadow = None;
            for ((place, located), want) in survey.places.iter_mut().zip(&located).zip(wanted) {
                if let (Ok(place), true) = (place, located.path != want.path) {
                    place.written_to = Some(located.path.as_str().to_owned());
                }
            }
        }
        Ok(survey)
    }

    fn survey_located(&mut self, wanted: &[Wanted]) -> Result<Result<Survey, StorageError>, NodeError> {
        let mut kinds = keys::KeyKinds::ALL;
        // The second time with the contents of keys that the node cannot check.
        for _ in 0..2 {
            let asked = keys::without_keys(wanted, kinds);
            let mut survey = match self.survey_files(&asked)? {
                Ok(survey) if wanted.iter().any(|want| want.key.is_some()) => survey,
                other => return Ok(other),
            };
            kinds = self.check_keys(wanted, &mut survey, kinds)?;
            if !keys::is_unread(&asked, wanted, &survey, kinds) {
                return Ok(Ok(survey));
            }
        }
        Err(NodeError::Garbled("the answer about keys"))
    }

    /// Makes the node check the existing keys. Returns what it can generate and check.
    fn check_keys(
        &mut self,
        wanted: &[Wanted],
        survey: &mut Survey,
        kinds: keys::KeyKinds,
    ) -> Result<keys::KeyKinds, NodeError> {
        let script = if self.makes_keys { "" } else { GENERATE };
        self.send_program(&format!("{script}judge\n"));
        self.makes_keys = true;
        let (question, asked) = keys::question(&self.tree, wanted, survey, kinds);
        self.session.queue(question.as_bytes());
        self.session.limits().expect(keys::longest_answer(&asked), self.login.silence);
        keys::read_reply(&mut self.session, wanted, survey, &asked)
    }

    /// Surveys the wanted paths, with keys like any other file.
    fn survey_files(&mut self, wanted: &[Wanted]) -> Result<Result<Survey, StorageError>, NodeError> {
        for _ in 0..MOST_TRIES {
            self.tree.forget();
            self.first_questions(wanted);
            for _ in 0..MOST_ROUNDS {
                let asked = self.tree.take_asked();
                if !self.ask(&asked)? {
                    break;
                }
                self.ask_writers()?;
                self.tree.begin(wanted.len());
                let survey = survey(&self.tree, wanted);
                if survey.is_err() || !self.tree.has_questions() {
                    return Ok(survey);
                }
            }
        }
        let what = match &self.changed {
            Some(path) => {
                format!("{} changed, or could not be read, each time that it was looked at", shown::text(path))
            }
            None => "its files changed each time that they were looked at".to_owned(),
        };
        Err(NodeError::refused(what, "try again when it is at rest"))
    }

    /// Asks for the wanted paths and all directories above, so that one answer is usually enough.
    fn first_questions(&self, wanted: &[Wanted]) {
        for want in wanted {
            let path = want.path.as_str();
            for (end, _) in path.match_indices('/').skip(1) {
                self.tree.ask(&path[..end], None);
            }
            self.tree.ask(path, Some(want.read_limit));
        }
        self.tree.ask("/", None);
        self.tree.ask("/etc", None);
        self.tree.ask("/etc/static", None);
        self.tree.ask("/home", None);
        for path in ["/etc/passwd", "/etc/group"] {
            self.tree.ask(path, Some(tree::MOST_USERS));
        }
        if wanted.iter().any(|want| want.is_password) {
            self.tree.ask("/etc/shadow", Some(tree::MOST_USERS));
        }
    }

    /// Asks for these paths and stores the answers. False if files were created or removed meanwhile: then nothing is
    /// stored.
    fn ask(&mut self, asked: &[(String, Option<u64>)]) -> Result<bool, NodeError> {
        self.session.queue(&protocol::question(asked, |path| self.tree.is_foreign(path)));
        self.greet()?;
        self.session.limits().expect(protocol::longest_answer(asked), self.login.silence);
        let (unfinished, answers) = match protocol::answer(&mut self.session, asked)? {
            Ok(answer) => answer,
            Err(path) => {
                self.changed = path;
                return Ok(false);
            }
        };
        self.unfinished = unfinished;
        for (path, known) in answers {
            if let Err(error) = self.tree.learn(path, known) {
                return Err(NodeError::refused(
                    error.to_string(),
                    error.hint().and_then(Hint::text).unwrap_or_default(),
                ));
            }
        }
        Ok(true)
    }

    /// Asks for the ACLs that the rules about links need.
    fn ask_writers(&mut self) -> Result<(), NodeError> {
        let asked = self.tree.asked_writers();
        if asked.is_empty() {
            return Ok(());
        }
        self.session.queue(&protocol::writers_question(&asked));
        self.session.limits().expect(asked.len().saturating_mul(16).saturating_add(1 << 10), self.login.silence);
        for (path, others_write) in asked.iter().zip(protocol::writers(&mut self.session, &asked)?) {
            self.tree.learn_writers(path.clone(), others_write);
        }
        Ok(())
    }

    fn greet(&mut self) -> Result<(), NodeError> {
        if self.greeted {
            return Ok(());
        }
        self.session.greet()?;
        protocol::abilities(&mut self.session, &self.login)?;
        self.greeted = true;
        (self.on_contact)();
        Ok(())
    }

    /// Sends the script that changes files, once.
    fn load(&mut self) {
        if !self.loaded {
            self.send_program(&format!("{APPLY}{UNITS}"));
            self.loaded = true;
        }
    }

    /// Sends a part of the script, which the node then runs.
    fn send_program(&mut self, script: &str) {
        let script = text::without_comments(script);
        let lines = script.matches('\n').count();
        self.session.queue(format!("load {} {lines}\n{script}", script.len()).as_bytes());
    }

    /// Rolls back an interrupted run, or finishes it if it only had to clean up; `None` if there was nothing to do.
    /// With `forget`, entries in missing directories are abandoned.
    ///
    /// # Errors
    /// If another run holds the lock, if a file cannot be restored, or if a directory is missing.
    pub fn recover(&mut self, forget: bool) -> Result<Option<Recovery>, NodeError> {
        self.load();
        self.session.queue(if forget { &b"recover forget\n"[..] } else { b"recover\n" });
        self.session.limits().expect_change(LONGEST_RECOVERY, RECOVERY, 0);
        recovery::recovery(&mut self.session)
    }

    /// Checks that the node has the units of a run, and can set its passwords.
    ///
    /// # Errors
    /// If it lacks one, or has no systemd or chpasswd.
    pub fn check_run(&mut self, run: &NodeRun<'_>) -> Result<(), NodeError> {
        self.load_for(run);
        self.session.queue(apply::unit_question(run)?.as_bytes());
        self.session.limits().expect(1 << 20, self.login.silence);
        apply::units_reply(&mut self.session)
    }

    /// Sends the script that changes files, with what this run needs besides.
    fn load_for(&mut self, run: &NodeRun<'_>) {
        self.load();
        if !run.passwords.is_empty() {
            self.send_program(PASSWORDS);
        }
        if run.sshd.is_some() {
            self.load_host_keys("");
        }
    }

    /// Sends a question about host keys; the script before it, once.
    fn load_host_keys(&mut self, question: &str) {
        let script = if self.knows_host_keys { "" } else { HOST_KEYS };
        if !script.is_empty() || !question.is_empty() {
            self.send_program(&format!("{script}{question}\n"));
        }
        self.knows_host_keys = true;
    }

    /// Makes all changes, or none, and restarts the units; ends the session.
    pub fn apply_all(&mut self, run: &NodeRun<'_>, on_step: &dyn Fn(ApplyStep)) -> Outcome {
        self.load_for(run);
        let login = &self.login;
        let are_served = |made: &[MadeKey]| host_keys::are_served(login, run, made);
        let outcome = apply::apply(&mut self.session, &self.tree, run, on_step, &are_served);
        self.session.end();
        outcome
    }

    fn place_error(&self, error: &NodeError) -> PlaceError {
        let cause = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
        PlaceError::Node { what: format!("{}: {error}{cause}", self.login.name), hint: error.hint().to_owned() }
    }

    /// Ends the session.
    pub fn close(mut self) {
        self.session.end();
    }
}

impl Place for NodePlace<'_> {
    fn survey(&mut self, wanted: &[Wanted], choice: &SystemChoice) -> Result<Survey, PlaceError> {
        self.persist_root.clone_from(&choice.persist_root);
        let survey = self.survey_paths(wanted).map_err(|error| self.place_error(&error))??;
        match choice.with_facts {
            true => Place::examine(self, wanted, survey, &Need::all(wanted.len())),
            false => Ok(survey),
        }
    }

    fn examine(&mut self, wanted: &[Wanted], survey: Survey, need: &Need) -> Result<Survey, PlaceError> {
        NodePlace::examine(self, wanted, survey, need).map_err(|error| self.place_error(&error))
    }

    /// DD601: sudo there records the input or the output of the session.
    fn warnings(&self) -> Vec<Warning> {
        let records = self.session.records();
        let (what, whose) = match (records.input, records.output) {
            (false, false) => return Vec::new(),
            (true, false) => ("`log_input`", "all that is sent to the node, new values included"),
            (false, true) => ("`log_output`", "all that comes from the node, the values that stand there included"),
            (true, true) => {
                ("`log_input` and `log_output`", "all that goes over this session, new and old values included")
            }
        };
        vec![Warning {
            code: "DD601",
            secret: None,
            message: format!("sudo has {what} on for the user who logs in: it records {whose}"),
            hint: "in the node's sudoers: `Defaults:USER !log_input, !log_output`; its records so far are in \
                   /var/log/sudo-io"
                .into(),
        }]
    }

    fn title(&self) -> String {
        let unfinished = if self.unfinished {
            "; an interrupted run left its list there, and the next `rotate` rolls it back"
        } else {
            ""
        };
        match &self.login.destination {
            Some(destination) => format!("{}, a running node ({destination}){unfinished}", self.login.name),
            None => format!("this machine{unfinished}"),
        }
    }
}

#[cfg(test)]
mod tests;
