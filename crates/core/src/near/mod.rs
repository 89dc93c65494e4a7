//! "Did you mean": near names, and short lists of existing names. Every message about an unknown name uses these.
//!
//! Two measures: [`near`] is strict, for names that the user wrote (sources, hosts, keys); [`items::near`] also accepts
//! a part of a name or its last path component, for items of a vault.

pub mod items;

/// Maximum number of characters that are compared: edit distance costs the product of both lengths, and names may be
/// hostile.
const MAX_CHARS: usize = 64;
/// Maximum number of near names in a message.
const MAX_NEAR: usize = 3;
/// Maximum number of names in a list before "and N more": enough for all keys of a secret.
const MAX_LISTED: usize = 32;

/// The names most similar to `wanted`, nearest first, at most three.
///
/// Near means: equal except for case, or at most a third of `wanted`'s characters (at least one, at most three)
/// inserted, deleted, changed or swapped with a neighbour. Names at the same distance are sorted alphabetically, so
/// that the order of a hash map never shows.
pub fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let length = wanted.chars().count();
    if length == 0 || length > MAX_CHARS {
        return Vec::new();
    }
    let reach = (length / 3).clamp(1, 3);
    let lower = wanted.to_lowercase();
    let mut found: Vec<(usize, &str)> = Vec::new();
    for name in names {
        // Four bytes per character at most: a length check before counting characters.
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

/// "did you mean `a`?", "did you mean `a` or `b`?"; `None` if there are no near names.
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
