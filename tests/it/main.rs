//! The program and its library from outside: one binary, one folder a feature or promise. [`kit`] is what they share;
//! only tests/memory.rs stands alone, since it has an allocator of its own.

mod kit;

mod ci;
mod cli;
mod completions;
mod containers;
mod crash;
mod derive;
mod device;
mod directory;
mod docs;
mod ext4;
mod flash;
mod fleet;
mod fuzz;
mod generate;
mod harness;
mod house;
mod inject;
mod mount;
mod nixos;
mod nixos_module;
mod refusals;
mod rotate;
mod scan;
mod selinux;
mod site;
mod sources;
mod stability;
mod stores;
mod tables;
mod tarballs;
mod token;
mod tree;
mod walkthrough;
