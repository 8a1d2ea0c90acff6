//! What the agent says about itself: a versioned snapshot on a unix socket, and how people read it.
//!
//! * [`Snapshot`]: the contract. A field is never renamed or given another meaning within a version; fields may
//!   be added.
//! * [`server`] and [`client`]: the two ends of the socket.
//! * [`problems`]: what is wrong and how to mend it, and the one line for `systemctl status`.
//! * [`text`]: the table.

pub mod client;
pub mod problems;
pub mod server;
mod table;
pub mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Config;
use crate::gpu::GpuStatus;
use crate::identity::{Identity, IdentityStatus};
use crate::interruption::InterruptionStatus;
use crate::metrics::clock;
use crate::metrics::task::SamplerStatus;
use crate::metrics::window::DropReason;
use crate::mps::MpsStatus;
use crate::publish::report::PublishStatus;
use crate::publish::spool::SpoolStatus;
use crate::publish::store::{Earlier, Store};
use crate::reload::ConfigurationStatus;

/// Version of [`Snapshot`].
pub const VERSION: u32 = 1;

/// The state of the agent at one instant. A field that an agent does not know yet has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// [`VERSION`].
    pub version: u32,
    /// The agent.
    pub agent: AgentInfo,
    /// Which configuration it runs with.
    pub configuration: ConfigurationStatus,
    /// Who the node is, as far as that is known.
    pub node: Identity,
    /// What is still to be found out about the node before anything is published, and why it does not come.
    pub node_waiting_for: Option<String>,
    /// How to get that; absent as long as the wait is one that ends by itself, or that every start may have.
    pub node_mend: Option<String>,
    /// Whether EC2 takes this spot instance away.
    pub interruption: InterruptionStatus,
    /// The GPUs and their driver.
    pub gpu: GpuStatus,
    /// MPS on each of them.
    pub mps: MpsStatus,
    /// Windows, series and the host.
    pub sampler: SamplerStatus,
    /// Where windows go.
    pub publish: PublishInfo,
    /// What is wrong, most urgent first; empty = all is well.
    pub problems: Vec<problems::Problem>,
}

/// The agent itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentInfo {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When it started, Unix seconds.
    pub started_at: f64,
    /// When this snapshot was taken, Unix seconds.
    pub taken_at: f64,
    /// `sample.interval` in seconds.
    pub sample_seconds: f64,
}

/// The publishing side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PublishInfo {
    /// `publish.target`.
    pub target: String,
    /// `publish.interval` in seconds.
    pub interval_seconds: u64,
    /// `publish.namespace`.
    pub namespace: String,
    /// `publish.max_series`.
    pub max_series: usize,
    /// Series that `publish.rollup` adds to the sampler's.
    pub rollup_series: usize,
    /// `publish.groups`; empty = nothing is published.
    pub groups: Vec<String>,
    /// What was published.
    #[serde(flatten)]
    pub done: PublishStatus,
    /// Closed windows that wait to be published.
    pub pending_windows: usize,
    /// Samples in them.
    pub pending_samples: u64,
    /// What they take, in bytes, in the spool or else in memory.
    pub pending_bytes: u64,
    /// Start of the oldest of them, Unix seconds.
    pub oldest_pending: Option<u64>,
    /// What of `samples`, `sampler.ledger.collected` and `sampler.ledger.dropped` is of the runs of the agent before this
    /// one: the ledger is that of all runs on this node.
    pub earlier: EarlierRuns,
    /// The spool's disk.
    pub spool: Option<SpoolStatus>,
}

/// The ledger of the runs before this one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EarlierRuns {
    /// How many there were.
    pub runs: u64,
    /// When the first of them began, Unix seconds.
    pub since: Option<u64>,
    /// Samples that they took and that are accounted for: published, dropped, or found in the spool.
    pub collected: u64,
    /// Samples that they published.
    pub published: u64,
    /// Samples that they gave up, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl PublishInfo {
    /// How long ago the oldest window that waits was closed, in seconds; absent when none waits.
    #[must_use]
    pub fn backlog_seconds(&self, now: f64) -> Option<f64> {
        let end = self.oldest_pending? + self.interval_seconds;
        Some((now - end as f64).max(0.0))
    }
}

