//! Shows how far an operation is, and passes signals on to it.
//!
//! A thread looks at the counters of `Progress`; the operation never waits for the terminal.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::args::ProgressChoice;
use crate::cli::escape::escape_text;
use crate::cli::output::{Output, OutputOptions, stderr_is_terminal};
use crate::cli::signals::{Signals, signals};
use crate::progress::Progress;
use crate::units::{UnitStyle, format_duration, format_rate, format_size};

/// How often the thread looks for signals and messages.
const TICK: Duration = Duration::from_millis(100);
/// How long the rate is averaged over.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Longest part of the current item's name that is shown.
const ITEM_CHARS_MAX: usize = 60;

/// In which form progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// Not at all; warnings are.
    Silent,
    /// One line that stays.
    Plain,
    /// A bar that is drawn again and again.
    Bar,
    /// JSON events.
    Json,
}

impl Display {
    /// The form for a choice and the circumstances; `verbose` is whether a log is printed as well.
    #[must_use]
    pub fn choose(
        choice: ProgressChoice,
        options: &OutputOptions,
        terminal: bool,
        verbose: bool,
    ) -> Self {
        match choice {
            ProgressChoice::None => Self::Silent,
            ProgressChoice::Bar => Self::Bar,
            ProgressChoice::Json => Self::Json,
            ProgressChoice::Auto if options.json => Self::Json,
            ProgressChoice::Auto if options.quiet => Self::Silent,
            ProgressChoice::Auto if terminal && !verbose => Self::Bar,
            ProgressChoice::Auto | ProgressChoice::Plain => Self::Plain,
        }
    }

    /// [`Self::choose`] for standard error as it is.
    #[must_use]
    pub fn for_stderr(choice: ProgressChoice, options: &OutputOptions, verbose: bool) -> Self {
        Self::choose(choice, options, stderr_is_terminal(), verbose)
    }

    fn interval(self) -> Duration {
        match self {
            Self::Silent => Duration::MAX,
            Self::Plain => Duration::from_secs(30),
            Self::Bar => Duration::from_millis(200),
            Self::Json => Duration::from_secs(1),
        }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProgressState {
    /// Items that are done.
    pub items_done: u64,
    /// Items known so far; 0 while unknown.
    pub items_total: u64,
    /// Bytes that are done.
    pub bytes_done: u64,
    /// Bytes known so far; 0 while unknown.
    pub bytes_total: u64,
    /// Bytes written to or read from the store.
    pub stored_bytes: u64,
    /// Troubles so far.
    pub warnings: u64,
    /// Seconds since the beginning.
    pub seconds_elapsed: u64,
    /// Bytes per second, lately.
    pub bytes_per_second: u64,
    /// Seconds until the end, where it can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// The item being worked on.
    pub current: String,
}

impl ProgressState {
    fn of(progress: &Progress, elapsed: Duration, bytes_per_second: u64) -> Self {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let (bytes_done, bytes_total) = (load(&progress.bytes_done), load(&progress.bytes_total));
        let left = bytes_total.saturating_sub(bytes_done);
        Self {
            items_done: load(&progress.items_done),
            items_total: load(&progress.items_total),
            bytes_done,
            bytes_total,
            stored_bytes: load(&progress.stored_bytes),
            warnings: load(&progress.warnings),
            seconds_elapsed: elapsed.as_secs(),
            bytes_per_second,
            seconds_left: (bytes_total > 0).then(|| left.checked_div(bytes_per_second)).flatten(),
            current: progress.current(),
        }
    }

    /// Whole percents that are done, where the total is known.
    #[must_use]
    pub fn percent(&self) -> Option<u64> {
        let (done, total) = match (self.bytes_total, self.items_total) {
            (0, 0) => return None,
            (0, items) => (self.items_done, items),
            (bytes, _) => (self.bytes_done, bytes),
        };
        Some((u128::from(done) * 100 / u128::from(total)).min(100) as u64)
    }

    /// All of it in one line.
    #[must_use]
    pub fn line(&self, units: UnitStyle) -> String {
        let size = |bytes| format_size(bytes, units);
        let mut line = String::new();
        if let Some(percent) = self.percent() {
            let _ = write!(line, "{percent}%  ");
        }
        let _ = match self.items_total {
            0 => write!(line, "{} items", self.items_done),
            total => write!(line, "{}/{total} items", self.items_done),
        };
        let _ = match self.bytes_total {
            0 => write!(line, "  {}", size(self.bytes_done)),
            total => write!(line, "  {}/{}", size(self.bytes_done), size(total)),
        };
        let _ = write!(line, "  {} stored", size(self.stored_bytes));
        let _ = write!(line, "  {}", format_rate(self.bytes_per_second, units));
        if let Some(seconds) = self.seconds_left {
            let _ = write!(line, "  {} left", format_duration(Duration::from_secs(seconds)));
        }
        if self.warnings > 0 {
            let _ = write!(line, "  {} warnings", self.warnings);
        }
        if !self.current.is_empty() {
            let _ = write!(line, "  {}", shortened(&escape_text(&self.current)));
        }
        line
    }
}

/// The end of a long name, which says more than its beginning.
fn shortened(name: &str) -> String {
    let count = name.chars().count();
    if count <= ITEM_CHARS_MAX {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count - (ITEM_CHARS_MAX - 1)).collect();
    format!("…{end}")
}

/// Bytes per second over the last [`RATE_WINDOW`].
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(Duration, u64)>,
}

impl Rate {
    fn add(&mut self, elapsed: Duration, bytes: u64) -> u64 {
        self.samples.push_back((elapsed, bytes));
        while self.samples.len() > 2 && elapsed.saturating_sub(self.samples[1].0) >= RATE_WINDOW {
            self.samples.pop_front();
        }
        let (then, before) = self.samples[0];
        let milliseconds = elapsed.saturating_sub(then).as_millis().max(1);
        (u128::from(bytes.saturating_sub(before)) * 1000 / milliseconds) as u64
    }
}

/// A running display. Dropping it ends the display and prints what is still to be said.
#[derive(Debug)]
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    signals: &'static Signals,
}

