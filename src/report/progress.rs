//! The progress of long work: a bar with rate and remaining time on a terminal; otherwise one line when it becomes
//! long, and one at the end.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use deaddrop_image::progress::{Progress, Work};
use indicatif::{ProgressBar, ProgressStyle};

use super::Ui;

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
    // OK to fall back: the templates are constants, and only an invalid one is an error.
    let template = match step.work {
        Work::Kernel => "{msg} {bar:30} step {pos} of {len}",
        _ => "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn name(work: Work) -> &'static str {
    match work {
        Work::Decompress => "decompressing",
        Work::Copy => "copying",
        Work::Compress => "compressing",
        Work::Scrub => "zeroing free blocks",
        Work::Kernel => "writing through the kernel",
    }
}
