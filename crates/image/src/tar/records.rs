//! The records of a pax extended header: "LENGTH KEY=VALUE\n". POSIX.1-2017, "pax", "pax Extended Header".

/// A key, and its value.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// The records in `bytes`. `None` if they are damaged.
pub(super) fn parse(bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut rest = bytes;
    // Some writers pad with NULs.
    while rest.first().is_some_and(|byte| *byte != 0) {
        let space = rest.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        rest = &rest[length..];
    }
    Some(records)
}

/// The bytes of a record.
pub(super) fn format(key: &[u8], value: &[u8]) -> Vec<u8> {
    // " KEY=VALUE\n", and the digits of the length, which count themselves.
    let body = key.len().saturating_add(value.len()).saturating_add(3);
    let mut length = body;
    while length != body.saturating_add(length.to_string().len()) {
        length = body.saturating_add(length.to_string().len());
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// The value of the last record of this key: a later one overrides it.
pub(super) fn get<'a>(records: &'a [Record], key: &str) -> Option<&'a [u8]> {
    records.iter().rev().find(|(known, _)| known == key.as_bytes()).map(|(_, value)| value.as_slice())
}

/// A value that is a decimal number.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// The whole seconds of a time, which may have a sign and a fraction.
pub(super) fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let clean = fraction.bytes().all(|byte| byte.is_ascii_digit());
    whole.parse().ok().filter(|_| clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in() {
        let long = vec![b'x'; 5000];
        // 9 and 10, 99 and 100 bytes: the length counts its own digits.
        for value in [&b""[..], b"a", b"abc", b"abcd\n=", &long[..90], &long[..91], &long[..92], &long] {
            let bytes = [format(b"path", value), format(b"k", b"v")].concat();
            let records = parse(&bytes).unwrap();
            assert_eq!(records, [(b"path".to_vec(), value.to_vec()), (b"k".to_vec(), b"v".to_vec())]);
        }
    }

    #[test]
    fn damage_is_none() {
        for bytes in
            [&b"4 a=\n"[..], b"8 path=a\n", b"a=b\n", b"7 a=b", b"6 a b\n", b"-6 a=b\n", b"99999999999999999999 a=b\n"]
        {
            assert!(parse(bytes).is_none(), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(parse(b"\0\0").unwrap(), []);
    }

    #[test]
    fn times_have_signs_and_fractions() {
        for (value, want) in [(&b"12.5"[..], Some(12)), (b"-3", Some(-3)), (b"7", Some(7)), (b"7.x", None), (b"", None)]
        {
            assert_eq!(seconds(value), want);
        }
    }
}
