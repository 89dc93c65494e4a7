//! Parses the text of a password hash (crypt(3)): its scheme and parameters, without deriving anything, so a hostile
//! text costs nothing.
//!
//! Grammar: crypt(5) of libxcrypt, "Available hashing methods".

/// A well-formed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CryptText<'t> {
    /// The whole text, without a newline.
    pub(super) text: &'t str,
    /// The scheme's name in crypt(5).
    pub(super) scheme: &'static str,
    /// The text between the scheme's prefix and the salt; empty for the scheme's defaults.
    pub(super) parameters: &'t str,
}

/// Parses one line of crypt(3) text, with or without a final newline.
pub(super) fn parse(bytes: &[u8]) -> Option<CryptText<'_>> {
    /// Maximum length of a text, in bytes: `CRYPT_OUTPUT_SIZE` of crypt(3), less the NUL.
    const LONGEST: usize = 383;
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    // crypt(5): "entirely printable ASCII", without characters that break a colon-separated file.
    let printable = |byte: &u8| byte.is_ascii_graphic() && !b":;*!\\".contains(byte);
    if line.len() > LONGEST || !line.iter().all(printable) {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?;
    let (id, rest) = text.strip_prefix('$')?.split_once('$')?;
    // Only SunMD5 has its rounds before the second `$`.
    let id = match id.strip_prefix("md5,rounds=") {
        Some(rounds) if number(rounds) => "md5",
        Some(_) => return None,
        None => id,
    };
    let fields: Vec<&str> = rest.split('$').collect();
    let (scheme, parameters) = match (id, fields.as_slice()) {
        ("y", [parameters, salt, hash]) if yescrypt(parameters, salt, hash) => ("yescrypt", *parameters),
        ("gy", [parameters, salt, hash]) if yescrypt(parameters, salt, hash) => ("gost-yescrypt", *parameters),
        ("7", [setting, hash]) if base64(setting, 11..=97) && base64(hash, 43..=43) => ("scrypt", *setting),
        ("2a" | "2b" | "2x" | "2y", [cost, hash]) if digits(cost, 2..=2) && base64(hash, 53..=53) => ("bcrypt", *cost),
        ("6", fields) => ("sha512crypt", sha_crypt(fields, 86)?),
        ("5", fields) => ("sha256crypt", sha_crypt(fields, 43)?),
        ("sha1", [rounds, salt, hash]) if number(rounds) && base64(salt, 1..=64) && base64(hash, 28..=28) => {
            ("sha1crypt", *rounds)
        }
        ("1", [salt, hash]) if salt.len() <= 8 && base64(hash, 22..=22) => ("md5crypt", ""),
        ("md5", [salt, hash] | [salt, "", hash]) if base64(salt, 8..=8) && base64(hash, 22..=22) => ("sunmd5", ""),
        _ => return None,
    };
    Some(CryptText { text, scheme, parameters })
}

fn yescrypt(parameters: &str, salt: &str, hash: &str) -> bool {
    base64(parameters, 1..=48) && base64(salt, 0..=86) && base64(hash, 43..=43)
}

/// Parses `[rounds=N$]salt$hash`; returns the rounds, empty if absent.
fn sha_crypt<'t>(fields: &[&'t str], hash_length: usize) -> Option<&'t str> {
    let (parameters, salt, hash) = match fields {
        [salt, hash] => ("", salt, hash),
        [rounds, salt, hash] => (rounds.strip_prefix("rounds=").filter(|rounds| number(rounds))?, salt, hash),
        _ => return None,
    };
    (salt.len() <= 16 && base64(hash, hash_length..=hash_length)).then_some(parameters)
}

/// True for a text of crypt(3)'s base64 alphabet with a length in this range.
fn base64(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(&byte))
}

