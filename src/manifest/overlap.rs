//! Finds secrets that share a host and claim incompatible things.
//!
//! Every step is counted, because hosts times secrets can be very large in a hostile manifest.

use std::collections::{HashMap, HashSet};

/// Maximum number of steps per manifest. A step compares one host or selector; a second suffices for several times as
/// many.
const MAX_STEPS: usize = 200_000_000;

/// One entry of a secret's `hosts`, as an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Selector {
    Host(usize),
    Tag(usize),
}

/// The number of hosts, and the hosts of each tag.
#[derive(Debug, Default)]
pub(super) struct Population {
    pub hosts: usize,
    /// Indexes of the hosts of each tag.
    pub tags: Vec<Vec<usize>>,
}

/// A claim of a secret on its hosts. Claims of the same kind are compatible; claims of different kinds on one host
/// collide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    /// The caller's index of the secret.
    pub secret: usize,
    pub kind: usize,
    /// Its hosts; `None`: every host.
    pub selectors: Option<&'a [Selector]>,
}

/// [`MAX_STEPS`] is exceeded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManySteps;

/// A search for colliding claims.
pub(super) struct Overlaps<'p> {
    population: &'p Population,
    steps_left: usize,
    /// For each host: the round of its last claim, and that claim's kind and secret.
    stamps: Vec<(usize, usize, usize)>,
    round: usize,
}

impl<'p> Overlaps<'p> {
    pub(super) fn new(population: &'p Population) -> Self {
        Self { population, steps_left: MAX_STEPS, stamps: vec![(0, 0, 0); population.hosts], round: 0 }
    }

