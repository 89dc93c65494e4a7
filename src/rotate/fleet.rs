//! Runs many hosts in parallel, in the order of a [`Schedule`]. The caller's closure runs one host.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deaddrop_core::contain::contain;

use super::schedule::{Reason, Schedule};
use super::{HostResult, HostStatus, HostStep};
use crate::run::message::Message;

/// Interval between two checks for a signal.
const TICK: Duration = Duration::from_millis(50);

/// Receives the events of a run. Called from several threads. A host is its number in the order of selection.
pub trait Watcher: Sync {
    /// A host has started.
    fn begun(&self, host: usize);
    /// A host's current step.
    fn step(&self, host: usize, step: HostStep);
    /// A host has ended, or will never start ([`HostStatus::Skipped`]).
    fn ended(&self, host: usize, end: HostResult);
    /// The run was stopped: no further host starts, and `running` hosts still run.
    fn stopping(&self, running: usize);
}

/// Runs one host, and reports its steps.
pub type Run<'a> = dyn Fn(usize, &(dyn Fn(HostStep) + Sync)) -> HostResult + Sync + 'a;

/// The callbacks of a run.
pub struct Fleet<'a> {
    /// Runs one host completely, on its own thread.
    pub run: &'a Run<'a>,
    /// Receives the events.
    pub watcher: &'a dyn Watcher,
    /// True once the user or the system has stopped the run.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

