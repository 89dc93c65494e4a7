//! `deaddrop rotate` against real sshds, each in a root of its own.

#[path = "../common/mod.rs"]
mod common;

mod contact;
mod ended;
mod files;
mod hostile;
mod interrupted;
mod job;
mod keys;
mod local;
mod refused;
mod secrecy;
mod shells;
mod stopped;
mod terminal;
mod units;
