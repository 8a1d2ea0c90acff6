//! Asks file systems for their space on a thread of its own, because any of them may never answer.
//!
//! One worker thread takes one request at a time; the caller waits for the answer until the grace of its
//! sample is over. An answer that comes later is used by the next sample, once, if it is still fresh. A call
//! past the deadline is left to hang with its thread, and a new worker goes on without that mount; when the
//! old call returns, its thread ends and the mount is asked again.
//!
//! Invariants: at most `max_abandoned + 1` threads, at most one request and one answer per thread, no value
//! older than the deadline, no value twice. A thread that hangs in the kernel cannot be ended from here.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Instant;

use super::DiskSpace;
use super::disk_space::{Space, SpaceSource, disk_space};
use super::fault::{FaultLog, HostError};
use super::mounts::Mount;
use super::plan::{Fate, Patience, asking_order, stuck_mounts};

/// A path lookup and one system call need little; the default of 2 MiB would be reserved five times.
const STACK_BYTES: usize = 128 * 1024;

/// What one sample found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Spaces {
    pub(super) disks: Vec<DiskSpace>,
    pub(super) stuck: Vec<PathBuf>,
}

struct Answer {
    result: io::Result<Space>,
    at: Instant,
}

/// A thread and the two channels to it. Each has room for one message and never holds more, since the next
/// request is sent only after the answer came: neither side ever blocks on sending.
struct Worker {
    requests: SyncSender<PathBuf>,
    answers: Receiver<Answer>,
}

struct Pending {
    mount: Mount,
    asked: Instant,
    /// Whether the log says already that there are no threads left.
    endured: bool,
}

struct Abandoned {
    mount: Mount,
    answers: Receiver<Answer>,
}

/// Newest answer of this sample by device number.
type Round = BTreeMap<String, Space>;

/// Asks the mounts of each sample and keeps book of those that do not answer.
pub(super) struct SpaceProber {
    source: Arc<dyn SpaceSource>,
    root_dir: PathBuf,
    patience: Patience,
    worker: Option<Worker>,
    pending: Option<Pending>,
    abandoned: Vec<Abandoned>,
    /// Device numbers that outlasted a grace and have not answered within one since; longest ago first.
    slow: Vec<String>,
    spawn_fault: FaultLog,
    faults: BTreeMap<String, FaultLog>,
}

impl SpaceProber {
    pub(super) fn new(source: Arc<dyn SpaceSource>, root_dir: PathBuf, patience: Patience) -> Self {
        Self {
            source,
            root_dir,
            patience,
            worker: None,
            pending: None,
            abandoned: Vec::new(),
            slow: Vec::new(),
            spawn_fault: FaultLog::new("disk space"),
            faults: BTreeMap::new(),
        }
    }

    /// Asks every mount that does not hang, for at most the grace, and says what answered.
    pub(super) fn sample(&mut self, mounts: &[Mount]) -> Spaces {
        let until = Instant::now() + self.patience.grace;
        let mut round = Round::new();
        self.forget_unmounted(mounts);
        self.readmit_returned();
        if self.settle_pending(until, &mut round) {
            self.ask_all(mounts, until, &mut round);
        }
        let disks = mounts
            .iter()
            .filter_map(|mount| disk_space(mount, round.get(&mount.device_number)?))
            .collect();
        Spaces {
            disks,
            stuck: stuck_mounts(mounts, &self.hanging()),
        }
    }

