//! Every documented limit of `PutMetricData`, on the uncompressed body. Pure.
//!
//! The service refuses a whole request for one bad datum and names the guilty members, counted from 1, a line each. Where
//! its documentation leaves room, the narrower reading is enforced: 1 MB is 1,000,000 bytes, metric names and
//! namespaces are ASCII, counts are above zero.

use std::collections::BTreeSet;
use std::time::SystemTime;

use http_stub::clock::epoch_seconds;

use crate::decode::{Datum, Dimension, Input, Statistics};
use crate::refusal::Refusal;

/// `PutMetricData`: 1 MB a request; the body after unpacking, though the service may well count before.
pub(crate) const MAX_BODY_BYTES: usize = 1_000_000;
/// `PutMetricData`: different metrics in one request.
const MAX_DATUMS: usize = 1000;
/// `MetricDatum`, `Values`: unique values, enforced per datum.
const MAX_VALUES: usize = 150;
/// `MetricDatum`, `Dimensions`.
const MAX_DIMENSIONS: usize = 30;
/// `Dimension`, `Value`, characters. All other names and the namespace: 255.
const MAX_DIMENSION_VALUE: usize = 1024;
const MAX_NAME: usize = 255;
/// `MetricDatum`, `Timestamp`, seconds.
const MAX_PAST: f64 = 14.0 * 86_400.0;
const MAX_FUTURE: f64 = 2.0 * 3600.0;

/// `MetricDatum`, `Unit`.
const UNITS: [&str; 27] = [
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Count",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
    "None",
];

const VALUE: &str = "InvalidParameterValue";
const COMBINATION: &str = "InvalidParameterCombination";
const MISSING: &str = "MissingParameter";

/// Whether the service would take the request; the refusal names all that is wrong with it.
pub(crate) fn check(input: &Input, now: SystemTime) -> Result<(), Refusal> {
    let mut offences = Offences::default();
    namespace(input.namespace.as_deref(), &mut offences);
    if input.entities {
        offences.add(
            VALUE,
            "The parameter EntityMetricData is not supported by this fake.",
        );
    }
    if input.data.is_empty() {
        offences.missing("MetricData");
    }
    if input.data.len() > MAX_DATUMS {
        offences.too_many("MetricData", MAX_DATUMS);
    }
    for (index, datum) in input.data.iter().enumerate() {
        check_datum(
            &format!("MetricData.member.{}", index + 1),
            datum,
            now,
            &mut offences,
        );
    }
    offences.verdict()
}

/// What is wrong, in the order of the request; the first offence gives the answer its code.
#[derive(Default)]
struct Offences {
    code: Option<&'static str>,
    lines: Vec<String>,
}

impl Offences {
    fn add(&mut self, code: &'static str, line: impl Into<String>) {
        self.code.get_or_insert(code);
        self.lines.push(line.into());
    }

    fn missing(&mut self, member: &str) {
        self.add(MISSING, format!("The parameter {member} is required."));
    }

    fn too_many(&mut self, member: &str, most: usize) {
        let line = format!("The collection {member} must not have a size greater than {most}.");
        self.add(VALUE, line);
    }

    fn bad_value(&mut self, member: &str, value: impl std::fmt::Display) {
        self.add(
            VALUE,
            format!("The value {value} for parameter {member} is invalid."),
        );
    }

    fn verdict(self) -> Result<(), Refusal> {
        match self.code {
            Some(code) => Err(Refusal::sender(400, code, self.lines.join("\n"))),
            None => Ok(()),
        }
    }
}

fn namespace(namespace: Option<&str>, offences: &mut Offences) {
    let Some(name) = namespace else {
        return offences.missing("Namespace");
    };
    text("Namespace", name, MAX_NAME, offences);
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_/#: ".contains(c);
    if name.starts_with(':') || name.starts_with("AWS/") || !name.chars().all(allowed) {
        offences.bad_value("Namespace", name);
    }
}

