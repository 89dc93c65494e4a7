//! A header block: 512 bytes of fields. POSIX.1-2017, "pax", "ustar Interchange Format"; the GNU tar manual, "Basic Tar
//! Format".

use std::ops::Range;

/// Size of a block, in bytes: headers are one, and contents are padded to whole ones.
pub(super) const BLOCK: usize = 512;
/// The same as an offset type.
pub(super) const STEP: u64 = 512;

/// A field of the header.
type Field = Range<usize>;

pub(super) const NAME: Field = 0..100;
pub(super) const MODE: Field = 100..108;
pub(super) const UID: Field = 108..116;
pub(super) const GID: Field = 116..124;
pub(super) const SIZE: Field = 124..136;
pub(super) const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const TYPE: usize = 156;
pub(super) const LINK: Field = 157..257;
const MAGIC: Field = 257..265;
pub(super) const USER: Field = 265..297;
pub(super) const GROUP: Field = 297..329;
/// The start of a long name; not in GNU's form, which has other fields there.
pub(super) const PREFIX: Field = 345..500;
/// In an old GNU sparse entry: four parts of the map, whether more follow, and the size of the file.
pub(super) const GNU_SPARSE: Field = 386..482;
pub(super) const GNU_MORE: usize = 482;
pub(super) const GNU_REAL_SIZE: Field = 483..495;

/// The form of a header, by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// No magic: before POSIX.1-1988.
    Old,
    /// POSIX: ustar, and pax.
    Posix,
    /// GNU's.
    Gnu,
}

/// A header block.
#[derive(Clone)]
pub(super) struct Block(pub(super) [u8; BLOCK]);

impl Block {
    /// A block without content, of this form and type.
    pub(super) fn new(form: Form, kind: u8) -> Self {
        let mut block = Self([0; BLOCK]);
        let magic: &[u8] = match form {
            Form::Gnu => b"ustar  \0",
            Form::Posix | Form::Old => b"ustar\x0000",
        };
        block.put(MAGIC, magic);
        block.0[TYPE] = kind;
        block
    }

    /// True if every byte is zero: the end of the archive.
    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; BLOCK]
    }

    /// True if the checksum is right. Some old programs sum signed bytes.
    pub(super) fn is_sealed(&self) -> bool {
        let Some(want) = self.number(CHECKSUM) else { return false };
        let sum = |byte: fn(u8) -> i64| -> i64 {
            let bytes = self.0.iter().enumerate();
            bytes.map(|(at, value)| byte(if CHECKSUM.contains(&at) { b' ' } else { *value })).sum()
        };
        want == sum(i64::from) || want == sum(|value| i64::from(i8::from_ne_bytes([value])))
    }

    /// Writes the checksum.
    pub(super) fn seal(&mut self) {
        self.0[CHECKSUM].fill(b' ');
        let sum: u32 = self.0.iter().copied().map(u32::from).sum();
        self.put(CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
    }

    /// The form, by the magic.
    pub(super) fn form(&self) -> Form {
        match &self.0[MAGIC] {
            b"ustar  \0" => Form::Gnu,
            magic if magic.starts_with(b"ustar\0") => Form::Posix,
            _ => Form::Old,
        }
    }

    /// The type flag.
    pub(super) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// A text field, up to its NUL.
    pub(super) fn text(&self, field: Field) -> &[u8] {
        let bytes = &self.0[field];
        bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
    }

    /// Makes `bytes` the content of a field, and NULs the rest of it. What is longer is cut off.
    pub(super) fn put(&mut self, field: Field, bytes: &[u8]) {
        let field = &mut self.0[field];
        field.fill(0);
        let count = bytes.len().min(field.len());
        field[..count].copy_from_slice(&bytes[..count]);
    }

    /// The name, with its prefix if the form has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let (prefix, name) = (self.text(PREFIX), self.text(NAME));
        if self.form() == Form::Posix && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    /// Makes `name` the name; false if it does not fit.
    pub(super) fn set_name(&mut self, name: &[u8]) -> bool {
        let has_prefix = self.form() == Form::Posix;
        if has_prefix {
            self.put(PREFIX, b"");
        }
        if name.len() <= NAME.len() {
            self.put(NAME, name);
            return true;
        }
        let fits = |at: &usize| *at <= PREFIX.len() && (1..=NAME.len()).contains(&(name.len() - at - 1));
        let last = (1..name.len()).rev().filter(|at| name[*at] == b'/').find(fits);
        match last.filter(|_| has_prefix) {
            Some(at) => {
                self.put(PREFIX, &name[..at]);
                self.put(NAME, &name[at + 1..]);
                true
            }
            None => false,
        }
    }

    /// A number: octal digits, or GNU's base-256 (a first byte of 0x80 or 0xFF, then a big-endian number). An empty
    /// field is 0. `None` if it is no number, or has more than 63 bits.
    pub(super) fn number(&self, field: Field) -> Option<i64> {
        number(&self.0[field])
    }

    /// Makes `value` the content of a numeric field: in octal, or in base-256 where the form has that. False if it does
    /// not fit.
    pub(super) fn set_number(&mut self, field: Field, value: u64) -> bool {
        let is_gnu = self.form() == Form::Gnu;
        put_number(&mut self.0[field], value, is_gnu)
    }
}