fn digits(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// True for a decimal number without leading zeros, of at most ten digits.
fn number(text: &str) -> bool {
    digits(text, 1..=10) && !text.starts_with('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of libxcrypt 4.4.33's `crypt("pw", …)`; the `gy` text is written after crypt(5).
    const TEXTS: &[(&str, &str, &str)] = &[
        ("yescrypt", "j9T", "$y$j9T$$35/RtcSpQnsp9pKBilplwTCR/Z6e.uNV.3aZKZzHYd6"),
        ("gost-yescrypt", "j9T", "$gy$j9T$5Qk/5Qk/5Qk/5Qk/5Qk/5.$35/RtcSpQnsp9pKBilplwTCR/Z6e.uNV.3aZKZzHYd6"),
        ("scrypt", "CU..../....abcdefg", "$7$CU..../....abcdefg$prVjj94zcoqCFb1COlL1.m1zw5Apx5JB8Yvfos.c5g7"),
        ("bcrypt", "05", "$2b$05$abcdefghijklmnopqrstuuHIrMEWpUCQe2YqFR3sXwQ75u4od..9q"),
        (
            "sha512crypt",
            "",
            "$6$a@b=c,d$zH2FGfw9WGxzUoCjbyLl4bT3A6DAEv..PiT0/FFZ6xAYeOxiUYEOTO8HxQC/kli57hHWnfOEDxlGGErgZeVgU0",
        ),
        ("sha256crypt", "1000", "$5$rounds=1000$abc$zdUXQ3de2d3x/8MYX1t30oZjPfJThZR5heHeVDYi8j6"),
        ("sha1crypt", "24680", "$sha1$24680$abcdefgh$K1yjH35mDXLwrESQTYHbzphYzqRC"),
        ("md5crypt", "", "$1$abc$Kb85XxsXB.VXinPhbS4431"),
        ("sunmd5", "", "$md5$abcdefgh$$iExobWJIazoiKIDQnza6r/"),
        ("sunmd5", "", "$md5,rounds=904$abcdefgh$s42MxV0hiB7BpFW.y5OM5/"),
    ];

    #[test]
    fn each_scheme_is_known_by_its_text_with_or_without_a_newline() {
        for (scheme, parameters, text) in TEXTS {
            let want = CryptText { text, scheme, parameters };
            assert_eq!(parse(text.as_bytes()), Some(want), "{text}");
            assert_eq!(parse(format!("{text}\n").as_bytes()), Some(want), "{text}, newline");
        }
    }

    #[test]
    fn what_is_not_exactly_one_line_of_it_is_not_a_hash() {
        for (_, _, text) in TEXTS {
            let cut = &text[..text.len() - 1];
            for (name, broken) in [
                ("cut", cut.to_owned()),
                ("longer", format!("{text}x")),
                ("two newlines", format!("{text}\n\n")),
                ("carriage return", format!("{text}\r\n")),
                ("space before", format!(" {text}")),
                ("space after", format!("{text} ")),
                ("colon", format!("{text}:")),
                ("colon for the last letter", format!("{cut}:")),
                ("two lines", format!("{text}\n{text}")),
                ("NUL", format!("{text}\0")),
                ("locked", format!("!{text}")),
                ("a shadow line", format!("admin:{text}:1::::::")),
                ("more fields", format!("{text}$x")),
            ] {
                assert_eq!(parse(broken.as_bytes()), None, "{name}: {broken:?}");
            }
        }
        let long_salt = format!("$6${}${}", "s".repeat(17), "h".repeat(86));
        let zero_rounds = format!("$6$rounds=05000$s${}", "h".repeat(86));
        let colon_salt = format!("$6$a:b${}", "h".repeat(86));
        for text in
            ["", "\n", "$", "$$", "$6$", "$y$", "$y$j9T$salt", "hunter2", "$3$$8cc19b6a8cfeac299c2871c86b38de28"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        for text in [&long_salt, &zero_rounds, &colon_salt] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(b"\xff"), None);
        assert_eq!(parse(&vec![b'$'; 1 << 20]), None);
    }
}
