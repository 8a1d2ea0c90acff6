//! What the spool's thread does to the machine, from the kernel, and its `fsync`s, which no kernel counts.

#![expect(
    unsafe_code,
    reason = "the calls by which a store makes its writes durable can only be counted in the place of libc's"
)]

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

static SYNCS: AtomicU64 = AtomicU64::new(0);

/// In the place of libc's. SQLite calls no other.
// SAFETY: the signature is libc's, and what it does beyond counting is what libc's does.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: i32) -> i32 {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: whoever calls has the file open for the time of the call, or it is negative and was never asked for.
    let done = rustix::fs::fdatasync(unsafe { BorrowedFd::borrow_raw(fd) });
    if done.is_ok() { 0 } else { -1 }
}

/// In the place of libc's.
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: i32) -> i32 {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as above.
    let done = rustix::fs::fsync(unsafe { BorrowedFd::borrow_raw(fd) });
    if done.is_ok() { 0 } else { -1 }
}

/// What a thread has cost so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Pages that it made dirty, in bytes: what goes to the device.
    pub(crate) device_bytes: u64,
    /// Of the whole process.
    pub(crate) syncs: u64,
    pub(crate) cpu_ns: u64,
}

impl Cost {
    /// Of the spool's thread.
    pub(crate) fn of_spool() -> Self {
        let task = spool_thread();
        let times = read(&format!("{task}/schedstat"));
        let first = times.split_whitespace().next();
        Self {
            device_bytes: field(&read(&format!("{task}/io")), "write_bytes"),
            syncs: SYNCS.load(Ordering::Relaxed),
            cpu_ns: first.and_then(|time| time.parse().ok()).expect("a time"),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            device_bytes: self.device_bytes - before.device_bytes,
            syncs: self.syncs - before.syncs,
            cpu_ns: self.cpu_ns - before.cpu_ns,
        }
    }
}

/// Memory of this process that no file backs, in KiB.
pub(crate) fn anonymous_kib() -> u64 {
    field(&read("/proc/self/status"), "RssAnon")
}

fn spool_thread() -> String {
    let tasks = fs_err::read_dir("/proc/self/task").expect("this process has threads");
    let mut paths = tasks.map(|task| task.expect("a thread").path().display().to_string());
    let found = paths.find(|task| read(&format!("{task}/comm")).trim() == "spool");
    found.expect("the spool has a thread of its name")
}

fn read(path: &str) -> String {
    fs_err::read_to_string(path).expect("the kernel tells")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .expect("a field of proc(5)");
    let number = line.split_whitespace().next();
    number
        .and_then(|number| number.parse().ok())
        .expect("a number of proc(5)")
}
