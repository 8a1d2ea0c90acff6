//! Memory while CloudWatch cannot be reached and all that is sampled waits.
//!
//! Time-lapse as in [`super::pushes`]: each window of 6 s carries as many samples as a real minute. How much waited is
//! told by what arrives once CloudWatch is back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use fake_cloudwatch::{AcceptedDatum, FakeCloudWatch};

use super::pushes::{Memory, WINDOW, in_time_lapse, memory_of};
use crate::agent::{Agent, Interrupt};
use crate::workspace::Workspace;

/// Windows that arrive before the outage: the first one connects.
const BEFORE: usize = 2;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The longest pause of the agent between two attempts is a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(75);
/// The backlog follows at one request a second: once nothing of it came for so long, it is gone.
const QUIET: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outage {
    /// How many windows long it was.
    pub(super) windows: usize,
    /// What of them arrived afterwards: what was kept.
    pub(super) kept_windows: usize,
    pub(super) kept_samples: f64,
    pub(super) before: Memory,
    /// At the end of the outage.
    pub(super) full: Memory,
    /// When the backlog is gone.
    pub(super) after: Memory,
    /// The agent's greatest resident memory in all this.
    pub(super) peak_rss_bytes: u64,
}

pub(super) fn run(workspace: &Workspace, windows: usize, interrupt: &Interrupt) -> anyhow::Result<Outage> {
    println!(
        "memory in an outage of {windows} windows of {} s",
        WINDOW.as_secs()
    );
    in_time_lapse(workspace, |cloudwatch, agent| {
        watch(cloudwatch, agent, windows, interrupt)
    })
}

fn watch(
    cloudwatch: &FakeCloudWatch,
    agent: &mut Agent,
    windows: usize,
    interrupt: &Interrupt,
) -> anyhow::Result<Outage> {
    let process = agent.process();
    let deadline = Instant::now() + WINDOW * 5;
    while starts(&cloudwatch.accepted()).len() < BEFORE {
        pause(agent, interrupt, deadline)?;
    }
    let before = memory_of(process)?;
    let length = WINDOW * u32::try_from(windows).context("an outage of so many windows")?;
    cloudwatch.refuse_for(length);
    drop(cloudwatch.take_accepted());
    let end = Instant::now() + length;
    while Instant::now() + LOOK_EVERY < end {
        pause(agent, interrupt, end)?;
    }
    let full = memory_of(process)?;
    let ended_at = SystemTime::now();
    let backlog = backlog(cloudwatch, agent, interrupt, ended_at)?;
    Ok(Outage {
        windows,
        kept_windows: starts(&backlog).len(),
        kept_samples: backlog.iter().flat_map(|datum| &datum.counts).sum(),
        before,
        full,
        after: memory_of(process)?,
        peak_rss_bytes: process.peak_rss_bytes()?,
    })
}

/// Waits for the windows that were closed before this instant, and returns what was in them.
fn backlog(
    cloudwatch: &FakeCloudWatch,
    agent: &mut Agent,
    interrupt: &Interrupt,
    ended_at: SystemTime,
) -> anyhow::Result<Vec<AcceptedDatum>> {
    let mut backlog: Vec<AcceptedDatum> = Vec::new();
    let mut deadline = Instant::now() + LONGEST_PAUSE;
    loop {
        let fresh = cloudwatch.take_accepted().into_iter();
        let known = backlog.len();
        backlog.extend(fresh.filter(|datum| datum.key.timestamp + WINDOW <= ended_at));
        if backlog.len() > known {
            deadline = Instant::now() + QUIET;
        }
        if Instant::now() >= deadline {
            ensure!(!backlog.is_empty(), "nothing arrived after the outage");
            return Ok(backlog);
        }
        pause(agent, interrupt, deadline + LOOK_EVERY)?;
    }
}

fn starts(accepted: &[AcceptedDatum]) -> BTreeSet<SystemTime> {
    accepted.iter().map(|datum| datum.key.timestamp).collect()
}

/// Half a second, unless something ends the measurement.
fn pause(agent: &mut Agent, interrupt: &Interrupt, deadline: Instant) -> anyhow::Result<()> {
    ensure!(interrupt.sleep_until(Instant::now() + LOOK_EVERY), "interrupted");
    ensure!(Instant::now() < deadline + LOOK_EVERY, "no windows arrive");
    ensure!(agent.ended()?.is_none(), "the agent ended by itself");
    Ok(())
}
