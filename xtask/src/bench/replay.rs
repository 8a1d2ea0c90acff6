//! A day in the spool, and the agent that finds it there: how long the backlog takes, in how many requests, and what
//! becomes of the live minutes meanwhile. Real pace, default groups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use fake_cloudwatch::{AcceptedDatum, Attempt, FakeCloudWatch};

use super::pushes::{Memory, memory_of};
use super::subject::{Node, Subject};
use super::{ready, spool, traffic};
use crate::agent::{Agent, Interrupt};
use crate::workspace::Workspace;

/// Windows of the day.
const DAY: usize = 24 * 60;
const MINUTE: Duration = Duration::from_mins(1);
/// Series of eight GPUs in the default groups.
const SERIES: &str = "56";
/// The simulated metadata service's instance.
const INSTANCE: &str = "i-0123456789abcdef0";
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Four times what the spacing of requests makes of it.
const LIMIT: Duration = Duration::from_mins(15);

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Replay {
    /// Windows of the day that arrived, and their samples.
    pub(super) windows: usize,
    pub(super) samples: f64,
    /// From exec to READY, with the day in the spool.
    pub(super) ready_seconds: f64,
    /// From READY to the arrival of the last of them.
    pub(super) seconds: f64,
    /// Requests with the day's windows.
    pub(super) requests: usize,
    /// Of their bodies, before compression.
    pub(super) bytes: f64,
    pub(super) greatest_bytes: usize,
    /// Requests that were refused or not answered, of all.
    pub(super) in_vain: usize,
    /// How long after its end each live window arrived.
    pub(super) live_seconds: Vec<f64>,
    /// At the start, right after READY.
    pub(super) before: Memory,
    /// When the backlog is gone.
    pub(super) after: Memory,
    pub(super) peak_rss_bytes: u64,
    /// Of the agent, from READY to the end of the backlog.
    pub(super) cpu_seconds: f64,
    /// All files of the spool, before and after.
    pub(super) disk_bytes: [u64; 2],
}

pub(super) fn run(workspace: &Workspace, interrupt: &Interrupt) -> anyhow::Result<Replay> {
    println!("a day of 8 GPUs is replayed");
    let node = Node {
        groups: &traffic::GROUPS,
        ..Node::large()
    };
    let subject = Subject::set(workspace, &node)?;
    let dir = subject.dir.path().join("spool");
    let until = this_minute()?;
    fill(workspace, &dir, until)?;
    let full_bytes = size(&dir)?;
    let (mut agent, took) = ready::start(&subject)?;
    let mut replay = watch(&subject.cloud.cloudwatch, &mut agent, interrupt, until)
        .with_context(|| format!("watch the agent; its log is {}", subject.log.display()))?;
    let stopped = agent.stop()?;
    ensure!(
        stopped.status.success(),
        "the agent ended badly ({})",
        stopped.status
    );
    replay.ready_seconds = took.as_secs_f64();
    replay.disk_bytes = [full_bytes, size(&dir)?];
    Ok(replay)
}

fn this_minute() -> anyhow::Result<SystemTime> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let minutes = now.context("the clock stands before 1970")?.as_secs() / MINUTE.as_secs();
    Ok(UNIX_EPOCH + Duration::from_secs(minutes * MINUTE.as_secs()))
}

fn fill(workspace: &Workspace, dir: &Path, until: SystemTime) -> anyhow::Result<()> {
    let dir = dir.to_string_lossy();
    let until = until.duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let arguments = [
        "--series",
        SERIES,
        "--fill",
        &dir,
        "--instance",
        INSTANCE,
        "--until",
        &until,
    ];
    spool::bench(workspace, &arguments).map(drop)
}

