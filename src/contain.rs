//! Keeps the panics of other people's code inside: on hostile input a decoder may fail in ways that its authors did not
//! think of, and that is then a refusal like others.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Set while this thread runs contained code.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which may call into a dependency, and returns what it returns; `None` when it panics. Nothing is printed
/// then: a panic's message could hold what was in the input. What `work` was changing must not be used afterwards.
///
/// Contains no panic of C code, and no overflow of the stack: those end the process.
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
}
