//! What deaddrop knows of NixOS: the closure that it reads, and what follows from it.

mod by_nix;
mod closure;
mod decrypt;
mod effect;
mod examples;
mod inspect;
mod lint;
