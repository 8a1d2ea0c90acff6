//! Reads the daemon's log, as long as the daemon or one of its servers lives.
//!
//! The daemon wedges when nobody reads (after 128 KiB, measured with 580). So this thread waits for nobody: what
//! standard error does not take at once is left out and counted, and so is what comes too fast.

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::journal::Journal;
use crate::mps::events::Event;
use crate::mps::events::line::{LogReader, Meaning, Weight, without_time};

/// The thread reads, compares and writes short lines.
const STACK_BYTES: usize = 128 * 1024;

/// What is read at once.
const READ_BYTES: usize = 4096;

/// The longest line that is looked at. The rest of a longer one is left out.
const MAX_LINE_BYTES: usize = 1024;

/// Lines that reach the journal within [`VALVE_PERIOD`]: starts of many pods, and no storm.
const VALVE_LINES: u32 = 200;

/// See [`VALVE_LINES`].
const VALVE_PERIOD: Duration = Duration::from_secs(10);

/// Lines of trouble that explain an end.
const LAST_WORDS: usize = 3;

/// What the log has said so far.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The newest lines of trouble, oldest first.
    pub(super) last_words: VecDeque<String>,
    /// Whether the daemon announced that it leaves in order.
    pub(super) leaves: bool,
    /// Servers that ended, or did not start.
    pub(super) servers_ended: u64,
}

/// The reading thread.
pub(super) struct Drain {
    heard: Arc<Mutex<Heard>>,
    ended: Receiver<()>,
}

impl Drain {
    /// Starts it.
    pub(super) fn start(pipe: PipeReader, journal: Journal) -> io::Result<Self> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        // Nothing is ever sent: the sender's end is the news.
        let (alive, ended) = channel();
        let mut listener = Listener {
            heard: Arc::clone(&heard),
            journal,
            valve: Valve::new(Instant::now()),
            reader: LogReader::default(),
        };
        let drain = move || {
            listener.listen(pipe);
            drop(alive);
        };
        std::thread::Builder::new()
            .name("mps-log".into())
            .stack_size(STACK_BYTES)
            .spawn(drain)?;
        Ok(Self { heard, ended })
    }

    /// What it has heard.
    pub(super) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything was read, which is when the last process that writes is gone; not longer than `limit`.
    pub(super) fn finish(&self, limit: Duration) -> bool {
        self.ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }
}

struct Listener {
    heard: Arc<Mutex<Heard>>,
    journal: Journal,
    valve: Valve,
    reader: LogReader,
}

impl Listener {
    fn listen(&mut self, mut pipe: PipeReader) {
        let mut buffer = [0; READ_BYTES];
        let mut line = Line::default();
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => line.take(&buffer[..length], |line| self.hear(line)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "the MPS daemon's log cannot be read: it will stop answering");
                    break;
                }
            }
        }
        line.end(|line| self.hear(line));
    }

    fn hear(&mut self, line: &str) {
        let Some(meaning) = self.reader.read(line) else {
            return;
        };
        if meaning.weight == Weight::Noise {
            return;
        }
        let text = without_time(line);
        self.remember(&meaning, &text);
        if let Some(event) = meaning.event {
            self.journal.write(event);
        }
        self.forward(meaning.weight, &text);
    }

    fn remember(&self, meaning: &Meaning, text: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match meaning.event {
            Some(Event::DaemonLeaves { .. }) => heard.leaves = true,
            Some(Event::ServerExited { .. } | Event::ServerNotStarted { .. } | Event::ServerFault) => {
                heard.servers_ended += 1;
            }
            _ => {}
        }
        if meaning.weight == Weight::Trouble {
            if heard.last_words.len() == LAST_WORDS {
                heard.last_words.pop_front();
            }
            heard.last_words.push_back(text.to_owned());
        }
    }

    fn forward(&mut self, weight: Weight, text: &str) {
        let is_shown = match weight {
            Weight::Noise => false,
            Weight::Detail => tracing::enabled!(tracing::Level::DEBUG),
            Weight::Notable | Weight::Trouble => true,
        };
        if !is_shown {
            return;
        }
        if !stderr_takes_a_line() {
            self.valve.leave_out();
            return;
        }
        let (admitted, left_out) = self.valve.admit(Instant::now());
        if left_out > 0 {
            tracing::warn!(
                lines = left_out,
                "lines of the MPS daemon's log were left out here"
            );
        }
        if !admitted {
            return;
        }
        match weight {
            Weight::Noise | Weight::Detail => tracing::debug!(line = text, "the MPS daemon says"),
            Weight::Notable => tracing::info!(line = text, "the MPS daemon says"),
            Weight::Trouble => tracing::warn!(line = text, "the MPS daemon says"),
        }
    }
}

/// Whether a line can be written to standard error without waiting: a journal that hangs must not wedge the daemon.
fn stderr_takes_a_line() -> bool {
    let stderr = io::stderr();
    let mut ends = [PollFd::new(&stderr, PollFlags::OUT)];
    // A closed end answers at once, too: writing to it fails and does not wait.
    poll(&mut ends, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Puts lines together from what a pipe gives.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Line {
    fn take(&mut self, bytes: &[u8], mut hear: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE_BYTES.saturating_sub(self.0.len());
            self.0.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end(&mut hear);
            }
        }
    }

    fn end(&mut self, mut hear: impl FnMut(&str)) {
        if !self.0.is_empty() {
            hear(&printable(&self.0));
            self.0.clear();
        }
    }
}

/// Text that does nothing to a terminal: every client of MPS can write into the log.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end()
        .replace(|letter: char| letter.is_control(), "\u{fffd}")
}

/// Lets so many lines through in each period.
#[derive(Debug)]
struct Valve {
    since: Instant,
    admitted: u32,
    left_out: u64,
}

impl Valve {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            admitted: 0,
            left_out: 0,
        }
    }

    fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// Whether a line is let through, and how many were not before it, to be told now.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        if now.duration_since(self.since) >= VALVE_PERIOD {
            self.since = now;
            self.admitted = 0;
        }
        if self.admitted >= VALVE_LINES {
            self.leave_out();
            return (false, 0);
        }
        self.admitted += 1;
        (true, std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut line = Line::default();
        let mut heard = Vec::new();
        for piece in pieces {
            line.take(piece, |line| heard.push(line.to_owned()));
        }
        line.end(|line| heard.push(line.to_owned()));
        heard
    }

    #[test]
    fn lines_are_put_together_whatever_the_pieces_are() {
        assert_eq!(lines(&[b"a\nb", b"c\n", b"\n", b"d"]), ["a", "bc", "", "d"]);
        assert_eq!(lines(&[b"\x1b[31mred\xff\r\n"]), ["\u{fffd}[31mred\u{fffd}"]);
    }

    #[test]
    fn m21_a_line_without_end_takes_no_memory() {
        let long = [b'x'; 10 * MAX_LINE_BYTES];
        let heard = lines(&[&long, &long, b"\nnext\n"]);
        assert_eq!(heard.len(), 2);
        assert_eq!(heard[0].len(), MAX_LINE_BYTES);
        assert_eq!(heard[1], "next");
    }

    #[test]
    fn m21_a_storm_is_cut_and_counted() {
        let now = Instant::now();
        let mut valve = Valve::new(now);
        let through = (0..1000).filter(|_| valve.admit(now).0).count();
        assert_eq!(through, VALVE_LINES as usize);
        let later = now + VALVE_PERIOD;
        assert_eq!(valve.admit(later), (true, 1000 - u64::from(VALVE_LINES)));
        assert_eq!(valve.admit(later), (true, 0));
    }
}