    /// The names of what cannot be asked; one that does not answer is not among them, but in [`Spaces::stuck`].
    pub(super) fn failing(&self) -> impl Iterator<Item = &'static str> {
        let of_disks = self.faults.values().find_map(FaultLog::failing);
        self.spawn_fault.failing().into_iter().chain(of_disks)
    }

    fn forget_unmounted(&mut self, mounts: &[Mount]) {
        let is_mounted = |device: &String| mounts.iter().any(|mount| mount.device_number == *device);
        self.slow.retain(is_mounted);
        self.faults.retain(|device, _| is_mounted(device));
    }

    /// Ends the book-keeping of abandoned threads whose call has returned. What they found is too old to use.
    fn readmit_returned(&mut self) {
        self.abandoned.retain(|abandoned| {
            let hangs = matches!(abandoned.answers.try_recv(), Err(TryRecvError::Empty));
            if !hangs {
                tracing::info!(
                    mount = %abandoned.mount.mount_point.display(),
                    "a file system answers again"
                );
            }
            hangs
        });
    }

    /// Deals with a call that an earlier sample left unanswered; true when the worker is free for others.
    fn settle_pending(&mut self, until: Instant, round: &mut Round) -> bool {
        if self.pending.is_none() || self.receive(Instant::now(), round) {
            return true;
        }
        let waited = self
            .pending
            .as_ref()
            .map_or_else(Default::default, |pending| pending.asked.elapsed());
        match self.patience.fate(waited, self.abandoned.len()) {
            Fate::Wait => self.receive(until, round),
            Fate::Abandon => {
                self.abandon();
                true
            }
            Fate::Endure => {
                self.endure();
                false
            }
        }
    }

    fn ask_all(&mut self, mounts: &[Mount], until: Instant, round: &mut Round) {
        for mount in asking_order(mounts, &self.hanging(), &self.slow) {
            if Instant::now() >= until || !self.ask(mount, until, round) {
                break;
            }
        }
    }

    /// Sends one request and waits for its answer; false when the worker is not free afterwards.
    fn ask(&mut self, mount: Mount, until: Instant, round: &mut Round) -> bool {
        let path = below_root(&self.root_dir, &mount.mount_point);
        let Some(worker) = self.ready_worker() else {
            return false;
        };
        if worker.requests.send(path).is_err() {
            self.worker = None;
            return false;
        }
        self.pending = Some(Pending {
            mount,
            asked: Instant::now(),
            endured: false,
        });
        self.receive(until, round)
    }

    fn ready_worker(&mut self) -> Option<&Worker> {
        if self.worker.is_none() {
            let spawned = spawn(Arc::clone(&self.source)).map_err(HostError::Spawn);
            self.worker = self.spawn_fault.note(spawned);
        }
        self.worker.as_ref()
    }

    /// Waits for the pending answer; true when the worker is free for the next request.
    fn receive(&mut self, until: Instant, round: &mut Round) -> bool {
        let Some(worker) = &self.worker else {
            self.pending = None;
            return true;
        };
        match worker
            .answers
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            Ok(answer) => {
                self.record(answer, round);
                true
            }
            Err(RecvTimeoutError::Timeout) => {
                self.note_slow();
                false
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.worker = None;
                self.pending = None;
                true
            }
        }
    }

    fn record(&mut self, answer: Answer, round: &mut Round) {
        let Some(Pending { mount, asked, .. }) = self.pending.take() else {
            return;
        };
        if answer.at.duration_since(asked) <= self.patience.grace {
            self.slow.retain(|device| *device != mount.device_number);
        }
        let result = answer.result.map_err(|source| HostError::Statvfs {
            path: below_root(&self.root_dir, &mount.mount_point),
            source,
        });
        let fault = self.faults.entry(mount.device_number.clone());
        let space = fault
            .or_insert_with(|| FaultLog::new("space of one disk"))
            .note(result);
        // An answer may have waited for this sample since shortly after the one before.
        if let Some(space) = space.filter(|_| !self.patience.is_overdue(answer.at.elapsed())) {
            round.insert(mount.device_number, space);
        }
    }

    fn note_slow(&mut self) {
        let Some(pending) = &self.pending else { return };
        self.slow.retain(|device| *device != pending.mount.device_number);
        self.slow.push(pending.mount.device_number.clone());
    }

    /// Leaves the worker to its call. Without a request channel it ends as soon as that returns.
    fn abandon(&mut self) {
        let (Some(Pending { mount, .. }), Some(worker)) = (self.pending.take(), self.worker.take()) else {
            return;
        };
        tracing::warn!(
            mount = %mount.mount_point.display(),
            source = mount.source,
            abandoned_threads = self.abandoned.len() + 1,
            "a file system does not answer; it is left out until it does"
        );
        self.abandoned.push(Abandoned {
            mount,
            answers: worker.answers,
        });
    }

    fn endure(&mut self) {
        let Some(pending) = self.pending.as_mut().filter(|pending| !pending.endured) else {
            return;
        };
        pending.endured = true;
        tracing::warn!(
            mount = %pending.mount.mount_point.display(),
            abandoned_threads = self.abandoned.len(),
            "too many file systems do not answer; disk space is absent until one does"
        );
    }

    /// Device numbers whose call is past the deadline.
    fn hanging(&self) -> Vec<String> {
        let pending = self
            .pending
            .iter()
            .filter(|pending| self.patience.is_overdue(pending.asked.elapsed()));
        let abandoned = self.abandoned.iter().map(|abandoned| &abandoned.mount);
        abandoned
            .chain(pending.map(|pending| &pending.mount))
            .map(|mount| mount.device_number.clone())
            .collect()
    }
}

/// The path at which this process finds the mount point `mount_point` of the host.
fn below_root(root_dir: &Path, mount_point: &Path) -> PathBuf {
    root_dir.join(mount_point.strip_prefix("/").unwrap_or(mount_point))
}

fn spawn(source: Arc<dyn SpaceSource>) -> io::Result<Worker> {
    let (requests, inbox) = sync_channel::<PathBuf>(1);
    let (outbox, answers) = sync_channel(1);
    // Detached on purpose: it ends with its channels, and joining a thread that hangs would hang the caller.
    thread::Builder::new()
        .name("gpushare-disk".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            for path in inbox {
                let result = source.space(&path);
                if outbox
                    .send(Answer {
                        result,
                        at: Instant::now(),
                    })
                    .is_err()
                {
                    return;
                }
            }
        })?;
    Ok(Worker { requests, answers })
}

#[cfg(test)]
mod tests;