/// Makes `value` the content of a numeric field: in octal, else in base-256 if that is allowed. False if it does not
/// fit.
pub(super) fn put_number(field: &mut [u8], value: u64, base_256: bool) -> bool {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    if digits.len() < field.len() {
        field.fill(0);
        field[..digits.len()].copy_from_slice(digits.as_bytes());
        return true;
    }
    if base_256 {
        field.fill(0);
        field[0] = 0x80;
        let bytes = value.to_be_bytes();
        // The field of an owner has eight bytes, of which the first is taken: it holds no more than 56 bits.
        let count = bytes.len().min(field.len() - 1);
        let (start, from) = (field.len() - count, bytes.len() - count);
        field[start..].copy_from_slice(&bytes[from..]);
    }
    base_256
}

/// See [`Block::number`].
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field {
        [0x80, rest @ ..] => {
            let value = rest.iter().try_fold(0_u64, |value, byte| {
                value.checked_mul(256).and_then(|value| value.checked_add(u64::from(*byte)))
            });
            i64::try_from(value?).ok()
        }
        [0xff, rest @ ..] => {
            // The bytes above the last eight only repeat the sign.
            let (above, low) = rest.split_at(rest.len().saturating_sub(8));
            let mut bytes = [0xff; 8];
            bytes[8_usize.saturating_sub(low.len())..].copy_from_slice(low);
            let value = i64::from_be_bytes(bytes);
            (above.iter().all(|byte| *byte == 0xff) && value < 0).then_some(value)
        }
        _ => {
            let is_space = |byte: &u8| matches!(byte, b' ' | 0);
            let start = field.iter().position(|byte| !is_space(byte)).unwrap_or(field.len());
            let digits = field[start..].split(is_space).next().unwrap_or_default();
            let rest = &field[start + digits.len()..];
            let clean = digits.iter().all(|byte| (b'0'..=b'7').contains(byte)) && rest.iter().all(is_space);
            clean.then(|| digits.iter().fold(0_i64, |value, byte| value << 3 | i64::from(byte - b'0')))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"0000648\0", None),
            (b"12 34\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\xee\x6b\x28\0", Some(4_000_000_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\0\0\0\0\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), want, "{field:?}");
        }
    }

    #[test]
    fn what_is_set_is_read() {
        for form in [Form::Posix, Form::Gnu] {
            let mut block = Block::new(form, b'0');
            assert!(block.set_number(UID, 0o7_777_777));
            assert_eq!(block.number(UID), Some(0o7_777_777));
            assert_eq!(block.set_number(UID, 4_000_000_000), form == Form::Gnu);
            assert_eq!(block.number(UID) == Some(4_000_000_000), form == Form::Gnu);
            assert!(block.set_name(&[b'a'; 100]));
            assert_eq!(block.name(), [b'a'; 100]);
            let long = [&[b'd'; 150][..], b"/", &[b'f'; 90]].concat();
            assert_eq!(block.set_name(&long), form == Form::Posix);
            assert_eq!(block.name() == long, form == Form::Posix);
            assert!(!block.set_name(&[b'f'; 101]));
            block.seal();
            assert!(block.is_sealed());
            block.0[0] ^= 1;
            assert!(!block.is_sealed());
        }
    }
}
