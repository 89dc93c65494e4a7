//! The programs of password managers: `bw`, `rbw`, `op`, `secretspec` and `vals`. One call gets all wanted items if the
//! program can do that; otherwise several calls run in parallel.

mod bw;
mod op;
mod rbw;
mod secretspec;
mod vals;

use std::ffi::OsStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::error::item;
use crate::input::child::{ChildError, Program};
use crate::input::context::{Context, Surroundings};
use crate::items::item::Answer;
use crate::items::replaced;
use crate::spec::ProgramSpec;
use crate::{LookupError, OpenError, Reference};

pub(crate) use bw::Bw;
pub(crate) use op::Op;
pub(crate) use rbw::Rbw;
pub(crate) use secretspec::Secretspec;
pub(crate) use vals::Vals;

/// Maximum length of a program's output, in bytes.
const MAX_OUTPUT: usize = 256 << 20;

/// Hint for a value with U+FFFD.
const REPLACED: &str = "keep what is no text as an attachment (`#file:NAME`) where the program has them, or in base64, \
    with `encoding: base64`";

/// Maximum number of parallel calls.
const SIDE_BY_SIDE: usize = 8;

/// A program: its name, time limit, and hint.
#[derive(Clone, Copy)]
struct Tool<'m> {
    pub name: &'static str,
    pub timeout: Duration,
    pub surroundings: &'m Surroundings<'m>,
    /// Hint for a failed call.
    pub hint: &'static str,
    /// Additional environment variables.
    pub variables: &'static [(&'static str, &'static str)],
}

impl<'m> Tool<'m> {
    fn new(name: &'static str, hint: &'static str, spec: &ProgramSpec, context: &'m Context<'m>) -> Self {
        Self { name, timeout: spec.timeout, surroundings: context.surroundings(), hint, variables: &[] }
    }
}

impl Tool<'_> {
    /// Runs the program once; returns its standard output.
    ///
    /// # Errors
    /// The program cannot be run, fails, or exceeds a limit.
    fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Zeroizing<Vec<u8>>, ChildError> {
        let argv: Vec<&OsStr> = [self.name].into_iter().chain(arguments.iter().copied()).map(OsStr::new).collect();
        let variables: Vec<(&str, &OsStr)> =
            self.variables.iter().map(|(name, value)| (*name, OsStr::new(value))).collect();
        let program = Program { argv: &argv, variables: &variables, input, timeout: self.timeout, limit: MAX_OUTPUT };
        program.run(self.surroundings)
    }

    /// The values of the wanted items. `read` gets attachments by their location, in parallel.
    fn values(
        &self,
        wanted: &[&Reference],
        answers: Vec<Result<Answer, LookupError>>,
        read: impl Fn(&str) -> Result<Zeroizing<Vec<u8>>, ChildError> + Sync,
    ) -> Vec<Result<Secret, LookupError>> {
        let place = |answer: &Result<Answer, LookupError>| match answer {
            Ok(Answer::Attachment(place)) => Some(place.clone()),
            _ => None,
        };
        let places: Vec<String> = answers.iter().filter_map(place).collect();
        let mut contents = side_by_side(&places, |place| read(place)).into_iter();
        let value = |(reference, answer): (&&Reference, Result<Answer, LookupError>)| match answer? {
            Answer::Value(secret) => replaced::check(reference, secret, REPLACED),
            Answer::Attachment(_) => match contents.next() {
                Some(Ok(mut bytes)) => Ok(Secret::new(std::mem::take(&mut *bytes))),
                Some(Err(error)) => Err(self.refused(reference, format!("{} {error}", self.name))),
                None => Err(self.refused(reference, format!("{} gave no answer", self.name))),
            },
        };
        wanted.iter().zip(answers).map(value).collect()
    }

    /// The error for one item that is not available.
    fn refused(&self, reference: &Reference, what: impl Into<String>) -> LookupError {
        LookupError::Refused { item: item(reference), what: what.into(), hint: Some(self.hint.to_owned()) }
    }

    /// The error for a failed call.
    fn failed(&self, error: ChildError) -> OpenError {
        let hint = match error {
            ChildError::Missing => format!("install it, or see that PATH has it: {}", self.name),
            ChildError::TimedOut(_) => format!("give it longer with `timeout: SECONDS`; {}", self.hint),
            _ => self.hint.to_owned(),
        };
        OpenError::Program { program: self.name.to_owned(), error, hint }
    }

    /// The error for unexpected output.
    fn unexpected(&self, what: impl Into<String>) -> OpenError {
        let hint = format!("is this version of {} newer or older than the manual of deaddrop says?", self.name);
        OpenError::Output { program: self.name.to_owned(), what: what.into(), hint }
    }
}

/// Runs `work` for each of `jobs`, several in parallel; the results are in the order of the jobs.
fn side_by_side<J: Sync, A: Send>(jobs: &[J], work: impl Fn(&J) -> A + Sync) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<(usize, A)>> = Mutex::new(Vec::with_capacity(jobs.len()));
    thread::scope(|scope| {
        for _ in 0..jobs.len().min(SIDE_BY_SIDE) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let answer = work(job);
                    answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    answers.sort_unstable_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_side_by_side_answers_in_order() {
        let jobs: Vec<u64> = (0..50).collect();
        let answers = side_by_side(&jobs, |job| {
            thread::sleep(Duration::from_millis(50 - job));
            *job
        });
        assert_eq!(answers, jobs);
    }
}
