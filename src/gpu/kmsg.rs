//! XIDs from the kernel log.
//!
//! NVML's own event tells neither the process nor how often; the kernel's line tells both:
//! `NVRM: Xid (PCI:0000:61:00): 45, pid=1496200, name=python3, Ch 0000000a`. Reading `/dev/kmsg` blocks and needs
//! `CAP_SYSLOG` where `kernel.dmesg_restrict` is set, so it has a thread of its own. It ends soon after nobody listens.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

/// How often a plain file (a test's, or a copied log) is looked at again; a device wakes the reader itself.
const FILE_POLL: Duration = Duration::from_millis(100);

/// How soon a reader that nobody listens to notices that.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// How soon a log that could not be read is tried again: the mend is a person's.
const RETRY: Duration = Duration::from_secs(10);

/// No record of `/dev/kmsg` is longer (`PRINTKRB_RECORD_MAX` in the kernel, 1024 before 6.6, with its prefix).
const RECORD_BYTES: usize = 8192;

/// An XID that the kernel log named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xid {
    /// PCI address as the kernel writes it: `0000:61:00`.
    pub pci: String,
    /// The XID's number.
    pub xid: u32,
    /// The process that caused it, where the driver knows.
    pub pid: Option<u32>,
}

/// What the reader has to say.
#[derive(Debug)]
pub enum KernelLogEvent {
    /// The log is open; XIDs from now on are seen.
    Opened,
    /// The log cannot be read (any more).
    Failed(io::Error),
    /// The driver reported an XID.
    Xid(Xid),
}

/// Starts the reader. The channel is bounded: when the agent is behind, the reader waits, and the kernel's ring
/// buffer keeps what is not read yet.
pub fn watch(path: PathBuf) -> io::Result<mpsc::Receiver<KernelLogEvent>> {
    let (events, receiver) = mpsc::channel(64);
    std::thread::Builder::new()
        .name("gpushare-kmsg".into())
        .spawn(move || {
            while let Err(error) = read(&path, &events) {
                if events.blocking_send(KernelLogEvent::Failed(error)).is_err() {
                    return;
                }
                std::thread::sleep(RETRY);
            }
        })?;
    Ok(receiver)
}

fn read(path: &Path, events: &mpsc::Sender<KernelLogEvent>) -> io::Result<()> {
    let mut log = fs_err::File::open(path)?;
    // What was logged before the agent started belongs to windows that are gone.
    log.seek(SeekFrom::End(0))?;
    let mut lines = Lines::default();
    let mut buffer = [0; RECORD_BYTES];
    if events.blocking_send(KernelLogEvent::Opened).is_err() {
        return Ok(());
    }
    while !events.is_closed() {
        if !is_readable(&log)? {
            continue;
        }
        match log.read(&mut buffer) {
            Ok(0) => std::thread::sleep(FILE_POLL),
            Ok(length) => {
                for xid in lines
                    .push(&buffer[..length])
                    .iter()
                    .filter_map(|line| parse(line))
                {
                    if events.blocking_send(KernelLogEvent::Xid(xid)).is_err() {
                        return Ok(());
                    }
                }
            }
            // EPIPE: the ring buffer overtook us; the next read goes on with the oldest record.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for something to read, for [`LOOK_UP`] at most. A plain file can be read at any time.
fn is_readable(log: &fs_err::File) -> io::Result<bool> {
    match poll(&mut [PollFd::new(log, PollFlags::IN)], Some(&LOOK_UP)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whole lines out of arbitrary pieces. `/dev/kmsg` hands out whole records, a file or pipe need not.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            // A line that never ends is not a kernel record; forget it rather than grow.
            if self.partial.len() > RECORD_BYTES {
                self.partial.clear();
            }
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        String::from_utf8_lossy(&whole)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// The XID in a line of the kernel log, if it holds one.
fn parse(line: &str) -> Option<Xid> {
    let rest = line.split_once("NVRM: Xid (PCI:")?.1;
    let (pci, rest) = rest.split_once("): ")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let xid = rest[..digits].parse().ok()?;
    let pid = rest.split_once("pid=").and_then(|(_, pid)| {
        let digits = pid.bytes().take_while(u8::is_ascii_digit).count();
        pid[..digits].parse().ok()
    });
    Some(Xid {
        pci: pci.to_owned(),
        xid,
        pid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xid_line_is_read_with_and_without_a_process() {
        let line = "3,1234,5678,-;NVRM: Xid (PCI:0000:61:00): 45, pid=1496200, name=python3, Ch 0000000a";
        assert_eq!(
            parse(line),
            Some(Xid {
                pci: "0000:61:00".into(),
                xid: 45,
                pid: Some(1_496_200)
            })
        );
        let line = "NVRM: Xid (PCI:0000:00:1e): 79, GPU has fallen off the bus.";
        assert_eq!(
            parse(line),
            Some(Xid {
                pci: "0000:00:1e".into(),
                xid: 79,
                pid: None
            })
        );
        let line = "NVRM: Xid (PCI:0000:b3:00): 48, pid='<unknown>', name=<unknown>, DBE";
        assert_eq!(
            parse(line),
            Some(Xid {
                pci: "0000:b3:00".into(),
                xid: 48,
                pid: None
            })
        );
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "NVRM: loading NVIDIA UNIX x86_64 Kernel Module",
            "NVRM: Xid (PCI:0000:61:00",
            "NVRM: Xid (PCI:x): y",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = Lines::default();
        assert!(lines.push(b"one\ntw").eq(&["one"]));
        assert!(lines.push(b"o").is_empty());
        assert!(lines.push(b"\nthree\n").eq(&["two", "three"]));
        lines.push(&[b'x'; RECORD_BYTES + 1]);
        assert!(lines.partial.is_empty());
    }

    #[test]
    fn xids_appended_to_a_log_arrive_and_older_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsg");
        fs_err::write(&path, "NVRM: Xid (PCI:0000:00:01): 1, old\n").unwrap();
        let mut events = watch(path.clone()).unwrap();
        assert!(matches!(events.blocking_recv(), Some(KernelLogEvent::Opened)));
        let mut log = fs_err::OpenOptions::new().append(true).open(&path).unwrap();
        io::Write::write_all(&mut log, b"NVRM: Xid (PCI:0000:00:02): 31, pid=7\n").unwrap();
        let Some(KernelLogEvent::Xid(xid)) = events.blocking_recv() else {
            panic!("no XID")
        };
        assert_eq!((xid.xid, xid.pid), (31, Some(7)));
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let mut events = watch("/nonexistent/kmsg".into()).unwrap();
        let Some(KernelLogEvent::Failed(error)) = events.blocking_recv() else {
            panic!("no error")
        };
        assert!(error.to_string().contains("/nonexistent/kmsg"), "{error}");
    }
}
