//! Partition tables: a disk with an MBR, a chain of logical partitions and a GPT, fields of it turned into lies, and
//! its checksums made right again.

use std::io;
use std::sync::Arc;

use deaddrop_image::device::{ReadAt, Section};
use deaddrop_image::table::Table;
use deaddrop_image::table::root::{Backend, TreeKind, choose};

use super::engine::Target;
use super::input::{Edit, Input};
use super::rng::Rng;
use crate::kit::crc32;

/// Bytes that are kept of a disk's start, and of its end.
const HEAD: usize = 320 << 10;
const TAIL: usize = 64 << 10;

pub struct Tables;

impl Target for Tables {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let mut bytes = disk(rng);
        let sector = if rng.one_in(4) { 4096 } else { 512 };
        if !rng.one_in(4) {
            write_gpt(rng, &mut bytes, sector);
        }
        let size = disk_size(rng, bytes.len());
        let mut input = Input { choice: size, sealed: !rng.one_in(4), ..Input::made(bytes) };
        for _ in 0..rng.below(8) {
            let at = match rng.below(6) {
                0 => 446 + rng.below(66),
                1 => sector + rng.below(92),
                2 => 2 * sector + rng.below(4 * 128),
                3 => HEAD + TAIL - 512 + rng.below(92),
                4 => 512 * rng.below(64) + 446 + rng.below(66),
                _ => rng.below(HEAD + TAIL),
            };
            let width = [1, 2, 4, 8][rng.below(4)];
            let at = at / width * width;
            let old = &input.made.as_ref().unwrap()[at..(at + width).min(HEAD + TAIL)];
            let insert = rng.field(old, width.min(HEAD + TAIL - at));
            input.edits.push(Edit::over(at, insert));
        }
        input
    }

    fn run(&mut self, input: &Input) -> String {
        let disk: Arc<dyn ReadAt> = Arc::new(Disk { bytes: self.bytes(input), size: input.choice });
        let table = match Table::read(&disk, "image") {
            Ok(table) => table,
            Err(error) => return format!("refused: {}", first_words(&error.to_string())),
        };
        assert!(table.partitions.len() <= 4096, "{} partitions", table.partitions.len());
        for partition in &table.partitions {
            let texts = [Some(partition.title()), partition.name.clone(), partition.problem.clone()];
            let texts = texts.into_iter().flatten().chain(table.notes.clone());
            for text in texts {
                assert!(!text.chars().any(char::is_control), "a control character reaches a terminal: {text:?}");
            }
            if partition.problem.is_none() {
                let section = Section::new(Arc::clone(&disk), partition.start, partition.size);
                assert!(section.is_some(), "{} has no problem, and lies outside", partition.title());
            }
        }
        serde_json::to_string(&table).expect("a table is shown as JSON");
        let root = choose(
            &table,
            None,
            Backend::Native,
            &|partition| Ok(if partition.number == Some(2) { TreeKind::Store } else { TreeKind::Other }),
            "image",
        );
        if let Ok(root) = &root {
            assert!(root.partition.problem.is_none());
        }
        let _ = choose(&table, Some("2"), Backend::Native, &|_| Ok(TreeKind::Unknown), "image")
            .map_err(|error| error.to_string());
        format!("{}{}", table.kind.name(), if root.is_ok() { ", with a root" } else { "" })
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        let mut bytes = input.bytes(&[]);
        if input.sealed {
            seal_gpt(&mut bytes, input.choice);
        }
        bytes
    }
}

