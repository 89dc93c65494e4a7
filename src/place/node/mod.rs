//! A running node: over the system's ssh, or this machine itself. One session a run.
//!
//! The node runs two small programs for a POSIX shell, `survey.sh` and `apply.sh` (with `lock.sh`, `recover.sh` and `units.sh`), which deaddrop sends
//! it; nothing is installed there. What stands where is told by the first in one answer (a second one where symbolic links lead elsewhere), and judged here,
//! by the rules that hold for images ([`super::survey`]). The second puts everything in place, all of it or none.
//!
//! Called by `rotate`, and by `plan` and `verify` as a [`Target`]. Knows nothing of manifests' hosts and of sources.

mod apply;
mod error;
mod keys;
mod login;
mod output;
mod protocol;
mod terminal;
mod text;
mod transport;
mod tree;

use std::time::Duration;

use deaddrop_core::error::StorageError;
use deaddrop_core::shown;
use deaddrop_core::warning::Warning;

use super::survey::survey;
use super::{Place, PlaceError, Survey, Wanted};
use transport::Session;
use tree::NodeTree;

pub use apply::{Action, Bad, End, NodeChange, Outcome, Phase, Unit, Work};
pub use error::NodeError;
pub use output::{Composed, RunFile};
pub use protocol::Recovery;
pub use transport::Login;

/// What tells what stands there.
const SURVEY: &str = include_str!("survey.sh");
/// What changes it.
const APPLY: &str = concat!(include_str!("apply.sh"), include_str!("lock.sh"), include_str!("recover.sh"));
/// What makes and judges keys.
const GENERATE: &str = include_str!("generate.sh");
/// What tells the units.
const UNITS: &str = include_str!("units.sh");

/// How often a survey may ask: each time symbolic links have led to where nothing was known.
const MOST_ROUNDS: usize = 45;
/// How often a survey begins anew because files came or went under it.
const MOST_TRIES: usize = 3;
/// The most bytes that a node says about an interrupted run.
const LONGEST_RECOVERY: usize = 4 << 20;
/// How long a node may take to bring an interrupted run to its end, or to wait for another run.
const RECOVERY: Duration = Duration::from_secs(120);

/// A node as a target.
pub struct NodePlace<'w> {
    session: Session,
    login: Login,
    tree: NodeTree,
    /// Told once when the node has answered.
    on_contact: &'w (dyn Fn() + Sync),
    greeted: bool,
    loaded: bool,
    /// The program for keys was sent.
    makes_keys: bool,
    unfinished: bool,
    /// A file that was another one while it was looked at.
    moving: Option<String>,
}