fn check_datum(member: &str, datum: &Datum, now: SystemTime, offences: &mut Offences) {
    match datum.metric.as_deref() {
        None => offences.missing(&format!("{member}.MetricName")),
        Some(name) => text(&format!("{member}.MetricName"), name, MAX_NAME, offences),
    }
    dimensions(&format!("{member}.Dimensions"), &datum.dimensions, offences);
    timestamp(&format!("{member}.Timestamp"), datum.timestamp, now, offences);
    numbers(member, datum, offences);
    if let Some(unit) = datum.unit.as_deref().filter(|unit| !UNITS.contains(unit)) {
        offences.bad_value(&format!("{member}.Unit"), unit);
    }
    if let Some(resolution) = datum.resolution.filter(|seconds| ![1, 60].contains(seconds)) {
        offences.bad_value(&format!("{member}.StorageResolution"), resolution);
    }
}

fn dimensions(member: &str, dimensions: &[Dimension], offences: &mut Offences) {
    if dimensions.len() > MAX_DIMENSIONS {
        offences.too_many(member, MAX_DIMENSIONS);
    }
    let mut seen = BTreeSet::new();
    for (index, dimension) in dimensions.iter().enumerate() {
        let name_member = format!("{member}.member.{}.Name", index + 1);
        match dimension.name.as_deref() {
            None => offences.missing(&name_member),
            Some(name) => {
                text(&name_member, name, MAX_NAME, offences);
                if name.starts_with(':') || !seen.insert(name) {
                    offences.bad_value(&name_member, name);
                }
            }
        }
        let value_member = format!("{member}.member.{}.Value", index + 1);
        match dimension.value.as_deref() {
            None => offences.missing(&value_member),
            Some(value) => text(&value_member, value, MAX_DIMENSION_VALUE, offences),
        }
    }
}

/// Length, ASCII without control characters, and something that can be seen.
fn text(member: &str, text: &str, most: usize, offences: &mut Offences) {
    if text.chars().count() > most {
        let line = format!(
            "The parameter {member} must be shorter than {} characters.",
            most + 1
        );
        return offences.add(VALUE, line);
    }
    if text.trim().is_empty() {
        let line = format!("The parameter {member} must contain at least one non-blank character.");
        return offences.add(VALUE, line);
    }
    if text.chars().any(|c| !c.is_ascii() || c.is_ascii_control()) {
        let line =
            format!("The parameter {member} must contain only ASCII characters and no control characters.");
        offences.add(VALUE, line);
    }
}

fn timestamp(member: &str, seconds: Option<f64>, now: SystemTime, offences: &mut Offences) {
    let Some(seconds) = seconds else { return };
    if !seconds.is_finite() {
        return offences.bad_value(member, seconds);
    }
    let age = epoch_seconds(now) - seconds;
    if age > MAX_PAST {
        let line = format!("The parameter {member} must specify a time within the past two weeks.");
        offences.add(VALUE, line);
    } else if -age > MAX_FUTURE {
        let line =
            format!("The parameter {member} must specify a time no more than two hours in the future.");
        offences.add(VALUE, line);
    }
}

/// `Value`, or `Values` with or without `Counts`, or `StatisticValues`; the last two may stand together.
fn numbers(member: &str, datum: &Datum, offences: &mut Offences) {
    let exclusive = |with: &str| {
        format!(
            "The parameters {member}.Value and {member}.{with} are mutually exclusive and you have specified both."
        )
    };
    if let Some(value) = datum.value {
        number(&format!("{member}.Value"), value, offences);
        if datum.values.is_some() {
            offences.add(COMBINATION, exclusive("Values"));
        }
        if datum.statistics.is_some() {
            offences.add(COMBINATION, exclusive("StatisticValues"));
        }
    }
    let set = &datum.statistics;
    if let Some(set) = set {
        statistics(&format!("{member}.StatisticValues"), set, offences);
    }
    if datum.value.is_none() && datum.values.is_none() && set.is_none() {
        offences.missing(&format!("{member}.Value"));
    }
    values(member, datum, offences);
}

