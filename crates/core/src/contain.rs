//! Contains panics of third-party code. A decoder may panic on hostile input in ways that its authors did not foresee;
//! the caller turns that into an ordinary refusal.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// True while this thread runs contained code.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic prints only its location, whatever `RUST_BACKTRACE` is set to: the message, and the arguments in
/// a backtrace, could contain a value. Called first in `main`.
pub fn print_only_location() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
        // Best effort: if standard error is closed, there is no other place for the message.
        let _ = writeln!(
            io::stderr(),
            "deaddrop panicked{place}: this is a fault of deaddrop's. Nothing more is shown, for it could hold a value"
        );
    }));
}

/// Runs `work`, which may call into a dependency, and returns its result; `None` if it panics. Nothing is printed then,
/// because a panic message could contain the input. State that `work` was changing must not be used after a panic.
///
/// Does not contain panics of C code or stack overflows: those end the process.
pub fn contain<T>(work: impl FnOnce() -> T) -> Option<T> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                before(info);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_none_and_everything_else_comes_through() {
        assert_eq!(contain(|| 7), Some(7));
        assert_eq!(contain(|| -> u32 { panic!("inside") }), None);
        let empty: [u8; 0] = [];
        assert_eq!(contain(|| contain(|| empty[std::hint::black_box(3)])), Some(None));
        assert!(!CONTAINED.get(), "panics are printed again");
    }

    /// Runs in a separate process, because a panic hook is global: this test starts itself with a variable that makes
    /// it panic.
    #[test]
    fn a_panic_tells_its_place_and_neither_its_words_nor_a_backtrace() {
        const PANICS: &str = "DEADDROP_TEST_PANICS";
        if std::env::var_os(PANICS).is_some() {
            print_only_location();
            assert_eq!(contain(|| -> u32 { panic!("hunter2 inside") }), None);
            std::thread::spawn(|| panic!("hunter2 in a thread")).join().unwrap_err();
            std::hint::black_box(Err::<u32, _>("hunter2 in an error")).expect("hunter2 expected");
        }
        for backtrace in ["0", "1", "full"] {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "--nocapture",
                    "contain::tests::a_panic_tells_its_place_and_neither_its_words_nor_a_backtrace",
                ])
                .env(PANICS, "1")
                .env("RUST_BACKTRACE", backtrace)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success());
            assert_eq!(said.matches("deaddrop panicked at crates/core/src/contain.rs:").count(), 2, "{said}");
            assert_eq!(said.lines().count(), 2, "{said}");
            let all = format!("{said}{}", String::from_utf8_lossy(&output.stdout));
            assert!(!all.contains("hunter2"), "{all}");
        }
    }
}
