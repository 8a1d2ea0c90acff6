//! NVIDIA MPS on every GPU: one control daemon per GPU, supervised and verified.
//!
//! A return code of the control program proves nothing (every error returns 0): what was asked for is read back, and a
//! GPU is `Ready` only while a probe has seen a daemon of ours with the defaults that are wished and an active server.
//!
//! * [`task`]: the reconciler: what is wished and what is seen -> steps -> done -> status, for ever;
//! * [`plan`]: which step, and which state, for one GPU (pure);
//! * [`backend`]: who keeps a daemon's process: [`units`] (systemd over D-Bus), [`process`] (hosts without systemd);
//! * [`supervisor`]: finds the process that keeps a daemon, by the lock that it holds;
//! * [`run`]: `gpushare mps run`, the small parent of one control daemon;
//! * [`commands`]: `gpushare mps quit` and `mps restart`; `quit_mark`: what keeps MPS stopped;
//! * `configured`: their configuration, also after the file has become wrong;
//! * [`argument`]: the GPU that an operator names;
//! * [`control`]: calls the control program, never longer than a limit; [`protocol`]: its commands and answers (pure);
//! * [`compute_mode`]: sets the GPU's compute mode and puts it back; [`call`]: what both call programs with;
//! * [`events`]: what the daemon's log says, and how the agent hears of it;
//! * [`directories`]: where the files of one daemon are;
//! * [`intruders`]: who computes on a GPU beside MPS (pure); [`memory`]: where a GPU's memory is (pure);
//! * [`limits`]: how many clients a GPU takes, and what a slice is too small for (pure).
//!
//! It must not touch a daemon that is well because the agent starts, stops or fails: pods run on it.

pub mod argument;
pub mod backend;
pub mod call;
pub mod commands;
pub mod compute_mode;
mod configured;
pub mod control;
pub mod directories;
pub mod events;
pub mod intruders;
pub mod limits;
pub mod memory;
pub mod plan;
pub mod process;
pub mod protocol;
mod quit_mark;
pub mod run;
pub mod supervisor;
pub mod task;
pub mod units;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::gpu::GpuUuid;

/// MPS on this node as the status shows it, and as the device plugin will decide on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MpsStatus {
    /// `mps.enabled`, and `gpu.enabled`, without which nobody says which GPUs there are.
    pub enabled: bool,
    /// `mps.backend`.
    pub backend: String,
    /// Every GPU that was seen since the node booted, in the order of their numbers.
    pub gpus: Vec<MpsGpu>,
}

/// One GPU's MPS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MpsGpu {
    /// The sticky `GPUNumber`.
    pub number: Arc<str>,
    /// Whose.
    pub uuid: GpuUuid,
    /// How it is.
    pub state: MpsState,
    /// Since when it has been so, Unix seconds.
    pub since: u64,
    /// What was last done about it and why, with the time in Unix seconds.
    pub last_step: Option<LastStep>,
    /// The process that the backend watches, `gpushare mps run`.
    pub pid: Option<u32>,
    /// The server, as the newest probe saw it.
    pub server: Option<protocol::Server>,
    /// The most clients that the GPU takes.
    pub client_limit: Option<u32>,
    /// Slices that a container has to ask for at least, so that a CUDA program starts in its part of the memory;
    /// absent while the memory of the GPU is not known.
    pub smallest_useful_slices: Option<u32>,
    /// Starts of its control daemon and of its server that followed an end, since the agent started: those that failed
    /// as well, but for servers that made room for another user's.
    pub restarts: u64,
    /// When a probe succeeded last, Unix seconds.
    pub probed_at: Option<u64>,
    /// What is not as it should be and keeps nothing from working.
    pub warnings: Vec<Warning>,
}

/// What the reconciler did last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastStep {
    /// What.
    pub step: String,
    /// Why.
    pub why: String,
    /// When, Unix seconds.
    pub at: u64,
}

/// How MPS is on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MpsState {
    /// The GPU has no driver, or is gone: MPS has to wait for it.
    NoDriver,
    /// The daemon is being started and has not been verified yet.
    Starting,
    /// Verified: our daemon answers, its defaults are what they should be, its server is active.
    Ready,
    /// It answers, and something about it or about the configuration is wrong: no container may start on it. It is
    /// supervised as ever.
    Degraded(Trouble),
    /// There is no daemon of ours that answers, or MPS cannot be on the GPU: then none is left running.
    Down(Trouble),
}

impl MpsState {
    /// The word for it in tables and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoDriver => "no driver",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded(_) => "degraded",
            Self::Down(_) => "down",
        }
    }

    /// What is wrong, where something is.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Degraded(trouble) | Self::Down(trouble) => Some(trouble),
            Self::NoDriver | Self::Starting | Self::Ready => None,
        }
    }
}

/// What is wrong with one GPU's MPS, and what an operator does about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What is wrong.
    pub why: String,
    /// How to mend it, or what happens by itself.
    pub mend: String,
}

/// Something to know that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}
