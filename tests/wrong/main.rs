//! Wrong and hostile input, from outside: manifests, sources, images. Each is an error that says what, where, why and
//! what to do, within bounds of time and memory, and leaves everything as it was.

#[path = "../common/mod.rs"]
mod common;

mod manifests;
mod sources;
