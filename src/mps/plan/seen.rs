//! What is wished of a GPU's MPS, and what is seen of it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::mps::Trouble;
use crate::mps::backend::{BackendError, Unit};
use crate::mps::protocol::Report;

/// What is wished of every GPU's MPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// `mps.probe_interval`.
    pub probe_interval: Duration,
    /// `mps.grace`.
    pub grace: Duration,
    /// `mps.exclusive_process`.
    pub exclusive: bool,
}

/// Whether there is a GPU to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// NVML has not said anything about it yet, or does not answer: nothing is started or stopped on a guess.
    Unknown,
    /// The driver cannot be asked; what runs on the GPU may go on.
    NoDriver,
    /// The driver is not loaded, or has lost the GPU.
    Gone,
    /// It can be used.
    Here,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Counts the probes of this GPU.
    pub number: u64,
    /// The process of the daemon that was probed.
    pub pid: u32,
    /// When it ended.
    pub at: Duration,
    /// What came of it.
    pub outcome: Result<Report, Unanswered>,
}

/// Who keeps a probe from being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The daemon: it is started anew if that lasts.
    Daemon,
    /// The control program, which is not there or not fit: nothing can be asked before that is mended.
    Program,
    /// The node, which lacks something for a moment: the daemon is not at fault, and may be well.
    Node,
}

/// Why a probe brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Who is at fault.
    pub blame: Blame,
    /// In words.
    pub trouble: Trouble,
}

/// What the daemon's log says of ends of its servers, since the agent started. Every pod can write into that log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerEnds {
    /// Servers that have ended, or could not be started.
    pub ended: u64,
    /// Those of them that made room for another user's.
    pub yielded: u64,
}

impl ServerEnds {
    /// What has come since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            ended: self.ended.saturating_sub(before.ended),
            yielded: self.yielded.saturating_sub(before.yielded),
        }
    }
}

/// What is seen of one GPU.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The GPU.
    pub device: Device,
    /// Why MPS cannot be on this GPU at all.
    pub refusal: Option<&'a Trouble>,
    /// Why no container may start on it, however well its MPS is.
    pub objection: Option<&'a Trouble>,
    /// Somebody stopped the daemon on purpose.
    pub is_quit: bool,
    /// The daemon's process.
    pub unit: &'a Result<Unit, BackendError>,
    /// The newest probe.
    pub probe: Option<&'a Probe>,
    /// Why the daemon's process ended last, by its own account.
    pub last_words: Option<&'a Trouble>,
    /// What the daemon's log says of ends of servers.
    pub server_ends: ServerEnds,
    /// How many starts of the daemon have failed since the agent started.
    pub failed_starts: u64,
    /// Clients of the newest probe whose processes are no more, or are zombies.
    pub gone_clients: &'a BTreeSet<u32>,
    /// Whether the GPU's compute mode has been another than is wished for longer than a reading takes to arrive.
    pub has_drifted: bool,
    /// Processes that use the GPU past MPS.
    pub intruders: &'a [u32],
}
