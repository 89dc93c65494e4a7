//! Every layout, every prefix, torn writes, random states.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::bench::{Case, Change, Desk, Journal, Layout};
use super::judge::{Depth, Side, judge};
use super::log::{Op, Random, State, prefixes, subsets, torn};

/// Journal feature bits, as `s_feature_incompat` has them.
const REVOKE: u32 = 1;
const WIDE: u32 = 2;
const V2: u32 = 8;
const V3: u32 = 16;
const FAST: u32 = 32;

const BASE: Layout = Layout {
    name: "",
    arguments: "",
    size: "5M",
    journal: Journal::Fresh,
    change: Change::Mixed,
    values: 6,
    spare: None,
    labelled: false,
};

#[rustfmt::skip]
pub const LAYOUTS: &[Layout] = &[
    Layout { name: "1 KiB, no checksums, first", arguments: "-t ext4 -b 1024 -O ^metadata_csum,^64bit", values: 1,
        change: Change::First, ..BASE },
    Layout { name: "1 KiB, v3, longer", arguments: "-t ext4 -b 1024", journal: Journal::Features(V3 | WIDE),
        change: Change::Longer, ..BASE },
    Layout { name: "1 KiB, v2, 64bit, uninit_bg", arguments: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,64bit",
        journal: Journal::Features(V2 | WIDE | REVOKE), ..BASE },
    Layout { name: "2 KiB, v2, no 64bit, shorter", arguments: "-t ext4 -b 2048 -O ^64bit", size: "6M",
        journal: Journal::Features(V2), change: Change::Shorter, ..BASE },
    Layout { name: "2 KiB, v3, no 64bit", arguments: "-t ext4 -b 2048 -O ^64bit", size: "6M",
        journal: Journal::Features(V3), change: Change::First, ..BASE },
    Layout { name: "4 KiB, as mounted", arguments: "-t ext4 -b 4096 -J size=4", size: "12M", journal: Journal::Mounted,
        ..BASE },
    Layout { name: "4 KiB, 64bit journal without checksums",
        arguments: "-t ext4 -b 4096 -J size=4 -O ^metadata_csum,64bit", size: "12M", journal: Journal::Features(WIDE),
        change: Change::Longer, ..BASE },
    Layout { name: "4 KiB, fresh journal on checksums", arguments: "-t ext4 -b 4096 -J size=4", size: "12M",
        change: Change::First, values: 3, ..BASE },
    Layout { name: "metadata_csum_seed, orphan_file",
        arguments: "-t ext4 -b 4096 -J size=4 -O metadata_csum_seed,orphan_file", size: "12M",
        journal: Journal::Mounted, change: Change::Longer, values: 3, ..BASE },
    Layout { name: "orphan_file, seed, 1 KiB", arguments: "-t ext4 -b 1024 -O metadata_csum_seed,orphan_file",
        journal: Journal::Features(V3 | WIDE), ..BASE },
    Layout { name: "ext3, 1 KiB", arguments: "-t ext3 -b 1024", change: Change::Longer, ..BASE },
    Layout { name: "ext3, 4 KiB, as mounted", arguments: "-t ext3 -b 4096 -J size=4", size: "12M",
        journal: Journal::Mounted, ..BASE },
    Layout { name: "pending, no checksums, 1 KiB", arguments: "-t ext4 -b 1024 -O ^metadata_csum,^64bit",
        journal: Journal::Pending(""), ..BASE },
    Layout { name: "pending, v3, 4 KiB", arguments: "-t ext4 -b 4096 -J size=4", size: "12M",
        journal: Journal::Pending("-c -v 3"), change: Change::Longer, values: 3, ..BASE },
    Layout { name: "pending, v2, 2 KiB", arguments: "-t ext4 -b 2048 -O ^64bit", size: "6M",
        journal: Journal::Pending("-c -v 2"), change: Change::Shorter, values: 3, ..BASE },
    Layout { name: "live copy, 4 KiB", arguments: "-t ext4 -b 4096 -J size=4 -O orphan_file", size: "12M",
        journal: Journal::Live, values: 3, ..BASE },
    Layout { name: "live copy, 1 KiB", arguments: "-t ext4 -b 1024", journal: Journal::Live, change: Change::First,
        values: 3, ..BASE },
    Layout { name: "live copy, ext3", arguments: "-t ext3 -b 1024", journal: Journal::Live, change: Change::Longer,
        values: 3, ..BASE },
    Layout { name: "nearly full", arguments: "-t ext4 -b 1024", journal: Journal::Features(V3), change: Change::Longer,
        spare: Some(8), ..BASE },
    Layout { name: "small groups, the first ones full", arguments: "-t ext4 -b 1024 -g 1024 -O ^flex_bg",
        change: Change::Mixed, spare: Some(700), ..BASE },
    Layout { name: "inline_data", arguments: "-t ext4 -b 4096 -J size=4 -O inline_data -I 256", size: "12M",
        journal: Journal::Mounted, change: Change::Longer, ..BASE },
    Layout { name: "live copy with orphans, 1 KiB", arguments: "-t ext4 -b 1024", journal: Journal::Orphans, values: 3,
        ..BASE },
    Layout { name: "live copy with orphans, orphan_file", arguments: "-t ext4 -b 4096 -J size=4 -O orphan_file",
        size: "12M", journal: Journal::Orphans, change: Change::Longer, values: 3, ..BASE },
    Layout { name: "outdated fast commits", arguments: "-t ext4 -b 1024 -J size=2 -O fast_commit",
        journal: Journal::Outdated(V3 | WIDE | FAST), size: "8M", change: Change::First, values: 3, ..BASE },
    Layout { name: "labelled", arguments: "-t ext4 -b 1024", journal: Journal::Features(V3 | WIDE), labelled: true,
        ..BASE },
    Layout { name: "labelled, 128-byte inodes", arguments: "-t ext4 -b 1024 -I 128 -O ^metadata_csum",
        change: Change::First, labelled: true, ..BASE },
    Layout { name: "128-byte inodes, checksums", arguments: "-t ext4 -b 1024 -I 128 -O metadata_csum",
        journal: Journal::Features(V3 | WIDE), change: Change::Longer, ..BASE },
    Layout { name: "128-byte inodes, checksums, live copy",
        arguments: "-t ext4 -b 4096 -J size=4 -I 128 -O metadata_csum", size: "12M", journal: Journal::Live, values: 3,
        ..BASE },
    Layout { name: "labelled, 128-byte inodes, checksums",
        arguments: "-t ext4 -b 1024 -I 128 -O metadata_csum,^filetype", change: Change::First, labelled: true, ..BASE },
    Layout { name: "no filetype", arguments: "-t ext4 -b 4096 -J size=4 -O ^filetype", size: "12M",
        journal: Journal::Mounted, ..BASE },
    Layout { name: "no filetype, ext3", arguments: "-t ext3 -b 1024 -O ^filetype", change: Change::First, values: 3,
        ..BASE },
    Layout { name: "200 new", arguments: "-t ext4 -b 1024", journal: Journal::Features(V3 | WIDE), values: 200,
        change: Change::First, size: "16M", ..BASE },
    Layout { name: "200 mixed", arguments: "-t ext4 -b 4096 -J size=4", size: "16M", journal: Journal::Mounted,
        values: 200, ..BASE },
];

