//! What CloudWatch accepted, as tables that fit a terminal of 100 columns. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use fake_cloudwatch::{AcceptedDatum, Merged, Series, merged};

use super::accepted::{Accepted, Window};

/// The metric of which every series is shown; of the others only the first.
const IN_FULL: &str = "gpu_utilization";
/// Dimensions that tell nodes apart, not the series of one node; in the order of the configuration.
const NODE_DIMENSIONS: [&str; 6] = [
    "InstanceId",
    "ImageId",
    "InstanceType",
    "AutoScalingGroupName",
    "ClusterName",
    "NodegroupName",
];

/// The windows that arrived last, a line each.
pub(super) fn arrivals(accepted: &Accepted) -> String {
    if accepted.last().is_empty() {
        return "The simulated CloudWatch has accepted nothing yet.\n".to_owned();
    }
    let mut text = format!(
        "Windows that the simulated CloudWatch has accepted: {}. The last ones, as they came:\n{}",
        accepted.count(),
        heading()
    );
    for window in accepted.last() {
        text.push_str(&arrival(window));
    }
    text
}

pub(super) fn heading() -> String {
    line([
        "WINDOW FROM",
        "DATUMS",
        "SAMPLES",
        "REQUESTS",
        "BYTES",
        "ON THE WIRE",
        "AFTER ITS END",
    ])
}

pub(super) fn arrival(window: &Window) -> String {
    line([
        &time(window.start),
        &window.datums.len().to_string(),
        &window.samples().to_string(),
        &window.traffic.requests.to_string(),
        &bytes(window.traffic.bytes as f64),
        &bytes(window.traffic.wire_bytes as f64),
        &after_end(window),
    ])
}

/// A window that the agent's end cut short arrives before it is over.
fn after_end(window: &Window) -> String {
    let lag = window.arrived.duration_since(window.end);
    lag.map_or_else(
        |_| "cut short".to_owned(),
        |lag| format!("{:.1} s", lag.as_secs_f64()),
    )
}

fn line(cells: [&str; 7]) -> String {
    let [start, datums, samples, requests, bytes, wire_bytes, lag] = cells;
    format!("  {start:<12}{datums:>7}{samples:>9}{requests:>10}{bytes:>11}{wire_bytes:>13}{lag:>15}\n")
}

/// The statistics that CloudWatch would show of a window.
pub(super) fn statistics(window: &Window) -> String {
    let rows = rows(&window.datums);
    let node = node_dimensions(&rows);
    let mut text = format!(
        "The window from {} as CloudWatch shows it ({} series; the first of each metric)\n",
        time(window.start),
        rows.len()
    );
    let named: Vec<String> = node
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let _ = writeln!(text, "  D = {}", named.join(", "));
    text.push_str(&columns(
        "METRIC",
        "DIMENSIONS",
        ["N", "MIN", "P50", "P99", "MAX"],
        "UNIT",
    ));
    let mut shown: BTreeSet<&str> = BTreeSet::new();
    for row in &rows {
        let metric = row.series.metric.as_str();
        if !shown.insert(metric) {
            continue;
        }
        let alike: Vec<&Row> = rows.iter().filter(|row| row.series.metric == metric).collect();
        let full = if metric == IN_FULL { alike.len() } else { 1 };
        for row in &alike[..full] {
            text.push_str(&row.render(&node, alike.len() - full));
        }
    }
    text
}

/// A series of a window.
struct Row {
    series: Series,
    unit: String,
    merged: Merged,
}

/// In the order in which the agent sent them.
fn rows(datums: &[AcceptedDatum]) -> Vec<Row> {
    let mut by_series: BTreeMap<Series, Merged> = merged(datums, Duration::ZERO)
        .into_iter()
        .map(|(key, merged)| (key.series, merged))
        .collect();
    let row = |datum: &AcceptedDatum| {
        let merged = by_series.remove(&datum.key.series)?;
        Some(Row {
            series: datum.key.series.clone(),
            unit: datum.unit.clone().unwrap_or_else(|| "None".to_owned()),
            merged,
        })
    };
    datums.iter().filter_map(row).collect()
}

/// The most that a series says about its node: the agent's own say less.
fn node_dimensions(rows: &[Row]) -> Vec<(&'static str, String)> {
    let all = rows.iter().map(|row| of_node(&row.series));
    all.max_by_key(Vec::len).unwrap_or_default()
}

fn of_node(series: &Series) -> Vec<(&'static str, String)> {
    let value = |name: &&'static str| Some((*name, series.dimensions.get(*name)?.clone()));
    NODE_DIMENSIONS.iter().filter_map(value).collect()
}

