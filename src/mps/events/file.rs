//! The file of events in the daemon's directory: one JSON object per line, at most [`MAX_BYTES`], then set aside.
//!
//! One process writes (the one that holds the supervisor's lock), the agent reads as often as it likes. A line that a
//! crash tore, or that another version of gpushare wrote, is skipped and counted. The reader keeps the file open that it
//! is reading: no inode can be taken for another's, and what was written before a file was set aside is still read.

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Event, Record};

/// The longest a file gets. It lies in memory (`/run`), once for each GPU, and so does the one before it.
pub const MAX_BYTES: u64 = 64 * 1024;

/// The most that one [`EventReader::read`] takes in: more than both files hold.
const MOST_AT_ONCE: u64 = 4 * MAX_BYTES;

/// The writing end.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: fs_err::File,
    length: u64,
    /// Whether the file may end within a line.
    torn: bool,
}

impl EventLog {
    /// Opens or makes the file. What is in it stays.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = open_to_append(path)?;
        let length = file.metadata()?.len();
        let torn = length > 0 && !ends_with_a_line(path)?;
        if torn {
            file.write_all(b"\n")?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            length: length + u64::from(torn),
            torn: false,
        })
    }

    /// Writes what happened now.
    pub fn append(&mut self, event: Event) -> io::Result<()> {
        let record = Record {
            at_ms: unix_ms(SystemTime::now()),
            event,
        };
        let mut line = Vec::with_capacity(160);
        if self.torn {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, &record)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.length + length > MAX_BYTES && self.length > 0 {
            self.begin_anew()?;
        }
        // In one call, so that a crash tears as little as it can.
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.length += length;
        Ok(())
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        match fs_err::rename(&self.path, set_aside(&self.path)) {
            // Somebody has removed it, or it is set aside and there was no room for another one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = open_to_append(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

fn open_to_append(path: &Path) -> io::Result<fs_err::File> {
    let mut options = std::fs::OpenOptions::new();
    // Nobody but root reads what pods do, and nobody leads root to another file.
    options
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(no_follow());
    fs_err::OpenOptions::from_options(options).open(path)
}

fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

fn ends_with_a_line(path: &Path) -> io::Result<bool> {
    Ok(fs_err::read(path)?.ends_with(b"\n"))
}

fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

fn unix_ms(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The reading end.
#[derive(Debug)]
pub struct EventReader {
    path: PathBuf,
    file: Option<fs_err::File>,
    /// A line whose end has not been written yet.
    tail: Vec<u8>,
}

/// What was new.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The events, in the order in which they were written.
    pub records: Vec<Record>,
    /// Lines that were skipped: torn, or of another version.
    pub skipped: u64,
    /// Whether more happened than the files could hold since the last time.
    pub missed: bool,
}

impl EventReader {
    /// A reader that begins at the beginning of the file. The file need not be there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            tail: Vec::new(),
        }
    }

    /// What was written since the last call. Blocks only on the file.
    pub fn read(&mut self) -> io::Result<News> {
        let mut news = News::default();
        // Before the held file is read: what is set aside by then gets no more lines.
        let present = identity_of(fs_err::metadata(&self.path))?;
        if let Some(file) = &mut self.file {
            let held = identity_of(file.metadata())?;
            take_in(file, &mut self.tail, &mut news)?;
            if present.is_none() || present == held {
                return Ok(news);
            }
            news.skipped += u64::from(!self.tail.is_empty());
            self.tail.clear();
            news.missed = identity_of(fs_err::metadata(set_aside(&self.path)))? != held;
        }
        self.file = open(&self.path)?;
        if let Some(file) = &mut self.file {
            take_in(file, &mut self.tail, &mut news)?;
        }
        Ok(news)
    }
}

fn open(path: &Path) -> io::Result<Option<fs_err::File>> {
    present(fs_err::File::open(path))
}

fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn identity_of(found: io::Result<std::fs::Metadata>) -> io::Result<Option<(u64, u64)>> {
    Ok(present(found)?.map(|found| (found.dev(), found.ino())))
}

