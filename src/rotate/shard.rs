//! `--shard`: one part of N of the hosts, so that several workers together run each host once.
//!
//! A host's shard depends only on its name and on N, not on the other hosts or their order. So workers with different
//! versions of a manifest still never run the same host twice.

use sha2::{Digest, Sha256};

/// Maximum number of shards; a larger count is a mistake.
const MOST: u32 = 100_000;

/// Part `number` of `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1 to `of`.
    number: u32,
    /// Number of parts, at least 1.
    of: u32,
}

/// The value of `--shard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardArgument {
    /// `I/N`.
    Given(Shard),
    /// `auto`: from the environment.
    Auto,
}

/// The variables in which one system numbers its workers.
struct Worker {
    index: &'static str,
    total: &'static str,
    /// The index of the first worker.
    first: u32,
    /// How to set the total if it is missing.
    remedy: &'static str,
}

const WORKERS: [Worker; 2] = [
    // https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode: "0 to .spec.completions - 1". No
    // variable contains the total.
    Worker {
        index: "JOB_COMPLETION_INDEX",
        total: "JOB_COMPLETIONS",
        first: 0,
        remedy: "Kubernetes does not set it: give the container JOB_COMPLETIONS with the number of `completions`",
    },
    // https://docs.gitlab.com/ci/yaml/#parallel: "CI_NODE_INDEX" from 1 to "CI_NODE_TOTAL".
    Worker { index: "CI_NODE_INDEX", total: "CI_NODE_TOTAL", first: 1, remedy: "GitLab sets both for `parallel: N`" },
];

/// The shard cannot be determined: exit code 2.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShardError {
    /// No system's variables are set.
    #[error("--shard auto: neither JOB_COMPLETION_INDEX nor CI_NODE_INDEX is set")]
    NoWorker,
    /// Both systems' variables are set.
    #[error("--shard auto: both JOB_COMPLETION_INDEX and CI_NODE_INDEX are set")]
    TwoWorkers,
    /// One of the two variables is missing.
    #[error("--shard auto: {index} is set, and {total} is not")]
    NoTotal {
        /// The variable that is set.
        index: &'static str,
        /// The variable that is missing.
        total: &'static str,
        /// How to set it.
        remedy: &'static str,
    },
    /// The variables do not contain numbers, or the index is out of range.
    #[error("--shard auto: {index} and {total} are not a worker's number and the number of workers")]
    NotAWorker {
        /// The variable of the worker's number.
        index: &'static str,
        /// The variable of the number of workers.
        total: &'static str,
        /// The number of the first worker.
        first: u32,
    },
}

impl ShardError {
    /// The next step for the user.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoWorker | Self::TwoWorkers => "say which part of how many: `--shard 1/4`".to_owned(),
            Self::NoTotal { remedy, .. } => (*remedy).to_owned(),
            Self::NotAWorker { first, total, .. } => {
                let last = if *first == 0 { format!("{total} less 1") } else { (*total).to_owned() };
                format!("numbers, from {first} to {last}; or say it yourself: `--shard 1/4`")
            }
        }
    }
}

impl Shard {
    /// Part `number` of `of`, counted from 1; `None` if there is no such part.
    #[must_use]
    pub fn new(number: u32, of: u32) -> Option<Self> {
        (number >= 1 && number <= of && of <= MOST).then_some(Self { number, of })
    }

    /// Reads the worker's number from the environment, through `variable`: that of a Kubernetes Indexed Job, or of a
    /// GitLab job with `parallel`.
    ///
    /// # Errors
    /// If no system's variables are set, those of both are, or their values are invalid.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ShardError> {
        let set: Vec<&Worker> = WORKERS.iter().filter(|worker| variable(worker.index).is_some()).collect();
        let worker = match set[..] {
            [] => return Err(ShardError::NoWorker),
            [worker] => worker,
            _ => return Err(ShardError::TwoWorkers),
        };
        let Worker { index, total, first, remedy } = *worker;
        let (number, of) = match (variable(index), variable(total)) {
            (Some(number), Some(of)) => (number, of),
            _ => return Err(ShardError::NoTotal { index, total, remedy }),
        };
        // Counted from 1, whatever the system counts from.
        let number = digits(&number).and_then(|number| number.checked_add(1)?.checked_sub(first));
        let shard = number.zip(digits(&of)).and_then(|(number, of)| Self::new(number, of));
        shard.ok_or(ShardError::NotAWorker { index, total, first })
    }

    /// True if this host is in this part.
    #[must_use]
    pub fn holds(self, host: &str) -> bool {
        let digest = Sha256::digest(host.as_bytes());
        let number = digest.iter().take(8).fold(0_u64, |number, &byte| (number << 8) | u64::from(byte));
        // Cannot fail: `of` is at least 1.
        number.checked_rem(u64::from(self.of)) == Some(u64::from(self.number.saturating_sub(1)))
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl std::str::FromStr for ShardArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let shard = text.split_once('/').and_then(|(number, of)| Shard::new(digits(number)?, digits(of)?));
        shard.map(Self::Given).ok_or_else(|| {
            format!("I/N, such as 1/4 to 4/4, at most {MOST} parts; or `auto`, which reads the job's environment")
        })
    }
}