/// What an error says before it comes to numbers and names.
pub fn first_words(error: &str) -> String {
    let words: Vec<&str> = error.split([':', ';', '(']).filter(|part| part.trim() != "image").collect();
    let text: String = words.first().copied().unwrap_or_default().trim().chars().take(60).collect();
    text.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

/// A disk of any size: its first and its last bytes, and zeros between.
struct Disk {
    bytes: Vec<u8>,
    size: u64,
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(0);
        // The tail wins where a small disk's head and tail meet.
        let tail = self.size.saturating_sub(TAIL as u64);
        for (start, kept) in [(0, &self.bytes[..HEAD]), (tail.max(HEAD as u64), &self.bytes[HEAD..])] {
            let (from, to) = (start.max(offset), (start + kept.len() as u64).min(offset + buf.len() as u64));
            if from < to {
                let kept = &kept[(from - start) as usize..(to - start) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(kept);
            }
        }
        Ok(())
    }
}

fn disk_size(rng: &mut Rng, kept: usize) -> u64 {
    match rng.below(8) {
        0 => rng.next() % (kept as u64 + 1),
        1 => u64::MAX - rng.next() % 4096,
        2 => rng.number(),
        3 => (rng.next() >> 30) / 512 * 512,
        _ => 512 * (4096 + rng.next() % 100_000),
    }
}

/// Head and tail: an MBR, logical partitions, and here and there the magic of a file system.
fn disk(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; HEAD + TAIL];
    if !rng.one_in(8) {
        let protective = rng.one_in(2);
        for slot in 0..rng.between(1, 4) {
            let (kind, start) = match (protective, slot) {
                (true, 0) => (0xEE, 1),
                _ => ([0x83, 0x0C, 0x05, 0x0F, 0x85, 0x82, 0xEF, 0][rng.below(8)], start(rng)),
            };
            put_record(&mut bytes, slot, 0, kind, start, 1 + rng.next() as u32 % 2000);
        }
        bytes[440..444].copy_from_slice(&(rng.next() as u32).to_le_bytes());
        // Records of a chain, wherever they may be met.
        for sector in (1..(HEAD / 512)).step_by(rng.between(1, 40)) {
            let at = sector * 512;
            put_record(&mut bytes, 0, at, 0x83, rng.next() as u32 % 64, rng.next() as u32 % 64);
            put_record(&mut bytes, 1, at, [5, 0x0F, 0][rng.below(3)], rng.next() as u32 % 600, rng.next() as u32 % 64);
        }
    }
    // File systems where the tables below say that partitions start.
    for _ in 0..rng.below(4) {
        let at = 512 * (STARTS[rng.below(STARTS.len())] as usize);
        bytes[at + 0x438..at + 0x43A].copy_from_slice(&[0x53, 0xEF]);
        bytes[at + 0x478..at + 0x47D].copy_from_slice(b"nixos");
    }
    bytes
}

/// Sectors where partitions mostly start.
const STARTS: [u32; 5] = [34, 64, 128, 256, 500];

fn start(rng: &mut Rng) -> u32 {
    if rng.one_in(4) { rng.next() as u32 % 600 } else { STARTS[rng.below(STARTS.len())] }
}

fn put_record(bytes: &mut [u8], slot: usize, sector: usize, kind: u8, start: u32, count: u32) {
    let at = sector + 446 + 16 * slot;
    bytes[at + 4] = kind;
    bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    bytes[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    bytes[sector + 510..sector + 512].copy_from_slice(&[0x55, 0xAA]);
}

/// A GPT's header and entries at the start (UEFI 2.10, 5.3), and the header's copy at the end.
fn write_gpt(rng: &mut Rng, bytes: &mut [u8], sector: usize) {
    let mut header = vec![0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
    for (at, value) in [(24, 1_u64), (32, 4095), (40, 34), (48, 4000), (72, 2)] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    for index in 0..rng.between(1, 6) {
        let at = 2 * sector + index * 128;
        for byte in &mut bytes[at..at + 32] {
            *byte = rng.next() as u8;
        }
        let start = u64::from(start(rng));
        bytes[at + 32..at + 40].copy_from_slice(&start.to_le_bytes());
        bytes[at + 40..at + 48].copy_from_slice(&(start + rng.next() % 500).to_le_bytes());
        for unit in 0..rng.between(0, 36) {
            let letter = if rng.one_in(3) { rng.next() as u16 } else { u16::from(b'a') };
            bytes[at + 56 + 2 * unit..at + 58 + 2 * unit].copy_from_slice(&letter.to_le_bytes());
        }
    }
    bytes[sector..sector + 92].copy_from_slice(&header);
    let mut backup = header.clone();
    backup[24..32].copy_from_slice(&4095_u64.to_le_bytes());
    backup[32..40].copy_from_slice(&1_u64.to_le_bytes());
    let at = bytes.len() - sector;
    bytes[at..at + 92].copy_from_slice(&backup);
}

/// Makes the checksums of both headers right, also of lengths and counts that lie, as far as the bytes are there.
fn seal_gpt(bytes: &mut [u8], _size: u64) {
    for sector in [512, 4096] {
        for at in [sector, bytes.len() - sector] {
            if bytes[at..at + 8] != *b"EFI PART" {
                continue;
            }
            let word = |bytes: &[u8], field: usize| {
                u32::from_le_bytes(bytes[at + field..at + field + 4].try_into().unwrap()) as usize
            };
            let entries = word(bytes, 72).saturating_mul(sector);
            let length = word(bytes, 80).saturating_mul(word(bytes, 84));
            if let Some(entries) = bytes.get(entries..entries.saturating_add(length).min(entries + (1 << 18))) {
                let sum = !crc32(!0, entries);
                bytes[at + 88..at + 92].copy_from_slice(&sum.to_le_bytes());
            }
            let length = word(bytes, 12).clamp(20, bytes.len() - at);
            bytes[at + 16..at + 20].fill(0);
            let sum = !crc32(!0, &bytes[at..at + length.min(4096)]);
            bytes[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
        }
    }
}
