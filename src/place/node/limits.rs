//! The limits of an answer: its size, and the time until it is complete. Called by `Session`.

use std::time::{Duration, Instant};

use super::error::NodeError;

/// Maximum size of the output before our first line, in bytes: greetings of a login shell.
const MAX_NOISE: usize = 1 << 20;
/// Maximum size of a node's first report after the greeting, in bytes.
const MAX_ABILITIES: usize = 1 << 16;
/// Time for a node that has all its values to report its result, after SIGTERM.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Bytes that extend the time limit by one second.
const BYTES_A_SECOND: usize = 4 << 10;

/// The limits of the answer that a session waits for, and what is known of it.
pub(super) struct AnswerLimits {
    /// Bytes that may still be read before the answer is too long.
    budget: usize,
    /// Start of waiting.
    since: Instant,
    deadline: Instant,
    /// A part of the answer has arrived.
    heard: bool,
    /// The node has greeted.
    greeted: bool,
    /// The request is a change, which the node finishes by itself once it has everything.
    is_change: bool,
    /// Time limit of each step of a change, and the number of remaining steps.
    step: Duration,
    steps: usize,
    /// SIGTERM was seen, and the deadline is set accordingly.
    stopping: bool,
}

impl AnswerLimits {
    /// The limits before the greeting.
    pub(super) fn of_greeting(patience: Duration) -> Self {
        let since = Instant::now();
        Self {
            budget: MAX_NOISE,
            since,
            deadline: since + patience,
            heard: false,
            greeted: false,
            is_change: false,
            step: Duration::ZERO,
            steps: 0,
            stopping: false,
        }
    }

    /// The node has greeted. Its first report shares the time limit.
    pub(super) fn greeted(&mut self) {
        self.greeted = true;
        self.budget = MAX_ABILITIES;
    }

    /// True after the greeting.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// True if the request is a change.
    pub(super) fn is_change(&self) -> bool {
        self.is_change
    }

    /// Sets the limits of the next answer: `bytes`, and `patience` plus one second for each 4 KiB.
    pub(super) fn expect(&mut self, bytes: usize, patience: Duration) {
        // Bytes that are already buffered do not count.
        self.budget = bytes;
        self.since = Instant::now();
        self.deadline = self.since + patience;
        self.heard = false;
        self.is_change = false;
        self.steps = 0;
    }

    /// The same for a change of at most `steps` steps, each with the time limit `patience`: [`Self::next_step`].
    pub(super) fn expect_change(&mut self, bytes: usize, patience: Duration, steps: usize) {
        self.expect(bytes, patience);
        (self.is_change, self.step, self.steps) = (true, patience, steps);
    }

    /// The node has reported a step.
    pub(super) fn next_step(&mut self) {
        if self.steps > 0 && !self.stopping {
            self.steps = self.steps.saturating_sub(1);
            self.since = Instant::now();
            self.deadline = self.since + self.step;
        }
    }

    /// The time until the deadline.
    ///
    /// # Errors
    /// If it has passed.
    pub(super) fn remaining(&self) -> Result<Duration, NodeError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(left);
        }
        let seconds = self.since.elapsed().as_secs();
        Err(match self.stopping {
            true => NodeError::Stopped,
            false => NodeError::Silent { seconds, heard: self.heard, greeted: self.greeted },
        })
    }

    /// SIGTERM has come: ends the session; if a change may have started, after a moment.
    ///
    /// # Errors
    /// If the session ends now.
    pub(super) fn stop(&mut self, all_is_sent: bool) -> Result<(), NodeError> {
        if self.stopping {
            return Ok(());
        }
        if !self.is_change || !all_is_sent {
            return Err(NodeError::Stopped);
        }
        self.stopping = true;
        self.shorten(LAST_WORDS);
        Ok(())
    }

    /// The time did not count: the user had stopped the job.
    pub(super) fn extend(&mut self, time: Duration) {
        self.deadline += time;
    }

    /// From now on the answer has at most this time.
    pub(super) fn shorten(&mut self, patience: Duration) {
        self.deadline = self.deadline.min(Instant::now() + patience);
    }

    /// Counts bytes of the answer.
    ///
    /// # Errors
    /// If it is too long.
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), NodeError> {
        self.budget = self.budget.checked_sub(bytes).ok_or(NodeError::Garbled("more than was asked for"))?;
        self.heard |= bytes > 0;
        Ok(())
    }

    /// Extends the time limit for these bytes, in either direction. Not before the greeting, since that output could be
    /// endless.
    pub(super) fn moved(&mut self, bytes: usize) {
        if self.greeted && !self.stopping {
            let micros = bytes.saturating_mul(1_000_000) / BYTES_A_SECOND;
            self.deadline += Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        }
    }
}
