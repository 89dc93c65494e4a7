//! deaddrop puts secrets into disk images offline, and rotates them on running nodes.
//!
//! One flow serves every place:
//!
//! ```text
//! manifest ─┐
//!           ├─> desired files ─┐
//! vaults ───┘                  ├─> plan ─> apply ─> read back ─> report
//! place ────────> survey ──────┘
//! ```
//!
//! - [`manifest`] declares the files; `deaddrop_vault` reads the values; [`mod@derive`] makes hashes, rendered text
//!   and keys.
//! - [`place`] surveys an image, a directory or a node, and applies changes: all of them or none. `deaddrop_image` is
//!   the stack below an image.
//! - [`run`] joins these: desired files, the plan, and the one preparation that all places share.
//! - [`rotate`] applies the manifest to running nodes, and restarts the units that use the files.
//! - [`nixos`] holds every rule about NixOS, [`selinux`] reads the policy of a tree.
//! - [`report`] prints for people and as JSON; [`cli`] has one file a command.
//!
//! Who may use whom: `derive`, `nixos`, `selinux` <- `manifest`, `place` <- `run` <- `rotate` <- `report` <- `cli`.
//! `manifest` and `place` do not know each other. A test reads the imports and fails on an arrow that runs back.
//! ARCHITECTURE.md has the whole map.

pub mod cli;
pub mod derive;
pub mod manifest;
pub mod nixos;
pub mod place;
pub mod report;
pub mod rotate;
pub mod run;
pub mod selinux;