/// A log of more writes than this is long: its prefixes are all tried only when so many random states are asked for.
const LONG: usize = 300;

/// A number from the environment.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

pub fn seed() -> u64 {
    number("DEADDROP_CRASH_SEED", 20_240_611) as u64
}

/// Those whose names hold one of DEADDROP_CRASH_LAYOUT's, `A|B`.
pub fn layouts() -> Vec<&'static Layout> {
    let only = std::env::var("DEADDROP_CRASH_LAYOUT").unwrap_or_default();
    LAYOUTS.iter().filter(|layout| only.split('|').any(|part| layout.name.contains(part))).collect()
}

/// Random states of each layout.
pub fn random_of_each() -> usize {
    number("DEADDROP_CRASH_STATES", 1200).div_ceil(LAYOUTS.len())
}

/// Every state is to be judged by everything.
pub fn is_thorough() -> bool {
    number("DEADDROP_CRASH_THOROUGH", 0) > 0
}

#[test]
fn whatever_a_cut_leaves_is_all_old_or_all_new_and_mends() {
    let random = random_of_each();
    let layouts = layouts();
    let next = AtomicUsize::new(0);
    let lines = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(layout) = layouts.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let started = Instant::now();
                    let (counts, failed) = all_states(layout, random);
                    let [prefixes, torn, random] = counts;
                    let line = format!(
                        "{}: {prefixes} prefixes, {torn} torn, {random} random, {} failed ({:.1} s)",
                        layout.name,
                        failed.len(),
                        started.elapsed().as_secs_f64()
                    );
                    eprintln!("{line}");
                    lines.lock().unwrap().push(counts);
                    failures.lock().unwrap().extend(failed);
                }
            });
        }
    });
    let all = lines.lock().unwrap();
    let sum = |place: usize| all.iter().map(|counts| counts[place]).sum::<usize>();
    eprintln!("{} layouts: {} prefixes, {} torn, {} random", all.len(), sum(0), sum(1), sum(2));
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} states failed:\n{}", failures.len(), failures.join("\n"));
}

fn all_states(layout: &Layout, random: usize) -> ([usize; 3], Vec<String>) {
    let case = layout.make();
    let log = case.log();
    let desk = Desk::new();
    let mut failed = Vec::new();
    let mut source = Random(seed());
    let mut groups =
        [prefixes(&log), torn(&log, &case.superblocks(), 40, &mut source), subsets(&log, random, &mut source)];
    let near_flush = |state: &State| {
        let last = state.applied.last().map_or(0, |(index, _)| *index);
        log[last.saturating_sub(1)..].iter().take(3).any(|op| matches!(op, Op::Flush))
    };
    if groups[0].len() > LONG && random < LONG && !is_thorough() {
        // Those of 200 values, in a run that is to be short. Between two flushes most are much the same.
        let step = groups[0].len().div_ceil(LONG / 2);
        let mut place = 0;
        groups[0].retain(|state| {
            place += 1;
            near_flush(state) || place % step == 0
        });
    }
    // All prefixes around a flush are tried in full, and some of the others.
    let step = groups[0].len().div_ceil(40);
    for (place, state) in groups.iter().flat_map(|group| group.iter().enumerate()) {
        let depth = match place % step {
            _ if is_thorough() => Depth::Deep,
            0 if place % (4 * step) == 0 => Depth::Deep,
            0 => Depth::Full,
            _ if near_flush(state) => Depth::Full,
            _ => Depth::Light,
        };
        if let Err(e) = check(&case, &log, state, depth, &desk) {
            failed.push(format!("{}, seed {}: {state:?}: {e}", layout.name, seed()));
        }
    }
    (groups.map(|group| group.len()), failed)
}

/// Judges one state; from the commit point on it must be new, before it old.
pub fn check(case: &Case, log: &[Op], state: &State, depth: Depth, desk: &Desk) -> Result<(), String> {
    let expected = if state.has(case.commit_point(log)) { Side::New } else { Side::Old };
    judge(case, log, state, expected, depth, desk)
}
