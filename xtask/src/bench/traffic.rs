//! What reaches CloudWatch in a minute, and how many metrics it bills, at 1, 4 and 8 GPUs.
//!
//! All counted from what the simulated CloudWatch accepted; the agent is not asked.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use fake_cloudwatch::{AcceptedDatum, Attempt};

use super::ready;
use super::subject::{Node, Subject};
use crate::agent::{Agent, Interrupt};
use crate::workspace::Workspace;

/// The test kit's nodes with 1, 4 and 8 GPUs.
const NODES: [&str; 3] = ["g4dn.xlarge", "g5.12xlarge", "p5.48xlarge"];
/// The groups of the default configuration that are built.
pub(super) const GROUPS: [&str; 3] = ["host", "gpu", "agent"];
/// Whole minutes that are counted; the one in which the agent started is not.
pub(super) const MINUTES: usize = 3;
/// A minute to the first window, one for each, and time for the last to arrive.
const LIMIT: Duration = Duration::from_secs(60 * (MINUTES as u64 + 1) + 60);

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Traffic {
    pub(super) instance_type: String,
    pub(super) gpus: usize,
    /// Distinct names with distinct dimensions: what is billed.
    pub(super) series: usize,
    /// The following are a minute's.
    pub(super) requests: f64,
    pub(super) datums: f64,
    pub(super) samples: f64,
    /// Bodies before compression.
    pub(super) bytes: f64,
    /// Heads included.
    pub(super) wire_bytes: f64,
}

/// Runs one agent per node at the same time.
pub(super) fn run(workspace: &Workspace, interrupt: &Interrupt) -> anyhow::Result<Vec<Traffic>> {
    println!("requests and bytes at 1, 4 and 8 GPUs: {MINUTES} whole minutes");
    let mut running = Vec::new();
    for instance_type in NODES {
        let node = Node {
            instance_type,
            sample_interval: "1s",
            publish_interval: "60s",
            groups: &GROUPS,
            ring_hz: None,
            mps: false,
        };
        let subject = Subject::set(workspace, &node)?;
        let (agent, _) = ready::start(&subject)?;
        running.push((instance_type, subject, agent));
    }
    let deadline = Instant::now() + LIMIT;
    let mut found = Vec::new();
    for (instance_type, subject, mut agent) in running {
        wait(&subject, &mut agent, interrupt, deadline)
            .with_context(|| format!("{instance_type}; the agent's log is {}", subject.log.display()))?;
        let (accepted, attempts) = (
            subject.cloud.cloudwatch.accepted(),
            subject.cloud.cloudwatch.attempts(),
        );
        let traffic = Traffic::of(instance_type, &accepted, &attempts);
        found.push(traffic.with_context(|| format!("nothing to count for {instance_type}"))?);
        agent.stop()?;
    }
    Ok(found)
}

fn wait(
    subject: &Subject,
    agent: &mut Agent,
    interrupt: &Interrupt,
    deadline: Instant,
) -> anyhow::Result<()> {
    while starts(&subject.cloud.cloudwatch.accepted()).len() <= MINUTES {
        ensure!(
            Instant::now() < deadline,
            "no {MINUTES} whole windows within {} s",
            LIMIT.as_secs()
        );
        ensure!(
            interrupt.sleep_until(Instant::now() + Duration::from_millis(500)),
            "interrupted"
        );
        if let Some(status) = agent.ended()? {
            anyhow::bail!("the agent ended by itself ({status})");
        }
    }
    Ok(())
}

fn starts(accepted: &[AcceptedDatum]) -> BTreeSet<SystemTime> {
    accepted.iter().map(|datum| datum.key.timestamp).collect()
}

impl Traffic {
    /// Of all windows but the first, which began before the agent; `None` where there are none.
    fn of(instance_type: &str, accepted: &[AcceptedDatum], attempts: &[Attempt]) -> Option<Self> {
        let starts = starts(accepted);
        let first = *starts.first()?;
        let minutes = starts.len() - 1;
        let whole: Vec<_> = accepted
            .iter()
            .filter(|datum| datum.key.timestamp > first)
            .collect();
        let before = accepted.iter().filter(|datum| datum.key.timestamp == first);
        let last_before = before.map(|datum| datum.attempt).max()?;
        // Those in vain are in it: they are billed, too.
        let counted: Vec<_> = attempts
            .iter()
            .filter(|attempt| attempt.number > last_before)
            .collect();
        let series: BTreeSet<_> = whole.iter().map(|datum| &datum.key.series).collect();
        let gpus: BTreeSet<_> = series
            .iter()
            .filter_map(|series| series.dimensions.get("GPUNumber"))
            .collect();
        let a_minute = |sum: f64| (minutes > 0).then(|| sum / minutes as f64);
        let sum = |of: fn(&Attempt) -> usize| counted.iter().map(|attempt| of(attempt)).sum::<usize>() as f64;
        Some(Self {
            instance_type: instance_type.to_owned(),
            gpus: gpus.len(),
            series: series.len(),
            requests: a_minute(counted.len() as f64)?,
            datums: a_minute(whole.len() as f64)?,
            samples: a_minute(whole.iter().flat_map(|datum| &datum.counts).sum())?,
            bytes: a_minute(sum(|attempt| attempt.body_bytes.unwrap_or(0)))?,
            wire_bytes: a_minute(sum(|attempt| attempt.wire_bytes))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fake_cloudwatch::{Key, Series};
    use std::collections::BTreeMap;
    use std::time::UNIX_EPOCH;

    fn datum(minute: u64, gpu: &str, attempt: u64) -> AcceptedDatum {
        AcceptedDatum {
            key: Key {
                series: Series {
                    namespace: "N".to_owned(),
                    metric: "m".to_owned(),
                    dimensions: BTreeMap::from([("GPUNumber".to_owned(), gpu.to_owned())]),
                },
                timestamp: UNIX_EPOCH + Duration::from_mins(minute),
            },
            arrived: UNIX_EPOCH,
            attempt,
            values: vec![1.0, 2.0],
            counts: vec![59.0, 1.0],
            statistics: None,
            unit: None,
            storage_resolution: 60,
        }
    }

    fn attempt(number: u64) -> Attempt {
        Attempt {
            number,
            at: UNIX_EPOCH,
            fate: None,
            status: Some(200),
            code: None,
            message: None,
            committed: true,
            wire_bytes: 100,
            body_bytes: Some(900),
            datums: Some(2),
            credential: None,
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn the_first_window_is_left_out_and_requests_in_vain_are_not() {
        let accepted = [
            datum(0, "0", 0),
            datum(1, "0", 1),
            datum(1, "1", 1),
            datum(2, "0", 3),
            datum(2, "1", 3),
        ];
        let attempts = [0, 1, 2, 3].map(attempt);
        let traffic = Traffic::of("t", &accepted, &attempts).unwrap();
        let wanted = Traffic {
            instance_type: "t".to_owned(),
            gpus: 2,
            series: 2,
            requests: 1.5,
            datums: 2.0,
            samples: 120.0,
            bytes: 1350.0,
            wire_bytes: 150.0,
        };
        assert_eq!(traffic, wanted);
        assert_eq!(Traffic::of("t", &accepted[..1], &attempts), None);
        assert_eq!(Traffic::of("t", &[], &[]), None);
    }
}