/// A number of digits only: no sign, no space.
fn digits(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_in_exactly_one_shard_and_stays_there() {
        let hosts: Vec<String> = (0..10_000).map(|number| format!("node{number}.example")).collect();
        for of in [1, 2, 3, 7, 32] {
            let shards: Vec<Shard> = (1..=of).map(|number| Shard::new(number, of).unwrap()).collect();
            let mut sizes = vec![0_u32; shards.len()];
            for host in &hosts {
                let held: Vec<usize> = (0..shards.len()).filter(|&at| shards[at].holds(host)).collect();
                assert_eq!(held.len(), 1, "{host} of {of}: {held:?}");
                sizes[held[0]] += 1;
            }
            let fair = 10_000 / of;
            assert!(sizes.iter().all(|size| size.abs_diff(fair) <= fair / 4), "{of}: {sizes:?}");
        }
        // Written down: workers of two versions of this program must agree.
        let of_five = |host| (1..=5).find(|&number| Shard::new(number, 5).unwrap().holds(host)).unwrap();
        assert_eq!(["node1", "node2", "node3", "node4"].map(of_five), [3, 2, 5, 5]);
    }

    #[test]
    fn a_shard_is_counted_from_one() {
        let given = |number, of| Ok(ShardArgument::Given(Shard::new(number, of).unwrap()));
        assert_eq!("1/4".parse(), given(1, 4));
        assert_eq!("4/4".parse(), given(4, 4));
        assert_eq!("auto".parse(), Ok(ShardArgument::Auto));
        for wrong in ["0/4", "5/4", "1/0", "1", "", "/", "1/", "-1/4", "+1/4", "1/4/4", " 1/4", "1/100001", "a/b"] {
            assert!(wrong.parse::<ShardArgument>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_environment_of_kubernetes_and_of_gitlab_is_read() {
        let of = |variables: &[(&str, &str)]| {
            Shard::of_environment(|name| {
                variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let kubernetes = |index, total| of(&[("JOB_COMPLETION_INDEX", index), ("JOB_COMPLETIONS", total)]);
        assert_eq!(kubernetes("0", "3"), Ok(Shard::new(1, 3).unwrap()));
        assert_eq!(kubernetes("2", "3"), Ok(Shard::new(3, 3).unwrap()));
        let gitlab = |index, total| of(&[("CI_NODE_INDEX", index), ("CI_NODE_TOTAL", total)]);
        assert_eq!(gitlab("1", "3"), Ok(Shard::new(1, 3).unwrap()));
        assert_eq!(gitlab("3", "3"), Ok(Shard::new(3, 3).unwrap()));
        for (error, hint) in [
            (kubernetes("3", "3"), "numbers, from 0 to JOB_COMPLETIONS less 1"),
            (kubernetes("x", "3"), "numbers, from 0"),
            (gitlab("0", "3"), "numbers, from 1 to CI_NODE_TOTAL;"),
            (gitlab("4294967295", "4294967295"), "numbers, from 1"),
            (of(&[("JOB_COMPLETION_INDEX", "0")]), "give the container JOB_COMPLETIONS"),
            (of(&[]), "--shard 1/4"),
            (of(&[("JOB_COMPLETION_INDEX", "0"), ("CI_NODE_INDEX", "1")]), "--shard 1/4"),
        ] {
            let error = error.unwrap_err();
            assert!(error.hint().contains(hint), "{error}: {}", error.hint());
        }
    }
}
