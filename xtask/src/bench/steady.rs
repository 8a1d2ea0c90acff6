//! Memory and CPU of the agent and its NVML child over minutes.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::command::Options;
use super::ready;
use super::subject::Subject;
use crate::agent::Interrupt;
use crate::agent::procfs::Process;

/// Left out of the measurement: the first windows allocate what later ones use again.
const SETTLE: Duration = Duration::from_secs(5);

/// One run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    /// CPU time of all processes in percent of one core.
    pub(super) cpu_percent: f64,
    /// At the end of the run, all processes.
    pub(super) pss_bytes: u64,
    /// At the end of the run, the agent alone.
    pub(super) rss_bytes: u64,
    /// Processes measured, the agent included.
    pub(super) processes: usize,
}

pub(super) fn run(subject: &Subject, options: Options, interrupt: &Interrupt) -> anyhow::Result<Vec<Steady>> {
    let mut runs = Vec::new();
    for run in 1..=options.runs {
        println!(
            "steady state, run {run} of {}: {} minutes",
            options.runs, options.minutes
        );
        runs.push(once(
            subject,
            Duration::from_secs(options.minutes * 60),
            interrupt,
        )?);
    }
    Ok(runs)
}

fn once(subject: &Subject, length: Duration, interrupt: &Interrupt) -> anyhow::Result<Steady> {
    let (agent, _) = ready::start(subject)?;
    ensure!(interrupt.sleep_until(Instant::now() + SETTLE), "interrupted");
    let family = family(agent.process());
    ensure!(
        family.len() > 1,
        "the agent has no NVML child: nothing of a GPU would be measured"
    );
    let (start, before) = (Instant::now(), cpu_time(&family)?);
    ensure!(interrupt.sleep_until(start + length), "interrupted");
    let (elapsed, after) = (start.elapsed(), cpu_time(&family)?);
    let mut pss_bytes = 0;
    for process in &family {
        pss_bytes += process.memory()?.pss_bytes;
    }
    let rss_bytes = agent.process().memory()?.rss_bytes;
    ensure!(
        family == self::family(agent.process()),
        "a child ended during the run: the figures would lack its part"
    );
    let stopped = agent.stop()?;
    ensure!(
        stopped.status.success(),
        "the agent ended badly ({})",
        stopped.status
    );
    let cpu_percent = after.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    Ok(Steady {
        cpu_percent,
        pss_bytes,
        rss_bytes,
        processes: family.len(),
    })
}

pub(super) fn family(agent: Process) -> Vec<Process> {
    let mut family = vec![agent];
    family.extend(agent.descendants());
    family
}

pub(super) fn cpu_time(family: &[Process]) -> anyhow::Result<Duration> {
    family.iter().map(|process| process.cpu_time()).sum()
}
