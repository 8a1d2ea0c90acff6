//! From sources to a configuration or its problems, as an operator sees them.

mod sources;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;
use crate::config::{DEFAULT_FILE, Dimension, Group, Rollup, Target};

/// A default path at which there is nothing.
const NOWHERE: &str = "/nonexistent/gpushare/config.toml";

/// A file that is deleted with its directory when the test ends.
struct ConfigFile {
    dir: tempfile::TempDir,
}

impl ConfigFile {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let file = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs_err::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Loads it; in error texts its directory is left out.
    fn load(&self) -> Result<Config, String> {
        load_text(&Sources {
            file: Some(self.path()),
            ..Sources::default()
        })
        .map_err(|text| self.cut(&text))
    }

    fn cut(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn load_text(sources: &Sources) -> Result<Config, String> {
    load_with(sources, Path::new(NOWHERE))
        .map(|loaded| loaded.config)
        .map_err(|error| error.to_string())
}

fn env(variables: &[(&str, &str)]) -> Sources {
    let env = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Sources {
        env,
        ..Sources::default()
    }
}

fn set(settings: &[&str]) -> Sources {
    Sources {
        set: settings.iter().map(|&setting| setting.to_owned()).collect(),
        ..Sources::default()
    }
}

/// The single problem of a file, after the heading.
#[track_caller]
fn file_problem(text: &str) -> String {
    only_problem(&ConfigFile::new(text).load().unwrap_err())
}

/// The single problem of one `--set`, after the heading.
#[track_caller]
fn set_problem(setting: &str) -> String {
    only_problem(&load_text(&set(&[setting])).unwrap_err())
}

#[track_caller]
fn only_problem(text: &str) -> String {
    text.strip_prefix("the configuration has 1 problem:\n  ")
        .unwrap_or_else(|| panic!("not one problem: {text}"))
        .to_owned()
}

#[test]
fn without_any_source_the_built_in_defaults_hold() {
    let config = load_text(&Sources::default()).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.publish.interval, Duration::from_mins(1));
    assert_eq!(
        config.publish.groups,
        BTreeSet::from([Group::Host, Group::Gpu, Group::Pods, Group::Agent])
    );
    assert_eq!(config.spool.max_bytes, 64 << 20);
    assert_eq!(config.prometheus.listen, None);
}

#[test]
fn the_documented_file_says_exactly_the_built_in_defaults() {
    let documented: Raw = toml::from_str(DEFAULT_FILE).unwrap();
    assert_eq!(documented, Raw::default());
    assert_eq!(ConfigFile::new(DEFAULT_FILE).load(), Ok(Config::default()));
}

#[test]
fn the_documented_file_documents_every_key_and_every_example_in_it_is_valid() {
    let uncommented: String = DEFAULT_FILE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(code) if code.starts_with(|first: char| first != ' ') => format!("{code}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = ConfigFile::new(&uncommented).load().unwrap();
    assert_eq!(config.node.cluster.as_deref(), Some("production"));
    assert_eq!(config.publish.rollup.len(), 1);

    let documented: toml::Value = toml::from_str(&uncommented).unwrap();
    assert_eq!(
        Shape::keys_of(&serde_json::to_value(documented).unwrap()),
        Shape::of_config().all_keys()
    );
}

#[test]
fn the_file_gives_way_to_the_environment_and_that_to_set() {
    let file = ConfigFile::new("[publish]\ninterval = '10s'\nmax_series = 10\nnamespace = 'File'\n");
    let mut sources = env(&[
        ("GPUSHARE__PUBLISH__MAX_SERIES", "20"),
        ("GPUSHARE__PUBLISH__NAMESPACE", "Env"),
        ("GPUSHARE_LOG", "debug"),
        ("PATH", "/bin"),
    ]);
    sources.file = Some(file.path());
    sources.set = vec!["publish.namespace=First".into(), "publish.namespace=Set".into()];
    let publish = load_text(&sources).unwrap().publish;
    assert_eq!(publish.interval, Duration::from_secs(10));
    assert_eq!(publish.max_series, 20);
    assert_eq!(publish.namespace, "Set");
}

#[test]
fn the_default_file_is_read_where_it_exists() {
    let file = ConfigFile::new("[sample]\ninterval = '2s'\n");
    let config = load_with(&Sources::default(), &file.path()).unwrap().config;
    assert_eq!(config.sample.interval, Duration::from_secs(2));
}

#[test]
fn lists_and_sections_are_given_as_toml() {
    let config = load_text(&set(&[
        r#"publish.groups=["gpu", "agent"]"#,
        r#"publish.dimensions=["InstanceId","ClusterName"]"#,
        r#"publish.rollup=[{ dimensions = ["ClusterName"], metrics = ["gpu_utilization"] }]"#,
        r#"gpu={ enabled = false, kmsg = "/tmp/kmsg" }"#,
        "publish.target=stdout",
    ]))
    .unwrap();
    assert_eq!(config.publish.groups, BTreeSet::from([Group::Gpu, Group::Agent]));
    assert_eq!(config.publish.target, Target::Stdout);
    let rollup = Rollup {
        dimensions: vec![Dimension::ClusterName],
        metrics: vec!["gpu_utilization".to_owned()],
    };
    assert_eq!(config.publish.rollup, [rollup]);
    assert!(!config.gpu.enabled);
    assert_eq!(
        config.gpu.nvml_library,
        Path::new("libnvidia-ml.so.1"),
        "the rest of the section stays"
    );
}

#[test]
fn a_string_key_takes_text_that_happens_to_be_a_toml_value() {
    let config = load_text(&env(&[
        ("GPUSHARE__NODE__CLUSTER", "2024"),
        ("GPUSHARE__NODE__NODEGROUP", "true"),
        ("GPUSHARE__NODE__REGION", "1e5"),
        ("GPUSHARE__NODE__IMAGE_ID", "\"quoted\""),
        ("GPUSHARE__NODE__AUTO_SCALING_GROUP", "2024-01-01 10:00:00"),
        ("GPUSHARE__SPOOL__MAX_BYTES", "1048576"),
    ]))
    .unwrap();
    assert_eq!(config.node.cluster.as_deref(), Some("2024"));
    assert_eq!(config.node.nodegroup.as_deref(), Some("true"));
    assert_eq!(config.node.region.as_deref(), Some("1e5"));
    assert_eq!(config.node.image_id.as_deref(), Some("quoted"));
    assert_eq!(
        config.node.auto_scaling_group.as_deref(),
        Some("2024-01-01 10:00:00")
    );
    assert_eq!(config.spool.max_bytes, 1 << 20);
}

#[test]
fn sizes_are_text_or_bytes() {
    let spool = ConfigFile::new("[spool]\nmax_bytes = 262144\nmin_free_bytes = '1.5 GiB'\n")
        .load()
        .unwrap()
        .spool;
    assert_eq!((spool.max_bytes, spool.min_free_bytes), (256 << 10, 1536 << 20));
}

#[test]
fn all_problems_of_all_sources_come_out_at_once_with_key_origin_and_mend() {
    let file = ConfigFile::new(concat!(
        "[publish]\n",
        "intervall = '30s'\n",
        "namespace = 'AWS/EC2'\n",
        "max_series = true\n",
        "groups = ['host', 5, 'gpu', false]\n",
        "[gpu]\n",
        "enabled = 1\n",
        "[pubish]\n",
        "interval = '30s'\n",
    ));
    let mut sources = env(&[
        ("GPUSHARE__PUBLISH__INTERVAL", "60"),
        ("GPUSHARE__PUBLISH__STORAGE_RESOLUTION", "5"),
        ("GPUSHARE__SAMPEL__INTERVAL", "1s"),
    ]);
    sources.file = Some(file.path());
    sources.set = vec![
        "sample.interval=0s".into(),
        "status.socket".into(),
        "mps.enabled=false".into(),
    ];
    let text = file.cut(&load_text(&sources).unwrap_err());
    let expected = r#"the configuration has 13 problems:
  --set status.socket: has no '='; write --set section.key=VALUE
  gpu.enabled = 1: must be true or false; write true or false, without quotes (from config.toml:7)
  mps.enabled = false: does not go with slices.enabled = true, because slices are shared through MPS; set slices.enabled = false too, or mps.enabled = true (from --set mps.enabled)
  pubish: unknown key; did you mean publish? (from config.toml:8)
  publish.groups[1] = 5: must be a string; put it in quotes (from config.toml:5)
  publish.groups[3] = false: must be a string; put it in quotes (from config.toml:5)
  publish.interval = 60: has no unit; write "60s" (from environment variable GPUSHARE__PUBLISH__INTERVAL)
  publish.intervall: unknown key; did you mean publish.interval? (from config.toml:2)
  publish.max_series = true: must be a whole number, zero or more; write digits only, without quotes or unit (from config.toml:4)
  publish.namespace = "AWS/EC2": must not start with AWS/, which is Amazon's own; choose another, such as "GPUShare" (from config.toml:3)
  publish.storage_resolution = 5: is not a CloudWatch resolution; write 60 (standard) or 1 (high resolution) (from environment variable GPUSHARE__PUBLISH__STORAGE_RESOLUTION)
  sampel.interval: unknown key; did you mean sample.interval? (from environment variable GPUSHARE__SAMPEL__INTERVAL)
  sample.interval = "0s": must be longer than zero; write a duration such as "1s" (from --set sample.interval)"#;
    assert_eq!(text, expected);
}

#[test]
fn one_problem_reads_well_too() {
    assert_eq!(
        load_text(&set(&["publish.namespace="])).unwrap_err(),
        "the configuration has 1 problem:\n  publish.namespace = \"\": must not be empty; \
         write a name, or leave the key out (from --set publish.namespace)"
    );
}

#[test]
fn intervals_are_positive_have_a_unit_and_end_at_an_hour() {
    for (given, expected) in [
        (
            "\"-1s\"",
            "must be longer than zero; write a duration such as \"1s\"",
        ),
        ("-1", "must be longer than zero; write a duration such as \"1s\""),
        ("0", "must be longer than zero; write a duration such as \"1s\""),
        (
            "\"0s\"",
            "must be longer than zero; write a duration such as \"1s\"",
        ),
        ("5", "has no unit; write \"5s\""),
        ("\"1.5\"", "has no unit; write \"1.5s\""),
        ("\"99ms\"", "must be at least 100ms; write \"100ms\" or more"),
        ("\"61m\"", "must not be longer than an hour; write \"1h\" or less"),
        ("\"99999999999999999999s\"", "is not a duration"),
        ("\"\"", "is not a duration"),
        ("\"1 parsec\"", "is not a duration"),
        ("\"nan\"", "is not a duration"),
        ("1.5", "must be a duration; write a duration such as \"1s\""),
        ("[\"1s\"]", "must be a duration; write a duration such as \"1s\""),
    ] {
        let problem = file_problem(&format!("[sample]\ninterval = {given}\n"));
        assert!(
            problem.starts_with(&format!("sample.interval = {given}: {expected}")),
            "{problem}"
        );
    }
}

#[test]
fn the_two_intervals_fit_each_other() {
    let problem = set_problem("sample.interval=90s");
    assert!(
        problem.starts_with("sample.interval = \"90s\": is longer than publish.interval (\"1m\")"),
        "{problem}"
    );
    let problem = set_problem("publish.interval=1500ms");
    assert!(
        problem.contains("must be a whole number of seconds; write \"1s\""),
        "{problem}"
    );
    assert!(load_text(&set(&["sample.interval=1h", "publish.interval=1h"])).is_ok());
}

/// Each setting alone is refused with the expected words and its origin.
#[track_caller]
fn assert_refused(cases: &[(&str, &str)]) {
    for (setting, expected) in cases {
        let error = load_text(&set(&[setting])).unwrap_err();
        assert!(
            error.lines().count() >= 2 && error.contains(expected),
            "{setting}: {error}"
        );
        assert!(
            error.lines().skip(1).all(|line| line.contains("(from --set ")),
            "{setting}: {error}"
        );
    }
}

#[test]
fn what_cloudwatch_would_refuse_is_refused_with_the_mend() {
    assert_refused(&[
        (
            "publish.target=s3",
            "is not a known choice; write one of \"cloudwatch\", \"stdout\"",
        ),
        (
            "publish.target=Stdout",
            "is not a known choice; did you mean \"stdout\"?",
        ),
        ("publish.namespace= ", "must not be empty"),
        ("publish.namespace=:x", "must not start with a colon"),
        ("publish.namespace=AWS/x", "must not start with AWS/"),
        (
            "publish.namespace=Größe",
            "may hold printable ASCII characters only",
        ),
        (
            &format!("publish.namespace={}", "n".repeat(256)),
            "is 256 characters long; write at most 255",
        ),
        (
            "publish.max_series=0",
            "is out of range; write a whole number from 1 to 100000",
        ),
        (
            "publish.storage_resolution=30",
            "write 60 (standard) or 1 (high resolution)",
        ),
        (
            "publish.rollup=[{metrics=['gpu_utilization'],dimensions=['ClusterName']}]",
            "add ClusterName to publish.dimensions",
        ),
        ("publish.rollup=[{dimensions=[]}]", "names no metric"),
        (
            "publish.rollup=[{metrics=['gpu_utilisation']}]",
            "is not a metric of the catalogue; did you mean gpu_utilization?",
        ),
        (
            "publish.rollup=[{metrics=['gpu_power_draw']},{metrics=['gpu_temperature','gpu_power_draw']}]",
            "publish.rollup[1].metrics[1] = \"gpu_power_draw\": is rolled up with these dimensions already",
        ),
        (
            "publish.rollup=[{metrics=['']}]",
            "publish.rollup[0].metrics[0] = \"\": must not be empty",
        ),
        ("node.instance_id=", "must not be empty"),
        ("node.cluster=a\tb", "may hold printable ASCII characters only"),
        (
            &format!("node.cluster={}", "n".repeat(1025)),
            "is 1025 characters long; write at most 1024",
        ),
    ]);
}

#[test]
fn an_endpoint_is_an_http_url_and_nothing_that_a_client_would_have_to_guess() {
    for good in [
        "https://monitoring.eu-west-1.amazonaws.com",
        "http://localhost:4566/",
        "https://vpce-0-1.monitoring.eu-west-1.vpce.amazonaws.com:443/path",
        "http://127.0.0.1:80",
        "http://[fd00:ec2::254]",
        "http://[::1]:8080/",
    ] {
        let config = load_text(&set(&[&format!("publish.endpoint_url={good}")])).unwrap();
        assert_eq!(config.publish.endpoint_url.as_deref(), Some(good));
    }
    for wrong in [
        "monitoring.internal",
        "ftp://x",
        "https://",
        "https:///path",
        "http://two words",
        "http://[::1",
        "http://[localhost]",
        "http://[::1]8080",
        "http://host:",
        "http://host:0",
        "http://host:+80",
        "http://host:99999",
        "http://host:port",
        "http://user:secret@host",
        "http://größe",
    ] {
        assert_refused(&[(
            &format!("publish.endpoint_url={wrong}"),
            "is not an http:// or https:// URL",
        )]);
    }
}

#[test]
fn wrong_types_and_unknown_words_are_refused_with_the_mend() {
    assert_refused(&[
        ("publish=5", "must be a section"),
        ("publish.groups=host", "must be a list; write it in brackets"),
        (
            "publish.groups=['hots']",
            "is not a known choice; did you mean \"host\"?",
        ),
        (
            "publish.groups=['gpu','gpu']",
            "is listed twice; remove one of the two",
        ),
        (
            "publish.dimensions=['InstanceId','InstanceId']",
            "is listed twice; remove one of the two",
        ),
        ("publish.max_series=-1", "must be a whole number, zero or more"),
        (
            "publish.max_series=99999999999999999999",
            "must be a whole number, zero or more",
        ),
        (
            "publish.max_series=\"500\"",
            "must be a whole number, zero or more",
        ),
        (
            "publish.rollup=[{metrics=['gpu_utilization'],metric=1}]",
            "unknown key; did you mean publish.rollup[0].metrics?",
        ),
        ("publish.rollup={}", "must be a list"),
        ("mps.enabled=yes", "must be true or false"),
        ("interval=5s", "unknown key; did you mean"),
        (
            "publish.groups[0]=host",
            "unknown key; did you mean publish.groups?",
        ),
    ]);
}

#[test]
fn values_that_no_node_can_have_are_refused_with_the_mend() {
    assert_refused(&[
        (
            "node.state_dir=var/lib",
            "must be an absolute path; write the path from / on",
        ),
        ("node.state_dir=\"/a\\u0000b\"", "holds a NUL character"),
        ("host.exclude_mounts=['run']", "must be an absolute path"),
        ("host.exclude_fs_types=['n*s']", "is not a file system type"),
        ("host.exclude_fs_types=['*']", "is not a file system type"),
        ("spool.max_bytes=0", "must be at least 128.0 KiB"),
        ("spool.max_bytes=lots", "is not a size"),
        (
            "gpu.nvml_library=lib/libnvidia-ml.so",
            "is neither a bare name nor an absolute path",
        ),
        ("gpu.kmsg=", "must be an absolute path"),
        ("mps.backend=docker", "write one of \"systemd\", \"process\""),
        ("mps.enabled=false", "set slices.enabled = false too"),
        ("slices.per_gpu=101", "write a whole number from 1 to 100"),
        ("slices.resource=vgpu", "write domain/name"),
        ("slices.resource=x.kubernetes.io/vgpu", "outside kubernetes.io"),
        (
            &format!("status.socket={}", "/d".repeat(54)),
            "is 108 bytes long, and a socket's path may have 107",
        ),
        ("prometheus.listen=9400", "is not an address to listen on"),
        (
            "prometheus.listen=localhost:9400",
            "write an IP address and a port",
        ),
    ]);
    let longest = format!("status.socket={}x", "/d".repeat(53));
    assert!(load_text(&set(&[&longest])).is_ok(), "107 bytes fit");
}

#[test]
fn thirty_one_dimensions_are_one_problem() {
    let dimensions = vec!["\"InstanceId\""; 31].join(",");
    let problem = set_problem(&format!("publish.dimensions=[{dimensions}]"));
    assert!(
        problem.contains("has 31 dimensions, and CloudWatch takes 30; remove some"),
        "{problem}"
    );
}

#[test]
fn what_is_wrong_already_is_not_compared() {
    for setting in ["publish.dimensions=[\"Nope\"]", "publish.dimensions=5"] {
        let mut sources = set(&[setting]);
        sources
            .set
            .push("publish.rollup=[{metrics=[\"gpu_utilization\"],dimensions=[\"ClusterName\"]}]".into());
        let text = load_text(&sources).unwrap_err();
        assert!(only_problem(&text).starts_with("publish.dimensions"), "{text}");
    }
}

#[test]
fn mps_may_be_off_together_with_slices() {
    let config = load_text(&set(&["mps.enabled=false", "slices.enabled=false"])).unwrap();
    assert!(!config.mps.enabled && !config.slices.enabled);
}
