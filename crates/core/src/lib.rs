//! The parts that all crates of deaddrop share: the one type that contains a value, system calls, limits, text for
//! people, and file trees with their changes.
//!
//! Does not depend on images, vaults, manifests, hosts or NixOS.
//!
//! A secret does not print:
//!
//! ```
//! use deaddrop_core::secret::Secret;
//!
//! let secret = Secret::new(b"hunter2".to_vec());
//! assert!(!format!("{secret:?}").contains("hunter2"));
//! assert_eq!(secret.expose(), b"hunter2");
//! ```

pub mod bytes;
pub mod contain;
pub mod day;
pub mod error;
pub mod keys;
pub mod limits;
pub mod near;
pub mod path;
pub mod privilege;
pub mod secret;
pub mod shown;
pub mod sys;
pub mod text;
pub mod tree;
pub mod unfinished;
pub mod warning;
