//! Where the demo draws: in place on a terminal, block after block elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;

/// In a log a status every second would bury the windows.
const PLAIN_STATUS_EVERY: Duration = Duration::from_secs(5);
const HOME: &str = "\x1b[H";
const CLEAR_ALL: &str = "\x1b[2J";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

pub(super) struct Screen {
    terminal: bool,
    /// When the plain form last printed the status.
    last_status: Option<Instant>,
    /// The frame on the terminal, to be left there in full at the end.
    frame: String,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            last_status: None,
            frame: String::new(),
        }
    }

    /// Shows the status and the latest window; `news` says that the window was not shown before.
    pub(super) fn draw(&mut self, status: &str, window: Option<&str>, news: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let drawn = if self.terminal {
            let first = if self.frame.is_empty() { CLEAR_ALL } else { "" };
            self.frame = frame(status, window);
            let (columns, rows) = size();
            write!(
                out,
                "{first}{HOME}{}{CLEAR_BELOW}",
                clipped(&self.frame, columns, rows)
            )
        } else {
            let due = self
                .last_status
                .is_none_or(|last| last.elapsed() >= PLAIN_STATUS_EVERY);
            if due {
                self.last_status = Some(Instant::now());
            }
            let status = if due {
                format!("\n{}\n", status.trim_end())
            } else {
                String::new()
            };
            let window = window
                .filter(|_| news)
                .map(|window| format!("\n{window}"))
                .unwrap_or_default();
            write!(out, "{status}{window}")
        };
        drawn
            .and_then(|()| out.flush())
            .context("write to standard output")
    }

    /// Leaves the last frame on the terminal, unclipped, with the cursor below it.
    pub(super) fn close(&self) {
        if !self.frame.is_empty() {
            println!("{HOME}{CLEAR_BELOW}{}", self.frame);
        }
    }
}

fn frame(status: &str, window: Option<&str>) -> String {
    let window = window.unwrap_or("No window has closed yet.\n");
    format!("{}\n\n{window}\nCtrl-C stops.", status.trim_end())
}

/// Columns and rows; the classic 80 by 24 where the terminal does not say.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// The part of the text that fits, so that a frame never scrolls; each line wipes what stood behind it.
fn clipped(text: &str, columns: usize, rows: usize) -> String {
    let lines = text.lines().take(rows.saturating_sub(1));
    lines
        .map(|line| line.chars().take(columns).collect::<String>() + CLEAR_LINE + "\r\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_exceeds_the_terminal() {
        assert_eq!(clipped("abcdef\nxy\nz", 3, 3), "abc\x1b[K\r\nxy\x1b[K\r\n");
        assert_eq!(clipped("é€\n", 1, 24), "é\x1b[K\r\n");
        assert_eq!(clipped("a", 0, 0), "");
    }

    #[test]
    fn a_frame_says_when_there_is_no_window_yet() {
        assert_eq!(
            frame("ok\n\n", None),
            "ok\n\nNo window has closed yet.\n\nCtrl-C stops."
        );
        assert_eq!(frame("ok", Some("W\n")), "ok\n\nW\n\nCtrl-C stops.");
    }
}