impl Fleet<'_> {
    /// Runs all hosts of the schedule on this many threads. Returns when each host has ended or will never start.
    pub fn drive(&self, schedule: Schedule, threads: NonZeroUsize) {
        let state = State { schedule: Mutex::new(schedule), changed: Condvar::new() };
        std::thread::scope(|scope| {
            for _ in 0..threads.get() {
                scope.spawn(|| self.work(&state));
            }
            self.watch(&state);
        });
    }

    fn work(&self, state: &State) {
        while let Some(host) = state.wait_for_a_host() {
            self.watcher.begun(host);
            let report = |step| self.watcher.step(host, step);
            let end = contain(|| (self.run)(host, &report)).unwrap_or_else(lost);
            let failed = end.status.is_failure();
            // Before the next host may start, so that the output is in the order of events.
            self.watcher.ended(host, end);
            let mut schedule = state.lock();
            schedule.end(host, failed);
            self.skip(schedule);
            state.changed.notify_all();
        }
    }

    /// Checks for a signal until all hosts have ended.
    fn watch(&self, state: &State) {
        let mut schedule = state.lock();
        let mut announced = false;
        while !schedule.is_over() {
            if !announced && (self.stopped)() {
                announced = true;
                schedule.stop(&Reason::Stopped);
                let running = schedule.running();
                state.changed.notify_all();
                self.watcher.stopping(running);
                self.skip(schedule);
                schedule = state.lock();
                continue;
            }
            schedule = state.changed.wait_timeout(schedule, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Reports the hosts that will never start.
    fn skip(&self, mut schedule: MutexGuard<'_, Schedule>) {
        let skipped = schedule.take_skipped();
        drop(schedule);
        for (host, reason) in skipped {
            let error = Some(Message::new(reason.to_string()));
            self.watcher.ended(host, HostResult { error, ..HostResult::new(HostStatus::Skipped) });
        }
    }
}

struct State {
    schedule: Mutex<Schedule>,
    /// A host has ended, or the run was stopped.
    changed: Condvar,
}

impl State {
    /// OK to ignore poisoning: a thread's panic is contained, and the schedule is consistent between its calls.
    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_a_host(&self) -> Option<usize> {
        let mut schedule = self.lock();
        loop {
            if let Some(host) = schedule.begin() {
                return Some(host);
            }
            if schedule.is_over() {
                return None;
            }
            schedule = self.changed.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The result of a host whose code panicked: its state is unknown.
#[must_use]
pub fn lost() -> HostResult {
    let error = Message::new("deaddrop itself failed here: what was done on this host is unknown")
        .hint("run it again: the next run finishes or undoes what an interrupted one left; and please report it");
    HostResult { error: Some(error), changed_anything: true, ..HostResult::new(HostStatus::Failed) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::super::schedule::Limits;
    use super::*;

    /// Notes how each host ended.
    struct Notes(Mutex<Vec<(usize, HostStatus)>>, AtomicBool);

    impl Watcher for Notes {
        fn begun(&self, _: usize) {}
        fn step(&self, _: usize, _: HostStep) {}
        fn ended(&self, host: usize, end: HostResult) {
            self.0.lock().unwrap().push((host, end.status));
        }
        fn stopping(&self, _: usize) {
            self.1.store(true, Ordering::SeqCst);
        }
    }

    fn drive(
        hosts: usize,
        limits: Limits,
        stopped: &(dyn Fn() -> bool + Sync),
        run: &(dyn Fn(usize) -> HostStatus + Sync),
    ) -> (Vec<(usize, HostStatus)>, bool) {
        let notes = Notes(Mutex::default(), AtomicBool::new(false));
        let threads = NonZeroUsize::new(limits.parallel).unwrap();
        let run = |host: usize, _: &(dyn Fn(HostStep) + Sync)| HostResult::new(run(host));
        Fleet { run: &run, watcher: &notes, stopped }.drive(Schedule::new(hosts, limits), threads);
        let mut ends = notes.0.into_inner().unwrap();
        ends.sort_by_key(|(host, _)| *host);
        (ends, notes.1.into_inner())
    }

    #[test]
    fn every_host_ends_once_and_never_more_run_than_may() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let run = |host: usize| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            if host == 7 { HostStatus::Failed } else { HostStatus::Done }
        };
        let (ends, stopping) = drive(100, Limits { parallel: 8, ..Limits::default() }, &|| false, &run);
        assert_eq!(ends.iter().map(|(host, _)| *host).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        assert_eq!(ends.iter().filter(|(_, status)| *status == HostStatus::Failed).count(), 1);
        assert!(most.into_inner() <= 8 && !stopping);
    }

    #[test]
    fn a_panic_is_the_failure_of_its_host_alone() {
        let run = |host: usize| if host == 1 { panic!("a made-up one") } else { HostStatus::Done };
        let (ends, _) = drive(3, Limits { parallel: 2, ..Limits::default() }, &|| false, &run);
        assert_eq!(ends, [(0, HostStatus::Done), (1, HostStatus::Failed), (2, HostStatus::Done)]);
    }

    #[test]
    fn hosts_that_do_not_begin_are_told_as_skipped() {
        let run = |_: usize| HostStatus::RolledBack;
        let (ends, _) = drive(4, Limits { parallel: 4, canary: 1, ..Limits::default() }, &|| false, &run);
        let skipped = HostStatus::Skipped;
        assert_eq!(ends, [(0, HostStatus::RolledBack), (1, skipped), (2, skipped), (3, skipped)]);
    }

    #[test]
    fn a_stop_lets_running_hosts_end() {
        let notes = Notes(Mutex::default(), AtomicBool::new(false));
        let stop = AtomicBool::new(false);
        let run = |_: usize, _: &(dyn Fn(HostStep) + Sync)| {
            stop.store(true, Ordering::SeqCst);
            while !notes.1.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            HostResult::new(HostStatus::Done)
        };
        let fleet = Fleet { run: &run, watcher: &notes, stopped: &|| stop.load(Ordering::SeqCst) };
        let limits = Limits { parallel: 2, ..Limits::default() };
        fleet.drive(Schedule::new(5, limits), NonZeroUsize::new(2).unwrap());
        let ends = notes.0.into_inner().unwrap();
        let done = ends.iter().filter(|(_, status)| *status == HostStatus::Done).count();
        assert!(ends.len() == 5 && (1..=2).contains(&done), "{ends:?}");
    }
}