impl<'w> NodePlace<'w> {
    /// Starts ssh (or a shell here); does not wait for it. `on_contact` is told when the node has answered.
    ///
    /// # Errors
    /// ssh cannot be run, or sudo refuses the password.
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
            unfinished: false,
            moving: None,
        })
    }

    /// True when the last survey has found an interrupted run.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// What stands at each wanted path, as [`Place::survey`].
    ///
    /// # Errors
    /// The node cannot be entered or read; the inner error is that of a path's rules.
    pub fn look(&mut self, wanted: &[Wanted]) -> Result<Result<Survey, StorageError>, NodeError> {
        let mut able = keys::Able::ALL;
        // The second time with the contents of keys that the node cannot judge.
        for _ in 0..2 {
            let asked = keys::without_keys(wanted, able);
            let mut survey = match self.look_at(&asked)? {
                Ok(survey) if wanted.iter().any(|want| want.key.is_some()) => survey,
                other => return Ok(other),
            };
            able = self.judge_keys(wanted, &mut survey, able)?;
            if !keys::is_unread(&asked, wanted, &survey, able) {
                return Ok(Ok(survey));
            }
        }
        Err(NodeError::Garbled("the answer about keys"))
    }

    /// Has the node judge the keys that stand; what it can make and judge.
    fn judge_keys(
        &mut self,
        wanted: &[Wanted],
        survey: &mut Survey,
        able: keys::Able,
    ) -> Result<keys::Able, NodeError> {
        let script = if self.makes_keys { "" } else { GENERATE };
        self.send_program(&format!("{script}judge\n"));
        self.makes_keys = true;
        let (question, asked) = keys::question(&self.tree, wanted, survey, able);
        self.session.queue(question.as_bytes());
        self.session.expect(keys::longest_answer(&asked), self.login.silence);
        keys::judged(&mut self.session, wanted, survey, &asked)
    }

    /// What stands at each wanted path, keys as any other file.
    fn look_at(&mut self, wanted: &[Wanted]) -> Result<Result<Survey, StorageError>, NodeError> {
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
        let what = match &self.moving {
            Some(path) => {
                format!("{} changed, or could not be read, each time that it was looked at", shown::text(path))
            }
            None => "its files changed each time that they were looked at".to_owned(),
        };
        Err(NodeError::refused(what, "try again when it is at rest"))
    }

    /// What is wanted and all directories above, so that mostly one answer is enough.
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

    /// Asks for these paths and learns the answers; false when something came or went meanwhile, so that nothing was learnt.
    fn ask(&mut self, asked: &[(String, Option<u64>)]) -> Result<bool, NodeError> {
        self.session.queue(&protocol::question(asked, |path| self.tree.is_foreign(path)));
        self.greet()?;
        self.session.expect(protocol::longest_answer(asked), self.login.silence);
        let (unfinished, answers) = match protocol::answer(&mut self.session, asked)? {
            Ok(answer) => answer,
            Err(path) => {
                self.moving = path;
                return Ok(false);
            }
        };
        self.unfinished = unfinished;
        for (path, known) in answers {
            if let Err(error) = self.tree.learn(path, known) {
                return Err(NodeError::refused(error.to_string(), error.hint().unwrap_or_default()));
            }
        }
        Ok(true)
    }

    /// Asks for the ACLs that the rules about links want to know of.
    fn ask_writers(&mut self) -> Result<(), NodeError> {
        let asked = self.tree.asked_writers();
        if asked.is_empty() {
            return Ok(());
        }
        self.session.queue(&protocol::writers_question(&asked));
        self.session.expect(asked.len().saturating_mul(16).saturating_add(1 << 10), self.login.silence);
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

    /// Sends the program that changes things, once.
    fn load(&mut self) {
        if !self.loaded {
            self.send_program(&format!("{APPLY}{UNITS}"));
            self.loaded = true;
        }
    }

    /// Sends a part of the program, which is run once it is there.
    fn send_program(&mut self, script: &str) {
        let script = text::without_comments(script);
        let lines = script.matches('\n').count();
        self.session.queue(format!("load {} {lines}\n{script}", script.len()).as_bytes());
    }

    /// Takes back what an interrupted run began, or brings it to its end if it had only to clear up; `None` when there was nothing
    /// to do. With `forget`, names in directories that are not there are given up.
    ///
    /// # Errors
    /// Another run is at work; a file cannot be put back; a directory is not there.
    pub fn recover(&mut self, forget: bool) -> Result<Option<Recovery>, NodeError> {
        self.load();
        self.session.queue(if forget { &b"recover forget\n"[..] } else { b"recover\n" });
        self.session.expect_change(LONGEST_RECOVERY, RECOVERY, 0);
        protocol::recovered(&mut self.session)
    }

    /// Whether the node has these units.
    ///
    /// # Errors
    /// It does not have one, or no systemd.
    pub fn check_units(&mut self, units: &[Unit]) -> Result<(), NodeError> {
        self.load();
        self.session.queue(apply::unit_question(units).as_bytes());
        self.session.expect(1 << 20, self.login.silence);
        apply::fine(&mut self.session)
    }

    /// Makes all changes, or none, and tells the units; ends the session.
    pub fn apply_all(&mut self, work: &Work<'_>, on_phase: &dyn Fn(Phase)) -> Outcome {
        self.load();
        let outcome = apply::apply(&mut self.session, &self.tree, work, on_phase);
        self.session.end();
        outcome
    }

    /// Says farewell.
    pub fn close(mut self) {
        self.session.end();
    }
}

