//! Progress on standard error: live lines on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use conjoin_core::Progress;

/// Between live updates on a terminal, and between lines elsewhere.
const LIVE: Duration = Duration::from_millis(100);
const LINES: Duration = Duration::from_secs(10);

/// Tells people how work goes.
pub(crate) struct Console {
    quiet: bool,
    live: bool,
    /// Live lines that stand on the terminal now.
    n_shown: AtomicUsize,
    state: Mutex<Option<Running>>,
}

struct Running {
    stage: String,
    begun: Instant,
    /// Units done when this run of the stage was first heard of: a resumed stage does not count them
    /// for its rate.
    first: u64,
    told: Option<Instant>,
}

impl Console {
    pub(crate) fn new(quiet: bool) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { quiet, live, n_shown: AtomicUsize::new(0), state: Mutex::new(None) }
    }

    /// A line of its own.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.clear();
            tell(&format!("{line}\n"));
        }
    }

    /// Takes the live lines away.
    pub(crate) fn clear(&self) {
        if self.live && !self.quiet {
            tell(&cleared(self.n_shown.swap(0, Ordering::Relaxed)));
        }
    }

    /// Shows live lines in the place of those that stand there.
    fn show(&self, lines: &str) {
        let before = self.n_shown.swap(lines.lines().count(), Ordering::Relaxed);
        tell(&format!("{}{NO_WRAP}{lines}{WRAP}", cleared(before)));
    }
}

/// Lines longer than the terminal is wide are cut by it: one that is wrapped could not be taken away.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// What takes so many lines away, the last of which the cursor stands in.
fn cleared(n: usize) -> String {
    let above = "\x1b[1A\x1b[2K".repeat(n.saturating_sub(1));
    format!("\r\x1b[2K{above}")
}

/// Writes to standard error. That nobody reads it is no reason to stop.
pub(crate) fn tell(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Writes a result to standard output, as a line.
///
/// # Errors
/// When nobody reads it any more, or the disk is full.
pub(crate) fn print(result: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{result}")?;
    stdout.flush()
}

impl Progress for Console {
    fn update(&self, stage: &str, done: u64, total: Option<u64>, note: &str) {
        if self.quiet {
            return;
        }
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.as_ref().is_none_or(|s| s.stage != stage) {
            let stage = stage.to_owned();
            *state = Some(Running { stage, begun: now, first: done, told: None });
        }
        let Some(running) = state.as_mut() else { return };
        let pause = if self.live { LIVE } else { LINES };
        if running.told.is_some_and(|told| now - told < pause) {
            return;
        }
        if running.told.is_none() && !self.live {
            // Elsewhere the first line comes when there is something to tell.
            running.told = Some(now);
            return;
        }
        running.told = Some(now);
        let line = running.line(now, done, total, note);
        if self.live {
            self.show(&line);
        } else {
            tell(&format!("{}\n", line.replace('\n', ", ")));
        }
    }

    fn finish(&self, stage: &str, summary: &str) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.say(&format!("{stage}: {summary}"));
    }

    fn warn(&self, message: &str) {
        self.say(&format!("warning: {message}"));
    }
}

impl Running {
    fn line(&self, now: Instant, done: u64, total: Option<u64>, note: &str) -> String {
        let seconds = (now - self.begun).as_secs_f64();
        let rate = (done - self.first.min(done)) as f64 / seconds.max(1e-3);
        let mut line = format!("{}: {done}", self.stage);
        if let Some(total) = total {
            line += &format!("/{total}");
        }
        if seconds > 0.5 && rate > 0.0 {
            line += &format!(", {rate:.1}/s");
            if let Some(total) = total {
                line += &format!(", {} left", clock((total.saturating_sub(done)) as f64 / rate));
            }
        }
        if !note.is_empty() {
            line += &format!(", {note}");
        }
        line
    }
}

/// `1:02:03` or `4:05`.
pub(crate) fn clock(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time left is not negative and far from 2^64"
    )]
    let s = seconds.round().max(0.0) as u64;
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_rate_and_time_left() {
        let begun = Instant::now();
        let running = Running { stage: "train".into(), begun, first: 100, told: None };
        let line = running.line(begun + Duration::from_secs(10), 200, Some(300), "loss 1.5");
        assert_eq!(line, "train: 200/300, 10.0/s, 0:10 left, loss 1.5");
        assert_eq!(clock(3723.4), "1:02:03");
    }

    #[test]
    fn takes_away_as_many_lines_as_it_showed() {
        assert_eq!(cleared(0), "\r\x1b[2K");
        assert_eq!(cleared(1), "\r\x1b[2K");
        assert_eq!(cleared(2), "\r\x1b[2K\x1b[1A\x1b[2K");
    }
}
