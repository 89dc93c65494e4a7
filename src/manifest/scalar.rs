//! The type of a scalar by YAML 1.2's core schema (YAML 1.2.2, section 10.3.2).

/// The type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Number,
    Text,
}

/// The type of a scalar with this text; `plain` if it is not quoted.
pub(super) fn meaning(text: &str, plain: bool) -> Meaning {
    if !plain {
        return Meaning::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "true" | "True" | "TRUE" => Meaning::Bool(true),
        "false" | "False" | "FALSE" => Meaning::Bool(false),
        _ if is_number(text) => Meaning::Number,
        _ => Meaning::Text,
    }
}

/// Decimal, `0o` and `0x` integers, floats, infinities and NaN.
fn is_number(text: &str) -> bool {
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_yaml_1_2_says() {
        for (text, want) in [
            ("", Meaning::Null),
            ("~", Meaning::Null),
            ("null", Meaning::Null),
            ("true", Meaning::Bool(true)),
            ("FALSE", Meaning::Bool(false)),
            ("yes", Meaning::Text),
            ("off", Meaning::Text),
            ("0400", Meaning::Number),
            ("-1", Meaning::Number),
            ("0o17", Meaning::Number),
            ("0x1F", Meaning::Number),
            ("0x", Meaning::Text),
            ("1.5e-3", Meaning::Number),
            (".5", Meaning::Number),
            (".", Meaning::Text),
            ("1e", Meaning::Text),
            (".inf", Meaning::Number),
            ("10.0.0.1", Meaning::Text),
            ("12:30", Meaning::Text),
        ] {
            assert_eq!(meaning(text, true), want, "{text}");
            assert_eq!(meaning(text, false), Meaning::Text, "{text}");
        }
    }
}
