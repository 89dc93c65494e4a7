//! Near names of items in a vault.

use super::{MAX_CHARS, MAX_NEAR};

/// The candidates most similar to `wanted`, best first, at most three. Case is ignored. A name that contains `wanted`,
/// or has the same last component after a `/`, is near.
pub fn near<'a>(wanted: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted: Vec<char> = wanted.to_lowercase().chars().take(MAX_CHARS).collect();
    let mut best: Vec<(usize, &str)> = Vec::new();
    for candidate in candidates {
        let letters: Vec<char> = candidate.to_lowercase().chars().take(MAX_CHARS).collect();
        let Some(distance) = distance(&wanted, &letters) else { continue };
        if best.iter().any(|(_, known)| *known == candidate) {
            continue;
        }
        let at = best.partition_point(|(other, _)| *other <= distance);
        best.insert(at, (distance, candidate));
        best.truncate(MAX_NEAR);
    }
    best.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// The distance of two names; `None` if they are not similar. Names that are similar only after the last `/` are one
/// step further apart.
fn distance(wanted: &[char], candidate: &[char]) -> Option<usize> {
    fn last(name: &[char]) -> &[char] {
        name.rsplit(|c| *c == '/').next().unwrap_or(name)
    }
    if wanted.is_empty() || candidate.is_empty() {
        return None;
    }
    let allowed = (wanted.len() / 3).max(1);
    let close = |a: &[char], b: &[char]| {
        // The lengths alone may rule out a match.
        let edits = if a.len().abs_diff(b.len()) <= allowed { edits(a, b) } else { usize::MAX };
        (edits <= allowed).then_some(edits)
    };
    let contains = wanted.len() >= 3 && candidate.windows(wanted.len()).any(|part| part == wanted);
    let same_last = contains || last(wanted) == last(candidate);
    close(wanted, candidate)
        .or_else(|| close(wanted, last(candidate)).map(|edits| edits.saturating_add(1)))
        .or_else(|| same_last.then_some(allowed.saturating_add(1)))
}

/// The number of characters inserted, deleted, changed or swapped with a neighbour.
fn edits(a: &[char], b: &[char]) -> usize {
    let text = |letters: &[char]| letters.iter().collect::<String>();
    strsim::osa_distance(&text(a), &text(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_best_first_and_others_not_at_all() {
        let names = ["Router", "home/Router", "work/Router", "Wifi", "WiFi guest", "K3s token"];
        for (wanted, want) in [
            ("Ruoter", vec!["Router", "home/Router", "work/Router"]),
            ("router", vec!["Router", "home/Router", "work/Router"]),
            ("hom/Router", vec!["home/Router", "work/Router", "Router"]),
            ("wfi", vec!["Wifi"]),
            ("wifi", vec!["Wifi", "WiFi guest"]),
            ("k3s", vec!["K3s token"]),
            ("something else", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(near(wanted, names.into_iter()), want, "{wanted}");
        }
    }

    #[test]
    fn edits_count_letters() {
        for (a, b, want) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ü", "u", 1)] {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            assert_eq!(edits(&a, &b), want);
        }
    }
}
