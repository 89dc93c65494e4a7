//! Live display of a run over hosts: on a terminal one line per running host with its step, below the lines of those
//! that have ended; otherwise one line as each host ends.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deaddrop_core::text;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use unicode_width::UnicodeWidthStr;

use super::rotate::{HostReport, RunKind, WIDEST_NAME};
use super::{Ui, links, print_error_stream, wrap};
use crate::rotate::fleet::Watcher;
use crate::rotate::{HostResult, HostStep};

/// Interval between two redraws of a line on a terminal.
const FRAME: Duration = Duration::from_millis(120);

/// Columns of a running host's line beside its name: spinner, step, time.
const LIVE: usize = 32;

/// Displays a run over hosts, and collects the results.
pub struct HostsDisplay<'a> {
    ui: &'a Ui,
    kind: RunKind,
    names: Vec<&'a str>,
    /// The image of each, in a run on images.
    targets: Vec<String>,
    /// Width of the column of names.
    width: usize,
    state: Mutex<State>,
}

struct State {
    rows: Vec<Option<HostReport>>,
    ended: usize,
    /// On a terminal.
    live: Option<Live>,
}

impl<'a> HostsDisplay<'a> {
    /// For hosts of these names.
    #[must_use]
    pub fn new(ui: &'a Ui, kind: RunKind, names: Vec<&'a str>) -> Self {
        let width = names.iter().map(|name| name.width()).max().unwrap_or(0).min(WIDEST_NAME);
        let live = (!ui.quiet && can_be_redrawn()).then(|| Live::new(names.len()));
        let rows = names.iter().map(|_| None).collect();
        Self { ui, kind, names, targets: Vec::new(), width, state: Mutex::new(State { rows, ended: 0, live }) }
    }

    /// With the image of each host.
    #[must_use]
    pub fn on(self, targets: Vec<String>) -> Self {
        Self { targets, ..self }
    }

    /// Leaves the terminal to ssh's questions until [`HostsDisplay::resume`].
    pub fn pause(&self) {
        if let Some(live) = &mut self.lock().live {
            live.pause();
        }
    }

    /// Displays the run again.
    pub fn resume(&self) {
        if let Some(live) = &mut self.lock().live {
            live.resume();
        }
    }

    /// The results, in the order of selection. After a run none is missing.
    #[must_use]
    pub fn finish(self) -> Vec<HostReport> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut live) = state.live {
            live.resume();
            live.total.finish_and_clear();
        }
        state.rows.into_iter().flatten().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, state: &mut State, line: &str) {
        match &mut state.live {
            _ if self.ui.quiet => {}
            Some(live) => live.print(line),
            None => print_error_stream(line),
        }
    }
}

impl Watcher for HostsDisplay<'_> {
    fn begun(&self, host: usize) {
        let (name, width) = (self.names[host], self.width);
        let first = if self.targets.is_empty() { HostStep::Connecting } else { HostStep::Comparing };
        if let Some(live) = &mut self.lock().live {
            live.begin(host, &format!("{name:width$}"), first);
        }
    }

    fn step(&self, host: usize, step: HostStep) {
        if let Some(bar) = self.lock().live.as_ref().and_then(|live| live.bars.get(&host)) {
            bar.set_message(word(step));
        }
    }

    fn ended(&self, host: usize, end: HostResult) {
        let is_result = self.kind.is_result() && !self.ui.json;
        let width = if is_result { wrap::columns(std::io::stdout()) } else { wrap::columns(std::io::stderr()) };
        let mut row = HostReport::new(self.names[host], end, self.kind, self.ui.verbose, width);
        row.target = self.targets.get(host).cloned();
        let line = row.line(self.width, self.kind, width);
        let mut state = self.lock();
        state.ended = state.ended.saturating_add(1);
        let (ended, all) = (state.ended, state.rows.len());
        if let Some(live) = &mut state.live {
            live.end(host, ended, all);
        }
        // The differences are what `plan` and `verify` are asked for: they are printed at the end, in order.
        if !is_result || row.error.is_some() {
            self.say(&mut state, &line);
        }
        state.rows[host] = Some(row);
    }

    fn stopping(&self, running: usize) {
        let message = match running {
            _ if self.kind == RunKind::Inject => "stopping: what is not done is given up".to_owned(),
            0 => "stopped: no other host begins".to_owned(),
            1 => "stopping: no other host begins; 1 still runs, and is not cut off".to_owned(),
            _ => format!("stopping: no other host begins; {running} still run, and are not cut off"),
        };
        self.say(&mut self.lock(), &message);
    }
}

