//! `deaddrop rotate` against real sshds, each in a root of its own.

mod contact;
mod ended;
mod files;
mod host_keys;
mod hostile;
mod interrupted;
mod job;
mod keys;
mod local;
mod passwords;
mod refused;
mod secrecy;
mod shells;
mod stopped;
mod system;
mod terminal;
mod units;
