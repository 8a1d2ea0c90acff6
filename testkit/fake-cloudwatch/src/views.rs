//! What a person (`GET /`) or a program (`GET /accepted`, `GET /attempts`) sees of the fake over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use http_stub::Response;
use http_stub::clock::rfc3339_millis;
use serde_json::{Value, json};

use crate::attempt::Attempt;
use crate::datum::{AcceptedDatum, Key};
use crate::statistics::{Merged, merged};
use crate::store::Contents;

/// Dashboards show a point a minute.
const PERIOD: Duration = Duration::from_mins(1);

/// The fake in readable text: requests by outcome, and the newest minute of each series.
pub(crate) fn summary(contents: &Contents) -> Response {
    let series: BTreeSet<_> = contents.accepted.iter().map(|datum| &datum.key.series).collect();
    let mut text = format!(
        "fake-cloudwatch: {} requests; {} datums of {} series accepted\n\nrequests\n",
        contents.attempts.len(),
        contents.accepted.len(),
        series.len(),
    );
    for (outcome, count) in outcomes(&contents.attempts) {
        let _ = writeln!(text, "  {count:>6}  {outcome}");
    }
    text += "\nnewest minute of each series\n";
    let _ = writeln!(
        text,
        "  {:<24} {:>6} {:>14} {:>14} {:>14} {:>14} {:>14}  metric",
        "minute", "count", "min", "average", "p50", "p99", "max"
    );
    for (key, merged) in newest(&contents.accepted) {
        text += &row(&key, &merged);
    }
    Response::with_body(200, "text/plain; charset=utf-8", text)
}

fn outcomes(attempts: &[Attempt]) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for attempt in attempts {
        let mut outcome = attempt
            .status
            .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        for part in [attempt.code.as_deref(), attempt.fate].into_iter().flatten() {
            let _ = write!(outcome, " {part}");
        }
        *counted.entry(outcome).or_insert(0) += 1;
    }
    counted
}

fn newest(accepted: &[AcceptedDatum]) -> BTreeMap<Key, Merged> {
    let mut newest = BTreeMap::new();
    for (key, merged) in merged(accepted, PERIOD) {
        // Keys are in order of series, then time: the last one of a series stays.
        newest.insert(key.series.clone(), (key, merged));
    }
    newest.into_values().collect()
}

fn row(key: &Key, merged: &Merged) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let dimensions: Vec<String> = key
        .series
        .dimensions
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!(
        "  {:<24} {:>6} {:>14} {:>14} {:>14} {:>14} {:>14}  {} {} {{{}}}\n",
        rfc3339_millis(key.timestamp),
        merged.sample_count,
        number(Some(merged.minimum)),
        number(merged.average()),
        number(merged.percentile(50.0)),
        number(merged.percentile(99.0)),
        number(Some(merged.maximum)),
        key.series.namespace,
        key.series.metric,
        dimensions.join(", "),
    )
}

/// All accepted datums as JSON.
pub(crate) fn accepted(contents: &Contents) -> Response {
    json_response(&contents.accepted.iter().map(datum_json).collect::<Vec<_>>())
}

fn datum_json(datum: &AcceptedDatum) -> Value {
    let statistics = datum.statistics.map(|set| {
        json!({
            "sample_count": set.sample_count,
            "sum": set.sum,
            "minimum": set.minimum,
            "maximum": set.maximum,
        })
    });
    json!({
        "arrived": rfc3339_millis(datum.arrived),
        "attempt": datum.attempt,
        "namespace": datum.key.series.namespace,
        "metric": datum.key.series.metric,
        "dimensions": datum.key.series.dimensions,
        "timestamp": rfc3339_millis(datum.key.timestamp),
        "values": datum.values,
        "counts": datum.counts,
        "statistics": statistics,
        "unit": datum.unit,
        "storage_resolution": datum.storage_resolution,
    })
}

/// The log as JSON.
pub(crate) fn attempts(contents: &Contents) -> Response {
    json_response(&contents.attempts.iter().map(attempt_json).collect::<Vec<_>>())
}

fn attempt_json(attempt: &Attempt) -> Value {
    json!({
        "number": attempt.number,
        "at": rfc3339_millis(attempt.at),
        "fate": attempt.fate,
        "status": attempt.status,
        "code": attempt.code,
        "message": attempt.message,
        "committed": attempt.committed,
        "wire_bytes": attempt.wire_bytes,
        "body_bytes": attempt.body_bytes,
        "datums": attempt.datums,
        "credential": attempt.credential,
        "headers": attempt.headers,
    })
}

/// One row a line, so that `grep` and a human eye find theirs.
fn json_response(rows: &[Value]) -> Response {
    let rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    Response::with_body(200, "application/json", format!("[{}]\n", rows.join(",\n")))
}
