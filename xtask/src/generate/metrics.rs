//! docs/metrics.md from the metric catalogue.

use std::fmt::Write as _;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::markdown::cell;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    metric: Vec<Metric>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    name: String,
    group: String,
    unit: String,
    scope: Scope,
    labels: Vec<String>,
    source: String,
    meaning: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Node,
    Instance,
}

const HEAD: &str = "\
# Metrics

Everything that gpushare publishes, by the groups of `publish.groups`. The unit is the one CloudWatch shows; a metric of
unit None says in its meaning what it counts in. A value that could not be read is absent, never zero.

Dimensions: **D** stands for the base dimensions of this node, which are those of `publish.dimensions` (by default
`InstanceId`, `ImageId`, `InstanceType` and `AutoScalingGroupName`) whose value is known. They are settled at the first
publish and stay the same while the agent runs, so that no series changes its name half-way. Where the table says
`InstanceId` in place of D, that one alone is used, whatever `publish.dimensions` says.
";

pub(super) fn render(source: &str) -> anyhow::Result<String> {
    let catalogue: Catalogue =
        toml::from_str(source).context("the catalogue does not have the expected shape")?;
    ensure!(!catalogue.metric.is_empty(), "the catalogue has no [[metric]]");
    let mut text = HEAD.to_owned();
    for group in groups(&catalogue.metric) {
        let _ = write!(
            text,
            "\n## {group}\n\n| Metric | Unit | Dimensions | Meaning | Source |\n|---|---|---|---|---|\n"
        );
        for metric in catalogue.metric.iter().filter(|metric| metric.group == group) {
            let Metric {
                name,
                unit,
                source,
                meaning,
                ..
            } = metric;
            let (dimensions, meaning, source) = (dimensions(metric), cell(meaning), cell(source));
            let _ = writeln!(
                text,
                "| `{name}` | {unit} | {dimensions} | {meaning} | {source} |"
            );
        }
    }
    Ok(text)
}

/// The groups in the order in which they first occur.
fn groups(metrics: &[Metric]) -> Vec<&str> {
    metrics.iter().fold(Vec::new(), |mut groups, metric| {
        if !groups.contains(&metric.group.as_str()) {
            groups.push(&metric.group);
        }
        groups
    })
}

fn dimensions(metric: &Metric) -> String {
    let base = match metric.scope {
        Scope::Node => "D".to_owned(),
        Scope::Instance => "`InstanceId`".to_owned(),
    };
    metric
        .labels
        .iter()
        .fold(base, |joined, label| format!("{joined}, `{label}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
[[metric]]
name = "gpu_utilization"
group = "gpu"
unit = "Percent"
scope = "node"
labels = ["GPUNumber"]
source = "nvmlDeviceGetSamples"
meaning = "Share of time | with a kernel running"

[[metric]]
name = "publish_backlog_seconds"
group = "agent"
unit = "Seconds"
scope = "instance"
labels = []
source = "the spool"
meaning = "Age of the oldest window"

[[metric]]
name = "gpu_memory_used"
group = "gpu"
unit = "Bytes"
scope = "node"
labels = ["GPUNumber"]
source = "nvmlDeviceGetMemoryInfo_v2"
meaning = "Memory in use"
"#;

    #[test]
    fn one_table_per_group_in_the_order_of_the_catalogue() {
        let text = render(SAMPLE).unwrap();
        let tables = text.strip_prefix(HEAD).unwrap();
        let wanted = "
## gpu

| Metric | Unit | Dimensions | Meaning | Source |
|---|---|---|---|---|
| `gpu_utilization` | Percent | D, `GPUNumber` | Share of time \\| with a kernel running | nvmlDeviceGetSamples |
| `gpu_memory_used` | Bytes | D, `GPUNumber` | Memory in use | nvmlDeviceGetMemoryInfo_v2 |

## agent

| Metric | Unit | Dimensions | Meaning | Source |
|---|---|---|---|---|
| `publish_backlog_seconds` | Seconds | `InstanceId` | Age of the oldest window | the spool |
";
        assert_eq!(tables, wanted);
    }

    #[test]
    fn a_catalogue_of_another_shape_is_refused() {
        let message = |source: &str| format!("{:#}", render(source).err().unwrap());
        assert!(message(&SAMPLE.replace("scope = \"node\"", "scope = \"planet\"")).contains("planet"));
        assert!(message(&SAMPLE.replace("unit = \"Bytes\"", "units = \"Bytes\"")).contains("units"));
        assert_eq!(message("metric = []"), "the catalogue has no [[metric]]");
    }
}