fn size(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in fs_err::read_dir(dir)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

fn watch(
    cloudwatch: &FakeCloudWatch,
    agent: &mut Agent,
    interrupt: &Interrupt,
    until: SystemTime,
) -> anyhow::Result<Replay> {
    let process = agent.process();
    let (begun, ready_at) = (Instant::now(), SystemTime::now());
    let (before, cpu) = (memory_of(process)?, process.cpu_time()?);
    let mut arrivals = Arrivals::default();
    let mut wait = |arrivals: &mut Arrivals| -> anyhow::Result<()> {
        let found = arrivals.backlog(until).count();
        ensure!(interrupt.sleep_until(Instant::now() + LOOK_EVERY), "interrupted");
        ensure!(begun.elapsed() < LIMIT, "{found} of {DAY} windows came");
        ensure!(agent.ended()?.is_none(), "the agent ended by itself");
        arrivals.take(cloudwatch.take_accepted());
        Ok(())
    };
    while arrivals.backlog(until).count() < DAY {
        wait(&mut arrivals)?;
    }
    let (after, cpu) = (memory_of(process)?, process.cpu_time()?.saturating_sub(cpu));
    // The next live window has to come in time, too.
    let live = arrivals.live(until).count();
    while arrivals.live(until).count() == live {
        wait(&mut arrivals)?;
    }
    Ok(Replay {
        before,
        after,
        peak_rss_bytes: process.peak_rss_bytes()?,
        cpu_seconds: cpu.as_secs_f64(),
        ..summed(&arrivals, &cloudwatch.attempts(), ready_at, until)
    })
}

/// What is told by what arrived.
fn summed(arrivals: &Arrivals, attempts: &[Attempt], ready_at: SystemTime, until: SystemTime) -> Replay {
    let backlog = || arrivals.backlog(until).map(|(_, window)| window);
    let requests: BTreeSet<u64> = backlog().flat_map(|window| &window.requests).copied().collect();
    let of_backlog = attempts
        .iter()
        .filter(|attempt| requests.contains(&attempt.number));
    let bodies: Vec<usize> = of_backlog.filter_map(|attempt| attempt.body_bytes).collect();
    let last = backlog().map(|window| window.arrived).max().unwrap_or(ready_at);
    let in_vain = attempts.iter().filter(|attempt| attempt.status != Some(200));
    let live = arrivals.live(until);
    Replay {
        windows: backlog().count(),
        samples: backlog().map(|window| window.samples).sum(),
        seconds: last.duration_since(ready_at).unwrap_or_default().as_secs_f64(),
        requests: requests.len(),
        bytes: bodies.iter().sum::<usize>() as f64,
        greatest_bytes: bodies.iter().copied().max().unwrap_or(0),
        in_vain: in_vain.count(),
        live_seconds: live.map(|(start, window)| late(*start, window.arrived)).collect(),
        ..Replay::default()
    }
}

/// From the end of a window to its arrival; nothing for one that is closed early.
fn late(start: SystemTime, arrived: SystemTime) -> f64 {
    arrived
        .duration_since(start + MINUTE)
        .unwrap_or_default()
        .as_secs_f64()
}

/// What has arrived so far, by the start of the window.
#[derive(Default)]
struct Arrivals(BTreeMap<SystemTime, Window>);

struct Window {
    /// All of it.
    arrived: SystemTime,
    requests: BTreeSet<u64>,
    samples: f64,
}

impl Arrivals {
    fn take(&mut self, accepted: Vec<AcceptedDatum>) {
        for datum in accepted {
            let window = self.0.entry(datum.key.timestamp).or_insert_with(|| Window {
                arrived: datum.arrived,
                requests: BTreeSet::new(),
                samples: 0.0,
            });
            window.arrived = window.arrived.max(datum.arrived);
            window.requests.insert(datum.attempt);
            window.samples += datum.counts.iter().sum::<f64>();
        }
    }

    fn backlog(&self, until: SystemTime) -> impl Iterator<Item = (&SystemTime, &Window)> {
        self.0.range(..until)
    }

    fn live(&self, until: SystemTime) -> impl Iterator<Item = (&SystemTime, &Window)> {
        self.0.range(until..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_late_from_its_end_on() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!((late(at(60), at(127)) - 7.0).abs() < 1e-9);
        assert!(late(at(60), at(100)).abs() < 1e-9);
    }
}
