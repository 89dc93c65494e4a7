//! One input: bytes, or a known image with changes to it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use deaddrop_image::device::ReadAt;

/// `insert` stands in the place of the `remove` bytes from `at` on.
#[derive(Clone)]
pub struct Edit {
    pub at: usize,
    pub remove: usize,
    pub insert: Vec<u8>,
}

impl Edit {
    /// Other bytes of the same length.
    pub fn over(at: usize, insert: Vec<u8>) -> Self {
        Self { at, remove: insert.len(), insert }
    }
}

/// What a target is given: the `base` that it knows by number (or bytes that were made for this case), and what is
/// changed in it.
#[derive(Clone, Default)]
pub struct Input {
    /// Which of the target's own bases; not used when `made` is there.
    pub base: usize,
    /// Bytes made for this case.
    pub made: Option<Arc<Vec<u8>>>,
    /// In this order. Images only take edits that keep the length.
    pub edits: Vec<Edit>,
    /// Checksums are made right after the edits, so that what lies behind them is reached.
    pub sealed: bool,
    /// Whatever else the target draws for a case.
    pub choice: u64,
}

impl Input {
    pub fn made(bytes: Vec<u8>) -> Self {
        Self { made: Some(Arc::new(bytes)), ..Self::default() }
    }

    /// `base`, or what was made, with the edits.
    pub fn bytes(&self, base: &[u8]) -> Vec<u8> {
        let mut bytes = self.made.as_ref().map_or(base, |made| made.as_slice()).to_vec();
        for edit in &self.edits {
            let at = edit.at.min(bytes.len());
            let end = at.saturating_add(edit.remove).min(bytes.len());
            bytes.splice(at..end, edit.insert.iter().copied());
        }
        bytes
    }

    /// The same without some of the edits.
    pub fn without(&self, edits: Range<usize>) -> Self {
        let mut fewer = self.clone();
        fewer.edits.drain(edits);
        fewer
    }
}

/// An image in memory, of which only the pages that were written are its own.
#[derive(Clone)]
pub struct Pages {
    base: Arc<Vec<u8>>,
    own: BTreeMap<usize, Box<[u8; Self::SIZE]>>,
}

impl Pages {
    const SIZE: usize = 1024;

    /// `base` is a whole number of pages.
    pub fn new(base: Arc<Vec<u8>>) -> Self {
        assert!(base.len().is_multiple_of(Self::SIZE));
        Self { base, own: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.base.len()
    }

    /// `length` bytes; what lies beyond the end is zero.
    pub fn get(&self, at: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(at, &mut bytes);
        bytes
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at, 4).try_into().unwrap())
    }

    /// Writes; what lies beyond the end is dropped.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate().take(self.len().saturating_sub(at)) {
            let (page, inside) = ((at + index) / Self::SIZE, (at + index) % Self::SIZE);
            let base = &self.base;
            let own = self
                .own
                .entry(page)
                .or_insert_with(|| Box::new(base[page * Self::SIZE..(page + 1) * Self::SIZE].try_into().unwrap()));
            own[inside] = *byte;
        }
    }

    /// All of it.
    pub fn whole(&self) -> Vec<u8> {
        let mut whole = self.base.to_vec();
        for (page, bytes) in &self.own {
            whole[page * Self::SIZE..(page + 1) * Self::SIZE].copy_from_slice(&bytes[..]);
        }
        whole
    }

    fn read(&self, at: usize, buf: &mut [u8]) {
        let there = self.len().saturating_sub(at).min(buf.len());
        let Some(inside) = buf.get_mut(..there).filter(|inside| !inside.is_empty()) else { return };
        inside.copy_from_slice(&self.base[at..at + there]);
        for (page, own) in self.own.range(at / Self::SIZE..=(at + there - 1) / Self::SIZE) {
            let start = page * Self::SIZE;
            let (from, to) = (start.max(at), (start + Self::SIZE).min(at + there));
            inside[from - at..to - at].copy_from_slice(&own[from - start..to - start]);
        }
    }
}

impl ReadAt for Pages {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read(offset as usize, buf);
        Ok(())
    }
}
