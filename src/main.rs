//! The `deaddrop` program: parse arguments, run, print the error chain, set the exit code.

use std::process::ExitCode;

/// Wipes memory when it is freed: also buffers of libraries, such as that of a JSON parser for the string it reads,
/// which `Secret` cannot reach.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    deaddrop_core::contain::print_only_location();
    deaddrop_core::secret::leave_wiping_to_the_allocator();
    deaddrop_core::sys::keep_freed_memory();
    deaddrop_core::sys::harden();
    deaddrop_core::sys::end_cleanly_on_signals();
    deaddrop::cli::main()
}
