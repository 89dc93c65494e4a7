//! "Did you mean": near names, and short lists of the names there are. Every message about an unknown name uses these.

/// Names longer than this are never near: edit distance costs the product of both lengths, and names may be hostile.
const MAX_CHARS: usize = 64;
/// How many near names are worth showing.
const MAX_NEAR: usize = 3;
/// How many names a list shows before it says how many more there are: all keys of a secret, and some to spare.
const MAX_LISTED: usize = 32;

/// The names most like `wanted`, nearest first, at most three.
///
/// Near means: equal but for case, or at most a third of `wanted`'s characters (one at least, three at most) inserted,
/// dropped, changed or swapped with a neighbour. Names of one distance come in
/// alphabetical order, so that a hash map's order never shows.
pub fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let length = wanted.chars().count();
    if length == 0 || length > MAX_CHARS {
        return Vec::new();
    }
    let reach = (length / 3).clamp(1, 3);
    let lower = wanted.to_lowercase();
    let mut found: Vec<(usize, &str)> = Vec::new();
    for name in names {
        // Four bytes a character at most: cheap to refuse before counting characters.
        if name.len() > MAX_CHARS.saturating_mul(4) || name.chars().count().abs_diff(length) > reach {
            continue;
        }
        let distance =
            if name.to_lowercase() == lower { 0 } else { strsim::osa_distance(&lower, &name.to_lowercase()) };
        if distance <= reach {
            found.push((distance, name));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name).take(MAX_NEAR).collect()
}

/// "did you mean `a`?", "did you mean `a` or `b`?"; `None` when there are no near names.
#[must_use]
pub fn did_you_mean(near: &[&str]) -> Option<String> {
    let (last, others) = near.split_last()?;
    let others: String = others.iter().map(|name| format!("`{name}` or ")).collect();
    Some(format!("did you mean {others}`{last}`?"))
}

/// The names joined by commas, at most 32, then "and N more".
pub fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let mut more: usize = 0;
    for (at, name) in names.enumerate() {
        if at >= MAX_LISTED {
            more = more.saturating_add(1);
            continue;
        }
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(name);
    }
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_nearest_first_and_far_ones_not_at_all() {
        let names = ["ci", "env", "file", "vault", "vaults", "Vualt"];
        for (wanted, want) in [
            ("vualt", vec!["Vualt", "vault"]),
            ("VAULT", vec!["vault", "Vualt", "vaults"]),
            ("fiel", vec!["file"]),
            ("c", vec!["ci"]),
            ("kubernetes", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(near(wanted, names.iter().copied()), want, "{wanted}");
        }
    }

    #[test]
    fn very_long_names_cost_nothing() {
        let long = "x".repeat(1 << 20);
        assert!(near(&long, [long.as_str()].into_iter()).is_empty());
        assert!(near("x", [long.as_str()].into_iter()).is_empty());
    }

    #[test]
    fn sentences_read_well() {
        assert_eq!(did_you_mean(&[]), None);
        assert_eq!(did_you_mean(&["a"]).unwrap(), "did you mean `a`?");
        assert_eq!(did_you_mean(&["a", "b"]).unwrap(), "did you mean `a` or `b`?");
        assert_eq!(list(["a", "b"].into_iter()), "a, b");
        assert_eq!(list(["n"; MAX_LISTED + 6].into_iter()), format!("{} and 6 more", ["n"; MAX_LISTED].join(", ")));
    }
}