impl Row {
    fn render(&self, node: &[(&'static str, String)], hidden: usize) -> String {
        let mut dimensions = if of_node(&self.series) == node {
            vec!["D".to_owned()]
        } else {
            of_node(&self.series)
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect()
        };
        let own = self.series.dimensions.iter();
        let own = own.filter(|(name, _)| !NODE_DIMENSIONS.contains(&name.as_str()));
        dimensions.extend(own.map(|(name, value)| format!("{name}={value}")));
        let mut dimensions = shortened(&dimensions.join(", "), 19);
        if hidden > 0 {
            let _ = write!(dimensions, " +{hidden}");
        }
        let percentile = |p: f64| {
            let value = self.merged.percentile(p);
            value.map_or_else(|| "-".to_owned(), |value| number(value, &self.unit))
        };
        let cells = [
            self.merged.sample_count.to_string(),
            number(self.merged.minimum, &self.unit),
            percentile(50.0),
            percentile(99.0),
            number(self.merged.maximum, &self.unit),
        ];
        let unit = self.unit.replace("/Second", "/s");
        columns(
            &self.series.metric,
            &dimensions,
            cells.each_ref().map(String::as_str),
            &unit,
        )
    }
}

fn columns(metric: &str, dimensions: &str, cells: [&str; 5], unit: &str) -> String {
    let [count, least, median, high, greatest] = cells;
    format!("  {metric:<24}{dimensions:<23}{count:>4}{least:>9}{median:>9}{high:>9}{greatest:>9}  {unit}\n")
}

fn shortened(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}

/// Bytes in binary multiples, the rest with at most two decimals.
fn number(value: f64, unit: &str) -> String {
    if unit.starts_with("Bytes") {
        bytes(value)
    } else if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

pub(super) fn bytes(bytes: f64) -> String {
    let units = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
    match units.iter().find(|(_, size)| bytes >= *size) {
        // Never more than four digits: the columns are narrow.
        Some((name, size)) if bytes >= 99.95 * size => format!("{:.0} {name}", bytes / size),
        Some((name, size)) => format!("{:.1} {name}", bytes / size),
        None => format!("{bytes:.0} B"),
    }
}

/// Time of day in UTC.
pub(super) fn time(instant: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(instant).to_string();
    text.split_once('T')
        .map_or_else(|| text.clone(), |(_, time)| time.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::accepted::Traffic;
    use super::super::accepted::tests::datum;
    use super::*;

    const NODE: [(&str, &str); 2] = [("InstanceId", "i-0"), ("ImageId", "ami-0")];

    fn labelled(metric: &str, label: (&str, &str), values: &[f64], unit: &str) -> AcceptedDatum {
        datum(metric, &[NODE[0], NODE[1], label], values, unit)
    }

    fn window() -> Window {
        let gib = 1_073_741_824.0;
        Window {
            start: SystemTime::UNIX_EPOCH,
            end: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
            arrived: SystemTime::UNIX_EPOCH + Duration::from_millis(11_240),
            traffic: Traffic {
                requests: 2,
                bytes: 24_600,
                wire_bytes: 900,
            },
            datums: vec![
                labelled("gpu_utilization", ("GPUNumber", "0"), &[20.0, 10.0], "Percent"),
                labelled("gpu_memory_used", ("GPUNumber", "0"), &[gib, 2.5 * gib], "Bytes"),
                labelled("gpu_memory_used", ("GPUNumber", "1"), &[512.0], "Bytes"),
                labelled("gpu_utilization", ("GPUNumber", "1"), &[0.0], "Percent"),
                labelled(
                    "disk_used_percent",
                    ("path", "/mnt/a/very/long/path"),
                    &[12.345],
                    "Percent",
                ),
                datum("datapoints_dropped", &NODE[..1], &[0.0], "Count"),
            ],
        }
    }

    #[test]
    fn one_row_per_metric_and_all_gpus_for_the_first_question() {
        let wanted = "\
The window from 00:00:00Z as CloudWatch shows it (6 series; the first of each metric)
  D = InstanceId=i-0, ImageId=ami-0
  METRIC                  DIMENSIONS                N      MIN      P50      P99      MAX  UNIT
  gpu_utilization         D, GPUNumber=0            4       10       10       20       20  Percent
  gpu_utilization         D, GPUNumber=1            2        0        0        0        0  Percent
  gpu_memory_used         D, GPUNumber=0 +1         4  1.0 GiB  1.0 GiB  2.5 GiB  2.5 GiB  Bytes
  disk_used_percent       D, path=/mnt/a/ver…       2    12.35    12.35    12.35    12.35  Percent
  datapoints_dropped      InstanceId                2        0        0        0        0  Count
";
        assert_eq!(statistics(&window()), wanted);
    }

    #[test]
    fn bytes_take_eight_columns_at_most() {
        let sizes = [
            0.0,
            1023.0,
            102_400.0,
            1_048_000.0,
            269_000_000.0,
            25.0 * 1_073_741_824.0,
        ];
        assert_eq!(
            sizes.map(bytes),
            ["0 B", "1023 B", "100 KiB", "1023 KiB", "257 MiB", "25.0 GiB"]
        );
    }

    #[test]
    fn an_arrival_is_a_line() {
        let wanted = [
            "  WINDOW FROM  DATUMS  SAMPLES  REQUESTS      BYTES  ON THE WIRE  AFTER ITS END\n",
            "  00:00:00Z         6       16         2   24.0 KiB        900 B          1.2 s\n",
        ];
        let mut window = window();
        assert_eq!([heading(), arrival(&window)], wanted);
        window.arrived = window.start;
        assert!(arrival(&window).ends_with(" cut short\n"));
    }
}