impl Watch {
    /// Begins to show `progress`, and to pass SIGINT and SIGTERM on to [`Progress::cancel`].
    #[must_use]
    pub fn start(progress: Arc<Progress>, output: Arc<Output>, display: Display) -> Self {
        Self::with_signals(signals(), progress, output, display)
    }

    fn with_signals(
        signals: &'static Signals,
        progress: Arc<Progress>,
        output: Arc<Output>,
        display: Display,
    ) -> Self {
        signals.arm();
        let (stop, stopped) = bounded(0);
        let watcher = Watcher::new(signals, progress, output, display);
        let thread = std::thread::spawn(move || watcher.run(&stopped));
        Self { stop: Some(stop), thread: Some(thread), signals }
    }

    /// Ends the display.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the display has been reported by the panic hook; the operation goes on.
            drop(thread.join());
        }
        self.signals.disarm();
    }
}

struct Watcher {
    signals: &'static Signals,
    progress: Arc<Progress>,
    output: Arc<Output>,
    display: Display,
    bar: Option<ProgressBar>,
    begun: Instant,
    shown: Duration,
    rate: Rate,
}

impl Watcher {
    fn new(
        signals: &'static Signals,
        progress: Arc<Progress>,
        output: Arc<Output>,
        display: Display,
    ) -> Self {
        let bar = (display == Display::Bar).then(new_bar);
        if let Some(bar) = &bar {
            output.attach(bar.clone());
        }
        let (begun, shown) = (Instant::now(), Duration::ZERO);
        Self { signals, progress, output, display, bar, begun, shown, rate: Rate::default() }
    }

