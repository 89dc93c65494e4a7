//! Secrets that cannot all be in one target: two of one path, one below another's file, two that want different modes
//! for a directory. Only where some host gets both.

use std::collections::HashMap;

use deaddrop_core::path::TargetPath;
use deaddrop_core::shown::quoted;

use super::overlap::{Claim, Overlaps, Population, Selector, TooEntangled, grouped, nested};
use super::problem::{Mark, Problems};

/// Where a secret belongs: what collisions are looked for in.
pub(super) struct Placed {
    pub name: String,
    pub path: TargetPath,
    pub path_mark: Mark,
    /// `None` for every host.
    pub selectors: Option<Vec<Selector>>,
    pub directory_mode: Said,
    pub directory_owner: Said,
    /// It is the public part of a key, which goes beside it.
    pub is_public_part: bool,
}

impl Placed {
    /// "`k3s-token` (line 12)"
    fn at(&self) -> String {
        let part = if self.is_public_part { "the public part of " } else { "" };
        format!("{part}{} ({})", quoted(&self.name), self.path_mark)
    }
}

/// Reports every collision among `placed`.
///
/// # Errors
/// Their hosts are too many to be compared.
pub(super) fn report(placed: &[Placed], population: &Population, problems: &mut Problems) -> Result<(), TooEntangled> {
    let mut overlaps = Overlaps::new(population);
    let groups = grouped(placed.iter().enumerate().map(|(at, placed)| (at, placed.path.as_str())));
    same_paths(placed, &groups, &mut overlaps, problems)?;
    nested_paths(placed, &groups, &mut overlaps, problems)?;
    directories(placed, ("be", "directory_mode"), |placed| &placed.directory_mode, &mut overlaps, problems)?;
    directories(placed, ("belong to", "directory_owner"), |placed| &placed.directory_owner, &mut overlaps, problems)
}

/// Paths, each with the secrets that have it.
type Groups<'p> = [(&'p str, Vec<usize>)];

fn claim(placed: &[Placed], secret: usize, kind: usize) -> Claim<'_> {
    Claim { secret, kind, selectors: placed[secret].selectors.as_deref() }
}

fn same_paths(
    placed: &[Placed],
    groups: &Groups<'_>,
    overlaps: &mut Overlaps<'_>,
    problems: &mut Problems,
) -> Result<(), TooEntangled> {
    for (path, members) in groups.iter().filter(|(_, members)| members.len() > 1) {
        let claims: Vec<Claim<'_>> = members.iter().map(|at| claim(placed, *at, *at)).collect();
        for (later, earlier) in overlaps.find(&claims)? {
            let (later, earlier) = (&placed[later], &placed[earlier]);
            let message = match later.is_public_part {
                true => format!("{} is where the public part goes, and {} has it as well", quoted(path), earlier.at()),
                false => format!("{} is declared twice: {} has it as well", quoted(path), earlier.at()),
            };
            let hint = "two secrets can have one path only if no host gets both: see `hosts`";
            problems.push(later.path_mark, message, Some(hint.to_owned()));
        }
    }
    Ok(())
}

fn nested_paths(
    placed: &[Placed],
    groups: &Groups<'_>,
    overlaps: &mut Overlaps<'_>,
    problems: &mut Problems,
) -> Result<(), TooEntangled> {
    let paths: Vec<&str> = groups.iter().map(|(path, _)| *path).collect();
    nested(&paths, |below, above| {
        for top in above.iter().rev() {
            let (top_path, top_members) = &groups[*top];
            let mut claims: Vec<Claim<'_>> = top_members.iter().map(|at| claim(placed, *at, 0)).collect();
            claims.extend(groups[below].1.iter().map(|at| claim(placed, *at, 1)));
            for (lower, upper) in overlaps.find(&claims)? {
                let (lower, upper) = (&placed[lower], &placed[upper]);
                let lower_path = quoted(lower.path.as_str());
                let message = format!("{lower_path} is below {}, a file of {}", quoted(top_path), upper.at());
                problems.push(lower.path_mark, message, Some("nothing can be below a file".to_owned()));
            }
        }
        Ok(())
    })
}

/// `directory_mode` or `directory_owner` as one secret says it: in words, and where.
type Said = Option<(String, Mark)>;

/// Secrets that say different things of one directory under `key`, which `said` gives; `be` is the verb of it.
fn directories(
    placed: &[Placed],
    (be, key): (&str, &str),
    said: fn(&Placed) -> &Said,
    overlaps: &mut Overlaps<'_>,
    problems: &mut Problems,
) -> Result<(), TooEntangled> {
    let saying = placed.iter().enumerate().filter(|(_, placed)| said(placed).is_some());
    for (directory, members) in grouped(saying.map(|(at, placed)| (at, placed.path.parent()))) {
        let mut kinds: HashMap<&str, usize> = HashMap::new();
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for at in members {
            let Some((text, _)) = said(&placed[at]) else { continue };
            let next = kinds.len();
            claims.push(claim(placed, at, *kinds.entry(text).or_insert(next)));
        }
        for (later, earlier) in overlaps.find(&claims)? {
            let (later, earlier) = (&placed[later], &placed[earlier]);
            if let (Some((text, mark)), Some((other, _))) = (said(later), said(earlier)) {
                let directory = quoted(directory);
                let message = format!("{directory} cannot {be} {text} here and {other} for {}", earlier.at());
                problems.push(*mark, message, Some(format!("give both the same `{key}`")));
            }
        }
    }
    Ok(())
}
