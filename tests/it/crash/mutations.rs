//! A test of the test: a commit that is broken on purpose must not pass.

use deaddrop_image::journal::commit::Transaction;

use super::bench::{Case, Change, Desk, Journal, Layout, record};
use super::judge::Depth;
use super::log::{Op, Random, State, flushes, prefixes, subsets};
use super::states::{LAYOUTS, check, seed};

fn layout(name: &str) -> Case {
    LAYOUTS.iter().find(|layout| layout.name == name).expect("a layout of that name").make()
}

fn transaction(case: &Case) -> Transaction {
    case.transaction(&std::sync::Arc::new(case.base.clone())).expect("the change is possible")
}

/// Panics unless some state that `log` can leave fails; gives the first one's complaint.
fn assert_caught(case: &Case, log: &[Op], what: &str) {
    let desk = Desk::new();
    let mut random = Random(seed());
    let mut states: Vec<State> = prefixes(log);
    states.reverse();
    states.extend(subsets(log, 600, &mut random));
    let mut tried = 0;
    // First what costs little.
    for (state, depth) in [Depth::Glance, Depth::Full].iter().flat_map(|depth| states.iter().map(move |s| (s, *depth)))
    {
        tried += 1;
        if let Err(e) = check(case, log, state, depth, &desk) {
            let first = e.lines().next().unwrap_or_default();
            eprintln!("{}: {what}: caught at try {tried}: {first}", case.name);
            return;
        }
    }
    panic!("{}: {what}: none of {} states failed", case.name, states.len());
}

/// The log without its flush of this number, from 0.
fn without_flush(log: &[Op], number: usize) -> Vec<Op> {
    let (index, _) =
        log.iter().enumerate().filter(|(_, op)| matches!(op, Op::Flush)).nth(number).expect("so many flushes");
    [&log[..index], &log[index + 1..]].concat()
}

#[test]
fn each_flush_that_is_left_out_is_missed() {
    for (name, count) in [("1 KiB, no checksums, first", 5), ("4 KiB, as mounted", 5)] {
        let case = layout(name);
        let log = case.log();
        assert_eq!(flushes(&log), count, "{name}");
        for number in 0..count {
            assert_caught(&case, &without_flush(&log, number), &format!("without flush {}", number + 1));
        }
    }
}

#[test]
fn each_flush_around_a_replay_is_missed() {
    // Five blocks wait in the journal, and are not home. Without checksums a replay believes what it finds.
    let case = Layout {
        name: "pending blocks",
        arguments: "-t ext4 -b 1024 -O ^metadata_csum,^64bit",
        size: "5M",
        journal: Journal::Pending(""),
        change: Change::Mixed,
        values: 6,
        spare: None,
        labelled: false,
    }
    .make();
    let log = case.log();
    assert_eq!(flushes(&log), 7);
    for number in 0..2 {
        assert_caught(&case, &without_flush(&log, number), &format!("without flush {} of the replay", number + 1));
    }
}

/// Where the writes to `offset` are.
fn writes_to(log: &[Op], offset: u64) -> Vec<usize> {
    let is_there = |op: &Op| matches!(op, Op::Write(at, _) if *at == offset);
    log.iter().enumerate().filter(|(_, op)| is_there(op)).map(|(index, _)| index).collect()
}

fn moved(log: &[Op], from: usize, to: usize) -> Vec<Op> {
    let mut log = log.to_vec();
    let op = log.remove(from);
    log.insert(to, op);
    log
}

#[test]
fn another_order_is_noticed() {
    for name in ["1 KiB, v3, longer", "4 KiB, as mounted"] {
        let case = layout(name);
        let log = case.log();
        let journal = writes_to(&log, case.journal_at());
        let flag = writes_to(&log, 1024);
        let [point, empty] = journal[..] else { panic!("{name}: the journal's superblock is written twice") };
        let (set, clear) = (flag[0], *flag.last().unwrap());
        assert_caught(&case, &moved(&log, clear, empty), "the flag is cleared before the log is given up");
        assert_caught(&case, &moved(&log, set, point + 1), "the flag is set after the log is pointed at");
        assert_caught(&case, &moved(&log, point, 0), "the log is pointed at before it is written");
    }
}

#[test]
fn values_in_the_log_and_old_blocks_that_stay_are_noticed() {
    for name in ["1 KiB, v3, longer", "2 KiB, v2, no 64bit, shorter", "ext3, 1 KiB"] {
        let case = layout(name);
        let mut logged = transaction(&case);
        let value = logged.changes.new.pop().expect("a new value");
        logged.changes.logged.push(value);
        assert_caught(&case, &record(logged), "a value in the log");

        let mut stays = transaction(&case);
        let before = stays.changes.logged.len();
        stays.changes.logged.retain(|block| block.bytes.iter().any(|byte| *byte != 0));
        assert!(stays.changes.logged.len() < before, "{name}: old blocks are zeroed");
        assert_caught(&case, &record(stays), "old blocks are not zeroed");
    }
}

#[test]
fn a_log_of_another_sequence_or_checksum_is_noticed() {
    let case = layout("1 KiB, v3, longer");
    let log = case.log();
    let first = case.journal[1] * case.block_size as u64;
    // In a descriptor: its sequence number, 8; a block's number, 12; its checksum, 24.
    for at in [8, 12, 24] {
        let mut broken = log.clone();
        let index = writes_to(&log, first)[0];
        let Op::Write(_, bytes) = &mut broken[index] else { unreachable!("a write") };
        bytes[at + 3] ^= 1;
        assert_caught(&case, &broken, &format!("byte {at} of the descriptor"));
    }
}