fn take_in(file: &mut fs_err::File, tail: &mut Vec<u8>, news: &mut News) -> io::Result<()> {
    file.take(MOST_AT_ONCE).read_to_end(tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else {
        return Ok(());
    };
    let rest = tail.split_off(end + 1);
    for line in tail.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(record) => news.records.push(record),
            Err(_) => news.skipped += 1,
        }
    }
    *tail = rest;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mps::events::DaemonEnded;
    use crate::mps::{Trouble, Warning};

    fn pid(pid: u32) -> Event {
        Event::ServerReady { pid }
    }

    fn events(news: News) -> Vec<Event> {
        assert_eq!((news.skipped, news.missed), (0, false));
        news.records.into_iter().map(|record| record.event).collect()
    }

    fn scene() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpushare.events");
        (dir, path)
    }

    #[test]
    fn every_event_comes_back_as_it_was_written_and_once() {
        let trouble = Trouble {
            why: "a \"reason\"\nin two lines".into(),
            mend: "mend".into(),
        };
        let warning = Warning {
            what: "what".into(),
            mend: String::new(),
        };
        let all = [
            Event::DaemonStarted {
                pid: 1,
                multi_user: true,
            },
            Event::DaemonReady { pid: 1 },
            Event::NotStarted(trouble.clone()),
            Event::DaemonEnded(DaemonEnded {
                code: Some(100),
                signal: None,
                trouble: Some(trouble),
            }),
            Event::Warned(warning),
            Event::Over { what: "w".into() },
            Event::DaemonLeaves { status: 1 },
            Event::ServerStarting { pid: 7, uid: 0 },
            pid(7),
            Event::ServerExited { pid: 7, status: 0 },
            Event::ServerNotStarted {
                uid: 0,
                error: "e".into(),
            },
            Event::ServerFault,
            Event::ServerForcedOut { pid: 7 },
            Event::ClientQueued { pid: 8, uid: 1000 },
        ];
        let (_dir, path) = scene();
        let mut reader = EventReader::new(path.clone());
        assert_eq!(reader.read().unwrap(), News::default());
        let mut log = EventLog::open(&path).unwrap();
        for event in &all {
            log.append(event.clone()).unwrap();
        }
        assert_eq!(events(reader.read().unwrap()), all);
        assert_eq!(reader.read().unwrap(), News::default());
        log.append(pid(9)).unwrap();
        assert_eq!(events(reader.read().unwrap()), [pid(9)]);
    }

    #[test]
    fn m21_the_files_are_bounded_and_a_reader_in_time_misses_nothing() {
        let (_dir, path) = scene();
        let mut log = EventLog::open(&path).unwrap();
        let mut reader = EventReader::new(path.clone());
        let mut seen = Vec::new();
        for n in 0..5000 {
            log.append(pid(n)).unwrap();
            if n % 300 == 0 {
                seen.extend(events(reader.read().unwrap()));
            }
            let lengths =
                [path.clone(), set_aside(&path)].map(|path| path.metadata().map_or(0, |meta| meta.len()));
            assert!(lengths.iter().all(|length| *length <= MAX_BYTES), "{lengths:?}");
        }
        seen.extend(events(reader.read().unwrap()));
        assert!(seen.iter().eq((0..5000).map(pid).collect::<Vec<_>>().iter()));
    }

    #[test]
    fn a_reader_that_comes_too_late_says_so_and_goes_on_with_the_newest() {
        let (_dir, path) = scene();
        let mut log = EventLog::open(&path).unwrap();
        let mut reader = EventReader::new(path);
        log.append(pid(0)).unwrap();
        reader.read().unwrap();
        for n in 1..5000 {
            log.append(pid(n)).unwrap();
        }
        let news = reader.read().unwrap();
        assert!(news.missed);
        assert_eq!(news.records.last().unwrap().event, pid(4999));
    }

    #[test]
    fn a_file_that_is_gone_is_made_anew() {
        let (_dir, path) = scene();
        let mut log = EventLog::open(&path).unwrap();
        log.append(pid(0)).unwrap();
        // As after a change of files for the second half of which there was no room.
        fs_err::rename(&path, set_aside(&path)).unwrap();
        for n in 1..5000 {
            log.append(pid(n)).unwrap();
        }
        let news = EventReader::new(path).read().unwrap();
        assert_eq!(news.records.last().unwrap().event, pid(4999));
    }

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        let (_dir, path) = scene();
        let line = "{\"at_ms\":1,\"event\":\"server_fault\"}\n";
        let (first, second) = line.split_at(20);
        fs_err::write(&path, first).unwrap();
        let mut reader = EventReader::new(path.clone());
        assert_eq!(reader.read().unwrap(), News::default());
        let mut file = fs_err::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(second.as_bytes()).unwrap();
        assert_eq!(events(reader.read().unwrap()), [Event::ServerFault]);
    }

    #[test]
    fn torn_and_foreign_lines_are_skipped_and_counted() {
        let (_dir, path) = scene();
        let foreign = "{\"at_ms\":1,\"event\":\"of_tomorrow\",\"x\":1}\nno json\n{\"at_ms\":1,\"eve";
        fs_err::write(&path, foreign).unwrap();
        let mut log = EventLog::open(&path).unwrap();
        log.append(pid(3)).unwrap();
        let news = EventReader::new(path).read().unwrap();
        assert_eq!(news.skipped, 3);
        assert_eq!(news.records.len(), 1);
        assert_eq!(news.records[0].event, pid(3));
    }

    #[test]
    fn the_file_is_for_root_alone_and_no_link_leads_elsewhere() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, path) = scene();
        let elsewhere = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(EventLog::open(&path).is_err());
        assert!(!elsewhere.exists());
        fs_err::remove_file(&path).unwrap();
        EventLog::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
