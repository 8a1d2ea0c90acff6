//! Whether anything grows while CloudWatch comes and goes. Time-lapse as in [`super::pushes`].
//!
//! Two windows of 6 s in which it is away, each time in another way, then four in which it answers and what has waited
//! follows; then a look at memory, open files and threads, always in the same phase.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use fake_cloudwatch::{Attempt, FakeCloudWatch, Fate, Rule, Script};

use super::pushes::{Memory, WINDOW, in_time_lapse, memory_of};
use super::steady::{cpu_time, family};
use crate::agent::procfs::Process;
use crate::agent::{Agent, Interrupt};
use crate::workspace::Workspace;

/// How long it is away, and how long it is there again.
const AWAY: Duration = Duration::from_secs(12);
/// Longer than an attempt that hangs (10 s), the longest pause (6 s) and the backlog of both together.
const THERE: Duration = Duration::from_secs(24);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Files of `/proc` are open for microseconds: the least of so many looks is without them.
const LOOKS: usize = 50;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Soak {
    pub(super) seconds: f64,
    /// After each time that CloudWatch was away.
    pub(super) states: Vec<State>,
    pub(super) peak_rss_bytes: u64,
    /// Windows that arrived, and those that are missing between them.
    pub(super) windows: usize,
    pub(super) missing: usize,
    pub(super) requests: usize,
    pub(super) in_vain: usize,
    /// All processes, of one core.
    pub(super) cpu_percent: f64,
}

/// What the agent holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) memory: Memory,
    /// All processes.
    pub(super) files: usize,
    pub(super) threads: usize,
}

pub(super) fn run(workspace: &Workspace, minutes: u64, interrupt: &Interrupt) -> anyhow::Result<Soak> {
    println!("{minutes} minutes with an endpoint that flaps");
    in_time_lapse(workspace, |cloudwatch, agent| {
        watch(cloudwatch, agent, Duration::from_secs(minutes * 60), interrupt)
    })
}

/// Every way to be away, in turn.
fn ways() -> [Script; 6] {
    let always = |fate| Script::from([Rule::always(fate)]);
    [
        Script {
            rules: Vec::new(),
            refuse: vec![(Duration::ZERO, None)],
        },
        always(Fate::ServerError {
            status: 503,
            body: false,
        }),
        always(Fate::Hang),
        always(Fate::Throttle),
        always(Fate::ResetBeforeBody),
        always(Fate::ExpiredToken),
    ]
}

fn watch(
    cloudwatch: &FakeCloudWatch,
    agent: &mut Agent,
    length: Duration,
    interrupt: &Interrupt,
) -> anyhow::Result<Soak> {
    let process = agent.process();
    let mut seen = Seen::default();
    // The first windows allocate what later ones use again.
    seen.watch_for(cloudwatch, agent, WINDOW * 2, interrupt)?;
    let (begun, cpu) = (Instant::now(), cpu_time(&family(process))?);
    let mut states = Vec::new();
    while begun.elapsed() < length {
        let ways = ways();
        let way = states.len() % ways.len();
        cloudwatch.play(ways.into_iter().nth(way).context("one of them")?);
        seen.watch_for(cloudwatch, agent, AWAY, interrupt)?;
        cloudwatch.play([]);
        seen.watch_for(cloudwatch, agent, THERE, interrupt)?;
        states.push(State::of(process)?);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let spent = cpu_time(&family(process))?.saturating_sub(cpu);
    Ok(Soak {
        seconds: elapsed,
        states,
        peak_rss_bytes: process.peak_rss_bytes()?,
        windows: seen.starts.len(),
        missing: missing(&seen.starts),
        requests: seen.requests,
        in_vain: seen.in_vain,
        cpu_percent: spent.as_secs_f64() / elapsed * 100.0,
    })
}

#[derive(Default)]
struct Seen {
    starts: BTreeSet<SystemTime>,
    requests: usize,
    in_vain: usize,
}

impl Seen {
    /// Takes what arrives within this time: kept, it would be this process that grows.
    fn watch_for(
        &mut self,
        cloudwatch: &FakeCloudWatch,
        agent: &mut Agent,
        length: Duration,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            ensure!(
                interrupt.sleep_until(end.min(Instant::now() + LOOK_EVERY)),
                "interrupted"
            );
            ensure!(agent.ended()?.is_none(), "the agent ended by itself");
            let accepted = cloudwatch.take_accepted();
            self.starts
                .extend(accepted.iter().map(|datum| datum.key.timestamp));
            let attempts = cloudwatch.take_attempts();
            self.requests += attempts.len();
            self.in_vain += attempts.iter().filter(|attempt| is_in_vain(attempt)).count();
        }
        Ok(())
    }
}

fn is_in_vain(attempt: &Attempt) -> bool {
    attempt.status != Some(200)
}

impl State {
    fn of(agent: Process) -> anyhow::Result<Self> {
        let mut state = Self {
            memory: memory_of(agent)?,
            ..Self::default()
        };
        for process in family(agent) {
            let looks = (0..LOOKS).map(|_| process.open_files());
            let looks: Vec<usize> = looks.collect::<anyhow::Result<_>>()?;
            state.files += looks.into_iter().min().unwrap_or(0);
            state.threads += process.threads()?;
        }
        Ok(state)
    }
}

/// Windows that are missing between the first and the last that arrived.
fn missing(starts: &BTreeSet<SystemTime>) -> usize {
    let (Some(first), Some(last)) = (starts.first(), starts.last()) else {
        return 0;
    };
    let whole = (0_u32..)
        .map(|window| *first + WINDOW * window)
        .take_while(|start| start <= last);
    whole.filter(|start| !starts.contains(start)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_gap_is_noticed() {
        let starts = |windows: &[u32]| windows.iter().map(|n| UNIX_EPOCH + WINDOW * *n).collect();
        assert_eq!(missing(&starts(&[3, 4, 5, 7, 10])), 3);
        assert_eq!(missing(&starts(&[3, 4, 5])), 0);
        assert_eq!(missing(&starts(&[])), 0);
    }
}
