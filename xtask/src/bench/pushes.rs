//! Memory over many publishes, and the CPU time of one.
//!
//! Time-lapse, so that an hour's publishes take six minutes: samples ten times a second, a driver's ring that is ten
//! times as fast, and windows of 6 s. Each publish then carries as many samples as that of a real minute.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use fake_cloudwatch::FakeCloudWatch;

use super::ready;
use super::steady::family;
use super::subject::{Node, Subject};
use crate::agent::procfs::Process;
use crate::agent::{ALL_GROUPS, Agent, Interrupt};
use crate::workspace::Workspace;

pub(super) const WINDOW: Duration = Duration::from_secs(6);
/// How often the kernel is asked for the agent's CPU time.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Before and after the arrival of a request: what is done for it lies within.
const AROUND: Duration = Duration::from_millis(250);
/// Half a window away from a publish the agent does nothing but sample.
const QUIET: Duration = Duration::from_secs(3);

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pushes {
    /// After each publish.
    pub(super) memory: Vec<Memory>,
    /// The agent's greatest resident memory.
    pub(super) peak_rss_bytes: u64,
    /// CPU time of each publish.
    pub(super) cpu_ms: Vec<f64>,
    /// Means of a publish.
    pub(super) datums: f64,
    pub(super) samples: f64,
    pub(super) bytes: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// All processes.
    pub(super) pss_bytes: u64,
    /// The agent alone.
    pub(super) rss_bytes: u64,
}

pub(super) fn run(workspace: &Workspace, pushes: usize, interrupt: &Interrupt) -> anyhow::Result<Pushes> {
    println!(
        "memory and CPU over {pushes} publishes, one every {} s",
        WINDOW.as_secs()
    );
    in_time_lapse(workspace, |cloudwatch, agent| {
        watch(cloudwatch, agent, pushes, interrupt)
    })
}

/// Watches an agent on the node whose minutes take 6 s.
pub(super) fn in_time_lapse<T>(
    workspace: &Workspace,
    watch: impl FnOnce(&FakeCloudWatch, &mut Agent) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let subject = Subject::set(workspace, &time_lapse())?;
    let (mut agent, _) = ready::start(&subject)?;
    let measured = watch(&subject.cloud.cloudwatch, &mut agent)
        .with_context(|| format!("watch the agent; its log is {}", subject.log.display()))?;
    let stopped = agent.stop()?;
    ensure!(
        stopped.status.success(),
        "the agent ended badly ({})",
        stopped.status
    );
    Ok(measured)
}

fn time_lapse() -> Node<'static> {
    Node {
        instance_type: "p5.48xlarge",
        sample_interval: "100ms",
        publish_interval: "6s",
        groups: ALL_GROUPS,
        ring_hz: Some(60),
        mps: false,
    }
}

/// The agent's CPU time at instants.
type Course = Vec<(SystemTime, Duration)>;

fn watch(
    cloudwatch: &FakeCloudWatch,
    agent: &mut Agent,
    pushes: usize,
    interrupt: &Interrupt,
) -> anyhow::Result<Pushes> {
    let process = agent.process();
    let mut course = Course::new();
    let mut memory = Vec::new();
    let deadline = Instant::now() + WINDOW * u32::try_from(pushes + 5).unwrap_or(u32::MAX);
    let mut next = Instant::now();
    let mut read_after = None;
    // The first publish has half a window, and connects.
    while memory.len() <= pushes {
        ensure!(interrupt.sleep_until(next), "interrupted");
        ensure!(
            Instant::now() < deadline,
            "only {} publishes so far",
            memory.len()
        );
        course.push((SystemTime::now(), process.first_thread_time()?));
        let arrived = cloudwatch.attempts().len();
        if arrived > memory.len() {
            let due = *read_after.get_or_insert(Instant::now() + QUIET + AROUND);
            if Instant::now() >= due {
                read_after = None;
                memory.push(memory_of(process)?);
                ensure!(agent.ended()?.is_none(), "the agent ended by itself");
            }
        }
        next = (next + LOOK_EVERY).max(Instant::now());
    }
    summed(cloudwatch, &course, &memory, process)
}

pub(super) fn memory_of(agent: Process) -> anyhow::Result<Memory> {
    let mut pss_bytes = 0;
    for process in family(agent) {
        pss_bytes += process.memory()?.pss_bytes;
    }
    Ok(Memory {
        pss_bytes,
        rss_bytes: agent.memory()?.rss_bytes,
    })
}

fn summed(
    cloudwatch: &FakeCloudWatch,
    course: &Course,
    memory: &[Memory],
    agent: Process,
) -> anyhow::Result<Pushes> {
    let attempts = cloudwatch.attempts();
    let attempts = attempts
        .get(1..memory.len())
        .context("the first publish is the only one")?;
    ensure!(
        attempts.iter().all(|attempt| attempt.status == Some(200)),
        "a publish failed: the figures would be those of retries"
    );
    let accepted = cloudwatch.accepted();
    let counted = |number: u64| attempts.iter().any(|attempt| attempt.number == number);
    let samples = accepted
        .iter()
        .filter(|datum| counted(datum.attempt))
        .flat_map(|datum| &datum.counts);
    let mean = |sum: f64| sum / attempts.len() as f64;
    let sum = |numbers: Vec<usize>| numbers.into_iter().sum::<usize>() as f64;
    let cpu_ms = attempts.iter().map(|attempt| cost(course, attempt.at));
    Ok(Pushes {
        memory: memory[1..].to_vec(),
        peak_rss_bytes: agent.peak_rss_bytes()?,
        cpu_ms: cpu_ms
            .collect::<Option<_>>()
            .context("a publish was not watched")?,
        datums: mean(sum(attempts
            .iter()
            .map(|attempt| attempt.datums.unwrap_or(0))
            .collect())),
        samples: mean(samples.sum()),
        bytes: mean(sum(attempts
            .iter()
            .map(|attempt| attempt.body_bytes.unwrap_or(0))
            .collect())),
    })
}

/// Milliseconds of CPU around this instant, less those of an equally long time in which nothing was published.
fn cost(course: &Course, at: SystemTime) -> Option<f64> {
    let spent = |from: SystemTime, to: SystemTime| {
        let time = |instant| {
            let after = course.partition_point(|(seen, _)| *seen < instant);
            course.get(after).map(|(_, time)| time.as_secs_f64() * 1000.0)
        };
        Some(time(to)? - time(from)?)
    };
    let busy = spent(at.checked_sub(AROUND)?, at + AROUND)?;
    let quiet = spent(at + QUIET - AROUND, at + QUIET + AROUND)?;
    Some(busy - quiet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn the_cost_of_a_publish_is_what_goes_beyond_sampling() {
        // 1 ms of sampling every 100 ms, and 7 ms for a publish at second 1.
        let course: Course = (0_u64..100)
            .map(|step| {
                let publish = if step >= 20 { 7 } else { 0 };
                let instant = UNIX_EPOCH + Duration::from_millis(step * 50);
                (instant, Duration::from_millis(step.div_ceil(2) + publish))
            })
            .collect();
        let cost = cost(&course, UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        assert!((cost - 7.0).abs() < 1e-9, "{cost}");
        assert_eq!(super::cost(&course, UNIX_EPOCH + Duration::from_secs(4)), None);
    }
}
