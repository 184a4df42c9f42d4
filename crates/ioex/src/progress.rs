//! Progress on stderr: bars on a terminal, a line per step elsewhere.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _, stderr},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ioex_api::{BackupProgress, BackupStep, Transfer};

use crate::{render, size};

const BYTES_STYLE: &str = "  {msg:<14} [{bar:30}] {decimal_bytes:>10} of {decimal_total_bytes:<10} {decimal_bytes_per_sec:>12} {eta:>4}";
const COUNT_STYLE: &str = "  {msg:<14} [{bar:30}] {pos} of {len}";
const UNKNOWN_STYLE: &str = "  {msg:<14} {spinner} {decimal_bytes}";

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Bars that move.
    Bars,
    /// A line when a step begins or ends.
    Lines,
    /// Nothing.
    Nothing,
}

impl Show {
    /// Bars on a terminal, else lines.
    #[must_use]
    pub fn detect() -> Self {
        if stderr().is_terminal() { Self::Bars } else { Self::Lines }
    }
}

/// Writes a line to stderr.
pub fn say(line: &str) {
    // Where nobody reads, nobody misses it.
    let _ = writeln!(stderr(), "{line}");
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; one that is wrong shows the plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The bar of a step that counts things.
#[must_use]
pub fn count_bar(show: Show, what: &str, total: u64) -> ProgressBar {
    let bar = if show == Show::Bars { ProgressBar::new(total) } else { ProgressBar::hidden() };
    bar.with_style(style(COUNT_STYLE)).with_message(what.to_owned())
}

/// Shows the steps of one backup or restore.
#[derive(Debug)]
pub struct Steps {
    show: Show,
    now: Option<(BackupStep, ProgressBar)>,
    /// Bytes of the present step, for [`Show::Lines`].
    bytes: u64,
}

impl Steps {
    /// Nothing shown yet.
    #[must_use]
    pub fn new(show: Show) -> Self {
        Self { show, now: None, bytes: 0 }
    }

    /// Takes an update.
    pub fn update(&mut self, progress: &BackupProgress) {
        if self.show == Show::Nothing {
            return;
        }
        if self.now.as_ref().is_none_or(|(step, _)| *step != progress.step) {
            self.finish();
            let bar = if self.show == Show::Bars { ProgressBar::new(0) } else { ProgressBar::hidden() };
            self.now = Some((progress.step, bar.with_message(render::step(progress.step))));
        }
        self.bytes = progress.done_bytes;
        if let Some((_, bar)) = &self.now {
            if bar.length() != Some(progress.total_bytes) || bar.position() == 0 {
                bar.set_style(style(if progress.total_bytes == 0 { UNKNOWN_STYLE } else { BYTES_STYLE }));
                bar.set_length(progress.total_bytes);
            }
            bar.set_position(progress.done_bytes);
        }
        if let Some(note) = &progress.note {
            self.note(note);
        }
    }

    /// A line above the bar.
    pub fn note(&self, note: &str) {
        let line = format!("  {}", render::printable(note));
        match (&self.now, self.show) {
            (_, Show::Nothing) => {}
            (Some((_, bar)), Show::Bars) => bar.suspend(|| say(&line)),
            _ => say(&line),
        }
    }

    /// Ends the present step's bar, which stays on the screen.
    pub fn finish(&mut self) {
        let Some((step, bar)) = self.now.take() else { return };
        match self.show {
            Show::Bars => bar.abandon(),
            Show::Lines => say(&format!("  {}: {}", render::step(step), size::human(self.bytes))),
            Show::Nothing => {}
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Shows several transfers, each with its bar.
#[derive(Debug)]
pub struct Transfers {
    show: Show,
    all: MultiProgress,
    bars: BTreeMap<u64, ProgressBar>,
}

impl Transfers {
    /// Nothing shown yet.
    #[must_use]
    pub fn new(show: Show) -> Self {
        let all = MultiProgress::new();
        if show != Show::Bars {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { show, all, bars: BTreeMap::new() }
    }

    /// Takes a transfer's new state.
    pub fn update(&mut self, transfer: &Transfer) {
        if self.show != Show::Bars {
            return;
        }
        let bar = self.bars.entry(transfer.id).or_insert_with(|| {
            self.all.add(ProgressBar::new(transfer.total_bytes).with_style(style(BYTES_STYLE)))
        });
        let (id, state) = (transfer.id, render::transfer_state(transfer.state));
        bar.set_message(format!("{id} {state}"));
        bar.set_position(transfer.done_bytes);
    }

    /// Leaves the bars as they are.
    pub fn finish(&mut self) {
        for bar in std::mem::take(&mut self.bars).into_values() {
            bar.abandon();
        }
    }
}
