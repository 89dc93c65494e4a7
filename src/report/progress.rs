//! The progress of long work: a bar with rate and remaining time on a terminal; otherwise one line when it becomes
//! long, and one at the end.

use std::cell::RefCell;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use deaddrop_image::progress::{Progress, Work};
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::{Ui, wrap};

/// Shorter work is not shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows the steps of one run.
pub struct ProgressDisplay<'a> {
    ui: &'a Ui,
    now: RefCell<Option<Running>>,
}

/// The current work.
struct Running {
    work: Work,
    since: Instant,
    /// On a terminal, once it takes long.
    bar: Option<ProgressBar>,
    /// Otherwise: the first line is printed.
    announced: bool,
}

impl<'a> ProgressDisplay<'a> {
    /// For a run that reports through `ui`.
    #[must_use]
    pub fn new(ui: &'a Ui) -> Self {
        Self { ui, now: RefCell::new(None) }
    }

    /// Displays a progress report.
    pub fn show(&self, step: Progress) {
        if self.ui.quiet {
            return;
        }
        let mut now = self.now.borrow_mut();
        let running = match now.as_mut() {
            Some(running) if running.work == step.work => running,
            _ => now.insert(Running { work: step.work, since: Instant::now(), bar: None, announced: false }),
        };
        let is_done = step.done >= step.total;
        if running.since.elapsed() < PATIENCE {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = running.bar.get_or_insert_with(|| bar(step));
            bar.set_position(step.done);
            if is_done {
                bar.finish_and_clear();
            }
            return;
        }
        if !running.announced && !is_done {
            running.announced = true;
            self.ui.info(&format!("{} …", name(step.work)));
        } else if running.announced && is_done {
            running.announced = false;
            self.ui.info(&format!("{}: {:.1} s", name(step.work), running.since.elapsed().as_secs_f64()));
        }
    }
}

fn bar(step: Progress) -> ProgressBar {
    let bar = ProgressBar::new(step.total).with_message(name(step.work));
    // Never wider than the terminal: the bar takes what the rest leaves.
    let template = match (step.work, wrap::width()) {
        (Work::Kernel, _) => "{msg} {wide_bar} step {pos} of {len}",
        (Work::Search, _) => "{msg}: {bytes}, {bytes_per_sec}",
        (_, WIDE..) => "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}{left}",
        _ => "{msg} {wide_bar} {percent} %{left}",
    };
    // OK to fall back: the templates are constants, and only an invalid one is an error.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.with_key("left", |state: &ProgressState, to: &mut dyn Write| {
        // Best effort, as all output for people.
        let _ = to.write_str(&left(state.eta(), state.pos(), state.len()));
    }))
}

/// ", 12 s left"; empty as long as it is not known.
fn left(eta: Duration, done: u64, total: Option<u64>) -> String {
    let is_known = eta >= Duration::from_secs(1) || total.is_some_and(|total| done > total / 2);
    if is_known { format!(", {} left", HumanDuration(eta)) } else { String::new() }
}

/// Columns from which on sizes and rate are shown.
const WIDE: usize = 100;

fn name(work: Work) -> &'static str {
    match work {
        Work::Decompress => "decompressing",
        Work::Copy => "copying",
        Work::Compress => "compressing",
        Work::Flash => "writing to the device",
        Work::ReadBack => "reading back",
        Work::Scrub => "zeroing free blocks",
        Work::Search => "searching files",
        Work::Kernel => "writing through the kernel",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_time_is_shown_only_once_it_is_known() {
        let second = Duration::from_secs(1);
        for (eta, done, total, want) in [
            (Duration::ZERO, 0, Some(100), ""),
            (Duration::ZERO, 1, Some(100), ""),
            (second * 12, 1, Some(100), ", 12 seconds left"),
            (Duration::ZERO, 99, Some(100), ", 0 seconds left"),
        ] {
            assert_eq!(left(eta, done, total), want, "{eta:?}, {done}");
        }
    }
}
