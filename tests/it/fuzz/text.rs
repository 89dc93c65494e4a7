//! Changes to texts and other streams of bytes, where lengths may change.

use super::input::Edit;
use super::rng::Rng;

/// One to eight random edits of `bytes`. `words` is what the format is made of.
pub fn edits(rng: &mut Rng, bytes: &[u8], words: &[&str]) -> Vec<Edit> {
    (0..rng.between(1, 8)).map(|_| edit(rng, bytes, words)).collect()
}

fn edit(rng: &mut Rng, bytes: &[u8], words: &[&str]) -> Edit {
    let at = rng.below(bytes.len() + 1);
    let rest = bytes.len() - at;
    let some = rng.between(1, 40).min(rest);
    match rng.below(9) {
        0 => Edit { at, remove: some.min(1), insert: vec![rng.next() as u8] },
        1 => Edit { at, remove: some, insert: Vec::new() },
        // Once more what stands elsewhere.
        2 => {
            let from = rng.below(bytes.len() + 1);
            let length = rng.between(1, 200).min(bytes.len() - from);
            Edit { at, remove: 0, insert: bytes[from..from + length].to_vec() }
        }
        3 | 4 => Edit { at, remove: 0, insert: rng.pick(words).as_bytes().to_vec() },
        5 => Edit { at, remove: some.min(12), insert: rng.pick(words).as_bytes().to_vec() },
        6 => Edit { at, remove: 0, insert: rng.pick(words).repeat(rng.between(2, 300)).into_bytes() },
        // A line goes, or comes twice.
        7 => {
            let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            let end =
                bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |newline| at + newline + 1);
            let insert = if rng.one_in(2) { bytes[start..end].repeat(2) } else { Vec::new() };
            Edit { at: start, remove: end - start, insert }
        }
        // Cut off.
        _ if rng.one_in(4) => Edit { at, remove: rest, insert: Vec::new() },
        _ => Edit { at, remove: some.min(4), insert: (0..rng.between(1, 6)).map(|_| rng.next() as u8).collect() },
    }
}
