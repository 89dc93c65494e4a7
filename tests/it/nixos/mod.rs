//! What deaddrop knows of NixOS: the closure that it reads, and what follows from it.

mod by_nix;
mod closure;
mod effect;
mod inspect;
mod lint;