    /// For each claim that collides with an earlier one: its secret, and the earlier one's.
    pub(super) fn find(&mut self, claims: &[Claim<'_>]) -> Result<Vec<(usize, usize)>, TooManySteps> {
        self.round = self.round.saturating_add(1);
        let mut found = Vec::new();
        let mut everywhere = FirstTwo::default();
        let mut anywhere = FirstTwo::default();
        let mut done: HashSet<(Selector, usize)> = HashSet::new();
        for claim in claims {
            self.step()?;
            let met = match claim.selectors {
                None => anywhere.other_than(claim.kind),
                Some(selectors) => match everywhere.other_than(claim.kind) {
                    Some(secret) => Some(secret),
                    None => self.walk(claim, selectors, &mut done)?,
                },
            };
            if claim.selectors.is_none() {
                everywhere.add(claim);
            }
            anywhere.add(claim);
            found.extend(met.map(|earlier| (claim.secret, earlier)));
        }
        Ok(found)
    }

    /// Stamps the claim's hosts. Stops at the first one with another kind's stamp, and returns that stamp's secret.
    fn walk(
        &mut self,
        claim: &Claim<'_>,
        selectors: &[Selector],
        done: &mut HashSet<(Selector, usize)>,
    ) -> Result<Option<usize>, TooManySteps> {
        let population = self.population;
        for selector in selectors {
            self.step()?;
            // An equal selector of this kind has already stamped all its hosts, or has collided and was reported.
            if !done.insert((*selector, claim.kind)) {
                continue;
            }
            let one;
            let hosts = match selector {
                Selector::Host(host) => {
                    one = [*host];
                    one.as_slice()
                }
                Selector::Tag(tag) => population.tags.get(*tag).map_or(&[][..], Vec::as_slice),
            };
            for host in hosts {
                self.step()?;
                let Some(stamp) = self.stamps.get_mut(*host) else { continue };
                if stamp.0 == self.round && stamp.1 != claim.kind {
                    let earlier = stamp.2;
                    // Later claims with this selector must find the collision too.
                    done.remove(&(*selector, claim.kind));
                    return Ok(Some(earlier));
                }
                *stamp = (self.round, claim.kind, claim.secret);
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<(), TooManySteps> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(TooManySteps)?;
        Ok(())
    }
}

/// The first claim, and the first of another kind. They suffice to decide whether a claim has a kind other than a given
/// one.
#[derive(Default)]
struct FirstTwo {
    first: Option<(usize, usize)>,
    second: Option<(usize, usize)>,
}

impl FirstTwo {
    fn add(&mut self, claim: &Claim<'_>) {
        let this = Some((claim.kind, claim.secret));
        match self.first {
            None => self.first = this,
            Some((kind, _)) if kind != claim.kind && self.second.is_none() => self.second = this,
            Some(_) => {}
        }
    }

    fn other_than(&self, kind: usize) -> Option<usize> {
        [self.first, self.second].into_iter().flatten().find(|(own, _)| *own != kind).map(|(_, secret)| secret)
    }
}

/// Calls `report` for each path below other ones, with its index and theirs, nearest first. Paths are absolute,
/// normalised and distinct, in any order.
pub(super) fn nested<E>(paths: &[&str], mut report: impl FnMut(usize, &[usize]) -> Result<(), E>) -> Result<(), E> {
    let mut order: Vec<usize> = (0..paths.len()).collect();
    // In this order, where `/` is less than any other byte, a path is directly followed by the paths below it.
    order.sort_by(|a, b| {
        let key = |at: usize| paths[at].bytes().map(|byte| if byte == b'/' { 0 } else { byte });
        key(*a).cmp(key(*b))
    });
    let mut above: Vec<usize> = Vec::new();
    for at in order {
        while above.last().is_some_and(|top| !is_below(paths[at], paths[*top])) {
            above.pop();
        }
        if !above.is_empty() {
            report(at, &above)?;
        }
        above.push(at);
    }
    Ok(())
}

/// True if `path` is below `top`.
fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'))
}

/// Groups indexes by key; groups are in the order of their first members.
pub(super) fn grouped<'a>(keys: impl Iterator<Item = (usize, &'a str)>) -> Vec<(&'a str, Vec<usize>)> {
    let mut at: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
    for (number, key) in keys {
        let group = *at.entry(key).or_insert(groups.len());
        match groups.get_mut(group) {
            Some((_, members)) => members.push(number),
            None => groups.push((key, vec![number])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Hosts 0..4; tag 0 is {0, 1}, tag 1 is {1, 2}, tag 2 is {3}.
    fn population() -> Population {
        Population { hosts: 4, tags: vec![vec![0, 1], vec![1, 2], vec![3]] }
    }

    #[test]
    fn claims_meet_only_on_a_common_host_and_with_another_kind() {
        use Selector::{Host, Tag};
        let every: Option<&[Selector]> = None;
        for (name, claims, want) in [
            ("two hosts", vec![(0, Some(&[Host(0)][..])), (1, Some(&[Host(1)]))], vec![]),
            ("one host", vec![(0, Some(&[Host(0)])), (1, Some(&[Host(0)]))], vec![(1, 0)]),
            ("tag and host in it", vec![(0, Some(&[Tag(0)])), (1, Some(&[Host(1)]))], vec![(1, 0)]),
            ("tags that share a host", vec![(0, Some(&[Tag(0)])), (1, Some(&[Tag(1)]))], vec![(1, 0)]),
            ("tags that do not", vec![(0, Some(&[Tag(0)])), (1, Some(&[Tag(2)]))], vec![]),
            ("all and one", vec![(0, every), (1, Some(&[Host(3)]))], vec![(1, 0)]),
            ("one and all", vec![(0, Some(&[Host(3)])), (1, every)], vec![(1, 0)]),
            ("all and all", vec![(0, every), (1, every), (2, every)], vec![(1, 0), (2, 0)]),
            ("same kind", vec![(5, every), (5, Some(&[Tag(0)])), (5, Some(&[Host(0)]))], vec![]),
            ("third differs", vec![(5, Some(&[Tag(0)])), (5, Some(&[Tag(0)])), (6, Some(&[Host(1)]))], vec![(2, 0)]),
            ("one twice in itself", vec![(0, Some(&[Host(0), Tag(0)]))], vec![]),
            (
                "both of two meet the first",
                vec![(0, every), (1, Some(&[Host(0)])), (2, Some(&[Host(1)]))],
                vec![(1, 0), (2, 0)],
            ),
        ] {
            let claims: Vec<Claim<'_>> = claims
                .into_iter()
                .enumerate()
                .map(|(secret, (kind, selectors))| Claim { secret, kind, selectors })
                .collect();
            let population = population();
            assert_eq!(Overlaps::new(&population).find(&claims).unwrap(), want, "{name}");
        }
    }

    #[test]
    fn rounds_do_not_see_each_other() {
        let population = population();
        let mut overlaps = Overlaps::new(&population);
        for secret in 0..3 {
            let claim = Claim { secret, kind: secret, selectors: Some(&[Selector::Host(0)]) };
            assert_eq!(overlaps.find(&[claim]).unwrap(), []);
        }
    }

    #[test]
    fn entangled_hosts_end_in_an_error_and_not_in_an_hour() {
        let population = Population { hosts: 100_000, tags: vec![(0..100_000).collect(); 20] };
        let tags: Vec<Selector> = (0..20).map(Selector::Tag).collect();
        let claim = |secret| Claim { secret, kind: 0, selectors: Some(tags.as_slice()) };
        let mut overlaps = Overlaps::new(&population);
        let result = (0..10_000).try_for_each(|secret| overlaps.find(&[claim(secret), claim(secret)]).map(|_| ()));
        assert_eq!(result, Err(TooManySteps));
    }

    #[test]
    fn paths_below_others_are_found_whatever_stands_between() {
        let paths = ["/a/b/c", "/a-b", "/a", "/ab", "/a/b", "/a.b/c", "/a!/x"];
        let mut found = Vec::new();
        nested(&paths, |at, above| {
            found.push((paths[at], above.iter().map(|at| paths[*at]).collect::<Vec<_>>()));
            Ok::<(), Infallible>(())
        })
        .unwrap();
        assert_eq!(found, [("/a/b", vec!["/a"]), ("/a/b/c", vec!["/a", "/a/b"])]);
    }
}
