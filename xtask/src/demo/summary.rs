//! The closing words: what was published, what it cost on the wire, whether anything is missing.

use std::process::ExitCode;

use anyhow::ensure;
use fake_cloudwatch::AcceptedDatum;
use serde_json::{Value, json};

use super::accepted::{Accepted, Traffic, Window};
use super::digest::{arrival, bytes, heading, statistics};
use super::ledger::Ledger;
use super::stage::{Stage, WINDOW};
use crate::agent::{STOP_BUDGET, Stopped};

/// What CloudWatch has in the end.
pub(super) fn print(stage: &Stage, accepted: &Accepted, flushed: &[Window]) {
    if !flushed.is_empty() {
        let lines: String = flushed.iter().map(arrival).collect();
        println!(
            "On SIGTERM the agent closed its open window and sent what it had:\n{}{lines}",
            heading()
        );
    }
    let Some(fullest) = accepted.fullest() else {
        return;
    };
    println!("{}", statistics(fullest));
    if let Some(datum) = telling(&fullest.datums) {
        println!("One of its datums, as CloudWatch got it:\n{}\n", as_sent(datum));
    }
    let attempts = stage.cloud.cloudwatch.attempts();
    let traffic = Traffic::of(&attempts);
    let refused = attempts
        .iter()
        .filter(|attempt| attempt.status != Some(200))
        .count();
    println!(
        "Published {} windows of {} s: {} datums, {} requests ({refused} refused)\n          {} of data, {} on the wire \
         with HTTP heads",
        accepted.count(),
        WINDOW.as_secs(),
        accepted.datums,
        traffic.requests,
        bytes(traffic.bytes as f64),
        bytes(traffic.wire_bytes as f64),
    );
}

/// The verdict: 0 only if nothing is missing and all ended well.
pub(super) fn judge(
    stage: &Stage,
    accepted: &Accepted,
    ledger: &Ledger,
    stopped: &Stopped,
    answers: usize,
) -> anyhow::Result<ExitCode> {
    let log = || stage.log_tail();
    ensure!(
        stopped.status.success(),
        "the agent ended badly ({}):\n{}",
        stopped.status,
        log()
    );
    ensure!(
        stopped.left_behind == 0,
        "the agent left {} processes behind; they were killed",
        stopped.left_behind
    );
    ensure!(answers > 0, "`gpushare status` never answered:\n{}", log());
    ensure!(accepted.count() > 0, "no window was accepted:\n{}", log());
    print!("{}", ledger.compare(accepted.samples, accepted.repeated)?);
    let verdict = if stopped.took <= STOP_BUDGET {
        "within"
    } else {
        "LATER THAN"
    };
    println!(
        "Stopped   {:.2} s after SIGTERM, {verdict} its {} s\nFiles     config.toml and agent.log in {}\n          {}\n{}",
        stopped.took.as_secs_f64(),
        STOP_BUDGET.as_secs(),
        stage.dir.display(),
        stage.nvml,
        stage.title(),
    );
    Ok(ExitCode::SUCCESS)
}

/// The datum with the most to see in it.
fn telling(datums: &[AcceptedDatum]) -> Option<&AcceptedDatum> {
    let utilization = datums
        .iter()
        .filter(|datum| datum.key.series.metric == "gpu_utilization");
    let most = utilization.max_by_key(|datum| datum.values.len());
    most.or_else(|| datums.first())
}

/// A key a line, in the shape of `aws cloudwatch put-metric-data`.
fn as_sent(datum: &AcceptedDatum) -> String {
    let series = &datum.key.series;
    let dimensions = series.dimensions.iter();
    let dimensions: Vec<Value> = dimensions
        .map(|(name, value)| json!({ "Name": name, "Value": value }))
        .collect();
    let start = humantime::format_rfc3339_seconds(datum.key.timestamp).to_string();
    let keys = [
        ("Namespace", json!(series.namespace)),
        ("MetricName", json!(series.metric)),
        ("Dimensions", Value::Array(dimensions)),
        ("Timestamp", json!(start)),
        ("Values", whole(&datum.values)),
        ("Counts", whole(&datum.counts)),
        ("Unit", json!(datum.unit)),
        ("StorageResolution", json!(datum.storage_resolution)),
    ];
    let lines = keys.map(|(key, value)| format!("  {key:<18}{value}"));
    lines.join("\n")
}

/// Numbers without the `.0` that JSON gives to floats.
fn whole(numbers: &[f64]) -> Value {
    let number = |number: &f64| {
        if number.fract() == 0.0 && number.abs() < 1e15 {
            #[expect(clippy::cast_possible_truncation, reason = "a whole number that fits")]
            let whole = *number as i64;
            json!(whole)
        } else {
            json!(number)
        }
    };
    numbers.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::super::accepted::tests::datum;
    use super::*;

    #[test]
    fn the_datum_with_the_most_values_is_shown_as_it_was_sent() {
        let datums = [
            datum("cpu_usage_active", &[], &[1.0, 2.0, 3.0], "Percent"),
            datum("gpu_utilization", &[("GPUNumber", "0")], &[7.0], "Percent"),
            datum("gpu_utilization", &[("GPUNumber", "1")], &[7.0, 8.5], "Percent"),
        ];
        let shown = as_sent(telling(&datums).unwrap());
        let wanted = [
            "  Namespace         \"N\"",
            "  MetricName        \"gpu_utilization\"",
            "  Dimensions        [{\"Name\":\"GPUNumber\",\"Value\":\"1\"}]",
            "  Timestamp         \"1970-01-01T00:00:00Z\"",
            "  Values            [7,8.5]",
            "  Counts            [2,2]",
            "  Unit              \"Percent\"",
            "  StorageResolution 60",
        ];
        assert_eq!(shown, wanted.join("\n"));
        assert_eq!(
            telling(&datums[..1]).unwrap().key.series.metric,
            "cpu_usage_active"
        );
    }
}
