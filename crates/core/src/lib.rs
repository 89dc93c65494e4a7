//! What all of deaddrop shares: the one type that holds a value, system calls, limits, text for people, and trees of
//! files with their changes.
//!
//! Knows nothing of images, vaults, manifests, hosts or NixOS.

pub mod bytes;
pub mod contain;
pub mod day;
pub mod error;
pub mod keys;
pub mod limits;
pub mod near;
pub mod near_items;
pub mod path;
pub mod privilege;
pub mod secret;
pub mod shown;
pub mod sys;
pub mod text;
pub mod tree;
pub mod unfinished;
pub mod warning;
