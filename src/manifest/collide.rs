//! Collisions of secrets with a common host: the same path, a path below another secret's file, different modes or
//! owners for one directory.

use std::collections::HashMap;

use deaddrop_core::path::TargetPath;
use deaddrop_core::shown::quoted;

use super::overlap::{Claim, Overlaps, Population, Selector, TooManySteps, grouped, nested};
use super::problem::{Mark, Problems};

/// A secret's path and hosts, as needed for the search for collisions.
pub(super) struct PlacedSecret {
    pub name: String,
    pub path: TargetPath,
    pub path_mark: Mark,
    /// `None`: every host.
    pub selectors: Option<Vec<Selector>>,
    pub directory_mode: DirectoryKey,
    pub directory_owner: DirectoryKey,
    /// What is written for the secret beside its own file: the public part of a key, the old token.
    pub part: Option<&'static str>,
}

impl PlacedSecret {
    /// For messages: "`k3s-token` (line 12)".
    fn at(&self) -> String {
        let part = self.part.map_or(String::new(), |part| format!("{part} of "));
        format!("{part}{} ({})", quoted(&self.name), self.path_mark)
    }
}

/// Reports every collision among `placed`.
///
/// # Errors
/// The comparison exceeds the limit of [`Overlaps`].
pub(super) fn report(
    placed: &[PlacedSecret],
    population: &Population,
    problems: &mut Problems,
) -> Result<(), TooManySteps> {
    let mut overlaps = Overlaps::new(population);
    let groups = grouped(placed.iter().enumerate().map(|(at, placed)| (at, placed.path.as_str())));
    same_paths(placed, &groups, &mut overlaps, problems)?;
    nested_paths(placed, &groups, &mut overlaps, problems)?;
    directories(placed, ("be", "directory_mode"), |placed| &placed.directory_mode, &mut overlaps, problems)?;
    directories(placed, ("belong to", "directory_owner"), |placed| &placed.directory_owner, &mut overlaps, problems)
}

/// Paths, each with the indexes of the secrets that have it.
type Groups<'p> = [(&'p str, Vec<usize>)];

fn claim(placed: &[PlacedSecret], secret: usize, kind: usize) -> Claim<'_> {
    Claim { secret, kind, selectors: placed[secret].selectors.as_deref() }
}

fn same_paths(
    placed: &[PlacedSecret],
    groups: &Groups<'_>,
    overlaps: &mut Overlaps<'_>,
    problems: &mut Problems,
) -> Result<(), TooManySteps> {
    for (path, members) in groups.iter().filter(|(_, members)| members.len() > 1) {
        let claims: Vec<Claim<'_>> = members.iter().map(|at| claim(placed, *at, *at)).collect();
        for (later, earlier) in overlaps.find(&claims)? {
            let (later, earlier) = (&placed[later], &placed[earlier]);
            let message = match later.part {
                Some(part) => format!("{} is where {part} goes, and {} has it as well", quoted(path), earlier.at()),
                None => format!("{} is declared twice: {} has it as well", quoted(path), earlier.at()),
            };
            let hint = "two secrets can have one path only if no host gets both: see `hosts`";
            problems.push(later.path_mark, message, Some(hint.to_owned()));
        }
    }
    Ok(())
}

fn nested_paths(
    placed: &[PlacedSecret],
    groups: &Groups<'_>,
    overlaps: &mut Overlaps<'_>,
    problems: &mut Problems,
) -> Result<(), TooManySteps> {
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

/// The `directory_mode` or `directory_owner` of one secret, as text, and its place.
type DirectoryKey = Option<(String, Mark)>;

/// Reports secrets with different values of `key` for one directory. `value_of` returns a secret's value; `be` is the
/// verb of the message.
fn directories(
    placed: &[PlacedSecret],
    (be, key): (&str, &str),
    value_of: fn(&PlacedSecret) -> &DirectoryKey,
    overlaps: &mut Overlaps<'_>,
    problems: &mut Problems,
) -> Result<(), TooManySteps> {
    let declaring = placed.iter().enumerate().filter(|(_, placed)| value_of(placed).is_some());
    for (directory, members) in grouped(declaring.map(|(at, placed)| (at, placed.path.parent()))) {
        let mut kinds: HashMap<&str, usize> = HashMap::new();
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for at in members {
            let Some((text, _)) = value_of(&placed[at]) else { continue };
            let next = kinds.len();
            claims.push(claim(placed, at, *kinds.entry(text).or_insert(next)));
        }
        for (later, earlier) in overlaps.find(&claims)? {
            let (later, earlier) = (&placed[later], &placed[earlier]);
            if let (Some((text, mark)), Some((other, _))) = (value_of(later), value_of(earlier)) {
                let directory = quoted(directory);
                let message = format!("{directory} cannot {be} {text} here and {other} for {}", earlier.at());
                problems.push(*mark, message, Some(format!("give both the same `{key}`")));
            }
        }
    }
    Ok(())
}
