//! Lines of the log, and the records in which servers send theirs through the FIFO.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err::File;
use rustix::fs::{Mode, OFlags};

/// Who speaks, as the log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    Control,
    Server,
    Other,
    LegacyServer,
}

impl Speaker {
    const ALL: [Self; 4] = [Self::Control, Self::Server, Self::Other, Self::LegacyServer];

    fn name(self) -> &'static str {
        match self {
            Self::Control => "Control",
            Self::Server => "Server",
            Self::Other => "Other",
            Self::LegacyServer => "Legacy Server",
        }
    }
}

/// One line in the literal format, in UTC (the real one uses local time).
pub(crate) fn line(now: SystemTime, speaker: Speaker, pid: i32, text: &str) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let second = second % 60;
    let ms = since.subsec_millis();
    let name = speaker.name();
    format!("[{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03} {name} {pid:5}] {text}\n")
}

/// The date that is so many days after 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut left = days;
    let mut year = 1970;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 1;
    for length in months {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

/// Where the daemon's lines go.
#[derive(Debug)]
pub(crate) enum Log {
    /// `-f`: everything to stdout. A reader that does not read stops the daemon, as it stops the real one.
    Stdout,
    /// `-d`: two files in the log directory.
    Files { control: File, server: File },
    /// `-d` without a log directory that can be written.
    Nowhere,
}

impl Log {
    pub(crate) fn write(&mut self, speaker: Speaker, pid: i32, text: &str) {
        let line = line(SystemTime::now(), speaker, pid, text);
        // Nobody to tell: the real daemon lives on too when the reading end is closed.
        let _ = match self {
            Self::Stdout => write_stdout(line.as_bytes()),
            Self::Files { control, .. } if speaker == Speaker::Control => control.write_all(line.as_bytes()),
            Self::Files { server, .. } => server.write_all(line.as_bytes()),
            Self::Nowhere => Ok(()),
        };
    }
}

/// One write for each line: std's buffer would keep a line back after an error.
fn write_stdout(mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::write(rustix::stdio::stdout(), bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Begins each record. Text has no such byte, so that text written to the FIFO is dropped.
const MAGIC: u8 = 1;
/// Magic, speaker, pid, length.
const HEADER: usize = 8;

/// The writing end of the FIFO, of a server.
#[derive(Debug)]
pub(crate) struct Recorder(Option<OwnedFd>);

impl Recorder {
    /// Without a FIFO nothing is recorded. Both ends, so that a server whose daemon is gone is not ended by a signal.
    pub(crate) fn open(fifo: &Path) -> Self {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self(rustix::fs::open(fifo, flags, Mode::empty()).ok())
    }

    pub(crate) fn write(&self, speaker: Speaker, text: &str) {
        let Some(fifo) = &self.0 else { return };
        let mut record = vec![MAGIC, speaker as u8];
        record.extend(std::process::id().to_le_bytes());
        let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        record.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
        record.extend(text);
        // A full FIFO loses the line: nobody reads it.
        let _ = rustix::io::write(fifo, &record);
    }
}

/// What is read from the FIFO, put together to records.
#[derive(Debug, Default)]
pub(crate) struct Records(Vec<u8>);

impl Records {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// The next whole record: speaker, pid, text.
    pub(crate) fn next(&mut self) -> Option<(Speaker, i32, String)> {
        let start = self
            .0
            .iter()
            .position(|byte| *byte == MAGIC)
            .unwrap_or(self.0.len());
        self.0.drain(..start);
        let header: [u8; HEADER] = self.0.get(..HEADER)?.try_into().ok()?;
        let length = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let text = self.0.get(HEADER..HEADER + length)?;
        let text = String::from_utf8_lossy(text).into_owned();
        self.0.drain(..HEADER + length);
        let speaker = Speaker::ALL
            .get(usize::from(header[1]))
            .copied()
            .unwrap_or(Speaker::Other);
        let pid = i32::from_le_bytes([header[2], header[3], header[4], header[5]]);
        Some((speaker, pid, text))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_line_has_the_literal_format() {
        let now = UNIX_EPOCH + Duration::from_millis(1_709_251_199_007);
        assert_eq!(
            line(now, Speaker::Control, 77, "NEW UI"),
            "[2024-02-29 23:59:59.007 Control    77] NEW UI\n"
        );
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(365), (1971, 1, 1));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn text_in_the_fifo_is_dropped_and_split_records_are_joined() {
        let mut records = Records::default();
        records.push(b"plain text\n\x01\x02");
        assert_eq!(records.next(), None);
        records.push(b"\x05\0\0\0\x03\0abcmore");
        assert_eq!(records.next(), Some((Speaker::Other, 5, "abc".to_owned())));
        assert_eq!(records.next(), None);
    }
}
