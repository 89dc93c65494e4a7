//! Reads a block map, which says what of a disk has to be written: bmap-tools, `BmapCreate.py`, formats 1.2 to 2.0.

use std::ops::Range;

use deaddrop_core::bytes::length;
use sha2::{Digest, Sha256};

use super::hexadecimal;

/// Bytes of a map that is read, at most: one of a disk of 64 GiB that is all fragments has fewer.
pub(crate) const MOST: u64 = 64 << 20;
/// What stands in for the map's own digest while that is taken.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The blocks of a disk that are not left out.
pub(crate) struct BlockMap {
    /// Size of the disk, in bytes.
    pub(crate) size: u64,
    /// In order, in bytes, with the SHA-256 of each as hexadecimal digits, if there is one.
    ranges: Vec<(Range<u64>, Option<String>)>,
}

impl BlockMap {
    /// Decodes a map, and checks its own digest.
    ///
    /// # Errors
    /// Why it cannot be used, as the end of a sentence that starts with its name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let number = |name: &str| {
            let digits = element(text, name).ok_or_else(|| format!("has no {name}"))?;
            digits.parse::<u64>().map_err(|_| format!("has no number as {name}"))
        };
        let version = text.split_once("<bmap").and_then(|(_, rest)| attribute(rest, "version"));
        let major = version.and_then(|version| version.split('.').next());
        if !matches!(major, Some("1" | "2")) {
            return Err("is no block map of version 1 or 2".to_owned());
        }
        let (size, block) = (number("ImageSize")?, number("BlockSize")?);
        if !(512..=1 << 30).contains(&block) {
            return Err(format!("has blocks of {block} bytes"));
        }
        let kind = element(text, "ChecksumType").or_else(|| text.contains("sha1=").then_some("sha1"));
        if let Some(kind) = kind.filter(|kind| !kind.eq_ignore_ascii_case("sha256")) {
            return Err(format!("has checksums of the kind {kind:?}, and only those of sha256 are checked"));
        }
        let is_sha256 = kind.is_some();
        if let Some(digest) = element(text, "BmapFileChecksum").filter(|_| is_sha256) {
            let own = text.replacen(digest, ZEROS, 1);
            if digest.len() != ZEROS.len() || !hexadecimal(Sha256::new_with_prefix(own)).eq_ignore_ascii_case(digest) {
                return Err("is damaged: its own checksum is another one".to_owned());
            }
        }
        let (_, body) = text.split_once("<BlockMap>").ok_or("has no BlockMap")?;
        let mut ranges: Vec<(Range<u64>, Option<String>)> = Vec::new();
        for entry in body.split("<Range").skip(1) {
            let (range, digest) = entry_of(entry, block, size).ok_or("has a Range that cannot be read")?;
            if ranges.last().is_some_and(|(before, _)| before.end > range.start) || range.start >= range.end {
                return Err("has ranges that are not in order".to_owned());
            }
            ranges.push((range, digest.filter(|_| is_sha256)));
        }
        Ok(Self { size, ranges })
    }

    /// True if a byte of `part` is mapped.
    pub(crate) fn has(&self, part: Range<u64>) -> bool {
        let from = self.ranges.partition_point(|(range, _)| range.end <= part.start);
        self.ranges.get(from).is_some_and(|(range, _)| range.start < part.end)
    }

    /// Zeroes what of `bytes`, which are those of the disk at `offset`, is not mapped.
    pub(crate) fn clear(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset.saturating_add(length(bytes));
        let inside = |at: u64| usize::try_from(at.clamp(offset, end) - offset).unwrap_or(usize::MAX);
        let from = self.ranges.partition_point(|(range, _)| range.end <= offset);
        let mut at = offset;
        for (range, _) in self.ranges.iter().skip(from).take_while(|(range, _)| range.start < end) {
            bytes.get_mut(inside(at)..inside(range.start)).unwrap_or_default().fill(0);
            at = range.end;
        }
        bytes.get_mut(inside(at)..).unwrap_or_default().fill(0);
    }

    /// To check a disk that is read in order.
    pub(crate) fn checked(&self) -> Checked<'_> {
        Checked { map: self, next: 0, hasher: Sha256::new() }
    }
}

/// A disk that is read in order, as far as it was compared with its map.
pub(crate) struct Checked<'a> {
    map: &'a BlockMap,
    /// The first range that is not compared yet.
    next: usize,
    /// What was read of it.
    hasher: Sha256,
}

