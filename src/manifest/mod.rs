//! The manifest: the YAML file that says which secret belongs where.
//!
//! [`Manifest::load`] reads and validates it, with every error of the file at once, each at its line and column.
//! What comes out is checked: paths are absolute and clean, sources, hosts and tags exist, modes are safe.

mod model;

pub use model::{
    HashScheme, Host, HostSelector, Location, Manifest, Owner, Reference, SecretSpec, SourceSpec, TargetPath,
};