fn values(member: &str, datum: &Datum, offences: &mut Offences) {
    let Some(values) = &datum.values else {
        if datum.counts.is_some() {
            let line =
                format!("The parameter {member}.Counts must not be specified without {member}.Values.");
            offences.add(COMBINATION, line);
        }
        return;
    };
    if values.is_empty() {
        offences.missing(&format!("{member}.Values"));
    }
    if values.len() > MAX_VALUES {
        offences.too_many(&format!("{member}.Values"), MAX_VALUES);
    }
    for (index, value) in values.iter().enumerate() {
        number(&format!("{member}.Values.member.{}", index + 1), *value, offences);
    }
    let Some(counts) = &datum.counts else { return };
    if counts.len() != values.len() {
        let line = format!("The parameters {member}.Values and {member}.Counts must have the same size.");
        offences.add(VALUE, line);
    }
    for (index, count) in counts.iter().enumerate() {
        let count_member = format!("{member}.Counts.member.{}", index + 1);
        number(&count_member, *count, offences);
        if *count <= 0.0 {
            offences.bad_value(&count_member, count);
        }
    }
}

fn statistics(member: &str, set: &Statistics, offences: &mut Offences) {
    let parts = [
        ("SampleCount", set.sample_count),
        ("Sum", set.sum),
        ("Minimum", set.minimum),
        ("Maximum", set.maximum),
    ];
    for (name, value) in parts {
        match value {
            None => offences.missing(&format!("{member}.{name}")),
            Some(value) => number(&format!("{member}.{name}"), value, offences),
        }
    }
    if set.sample_count.is_some_and(|count| count <= 0.0) {
        offences.bad_value(
            &format!("{member}.SampleCount"),
            set.sample_count.unwrap_or_default(),
        );
    }
    if set.minimum > set.maximum {
        let line = format!("The parameter {member}.Minimum must not be greater than {member}.Maximum.");
        offences.add(VALUE, line);
    }
}