impl Checked<'_> {
    /// See [`BlockMap::has`].
    pub(crate) fn has(&self, part: Range<u64>) -> bool {
        self.map.has(part)
    }

    /// Takes the next `size` bytes, from `offset` on: `bytes`, or zeros. What is not mapped becomes zero.
    ///
    /// # Errors
    /// Why the disk does not fit, as the end of a sentence that starts with its name.
    pub(crate) fn take(&mut self, offset: u64, size: u64, bytes: Option<&mut [u8]>) -> Result<(), String> {
        static ZEROS: [u8; 4096] = [0; 4096];
        let end = offset.saturating_add(size);
        let inside = |at: u64| usize::try_from(at.clamp(offset, end) - offset).unwrap_or(usize::MAX);
        while let Some((range, digest)) = self.map.ranges.get(self.next).filter(|(range, _)| range.start < end) {
            let part = inside(range.start)..inside(range.end);
            if digest.is_some() {
                match &bytes {
                    Some(bytes) => self.hasher.update(bytes.get(part).unwrap_or_default()),
                    None => {
                        let mut left = part.len();
                        while left > 0 {
                            let count = left.min(ZEROS.len());
                            self.hasher.update(ZEROS.get(..count).unwrap_or_default());
                            left -= count;
                        }
                    }
                }
            }
            if range.end > end {
                break;
            }
            let found = hexadecimal(std::mem::take(&mut self.hasher));
            if digest.as_ref().is_some_and(|digest| !digest.eq_ignore_ascii_case(&found)) {
                return Err(format!(
                    "bytes {} to {} are not those that its block map has a checksum of",
                    range.start, range.end
                ));
            }
            self.next = self.next.saturating_add(1);
        }
        if let Some(bytes) = bytes {
            self.map.clear(offset, bytes);
        }
        Ok(())
    }

    /// All of the disk was taken: `size` bytes.
    ///
    /// # Errors
    /// As [`Checked::take`].
    pub(crate) fn finish(self, size: u64) -> Result<(), String> {
        if size == self.map.size && self.next == self.map.ranges.len() {
            return Ok(());
        }
        Err(format!("it has {size} bytes, and its block map is of {}", self.map.size))
    }
}

/// The text of the first element of this name.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inside.trim())
}

/// The value of an attribute, in the first tag of `text`.
fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (tag, _) = text.split_once('>')?;
    let (_, rest) = tag.split_once(&format!("{name}="))?;
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    rest.get(1..)?.split(quote).next()
}

/// The bytes and the digest of what follows `<Range`. The last block may end behind the disk.
fn entry_of(entry: &str, block: u64, size: u64) -> Option<(Range<u64>, Option<String>)> {
    let digest = attribute(entry, "chksum").map(str::to_owned);
    let (_, rest) = entry.split_once('>')?;
    let (blocks, _) = rest.split_once('<')?;
    let blocks = blocks.trim();
    let (first, last) = blocks.split_once('-').unwrap_or((blocks, blocks));
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let end = last.checked_add(1)?.checked_mul(block)?;
    (end < size.checked_add(block)?).then_some((first.checked_mul(block)?..end.min(size), digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &str, checksum: &str) -> String {
        let text = |own: &str| {
            format!(
                "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n<ImageSize> 10000 </ImageSize>\n<BlockSize> 4096 \
                 </BlockSize>\n<ChecksumType> {checksum} </ChecksumType>\n<BmapFileChecksum> {own} \
                 </BmapFileChecksum>\n<BlockMap>\n{ranges}</BlockMap>\n</bmap>\n"
            )
        };
        text(&hexadecimal(Sha256::new_with_prefix(text(ZEROS))))
    }

    #[test]
    fn a_map_says_what_is_mapped_and_the_rest_is_zero() {
        let text = map("<Range> 0 </Range><Range> 2 </Range>", "sha256");
        let map = BlockMap::parse(&text).unwrap();
        for (part, want) in [(0..1, true), (4095..4097, true), (4096..8192, false), (8191..8193, true)] {
            assert_eq!(map.has(part.clone()), want, "{part:?}");
        }
        let mut bytes = vec![7; 10_000];
        map.clear(0, &mut bytes);
        assert!(bytes.iter().enumerate().all(|(at, byte)| (*byte == 0) == (4096..8192).contains(&at)));
        let mut bytes = vec![7; 100];
        map.clear(8150, &mut bytes);
        assert!(bytes.iter().enumerate().all(|(at, byte)| (*byte == 0) == (at < 42)));
    }

    #[test]
    fn the_checksums_of_a_map_and_of_its_ranges_are_compared() {
        let disk: Vec<u8> = (0..10_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let digest = |part: &[u8]| hexadecimal(Sha256::new_with_prefix(part));
        let ranges = |last: &str| {
            format!("<Range chksum=\"{}\"> 0 </Range>\n<Range chksum=\"{last}\"> 2 </Range>", digest(&disk[..4096]))
        };
        let check = |text: &str, step: usize| {
            let map = BlockMap::parse(text)?;
            let mut checked = map.checked();
            let mut disk = disk.clone();
            for (index, piece) in disk.chunks_mut(step).enumerate() {
                let size = length(piece);
                checked.take(u64::try_from(index * step).unwrap(), size, Some(piece))?;
            }
            checked.finish(10_000)
        };
        let good = map(&ranges(&digest(&disk[8192..])), "sha256");
        for step in [1, 100, 4096, 5000, 10_000] {
            assert_eq!(check(&good, step), Ok(()), "{step}");
            let wrong = check(&map(&ranges(&digest(&disk[1..4])), "sha256"), step).unwrap_err();
            assert!(wrong.starts_with("bytes 8192 to 10000 are not those"), "{wrong}");
        }
        assert_eq!(
            check(&good.replace("<Range chksum", "<Range  chksum"), 10_000).unwrap_err(),
            "is damaged: its own checksum is another one"
        );
        for (ranges, why) in [
            ("<Range> 2 </Range><Range> 0 </Range>", "has ranges that are not in order"),
            ("<Range> 0-99 </Range>", "has a Range that cannot be read"),
            ("<Range> 18446744073709551615 </Range>", "has a Range that cannot be read"),
            ("<Range> x </Range>", "has a Range that cannot be read"),
        ] {
            assert_eq!(BlockMap::parse(&map(ranges, "sha256")).map(drop).unwrap_err(), why, "{ranges}");
        }
    }
}
