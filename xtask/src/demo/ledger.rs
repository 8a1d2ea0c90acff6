//! What became of every sample: the agent's ledger beside what CloudWatch has.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// The agent's account, from `gpushare status --json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) collected: u64,
    accepted: u64,
    in_open_window: u64,
    waiting: u64,
    dropped: u64,
}

#[derive(Deserialize)]
struct Snapshot {
    sampler: Sampler,
    publish: Publish,
}

#[derive(Deserialize)]
struct Sampler {
    ledger: Counts,
    /// Its start and its samples.
    open_window: Option<(u64, u64)>,
}

#[derive(Deserialize)]
struct Counts {
    collected: u64,
    dropped: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Publish {
    samples: u64,
    pending_samples: u64,
}

impl Ledger {
    pub(super) fn parse(status: &str) -> anyhow::Result<Self> {
        let snapshot: Snapshot =
            serde_json::from_str(status).context("the agent's status has another shape than it should")?;
        Ok(Self {
            collected: snapshot.sampler.ledger.collected,
            accepted: snapshot.publish.samples,
            in_open_window: snapshot.sampler.open_window.map_or(0, |(_, samples)| samples),
            waiting: snapshot.publish.pending_samples,
            dropped: snapshot.sampler.ledger.dropped.values().sum(),
        })
    }

    /// Both sides of the account, once the agent has ended well and nothing may be on its way any more. What arrived
    /// again is no help to what is missing: it is told apart.
    pub(super) fn compare(&self, in_cloudwatch: f64, repeated: f64) -> anyhow::Result<String> {
        let Self {
            collected,
            accepted,
            in_open_window,
            waiting,
            dropped,
        } = self;
        let mut text = format!(
            "Ledger    {collected} collected = {accepted} accepted + {in_open_window} in the open window + {waiting} waiting \
             + {dropped} dropped, before SIGTERM\n"
        );
        let owed = collected.saturating_sub(*dropped);
        let beyond = in_cloudwatch - owed as f64;
        ensure!(
            beyond >= 0.0,
            "{text}after it, CloudWatch has only {in_cloudwatch}: {} are missing",
            -beyond
        );
        let _ = writeln!(
            text,
            "{:10}{in_cloudwatch} in CloudWatch after it = those {owed} + {beyond} sampled until the end",
            ""
        );
        if repeated > 0.0 {
            let _ = writeln!(
                text,
                "{:10}{repeated} came again, and are counted once: the connection was cut after they were accepted",
                ""
            );
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{"version":1,"sampler":{"ledger":{"collected":100,"dropped":{"refused":3,"too_old":2}},
        "open_window":[1700000000,40]},"publish":{"target":"cloudwatch","samples":45,"pending_samples":10}}"#;

    #[test]
    fn nothing_is_missing_or_it_is_said() {
        let ledger = Ledger::parse(STATUS).unwrap();
        let text = ledger.compare(99.0, 0.0).unwrap();
        assert!(
            text.contains("100 collected = 45 accepted + 40 in the open window")
                && text.contains("+ 10 waiting + 5 dropped")
                && text.contains("99 in CloudWatch after it = those 95 + 4 sampled until the end"),
            "{text}"
        );
        let error = ledger.compare(94.0, 30.0).unwrap_err().to_string();
        assert!(
            error.ends_with("CloudWatch has only 94: 1 are missing"),
            "{error}"
        );
        assert!(!text.contains("again"), "{text}");
        let text = ledger.compare(99.0, 30.0).unwrap();
        assert!(
            text.contains("99 in CloudWatch after it")
                && text.contains(" 30 came again, and are counted once: "),
            "{text}"
        );
    }

    #[test]
    fn a_status_of_another_shape_is_an_error() {
        let error = Ledger::parse("{}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the agent's status has another shape than it should"
        );
    }
}
