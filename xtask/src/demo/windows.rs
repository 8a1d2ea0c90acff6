//! The windows in the agent's output.
//!
//! A window may be printed as several lines (batches), and a series in it as several data of the same timestamp (more
//! than 150 distinct values): both are put together again here.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// One line of output: the input of `PutMetricData`, as far as it is shown.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch {
    metric_data: Vec<Datum>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Datum {
    metric_name: String,
    dimensions: Vec<Dimension>,
    timestamp: String,
    values: Vec<f64>,
    counts: Vec<f64>,
    unit: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Dimension {
    name: String,
    value: String,
}

/// What CloudWatch tells series apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Series {
    pub(super) metric: String,
    pub(super) dimensions: Vec<(String, String)>,
}

/// The samples of one series in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Data {
    /// Distinct values and how often each occurred, in the order of the values.
    pub(super) counted: Vec<(f64, f64)>,
    pub(super) unit: String,
}

impl Data {
    pub(super) fn samples(&self) -> f64 {
        self.counted.iter().map(|(_, count)| count).sum()
    }

    /// The nearest-rank percentile: the smallest value with at least `percent` of the samples at or below it.
    pub(super) fn percentile(&self, percent: f64) -> Option<f64> {
        let rank = (percent / 100.0 * self.samples()).max(f64::MIN_POSITIVE);
        let mut below = 0.0;
        self.counted.iter().find_map(|(value, count)| {
            below += count;
            (below >= rank).then_some(*value)
        })
    }

    fn add(&mut self, datum: &Datum) {
        self.counted
            .extend(datum.values.iter().copied().zip(datum.counts.iter().copied()));
        self.counted.sort_by(|left, right| left.0.total_cmp(&right.0));
        self.unit.clone_from(&datum.unit);
    }
}

/// A window, its series in the order in which the agent printed them.
pub(super) struct Window {
    /// RFC 3339, as printed.
    pub(super) start: String,
    pub(super) series: Vec<(Series, Data)>,
}

/// Follows the output file.
pub(super) struct Windows {
    file: fs_err::File,
    /// Read, but not yet a whole line.
    unfinished: Vec<u8>,
    /// The newest few, by start; text sorts RFC 3339 in UTC by time.
    by_start: BTreeMap<String, Vec<(Series, Data)>>,
    count: usize,
}

/// Batches of one window come together; a late one of the window before is still put where it belongs.
const KEPT: usize = 2;

impl Windows {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            file: fs_err::File::open(path)?,
            unfinished: Vec::new(),
            by_start: BTreeMap::new(),
            count: 0,
        })
    }

    /// Takes in the lines that were written since the last call; says whether there were any.
    pub(super) fn read(&mut self) -> anyhow::Result<bool> {
        self.file.read_to_end(&mut self.unfinished)?;
        let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(false);
        };
        let lines: Vec<u8> = self.unfinished.drain(..=end).collect();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let batch: Batch = serde_json::from_slice(line).with_context(|| {
                format!(
                    "the agent printed a line of another shape: {}",
                    String::from_utf8_lossy(line)
                )
            })?;
            batch.metric_data.into_iter().for_each(|datum| self.add(datum));
        }
        Ok(true)
    }

    pub(super) fn latest(&self) -> Option<Window> {
        let (start, series) = self.by_start.last_key_value()?;
        Some(Window {
            start: start.clone(),
            series: series.clone(),
        })
    }

    /// How many windows there have been so far.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn add(&mut self, mut datum: Datum) {
        let dimensions = std::mem::take(&mut datum.dimensions);
        let series = Series {
            metric: datum.metric_name.clone(),
            dimensions: dimensions
                .into_iter()
                .map(|dimension| (dimension.name, dimension.value))
                .collect(),
        };
        if !self.by_start.contains_key(&datum.timestamp) {
            self.count += 1;
            self.by_start.insert(datum.timestamp.clone(), Vec::new());
        }
        while self.by_start.len() > KEPT {
            self.by_start.pop_first();
        }
        let Some(window) = self.by_start.get_mut(&datum.timestamp) else {
            return;
        };
        if let Some((_, data)) = window.iter_mut().find(|(known, _)| *known == series) {
            return data.add(&datum);
        }
        let mut data = Data::default();
        data.add(&datum);
        window.push((series, data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(start: &str, values: &str, counts: &str) -> String {
        format!(
            r#"{{"Namespace":"GPUShare","MetricData":[{{"MetricName":"m","Dimensions":[{{"Name":"path","Value":"/"}}],"Timestamp":"{start}","Values":{values},"Counts":{counts},"Unit":"Percent","StorageResolution":60}}]}}"#
        )
    }

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let data = Data {
            counted: vec![(1.0, 1.0), (2.0, 97.0), (9.0, 2.0)],
            unit: String::new(),
        };
        assert_eq!(Some(data.samples()), Some(100.0));
        assert_eq!(
            [0.0, 1.0, 50.0, 98.0, 99.0, 100.0].map(|p| data.percentile(p)),
            [1.0, 1.0, 2.0, 2.0, 9.0, 9.0].map(Some)
        );
        assert_eq!(Data::default().percentile(50.0), None);
    }

    #[test]
    fn split_series_are_joined_and_half_a_line_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windows.jsonl");
        let mut out = fs_err::File::create(&path).unwrap();
        let mut windows = Windows::open(&path).unwrap();
        assert!(!windows.read().unwrap() && windows.latest().is_none());

        let text = line("2026-01-01T00:00:10Z", "[3.0,1.0]", "[2.0,1.0]");
        let (head, tail) = text.split_at(40);
        out.write_all(head.as_bytes()).unwrap();
        assert!(!windows.read().unwrap());
        write!(
            out,
            "{tail}\n{}\n",
            line("2026-01-01T00:00:10Z", "[2.0]", "[4.0]")
        )
        .unwrap();
        assert!(windows.read().unwrap());

        let window = windows.latest().unwrap();
        assert_eq!(
            (window.start.as_str(), windows.count(), window.series.len()),
            ("2026-01-01T00:00:10Z", 1, 1)
        );
        assert_eq!(window.series[0].1.counted, [(1.0, 1.0), (2.0, 4.0), (3.0, 2.0)]);

        writeln!(out, "{}", line("2026-01-01T00:00:20Z", "[5.0]", "[1.0]")).unwrap();
        assert!(windows.read().unwrap() && windows.count() == 2);
        assert_eq!(windows.latest().unwrap().start, "2026-01-01T00:00:20Z");
    }

    #[test]
    fn a_line_that_is_no_batch_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windows.jsonl");
        fs_err::write(&path, "hello\n").unwrap();
        let error = Windows::open(&path).unwrap().read().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the agent printed a line of another shape: hello"
        );
    }
}