    fn run(mut self, stopped: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
            self.tick();
        }
        self.pass_messages();
        self.output.detach();
    }

    fn tick(&mut self) {
        if self.signals.came().is_some() && !self.progress.is_cancelled() {
            self.progress.cancel();
            self.output.status("stopping at the next safe point; once more to stop at once");
        }
        self.pass_messages();
        let elapsed = self.begun.elapsed();
        let rate = self.rate.add(elapsed, self.progress.bytes_done.load(Relaxed));
        let asked = self.signals.take_status_request();
        if asked || elapsed.saturating_sub(self.shown) >= self.display.interval() {
            let state = ProgressState::of(&self.progress, elapsed, rate);
            self.show(&state, asked);
            self.shown = elapsed;
        }
    }

    fn show(&self, state: &ProgressState, asked: bool) {
        let line = state.line(self.output.options().units);
        match (&self.bar, self.display) {
            (Some(bar), _) => draw(bar, state, line.clone()),
            (None, Display::Json) => self.output.progress(state),
            (None, Display::Plain) => self.output.status(&line),
            (None, _) => {}
        }
        if asked && self.display != Display::Plain {
            self.output.status(&line);
        }
    }

    fn pass_messages(&self) {
        for message in self.progress.take_messages() {
            self.output.warning(&message);
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is constant"));
    bar
}

fn draw(bar: &ProgressBar, state: &ProgressState, line: String) {
    let Some(percent) = state.percent() else {
        bar.set_message(line);
        bar.tick();
        return;
    };
    let full = (percent / 5) as usize;
    bar.set_message(format!("[{}{}] {line}", "#".repeat(full), "-".repeat(20 - full)));
    bar.tick();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_display_follows_the_circumstances() {
        use ProgressChoice::{Auto, Bar, Json};
        let options = |json, quiet| OutputOptions { json, quiet, ..OutputOptions::default() };
        let cases = [
            (Auto, options(false, false), true, false, Display::Bar),
            (Auto, options(false, false), true, true, Display::Plain),
            (Auto, options(false, false), false, false, Display::Plain),
            (Auto, options(true, true), true, false, Display::Json),
            (Auto, options(false, true), true, false, Display::Silent),
            (Bar, options(true, true), false, true, Display::Bar),
            (Json, options(false, false), true, false, Display::Json),
        ];
        for (choice, options, terminal, verbose, expected) in cases {
            assert_eq!(Display::choose(choice, &options, terminal, verbose), expected);
        }
    }

    #[test]
    fn one_line_says_all() {
        let progress = Progress::default();
        progress.items_done.store(3, Relaxed);
        progress.bytes_done.store(5 << 20, Relaxed);
        let state = ProgressState::of(&progress, Duration::from_secs(2), 1 << 20);
        assert_eq!(state.line(UnitStyle::Iec), "3 items  5.00 MiB  0 B stored  1.00 MiB/s");
        progress.items_total.store(10, Relaxed);
        progress.bytes_total.store(20 << 20, Relaxed);
        progress.set_current("/a\x1b[2J");
        progress.warn("x".into());
        let state = ProgressState::of(&progress, Duration::from_secs(2), 1 << 20);
        assert_eq!(
            state.line(UnitStyle::Iec),
            "25%  3/10 items  5.00 MiB/20.0 MiB  0 B stored  1.00 MiB/s  15s left  1 warnings  \
             /a\\x1b[2J"
        );
    }

    #[test]
    fn a_signal_cancels_and_messages_are_not_lost() {
        let signals: &'static Signals = Box::leak(Box::new(Signals::without_handlers()));
        let progress = Arc::new(Progress::default());
        let file = tempfile::NamedTempFile::new().unwrap();
        let options = OutputOptions { json: true, ..OutputOptions::default() };
        let output = Arc::new(Output::to(options, Box::new(file.reopen().unwrap())));
        let watch = Watch::with_signals(signals, Arc::clone(&progress), output, Display::Silent);
        assert!(!signals.ends_at_once());
        signals.pretend(crate::cli::error::Exit::Terminated);
        while !progress.is_cancelled() {
            std::thread::yield_now();
        }
        progress.warn("the last word".into());
        watch.finish();
        assert!(signals.ends_at_once());
        assert_eq!(signals.came(), Some(crate::cli::error::Exit::Terminated));
        let printed = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(printed, "{\"v\":1,\"type\":\"warning\",\"message\":\"the last word\"}\n");
    }

    #[test]
    fn the_rate_forgets_what_is_long_ago() {
        let mut rate = Rate::default();
        let seconds = Duration::from_secs;
        assert_eq!(rate.add(seconds(0), 0), 0);
        assert_eq!(rate.add(seconds(1), 1000), 1000);
        assert_eq!(rate.add(seconds(11), 1000), 0);
    }

    #[test]
    fn long_names_keep_their_end() {
        let name = format!("{}/end", "ä".repeat(100));
        let short = shortened(&name);
        assert_eq!(short.chars().count(), ITEM_CHARS_MAX);
        assert!(short.starts_with('…') && short.ends_with("/end"));
    }
}