impl From<Earlier> for EarlierRuns {
    fn from(earlier: Earlier) -> Self {
        Self {
            runs: earlier.runs,
            since: earlier.since,
            collected: earlier.collected,
            published: earlier.accepted,
            dropped: earlier.dropped,
        }
    }
}

/// Takes snapshots. Reads what the tasks last said; waits for none of them.
#[derive(Clone)]
pub struct Snapshots {
    agent: AgentInfo,
    publish: PublishInfo,
    watches: Watches,
    store: Arc<dyn Store>,
}

/// What the tasks say about themselves.
#[derive(Clone)]
pub struct Watches {
    /// The configuration.
    pub configuration: watch::Receiver<ConfigurationStatus>,
    /// Who the node is.
    pub node: watch::Receiver<IdentityStatus>,
    /// Whether EC2 takes it away.
    pub interruption: watch::Receiver<InterruptionStatus>,
    /// Its GPUs.
    pub gpu: watch::Receiver<GpuStatus>,
    /// MPS on them.
    pub mps: watch::Receiver<MpsStatus>,
    /// What is sampled.
    pub sampler: watch::Receiver<SamplerStatus>,
    /// What is published.
    pub published: watch::Receiver<PublishStatus>,
}

impl Snapshots {
    /// From the configuration and what the tasks publish. `started_at` is in Unix seconds.
    #[must_use]
    pub fn new(config: &Config, started_at: f64, watches: Watches, store: Arc<dyn Store>) -> Self {
        let agent = AgentInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_at,
            taken_at: started_at,
            sample_seconds: config.sample.interval.as_secs_f64(),
        };
        let publish = PublishInfo {
            target: config.publish.target.as_str().to_owned(),
            interval_seconds: config.publish.interval.as_secs(),
            namespace: config.publish.namespace.clone(),
            max_series: config.publish.max_series,
            rollup_series: config.publish.rollup_series(),
            groups: config.publish.groups.iter().map(ToString::to_string).collect(),
            ..PublishInfo::default()
        };
        Self {
            agent,
            publish,
            watches,
            store,
        }
    }

    /// The state now. The ledger balances in every snapshot: the sampler publishes its half whenever it hands a window
    /// over, and the store counts its own half at this instant.
    #[must_use]
    pub fn take(&self) -> Snapshot {
        let node = self.watches.node.borrow().clone();
        let tally = self.store.tally();
        let published = self.watches.published.borrow().clone();
        let mut sampler = self.watches.sampler.borrow().clone();
        for (reason, samples) in tally.dropped.iter().chain(&tally.earlier.dropped) {
            sampler.ledger.drop_samples(*reason, *samples);
        }
        sampler.ledger.collected += tally.earlier.collected;
        let mut snapshot = Snapshot {
            version: VERSION,
            agent: AgentInfo {
                taken_at: clock::wall_now().as_secs_f64(),
                ..self.agent.clone()
            },
            configuration: self.watches.configuration.borrow().clone(),
            node: node.identity,
            node_waiting_for: node.waiting_for,
            node_mend: node.mend,
            interruption: self.watches.interruption.borrow().clone(),
            gpu: self.watches.gpu.borrow().clone(),
            mps: self.watches.mps.borrow().clone(),
            sampler,
            publish: PublishInfo {
                done: PublishStatus {
                    samples: tally.accepted + tally.earlier.accepted,
                    clock_skew_seconds: published.skew_now(),
                    ..published
                },
                pending_windows: tally.windows,
                pending_samples: tally.samples,
                pending_bytes: tally.bytes,
                oldest_pending: tally.oldest,
                earlier: tally.earlier.into(),
                spool: self.store.spool(),
                ..self.publish.clone()
            },
            problems: Vec::new(),
        };
        snapshot.problems = problems::find(&snapshot);
        snapshot
    }
}