/// `MetricDatum`, `Value`: from -2^360 to 2^360; NaN and infinity are refused.
fn number(member: &str, value: f64, offences: &mut Offences) {
    if !value.is_finite() || value.abs() > 2f64.powi(360) {
        offences.bad_value(member, value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn good() -> Datum {
        Datum {
            metric: Some("m".to_owned()),
            value: Some(1.0),
            ..Datum::default()
        }
    }

    fn dimension(name: &str, value: &str) -> Dimension {
        Dimension {
            name: Some(name.to_owned()),
            value: Some(value.to_owned()),
        }
    }

    fn verdict(namespace: &str, data: Vec<Datum>) -> Result<(), (&'static str, String)> {
        let input = Input {
            namespace: Some(namespace.to_owned()),
            data,
            entities: false,
        };
        check(&input, UNIX_EPOCH + Duration::from_secs(NOW)).map_err(|refusal| {
            assert_eq!(refusal.status, 400);
            let error = refusal.error.unwrap();
            (error.code, error.message)
        })
    }

    /// The second of three datums is changed; the other two are good.
    fn second(change: impl Fn(&mut Datum)) -> Result<(), (&'static str, String)> {
        let mut data = vec![good(), good(), good()];
        change(&mut data[1]);
        verdict("N", data)
    }

    fn refused(code: &str, part: &str, change: impl Fn(&mut Datum)) {
        let (found, message) = second(change).expect_err(part);
        assert_eq!(found, code, "{message}");
        assert!(
            message.contains(&format!("MetricData.member.2.{part}")),
            "{part} is not in: {message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
    }

    #[test]
    fn a_good_request_passes() {
        assert_eq!(second(|_| {}), Ok(()));
        assert_eq!(
            verdict("a.B-9_/#: x", (0..MAX_DATUMS).map(|_| good()).collect()),
            Ok(())
        );
    }

    #[test]
    fn the_number_of_datums_is_limited() {
        let (code, message) = verdict("N", (0..=MAX_DATUMS).map(|_| good()).collect()).unwrap_err();
        assert_eq!(
            (code, message.as_str()),
            (
                VALUE,
                "The collection MetricData must not have a size greater than 1000."
            )
        );
        assert_eq!(verdict("N", vec![]).unwrap_err().0, MISSING);
    }

    #[test]
    fn namespaces_are_checked() {
        let long = "n".repeat(256);
        for bad in ["", " ", ":N", "AWS/EC2", "N*", "Nö", "N\n", &long] {
            let (code, message) = verdict(bad, vec![good()]).expect_err(bad);
            assert!(code == VALUE && message.contains("Namespace"), "{bad}: {message}");
        }
        assert_eq!(verdict(&long[1..], vec![good()]), Ok(()));
        let nothing = check(&Input::default(), UNIX_EPOCH).unwrap_err().error.unwrap();
        assert_eq!(nothing.code, MISSING);
        assert_eq!(
            nothing.message,
            "The parameter Namespace is required.\nThe parameter MetricData is required."
        );
    }

    #[test]
    fn metric_names_are_checked() {
        for bad in ["", "  ", "mö", "m\u{7f}", &"m".repeat(256)] {
            refused(VALUE, "MetricName", |datum| datum.metric = Some(bad.to_owned()));
        }
        refused(MISSING, "MetricName", |datum| datum.metric = None);
        assert_eq!(second(|datum| datum.metric = Some("m".repeat(255))), Ok(()));
    }

    #[test]
    fn dimensions_are_checked() {
        let many = |count: usize| (0..count).map(|n| dimension(&format!("d{n}"), "v")).collect();
        assert_eq!(second(|datum| datum.dimensions = many(30)), Ok(()));
        refused(
            VALUE,
            "Dimensions must not have a size greater than 30",
            |datum| {
                datum.dimensions = many(31);
            },
        );
        let (long_name, long_value) = ("n".repeat(256), "v".repeat(1025));
        for (name, value, part) in [
            ("", "v", "Name"),
            (":n", "v", "Name"),
            ("ñ", "v", "Name"),
            (&long_name, "v", "Name"),
            ("n", "", "Value"),
            ("n", " \t", "Value"),
            ("n", "vé", "Value"),
            ("n", "v\u{1}", "Value"),
            ("n", &long_value, "Value"),
            ("first", "v", "Name"),
        ] {
            refused(VALUE, &format!("Dimensions.member.2.{part}"), |datum| {
                datum.dimensions = vec![dimension("first", "v"), dimension(name, value)];
            });
        }
        let longest = || dimension(&"n".repeat(255), &"v".repeat(1024));
        assert_eq!(second(|datum| datum.dimensions = vec![longest()]), Ok(()));
        refused(MISSING, "Dimensions.member.1.Value", |datum| {
            datum.dimensions = vec![Dimension {
                value: None,
                ..longest()
            }];
        });
    }

    #[test]
    fn time_stamps_are_taken_two_weeks_back_and_two_hours_ahead() {
        let now = NOW as f64;
        let at = |seconds: f64| move |datum: &mut Datum| datum.timestamp = Some(seconds);
        for good in [now - 1_209_600.0, now, now + 7200.0] {
            assert_eq!(second(at(good)), Ok(()));
        }
        refused(
            VALUE,
            "Timestamp must specify a time within the past two weeks.",
            at(now - 1_209_601.0),
        );
        refused(
            VALUE,
            "Timestamp must specify a time no more than two hours",
            at(now + 7201.0),
        );
        refused(VALUE, "Timestamp", at(f64::NAN));
        refused(VALUE, "Timestamp", at(-1e300));
    }

    #[test]
    fn values_are_finite_and_within_two_to_the_360() {
        let edge = 2f64.powi(360);
        for good in [edge, -edge, 0.0, 1e-300] {
            assert_eq!(second(|datum| datum.value = Some(good)), Ok(()));
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, edge * 1.001, -1e200] {
            refused(VALUE, "Value is invalid", |datum| datum.value = Some(bad));
            refused(VALUE, "Values.member.2 is invalid", |datum| {
                (datum.value, datum.values) = (None, Some(vec![1.0, bad]));
            });
        }
    }

    fn distribution(values: usize, counts: Option<Vec<f64>>) -> impl Fn(&mut Datum) {
        move |datum| {
            datum.value = None;
            datum.values = Some(vec![1.0; values]);
            datum.counts.clone_from(&counts);
        }
    }

    #[test]
    fn values_and_counts_go_together() {
        assert_eq!(second(distribution(150, None)), Ok(()));
        assert_eq!(second(distribution(2, Some(vec![1.0, 60.0]))), Ok(()));
        refused(
            VALUE,
            "Values must not have a size greater than 150.",
            distribution(151, None),
        );
        refused(
            VALUE,
            "Counts must have the same size",
            distribution(2, Some(vec![1.0])),
        );
        refused(
            VALUE,
            "Counts.member.2 is invalid",
            distribution(2, Some(vec![1.0, 0.0])),
        );
        refused(
            VALUE,
            "Counts.member.1 is invalid",
            distribution(1, Some(vec![f64::NAN])),
        );
        refused(MISSING, "Values", distribution(0, None));
        refused(COMBINATION, "Value and", |datum| datum.values = Some(vec![1.0]));
        refused(COMBINATION, "Counts must not be specified without", |datum| {
            datum.counts = Some(vec![1.0]);
        });
        refused(MISSING, "Value is required", |datum| datum.value = None);
    }

    #[test]
    fn statistic_sets_are_checked() {
        let set = |count, minimum, maximum| {
            move |datum: &mut Datum| {
                datum.value = None;
                datum.values = Some(vec![1.0]);
                datum.statistics = Some(Statistics {
                    sample_count: Some(count),
                    sum: Some(1.0),
                    minimum,
                    maximum: Some(maximum),
                });
            }
        };
        assert_eq!(second(set(1.0, Some(1.0), 1.0)), Ok(()));
        refused(VALUE, "StatisticValues.SampleCount", set(0.0, Some(1.0), 1.0));
        refused(
            VALUE,
            "StatisticValues.Minimum must not",
            set(1.0, Some(2.0), 1.0),
        );
        refused(
            VALUE,
            "StatisticValues.Maximum",
            set(1.0, Some(2.0), f64::INFINITY),
        );
        refused(MISSING, "StatisticValues.Minimum", set(1.0, None, 1.0));
        refused(COMBINATION, "StatisticValues are mutually exclusive", |datum| {
            set(1.0, Some(1.0), 1.0)(datum);
            (datum.value, datum.values) = (Some(1.0), None);
        });
    }

    #[test]
    fn units_and_resolutions_are_those_of_the_model() {
        for unit in UNITS {
            assert_eq!(second(|datum| datum.unit = Some(unit.to_owned())), Ok(()));
        }
        refused(VALUE, "Unit", |datum| datum.unit = Some("percent".to_owned()));
        refused(VALUE, "StorageResolution", |datum| datum.resolution = Some(30));
        assert_eq!(second(|datum| datum.resolution = Some(1)), Ok(()));
    }

    #[test]
    fn all_offenders_are_named_a_line_each_and_the_first_gives_the_code() {
        let mut data = vec![good(), good(), good()];
        data[0].metric = None;
        data[2].value = Some(f64::NAN);
        data[2].unit = Some("Furlongs".to_owned());
        let (code, message) = verdict("N", data).unwrap_err();
        assert_eq!(code, MISSING);
        assert_eq!(
            message,
            "The parameter MetricData.member.1.MetricName is required.\n\
             The value NaN for parameter MetricData.member.3.Value is invalid.\n\
             The value Furlongs for parameter MetricData.member.3.Unit is invalid."
        );
    }
}
