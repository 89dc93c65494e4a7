//! Fuzzing that runs on stable Rust: seeded random input, and for each kind of it what must hold whatever comes in. No
//! panic, no hang (10 s), bounded memory, no value in an error, and never an image that e2fsck likes less than before.
//!
//! Each target runs a fixed number of cases here, the same ones every time. `scripts/fuzz` runs them for as long as one
//! likes, with new seeds; see `engine` for what it says when something is found, and how a case is run again.

#![allow(clippy::as_conversions)] // The numbers are our own.

mod base;
mod engine;
mod ext4;
mod inject;
mod input;
mod journal;
mod manifest;
mod qcow2;
mod qemu;
mod reader;
mod rng;
mod seal;
mod source;
mod stores;
mod table;
mod tar;
mod text;
mod vaults;
mod vma;
mod zstd_container;

use engine::{Entry, long, short};

/// Targets by name. Each is made only when it is run: some prepare images.
const TARGETS: [Entry; 17] = [
    ("table", || Box::new(table::Tables)),
    ("reader", || Box::new(reader::Reader::new())),
    ("journal", || Box::new(journal::Journals)),
    ("inject", || Box::new(inject::Inject::new())),
    ("manifest", || Box::new(manifest::Manifests::new())),
    ("bitwarden", || Box::new(source::Exports::new())),
    ("dotenv", || Box::new(source::Dotenvs::new())),
    ("zstd", || Box::new(zstd_container::Zstd::new())),
    ("vaults", || Box::new(vaults::Vaults::new())),
    ("stores", || Box::new(stores::Stores::new())),
    ("qcow2", || Box::new(qcow2::Qcow2::new())),
    ("tar", || Box::new(tar::Tars::new())),
    ("vma", || Box::new(vma::Archives::new())),
    ("vmdk", || Box::new(qemu::Qemu::new(qemu::VMDK))),
    ("vdi", || Box::new(qemu::Qemu::new(qemu::VDI))),
    ("vhd", || Box::new(qemu::Qemu::new(qemu::VHD))),
    ("vhdx", || Box::new(qemu::Qemu::new(qemu::VHDX))),
];

#[test]
fn partition_tables_end_in_a_table_or_an_error() {
    short(TARGETS[0], 1_500);
}

#[test]
fn file_systems_are_read_or_refused() {
    short(TARGETS[1], 500);
}

#[test]
fn journals_are_replayed_within_bounds_or_refused() {
    short(TARGETS[2], 6_000);
}

#[test]
fn damaged_images_are_written_to_without_harm_or_refused() {
    short(TARGETS[3], 250);
}

#[test]
fn manifests_are_taken_or_refused() {
    short(TARGETS[4], 1_500);
}

#[test]
fn exports_are_read_or_refused_and_no_error_holds_a_value() {
    short(TARGETS[5], 350);
}

#[test]
fn dotenv_files_are_read_or_refused_and_no_error_holds_a_value() {
    short(TARGETS[6], 800);
}

#[test]
fn compressed_images_are_decoded_within_bounds_or_refused() {
    short(TARGETS[7], 400);
}

#[test]
fn archives_encrypted_exports_and_tables_are_read_or_refused() {
    short(TARGETS[8], 400);
}

#[test]
fn documents_databases_and_stores_are_read_or_refused() {
    short(TARGETS[9], 500);
}

#[test]
fn qcow2_images_are_the_same_disk_when_written_or_are_refused() {
    short(TARGETS[10], 400);
}

#[test]
fn tars_are_read_and_changed_without_harm_or_refused() {
    short(TARGETS[11], 1_500);
}

#[test]
fn archives_of_machines_and_tars_of_disks_are_read_and_written_or_refused() {
    short(TARGETS[12], 1_000);
}

#[test]
fn vmdk_images_show_no_other_file_and_are_the_same_disk_when_written_or_are_refused() {
    short(TARGETS[13], 100);
}

#[test]
fn vdi_images_show_no_other_file_and_are_the_same_disk_when_written_or_are_refused() {
    short(TARGETS[14], 100);
}

#[test]
fn vhd_images_show_no_other_file_and_are_the_same_disk_when_written_or_are_refused() {
    short(TARGETS[15], 100);
}

#[test]
fn vhdx_images_show_no_other_file_and_are_the_same_disk_when_written_or_are_refused() {
    short(TARGETS[16], 100);
}

/// What `scripts/fuzz` runs.
#[test]
#[ignore = "runs for as long as FUZZ_SECONDS says; scripts/fuzz sets it"]
fn for_long() {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET: one of the targets");
    let target = TARGETS.into_iter().find(|(known, _)| *known == name);
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    long(target.unwrap_or_else(|| panic!("no target `{name}`; there are: {}", names.join(", "))));
}
