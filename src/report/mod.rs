//! People's output and JSON.

pub mod suggest;