impl Place for NodePlace<'_> {
    fn survey(&mut self, wanted: &[Wanted]) -> Result<Survey, PlaceError> {
        let name = self.login.name.clone();
        let survey = self.look(wanted).map_err(|error| {
            let hint = error.hint().to_owned();
            let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
            PlaceError::Node { what: format!("{name}: {error}{cause}"), hint }
        })?;
        Ok(survey?)
    }

    /// DD601: sudo there keeps what is sent, or what stands there.
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
            hint: "in the node's sudoers: `Defaults:USER !log_input, !log_output`; its records so far are in /var/log/sudo-io"
                .into(),
        }]
    }

    fn title(&self) -> String {
        let unfinished = if self.unfinished {
            "; an interrupted run left its list there, and the next `rotate` takes it back"
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
mod tests {
    use std::time::Instant;

    use super::*;
    use deaddrop_core::path::TargetPath;

    /// Answers surveys: `at(path)` gives the target of a link, or nothing for a directory.
    const HOSTILE: &str = r#"echo; echo "$nonce hello"; echo .; exec busybox awk '
        function told(  i) {
            for (i = 0; i < n; i++) if (to[i] != "") print "l " i " " to[i]
            print "="
            for (i = 0; i < n; i++) print (to[i] != "" ? "a1ff 0 0 9 1 1 1 1 1" : size[i] != "" ? "8100 0 0 " size[i] " 1 1 1 1 1" : "41ed 0 0 9 2 1 1 1 1")
            print ","
            n = 0
        }
        function many(text, times,  all) { while (times-- > 0) all = all text; return all }
        $0 == "survey" { next }
        $0 == "writers" { w = 1; next }
        $0 == "." { if (!w) told(); w = 0; print "."; fflush(); next }
        w { print "no"; next }
        { path = $2; size[n] = ""; to[n] = at(path); n++; if (n == 100) told() }
        function next_of(path) { sub(/.*[a-z]/, "", path); return path + 1 }
        function at(path) { AT }'
    "#;

    /// So many secrets, `place` saying where.
    fn wanted(count: usize, place: impl Fn(usize) -> String) -> Vec<Wanted> {
        let one = |number| Wanted {
            path: TargetPath::parse(&place(number)).unwrap(),
            read_limit: 100,
            is_password: false,
            key: None,
        };
        (0..count).map(one).collect()
    }

    /// What is said of these by a node on which `at` leads on.
    fn look(at: &str, wanted: &[Wanted]) -> Result<Survey, StorageError> {
        let login = Login::here(Duration::from_secs(60));
        let session = Session::start(&login, &HOSTILE.replace("AT", at)).unwrap();
        let (tree, on_contact) = (NodeTree::default(), || {});
        let mut node = NodePlace {
            session,
            login,
            tree,
            on_contact: &on_contact,
            greeted: false,
            loaded: false,
            unfinished: false,
            moving: None,
            makes_keys: false,
        };
        node.look(wanted).unwrap()
    }

    #[test]
    fn ten_thousand_files_behind_links_of_a_system_are_found() {
        let links = r#"if (path == "/srv/secrets.d") return "/srv/now/secrets.d"
            if (path == "/srv/now") return "/persist/0123456789abcdfghijklmnpqrsvwxyz-srv/srv"
            if (path ~ /-srv.srv.secrets.d$/) return "/var/lib/a/place/of/secrets/that/is/not/so/short"
            if (path ~ /value$/) size[n] = 0"#;
        let wanted = wanted(10_000, |number| format!("/srv/secrets.d/service-{}/secret-{number}/value", number % 100));
        let survey = look(links, &wanted).unwrap();
        let refused = survey.places.iter().find_map(|place| place.as_ref().err());
        assert!(refused.is_none(), "{refused:?}");
    }

    fn most_memory() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    #[test]
    fn a_node_of_endless_links_is_refused_soon_and_costs_little() {
        let wanted = wanted(40, |number| format!("/s{number}/secrets/file"));
        for (name, at) in [
            (
                "new directories",
                r#"if (path ~ /(secrets|l[0-9]+)$/) return "/n" next_of(path) many("/a", 1000) "/l" next_of(path)"#,
            ),
            (
                "directories of its own for each secret",
                r#"if (path ~ /(secrets|l[0-9]+)$/) return substr(path, 1, 3) many("/a", 1900) "/l" next_of(path)"#,
            ),
            ("known directories", r#"if (path ~ /(secrets|l[0-9]+)$/) return many("/a", 1900) "/l" next_of(path)"#),
            ("back and forth", r#"if (path ~ /(secrets|l[0-9]+)$/) return "/" many("a/../", 800) "l" next_of(path)"#),
            (
                "long names",
                r#"if (path ~ /(secrets|l[0-9]+)$/) return "/" many("x", 200) many("/./", 1200) "l" next_of(path)"#,
            ),
            ("long users", r#"if (path == "/etc/passwd") size[n] = 2000000"#),
        ] {
            let (before, start) = (most_memory(), Instant::now());
            let looked = look(at, &wanted);
            let (took, cost) = (start.elapsed(), most_memory().saturating_sub(before));
            eprintln!("{name}: {took:?}, {cost} bytes");
            match looked {
                // More links than forty.
                Ok(survey) => assert!(survey.places.iter().all(Result::is_err), "{name}"),
                Err(error) => {
                    assert!(format!("{error:?}").contains("more than deaddrop follows"), "{name}: {error:?}");
                }
            }
            // Twice what is promised: tests are not optimised, and others run beside this one.
            assert!(cost < 32 << 20 && took < Duration::from_secs(60), "{name}: {cost} bytes, {took:?}");
        }
    }
}
