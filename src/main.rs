//! The `deaddrop` program: parse arguments, run, print the error chain, set the exit code.

use std::process::ExitCode;

/// Wipes memory as it is freed: also what libraries hold for a moment, such as a JSON parser's buffer of the string that
/// it reads, which `secret::Secret` cannot reach.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    deaddrop_core::contain::say_little();
    deaddrop_core::sys::keep_freed_memory();
    deaddrop_core::sys::harden();
    deaddrop_core::sys::end_cleanly_on_signals();
    deaddrop::cli::main()
}
