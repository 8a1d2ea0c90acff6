//! Where the demo draws: in place on a terminal, block after block elsewhere.
//!
//! The status and what CloudWatch accepted stand below each other where the terminal is high enough, side by side where it
//! is wide enough, and take turns where it is neither.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;

/// In a log a status every second would bury the windows.
const PLAIN_STATUS_EVERY: Duration = Duration::from_secs(5);
/// How long each part has a small terminal to itself.
const TURN: Duration = Duration::from_secs(5);
/// Columns of a part that stands beside the other: what the tables in it take.
const PART: usize = 98;
const GAP: usize = 3;
const HOME: &str = "\x1b[H";
const CLEAR_ALL: &str = "\x1b[2J";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// What is on show.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) status: &'a str,
    pub(super) published: &'a str,
}

pub(super) struct Screen {
    terminal: bool,
    began: Instant,
    /// When the plain form last printed the status.
    last_status: Option<Instant>,
    /// The status on the terminal, to be left there in full at the end.
    left: String,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            began: Instant::now(),
            last_status: None,
            left: String::new(),
        }
    }

    /// Shows the frame; where nothing can be drawn in place, its status now and then, and the news.
    pub(super) fn draw(&mut self, frame: &Frame<'_>, news: &str) -> anyhow::Result<()> {
        let text = if self.terminal {
            let first = if self.left.is_empty() { CLEAR_ALL } else { "" };
            self.left = format!("{}\n\n{}\n", frame.title, frame.status.trim_end());
            let (columns, rows) = size();
            let is_second_turn = self.began.elapsed().as_secs() / TURN.as_secs() % 2 == 1;
            let lines = arranged(frame, columns, rows.saturating_sub(1), is_second_turn);
            let end = format!("{CLEAR_LINE}\r\n");
            let drawn = lines.join(&end);
            format!("{first}{HOME}{drawn}{end}{CLEAR_BELOW}")
        } else {
            format!("{}{news}", self.plain_status(frame))
        };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("write to standard output")
    }

    fn plain_status(&mut self, frame: &Frame<'_>) -> String {
        let due = self
            .last_status
            .is_none_or(|last| last.elapsed() >= PLAIN_STATUS_EVERY);
        if !due {
            return String::new();
        }
        self.last_status = Some(Instant::now());
        format!("\n{}\n{}\n", frame.title, frame.status.trim_end())
    }

    /// Leaves the last status on the terminal, uncut, with the cursor below it.
    pub(super) fn close(&self) {
        if !self.left.is_empty() {
            println!("{HOME}{CLEAR_BELOW}{}", self.left);
        }
    }
}

/// The lines of a frame, none longer than the columns and no more of them than the rows, so that nothing scrolls.
fn arranged(frame: &Frame<'_>, columns: usize, rows: usize, is_second_turn: bool) -> Vec<String> {
    let mut lines = wrapped(frame.title, columns);
    lines.push(String::new());
    let room = rows.saturating_sub(lines.len() + 1);
    let parts = [frame.status, frame.published].map(str::trim_end);
    let [status, published] = parts.map(|part| wrapped(part, columns));
    let footer = if status.len() + 1 + published.len() <= room {
        lines.extend(status);
        lines.push(String::new());
        lines.extend(published);
        "Ctrl-C stops."
    } else if columns >= PART + GAP + PART {
        let [status, published] = parts.map(|part| wrapped(part, PART));
        lines.extend(beside(&status, &published, PART + GAP));
        "Ctrl-C stops."
    } else {
        lines.extend(if is_second_turn { published } else { status });
        "Ctrl-C stops. Status and CloudWatch take turns; a higher or wider terminal shows both."
    };
    lines.truncate(rows.saturating_sub(1));
    lines.extend(wrapped(footer, columns).into_iter().take(1));
    lines.truncate(rows);
    lines
}

fn beside(left: &[String], right: &[String], at: usize) -> Vec<String> {
    let line = |lines: &[String], row: usize| lines.get(row).cloned().unwrap_or_default();
    (0..left.len().max(right.len()))
        .map(|row| {
            format!("{:<at$}{}", line(left, row), line(right, row))
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// Breaks lines between words; what a line goes on with is indented more than the line.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len() + 8;
        let mut rest = line.to_owned();
        while rest.chars().count() > columns {
            let (head, tail) = broken(&rest, columns, indent);
            lines.push(head);
            rest = tail;
        }
        lines.push(rest);
    }
    lines
}

/// The part of a line that fits, and the rest, indented. A rest that would not be shorter is cut off.
fn broken(line: &str, columns: usize, indent: usize) -> (String, String) {
    let fits: String = line.chars().take(columns).collect();
    let own_indent = line.len() - line.trim_start().len();
    let space = fits.rfind(' ').filter(|space| *space > indent.max(own_indent));
    let Some(space) = space else {
        return (fits, String::new());
    };
    let rest = line[space..].trim_start();
    (
        fits[..space].trim_end().to_owned(),
        format!("{:indent$}{rest}", ""),
    )
}

/// Columns and rows; the classic 80 by 24 where the terminal does not say.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame<'_> = Frame {
        title: "T",
        status: "a\nbb\n",
        published: "c\nd\ne\n",
    };

    #[test]
    fn a_high_terminal_has_both_parts_below_each_other() {
        let lines = arranged(&FRAME, 80, 20, false);
        assert_eq!(lines, ["T", "", "a", "bb", "", "c", "d", "e", "Ctrl-C stops."]);
    }

    #[test]
    fn a_wide_terminal_has_them_side_by_side() {
        let lines = arranged(&FRAME, 200, 8, true);
        let [first, second] = ["a", "bb"].map(|text| format!("{text:<101}"));
        let third = " ".repeat(101) + "e";
        let wanted = ["T", "", &(first + "c"), &(second + "d"), &third, "Ctrl-C stops."];
        assert_eq!(lines, wanted);
        let narrow = arranged(&FRAME, 198, 8, true);
        assert_eq!(narrow[2..5], ["c", "d", "e"]);
    }

    #[test]
    fn in_a_small_one_they_take_turns() {
        let [first, second] = [false, true].map(|turn| arranged(&FRAME, 5, 6, turn));
        assert_eq!(first, ["T", "", "a", "bb", "Ctrl-"]);
        assert_eq!(second, ["T", "", "c", "d", "e", "Ctrl-"]);
        assert_eq!(arranged(&FRAME, 5, 3, true), ["T", "", "Ctrl-"]);
        assert!(arranged(&FRAME, 0, 0, true).is_empty());
    }

    #[test]
    fn long_lines_are_broken_between_words_and_never_exceed_the_terminal() {
        let long = format!("  {} end", "word ".repeat(10));
        let lines = wrapped(&long, 30);
        assert_eq!(lines[0], "  word word word word word");
        assert!(lines[1].starts_with("          word"), "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 30), "{lines:?}");
        assert_eq!(lines.join(" ").matches("word").count(), 10);
        assert_eq!(wrapped("éééé", 2), ["éé", ""]);
    }
}
