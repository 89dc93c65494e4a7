//! Decides which host may start when: canaries first, then batches, a limited number at a time, hosts of a serial tag
//! one by one, and none after too many failures. A state machine over host numbers, without threads or SSH.

use std::collections::VecDeque;

/// The order and the limits of a run. Hosts are numbered in the order of selection.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Maximum number of hosts at a time; 0 counts as 1.
    pub parallel: usize,
    /// This many hosts run before all others, which start only if none of these fails.
    pub canary: usize,
    /// The others run in batches of this many: a batch starts when the last host of the previous one has ended.
    pub batch: Option<usize>,
    /// Maximum number of failures: after one more, no further host starts.
    pub max_failures: Option<usize>,
    /// Groups of hosts that run one at a time. After a failure the rest of the group is skipped.
    pub serial: Vec<Serial>,
}

/// The hosts of a serial tag.
#[derive(Debug, Clone)]
pub struct Serial {
    /// The tag.
    pub tag: String,
    /// Its hosts.
    pub hosts: Vec<usize>,
}

/// The reason why a host does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A canary failed.
    Canary,
    /// More hosts failed than allowed.
    Failures,
    /// A host of the same serial tag failed.
    Serial(String),
    /// The user or the system stopped the run.
    Stopped,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Canary => f.write_str("not begun: a canary failed"),
            Self::Failures => f.write_str("not begun: more hosts failed than --max-failures allows"),
            Self::Serial(tag) => write!(f, "not begun: another host of tag:{tag} failed, and they go one at a time"),
            Self::Stopped => f.write_str("not begun: the run was stopped"),
        }
    }
}

/// The state of one run.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    /// Groups of `limits.serial` that each host is in.
    groups: Vec<Vec<usize>>,
    /// For each group, true while one of its hosts runs.
    busy: Vec<bool>,
    /// Hosts of the current wave (the canaries, or a batch) that have not started.
    wave: VecDeque<usize>,
    /// Hosts of later waves.
    later: VecDeque<usize>,
    /// The current wave is the canaries.
    is_canary: bool,
    running: usize,
    failures: usize,
    skipped: Vec<(usize, Reason)>,
}

impl Schedule {
    /// The initial state for this many hosts.
    #[must_use]
    pub fn new(hosts: usize, limits: Limits) -> Self {
        let mut groups = vec![Vec::new(); hosts];
        for (group, serial) in limits.serial.iter().enumerate() {
            for &host in &serial.hosts {
                groups[host].push(group);
            }
        }
        let canaries = limits.canary.min(hosts);
        let mut schedule = Self {
            groups,
            busy: vec![false; limits.serial.len()],
            wave: (0..canaries).collect(),
            later: (canaries..hosts).collect(),
            is_canary: canaries > 0,
            running: 0,
            failures: 0,
            skipped: Vec::new(),
            limits,
        };
        schedule.next_wave();
        schedule
    }

    /// Starts the next host that may start; `None` if none may now.
    pub fn begin(&mut self) -> Option<usize> {
        if self.running >= self.limits.parallel.max(1) {
            return None;
        }
        let is_free = |host: &usize| self.groups[*host].iter().all(|&group| !self.busy[group]);
        let at = self.wave.iter().position(is_free)?;
        let host = self.wave.remove(at)?;
        for &group in &self.groups[host] {
            self.busy[group] = true;
        }
        self.running = self.running.saturating_add(1);
        Some(host)
    }

    /// A started host has ended.
    pub fn end(&mut self, host: usize, failed: bool) {
        self.running = self.running.saturating_sub(1);
        for &group in &self.groups[host] {
            self.busy[group] = false;
        }
        if failed {
            self.failures = self.failures.saturating_add(1);
            for group in self.groups[host].clone() {
                self.skip_group(group);
            }
            if self.is_canary {
                self.stop(&Reason::Canary);
            } else if self.limits.max_failures.is_some_and(|most| self.failures > most) {
                self.stop(&Reason::Failures);
            }
        }
        self.next_wave();
    }

    /// No further host starts.
    pub fn stop(&mut self, reason: &Reason) {
        let rest = self.wave.drain(..).chain(self.later.drain(..));
        self.skipped.extend(rest.map(|host| (host, reason.clone())));
    }

