//! A window as a table that fits a terminal.
//!
//! One row per metric, from its first series; all GPUs only for the metric that a visitor looks at first.

use std::fmt::Write as _;

use super::windows::{Data, Series, Window};

/// The metric of which every series is shown.
const IN_FULL: &str = "gpu_utilization";
/// Dimensions that tell nodes apart, not the series of one node.
const NODE_DIMENSIONS: [&str; 6] = [
    "InstanceId",
    "ImageId",
    "InstanceType",
    "AutoScalingGroupName",
    "ClusterName",
    "NodegroupName",
];

pub(super) fn render(window: &Window) -> String {
    let total = window.series.len();
    let mut text = format!(
        "Window from {} ({total} series; one of each metric is shown)\n",
        window.start
    );
    let columns = ["metric", "n", "min", "p50", "p99", "max", "unit"];
    let [metric, n, min, p50, p99, max, unit] = columns;
    let _ = writeln!(
        text,
        "  {metric:<40} {n:>5} {min:>10} {p50:>10} {p99:>10} {max:>10}  {unit}"
    );
    let mut shown: Vec<&str> = Vec::new();
    for (Series { metric, .. }, _) in &window.series {
        if shown.contains(&metric.as_str()) {
            continue;
        }
        shown.push(metric);
        let alike: Vec<_> = window
            .series
            .iter()
            .filter(|(series, _)| series.metric == *metric)
            .collect();
        let rows = if metric == IN_FULL { alike.len() } else { 1 };
        for (series, data) in &alike[..rows] {
            text.push_str(&row(series, data, alike.len() - rows));
        }
    }
    text
}

fn row(series: &Series, data: &Data, hidden: usize) -> String {
    let mut name = series.metric.clone();
    let own = series
        .dimensions
        .iter()
        .filter(|(name, _)| !NODE_DIMENSIONS.contains(&name.as_str()));
    for (_, value) in own {
        let _ = write!(name, " {value}");
    }
    if hidden > 0 {
        let _ = write!(name, " (+{hidden})");
    }
    let value = |percent: f64| {
        data.percentile(percent)
            .map_or("-".to_owned(), |value| number(value, &data.unit))
    };
    format!(
        "  {name:<40} {:>5} {:>10} {:>10} {:>10} {:>10}  {}\n",
        data.samples(),
        value(0.0),
        value(50.0),
        value(99.0),
        value(100.0),
        data.unit
    )
}

/// Bytes in binary multiples, the rest with at most two decimals.
fn number(value: f64, unit: &str) -> String {
    if unit.starts_with("Bytes") {
        let units = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
        if let Some((name, size)) = units.iter().find(|(_, size)| value >= *size) {
            return format!("{:.1} {name}", value / size);
        }
    }
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(metric: &str, label: (&str, &str), values: &[f64], unit: &str) -> (Series, Data) {
        let node = ("InstanceId".to_owned(), "i-0".to_owned());
        let dimensions = vec![node, (label.0.to_owned(), label.1.to_owned())];
        let counted = values.iter().map(|value| (*value, 2.0)).collect();
        (
            Series {
                metric: metric.to_owned(),
                dimensions,
            },
            Data {
                counted,
                unit: unit.to_owned(),
            },
        )
    }

    #[test]
    fn one_row_per_metric_and_all_gpus_for_the_first_question() {
        let gib = 1_073_741_824.0;
        let window = Window {
            start: "2026-01-01T00:00:10Z".to_owned(),
            series: vec![
                series("gpu_utilization", ("GPUNumber", "0"), &[10.0, 20.0], "Percent"),
                series("gpu_memory_used", ("GPUNumber", "0"), &[gib, 2.5 * gib], "Bytes"),
                series("gpu_memory_used", ("GPUNumber", "1"), &[512.0], "Bytes"),
                series("gpu_utilization", ("GPUNumber", "1"), &[0.0], "Percent"),
                series("disk_used_percent", ("path", "/"), &[12.345], "Percent"),
            ],
        };
        let wanted = "\
Window from 2026-01-01T00:00:10Z (5 series; one of each metric is shown)
  metric                                       n        min        p50        p99        max  unit
  gpu_utilization 0                            4         10         10         20         20  Percent
  gpu_utilization 1                            2          0          0          0          0  Percent
  gpu_memory_used 0 (+1)                       4    1.0 GiB    1.0 GiB    2.5 GiB    2.5 GiB  Bytes
  disk_used_percent /                          2      12.35      12.35      12.35      12.35  Percent
";
        assert_eq!(render(&window), wanted);
    }
}
