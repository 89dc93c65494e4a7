//! deaddrop puts secrets into disk images offline, and rotates them on running nodes.
//!
//! One flow serves every target:
//!
//! ```text
//! manifest ─┐
//!           ├─> desired files ─┐
//! sources ──┘                  ├─> plan ─> apply ─> read back ─> report
//! target ───────> survey ──────┘
//! ```
//!
//! - [`manifest`] says what should be where, [`source`] what the value is, [`mod@derive`] what is made from it.
//! - [`desired`] joins the three into the files that one target should hold.
//! - [`target`] surveys what stands there, and applies changes: all of them or none.
//! - [`plan`] compares the two; it is a pure function.
//! - [`rotate`] brings running nodes to what is declared, and tells the units that use it.
//! - [`image`] is the stack below an image target: container, partition table, overlay, file system, commit.
//! - [`nixos`] knows what NixOS does with a file that somebody else put there.
//! - [`selinux`] knows which label the policy in a tree gives a file.
//! - [`contain`] keeps the panics of other people's decoders inside, and lets none say anything; [`shown`] makes text from outside fit for a
//!   terminal.
//! - [`report`] prints for people and as JSON; [`cli`] has one file a command.
//!
//! Who may use whom: `cli` uses everything. `image` knows nothing of manifests, sources or hosts. `source` and
//! `target` do not know each other. Only [`secret`] holds plaintext types; all that carries a value carries those.

pub mod cli;
pub mod contain;
mod day;
pub mod derive;
pub mod desired;
pub mod image;
pub mod manifest;
pub mod nixos;
pub mod plan;
pub mod report;
pub mod rotate;
pub mod secret;
pub mod selinux;
pub mod shown;
pub mod source;
pub mod sys;
pub mod target;
