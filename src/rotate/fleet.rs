//! Runs many hosts side by side, as a [`Schedule`] says. What one host is, is the caller's: a closure.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deaddrop_core::contain::contain;

use super::schedule::{Reason, Schedule};
use super::{HostEnd, HostStep, Status};
use crate::run::message::Message;

/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(50);

/// Who is told of what happens. Called by several threads; hosts are numbers in the order in which they were chosen.
pub trait Watcher: Sync {
    /// A host has begun.
    fn begun(&self, host: usize);
    /// How far a host is.
    fn step(&self, host: usize, step: HostStep);
    /// A host has ended, or will never begin ([`Status::Skipped`]).
    fn ended(&self, host: usize, end: HostEnd);
    /// The run was stopped: no host begins any more, and so many still run.
    fn stopping(&self, running: usize);
}

/// Runs one host, and tells how far it is.
pub type Run<'a> = dyn Fn(usize, &(dyn Fn(HostStep) + Sync)) -> HostEnd + Sync + 'a;

/// What a run is made of.
pub struct Fleet<'a> {
    /// Runs one host to its end, on a thread of its own.
    pub run: &'a Run<'a>,
    /// Is told.
    pub watcher: &'a dyn Watcher,
    /// True once the person or the system wants the run to stop.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

impl Fleet<'_> {
    /// Runs all hosts of the schedule on so many threads. Returns when every one has ended or will never begin.
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
            // Told before the next may begin: what people see is in the order in which it was.
            self.watcher.ended(host, end);
            let mut schedule = state.lock();
            schedule.end(host, failed);
            self.skip(schedule);
            state.changed.notify_all();
        }
    }

    /// Looks for a signal until all have ended.
    fn watch(&self, state: &State) {
        let mut schedule = state.lock();
        let mut told = false;
        while !schedule.is_over() {
            if !told && (self.stopped)() {
                told = true;
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

    /// Tells of the hosts that will never begin.
    fn skip(&self, mut schedule: MutexGuard<'_, Schedule>) {
        let skipped = schedule.take_skipped();
        drop(schedule);
        for (host, reason) in skipped {
            let error = Some(Message::new(reason.to_string()));
            self.watcher.ended(host, HostEnd { error, ..HostEnd::new(Status::Skipped) });
        }
    }
}

struct State {
    schedule: Mutex<Schedule>,
    /// A host has ended, or the run was stopped.
    changed: Condvar,
}

impl State {
    /// A panic of a thread is contained, and the schedule is whole between its calls.
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

/// The end of a host whose code panicked: nobody knows how far it was.
fn lost() -> HostEnd {
    let error = Message::new("deaddrop itself failed here: what was done on this host is unknown")
        .hint("run it again: the next run finishes or undoes what an interrupted one left; and please report it");
    HostEnd { error: Some(error), changed_anything: true, ..HostEnd::new(Status::Failed) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::super::schedule::Limits;
    use super::*;

    /// Notes how each host ended.
    struct Notes(Mutex<Vec<(usize, Status)>>, AtomicBool);

    impl Watcher for Notes {
        fn begun(&self, _: usize) {}
        fn step(&self, _: usize, _: HostStep) {}
        fn ended(&self, host: usize, end: HostEnd) {
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
        run: &(dyn Fn(usize) -> Status + Sync),
    ) -> (Vec<(usize, Status)>, bool) {
        let notes = Notes(Mutex::default(), AtomicBool::new(false));
        let threads = NonZeroUsize::new(limits.parallel).unwrap();
        let run = |host: usize, _: &(dyn Fn(HostStep) + Sync)| HostEnd::new(run(host));
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
            if host == 7 { Status::Failed } else { Status::Done }
        };
        let (ends, stopping) = drive(100, Limits { parallel: 8, ..Limits::default() }, &|| false, &run);
        assert_eq!(ends.iter().map(|(host, _)| *host).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        assert_eq!(ends.iter().filter(|(_, status)| *status == Status::Failed).count(), 1);
        assert!(most.into_inner() <= 8 && !stopping);
    }

    #[test]
    fn a_panic_is_the_failure_of_its_host_alone() {
        let run = |host: usize| if host == 1 { panic!("a made-up one") } else { Status::Done };
        let (ends, _) = drive(3, Limits { parallel: 2, ..Limits::default() }, &|| false, &run);
        assert_eq!(ends, [(0, Status::Done), (1, Status::Failed), (2, Status::Done)]);
    }

    #[test]
    fn hosts_that_do_not_begin_are_told_as_skipped() {
        let run = |_: usize| Status::RolledBack;
        let (ends, _) = drive(4, Limits { parallel: 4, canary: 1, ..Limits::default() }, &|| false, &run);
        let skipped = Status::Skipped;
        assert_eq!(ends, [(0, Status::RolledBack), (1, skipped), (2, skipped), (3, skipped)]);
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
            HostEnd::new(Status::Done)
        };
        let fleet = Fleet { run: &run, watcher: &notes, stopped: &|| stop.load(Ordering::SeqCst) };
        let limits = Limits { parallel: 2, ..Limits::default() };
        fleet.drive(Schedule::new(5, limits), NonZeroUsize::new(2).unwrap());
        let ends = notes.0.into_inner().unwrap();
        let done = ends.iter().filter(|(_, status)| *status == Status::Done).count();
        assert!(ends.len() == 5 && (1..=2).contains(&done), "{ends:?}");
    }
}