/// The name of a step.
fn word(step: HostStep) -> &'static str {
    match step {
        HostStep::Connecting => "connecting",
        HostStep::Comparing => "comparing",
        HostStep::Writing => "writing",
        HostStep::Restarting => "restarting",
        HostStep::Settling => "settling",
    }
}

/// True on a terminal whose lines can be redrawn.
fn can_be_redrawn() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// The lines at the bottom of a terminal.
struct Live {
    lines: MultiProgress,
    /// "3 of 100 hosts".
    total: ProgressBar,
    bars: HashMap<usize, ProgressBar>,
    /// While ssh asks: the lines to print afterwards.
    waiting: Option<Vec<String>>,
    /// Without colours.
    plain: bool,
}

impl Live {
    fn new(hosts: usize) -> Self {
        let lines = MultiProgress::new();
        let total = ProgressBar::new_spinner()
            .with_style(style("  {msg}   {elapsed}"))
            .with_message(format!("0 of {hosts} hosts"));
        let total = lines.add(total);
        total.enable_steady_tick(FRAME);
        let plain = anstream::AutoStream::choice(&std::io::stderr()) == anstream::ColorChoice::Never;
        Self { lines, total, bars: HashMap::new(), waiting: None, plain }
    }

    fn begin(&mut self, host: usize, name: &str, first: HostStep) {
        let room = wrap::width().saturating_sub(LIVE);
        let shown = wrap::cut_path(&text::shown_text(name).unwrap_or_default(), room);
        let bar = ProgressBar::new_spinner()
            .with_style(style("  {prefix}   {spinner} {msg}   {elapsed}"))
            .with_prefix(format!("{shown:width$}", width = name.width().min(room)))
            .with_message(word(first));
        let bar = self.lines.insert_before(&self.total, bar);
        bar.enable_steady_tick(FRAME);
        self.bars.insert(host, bar);
    }

    fn end(&mut self, host: usize, ended: usize, all: usize) {
        if let Some(bar) = self.bars.remove(&host) {
            bar.finish_and_clear();
            self.lines.remove(&bar);
        }
        self.total.set_message(format!("{ended} of {all} hosts"));
    }

    fn print(&mut self, line: &str) {
        let line = deaddrop_core::shown::painted(line);
        let line = match self.plain {
            true => anstream::adapter::strip_str(&line).to_string(),
            false => links::linked(line, &std::io::stderr()),
        };
        match &mut self.waiting {
            Some(waiting) => waiting.push(line),
            // Best effort, as all output for people.
            None => drop(self.lines.println(line)),
        }
    }

    fn pause(&mut self) {
        // Best effort: a line that stays on the terminal does no harm.
        let _ = self.lines.clear();
        self.lines.set_draw_target(ProgressDrawTarget::hidden());
        self.waiting.get_or_insert_default();
    }

    fn resume(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        self.lines.set_draw_target(ProgressDrawTarget::stderr());
        waiting.iter().for_each(|line| drop(self.lines.println(line)));
    }
}

/// OK to fall back: the templates are constants, and only an invalid one is an error.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// The right to use the terminal: one host at a time may ask.
#[derive(Default)]
pub struct TerminalTurn {
    taken: Mutex<bool>,
    free: std::sync::Condvar,
}

impl TerminalTurn {
    /// Waits until it is free, and takes it.
    pub fn take(&self) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self.free.wait_while(taken, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
        *taken = true;
    }

    /// Gives it to the next one. Only the holder may call this.
    pub fn give(&self) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.free.notify_one();
    }
}