    /// True if no host runs and none will start.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.running == 0 && self.wave.is_empty() && self.later.is_empty()
    }

    /// Number of running hosts.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Hosts that, since the last call, were found to never start, and why.
    pub fn take_skipped(&mut self) -> Vec<(usize, Reason)> {
        std::mem::take(&mut self.skipped)
    }

    fn skip_group(&mut self, group: usize) {
        let tag = self.limits.serial[group].tag.clone();
        let (groups, skipped) = (&self.groups, &mut self.skipped);
        for queue in [&mut self.wave, &mut self.later] {
            queue.retain(|&host| {
                let stays = !groups[host].contains(&group);
                if !stays {
                    skipped.push((host, Reason::Serial(tag.clone())));
                }
                stays
            });
        }
    }

    /// Moves on to the next wave once no host of this one runs or waits.
    fn next_wave(&mut self) {
        if self.running > 0 || !self.wave.is_empty() {
            return;
        }
        self.is_canary = false;
        let size = self.limits.batch.unwrap_or(usize::MAX).clamp(1, self.later.len().max(1));
        self.wave = self.later.drain(..size.min(self.later.len())).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(parallel: usize) -> Limits {
        Limits { parallel, ..Limits::default() }
    }

    /// Begins all that may.
    fn begun(schedule: &mut Schedule) -> Vec<usize> {
        std::iter::from_fn(|| schedule.begin()).collect()
    }

    #[test]
    fn so_many_run_at_a_time_and_all_have_run_at_the_end() {
        for parallel in [0, 1, 3, 100] {
            let mut schedule = Schedule::new(7, limits(parallel));
            let (mut ran, mut running) = (Vec::new(), VecDeque::new());
            while !schedule.is_over() {
                running.extend(begun(&mut schedule));
                assert!(running.len() <= parallel.max(1) && schedule.running() == running.len());
                let host = running.pop_front().expect("not over, so one runs");
                // Without a limit failures make no difference.
                schedule.end(host, host % 2 == 0);
                ran.push(host);
            }
            assert_eq!(ran, [0, 1, 2, 3, 4, 5, 6], "{parallel}");
            assert!(schedule.take_skipped().is_empty());
        }
        assert!(Schedule::new(0, limits(4)).is_over());
    }

    #[test]
    fn canaries_go_alone_and_the_others_only_when_all_of_them_are_well() {
        let new = || Schedule::new(5, Limits { canary: 2, ..limits(10) });
        let mut schedule = new();
        assert_eq!(begun(&mut schedule), [0, 1]);
        schedule.end(1, false);
        assert!(begun(&mut schedule).is_empty());
        schedule.end(0, false);
        assert_eq!(begun(&mut schedule), [2, 3, 4]);

        let mut schedule = new();
        assert_eq!(begun(&mut schedule), [0, 1]);
        schedule.end(0, true);
        let skipped: Vec<usize> = schedule.take_skipped().into_iter().map(|(host, _)| host).collect();
        assert_eq!((skipped, schedule.is_over()), (vec![2, 3, 4], false), "a canary still runs");
        schedule.end(1, false);
        assert!(schedule.is_over() && begun(&mut schedule).is_empty());
    }

    #[test]
    fn a_canary_that_waited_for_its_turn_does_not_begin_after_one_failed() {
        let mut schedule = Schedule::new(3, Limits { canary: 2, ..limits(1) });
        assert_eq!(begun(&mut schedule), [0]);
        schedule.end(0, true);
        assert_eq!(schedule.take_skipped(), [(1, Reason::Canary), (2, Reason::Canary)]);
        assert!(schedule.is_over());
    }

    #[test]
    fn more_canaries_than_hosts_are_all_hosts() {
        let mut schedule = Schedule::new(2, Limits { canary: 9, ..limits(10) });
        assert_eq!(begun(&mut schedule), [0, 1]);
    }

    #[test]
    fn a_batch_begins_when_the_one_before_has_ended() {
        let mut schedule = Schedule::new(6, Limits { canary: 1, batch: Some(2), ..limits(10) });
        let mut waves = Vec::new();
        while !schedule.is_over() {
            let wave = begun(&mut schedule);
            for (at, &host) in wave.iter().enumerate() {
                assert!(at == 0 || begun(&mut schedule).is_empty(), "{host}");
                schedule.end(host, false);
            }
            waves.push(wave);
        }
        assert_eq!(waves, [vec![0], vec![1, 2], vec![3, 4], vec![5]]);
    }

    #[test]
    fn one_failure_more_than_may_be_is_the_end() {
        for (most, failing, skipped) in [(0, 1, 4), (1, 1, 0), (1, 2, 3), (2, 2, 0)] {
            let mut schedule = Schedule::new(5, Limits { max_failures: Some(most), ..limits(1) });
            let mut failed = 0;
            while let Some(host) = schedule.begin() {
                let fails = failed < failing;
                failed += usize::from(fails);
                schedule.end(host, fails);
            }
            let left = schedule.take_skipped();
            assert_eq!(left.len(), skipped, "{failing} of at most {most}");
            assert!(left.iter().all(|(_, reason)| *reason == Reason::Failures) && schedule.is_over());
        }
    }

    #[test]
    fn hosts_of_a_serial_tag_go_one_at_a_time_and_others_pass_them() {
        let serial = vec![Serial { tag: "server".into(), hosts: vec![0, 1, 3] }];
        let mut schedule = Schedule::new(5, Limits { serial, ..limits(10) });
        assert_eq!(begun(&mut schedule), [0, 2, 4]);
        schedule.end(2, false);
        assert!(begun(&mut schedule).is_empty());
        schedule.end(0, false);
        assert_eq!(begun(&mut schedule), [1]);
        schedule.end(1, true);
        assert_eq!(schedule.take_skipped(), [(3, Reason::Serial("server".into()))]);
        assert!(!schedule.is_over());
        schedule.end(4, false);
        assert!(schedule.is_over());
    }

    #[test]
    fn a_host_of_two_serial_tags_waits_for_both() {
        let group = |tag: &str, hosts: &[usize]| Serial { tag: tag.into(), hosts: hosts.to_vec() };
        let serial = vec![group("a", &[0, 2]), group("b", &[1, 2])];
        let mut schedule = Schedule::new(3, Limits { serial, ..limits(10) });
        assert_eq!(begun(&mut schedule), [0, 1]);
        schedule.end(0, false);
        assert!(begun(&mut schedule).is_empty());
        schedule.end(1, false);
        assert_eq!(begun(&mut schedule), [2]);
    }

    #[test]
    fn what_runs_when_it_is_stopped_ends_and_nothing_else_begins() {
        let mut schedule = Schedule::new(4, Limits { batch: Some(2), ..limits(1) });
        assert_eq!(begun(&mut schedule), [0]);
        schedule.stop(&Reason::Stopped);
        assert!(begun(&mut schedule).is_empty() && !schedule.is_over());
        schedule.end(0, false);
        assert!(schedule.is_over());
        assert_eq!(schedule.take_skipped().len(), 3);
    }
}
