//! Bad input: each mistake is named, with the mend and the right exit code.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Node, output};

const NO_GPUS: &str = "";

const TWO_GPUS_ONE_LOST: &str = r#"
[[gpu]]
uuid = "GPU-a"
name = "NVIDIA A10G"
pci = "00000000:00:1B.0"
memory_mib = 24000

[[gpu]]
uuid = "GPU-b"
name = "NVIDIA A10G"
pci = "00000000:00:1C.0"
memory_mib = 24000

[[fault]]
gpu = 1
kind = "lost"
at_ms = 0
"#;

/// `gpushare ARGUMENTS`, without any configuration file of ours.
fn gpushare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpushare"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command that must fail with this exit code before it has printed anything; what it said.
#[track_caller]
fn refused(command: Command, code: i32) -> String {
    let (found, stdout, stderr) = output(command);
    assert_eq!(
        found, code,
        "standard output:\n{stdout}\nstandard error:\n{stderr}"
    );
    assert_eq!(stdout, "");
    assert!(!stderr.contains("panicked at"), "{stderr}");
    stderr
}

/// What `run` says about the configuration of a node; `check` must say the same.
#[track_caller]
fn refused_configuration(node: &Node) -> String {
    let said = refused(node.command(&["run"]), 78);
    assert_eq!(refused(node.command(&["check"]), 78), said);
    said
}

/// The one problem of a configuration in which `key` has this TOML value; the end that names the file and the
/// line is cut off.
#[track_caller]
fn problem_of(key: &str, value: &str) -> String {
    let node = Node::new(NO_GPUS).with(key, value);
    let said = refused_configuration(&node);
    let problem = said.strip_prefix("gpushare: the configuration has 1 problem:\n  ");
    let problem = problem.unwrap_or_else(|| panic!("not one problem: {said}"));
    let origin = format!(" (from {}:", node.path("config.toml").display());
    let (problem, line) = problem
        .rsplit_once(&origin)
        .unwrap_or_else(|| panic!("no origin: {said}"));
    assert!(
        line.trim_end_matches(")\n").parse::<u32>().is_ok(),
        "no line: {said}"
    );
    problem.to_owned()
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    assert_eq!(
        problem_of("publish.intervall", "\"30s\""),
        "publish.intervall: unknown key; did you mean publish.interval?"
    );
    assert_eq!(problem_of("colour", "\"blue\""), "colour: unknown key; remove it");
}

#[test]
fn a_value_of_the_wrong_type_is_shown_with_the_right_one() {
    assert_eq!(
        problem_of("gpu.enabled", "\"yes\""),
        "gpu.enabled = \"yes\": must be true or false; write true or false, without quotes"
    );
    assert_eq!(
        problem_of("publish.groups", "\"host\""),
        "publish.groups = \"host\": must be a list; write it in brackets, such as [\"a\", \"b\"]"
    );
    assert_eq!(
        problem_of("publish.max_series", "-5"),
        "publish.max_series = -5: must be a whole number, zero or more; write digits only, without quotes or unit"
    );
}

#[test]
fn an_interval_is_neither_negative_nor_zero_nor_above_an_hour() {
    let not_positive = "must be longer than zero; write a duration such as \"1s\"";
    let too_long = "must not be longer than an hour; write \"1h\" or less";
    for (key, value, wrong) in [
        ("sample.interval", "\"-1s\"", not_positive),
        ("sample.interval", "\"0s\"", not_positive),
        ("sample.interval", "\"61m\"", too_long),
        ("publish.interval", "\"-1s\"", not_positive),
        ("publish.interval", "\"0s\"", not_positive),
        ("publish.interval", "\"1h 1s\"", too_long),
    ] {
        assert_eq!(problem_of(key, value), format!("{key} = {value}: {wrong}"));
    }
}

#[test]
fn a_namespace_is_neither_empty_nor_amazons_own() {
    assert_eq!(
        problem_of("publish.namespace", "\"\""),
        "publish.namespace = \"\": must not be empty; write a name, or leave the key out"
    );
    assert_eq!(
        problem_of("publish.namespace", "\"AWS/EC2\""),
        "publish.namespace = \"AWS/EC2\": must not start with AWS/, which is Amazon's own; choose another, such as \"GPUShare\""
    );
}

#[test]
fn thirty_one_dimensions_are_one_too_many() {
    let many = format!("[{}]", ["\"InstanceId\""; 31].join(", "));
    let problem = problem_of("publish.dimensions", &many);
    assert!(
        problem.starts_with("publish.dimensions = [\"InstanceId\", "),
        "{problem}"
    );
    assert!(
        problem.ends_with(": has 31 dimensions, and CloudWatch takes 30; remove some"),
        "{problem}"
    );
}

#[test]
fn several_mistakes_are_all_named_in_one_run_whatever_they_came_from() {
    let node = Node::new(NO_GPUS)
        .with("sample.interval", "\"0s\"")
        .with("publish.namespace", "\"AWS/EC2\"")
        .with("gpu.enabled", "1")
        .with("pubish.interval", "\"5s\"")
        .with_env("GPUSHARE__PUBLISH__MAX_SERIES", "many");
    let mut command = node.command(&["run", "--set", "publish.interval=2h"]);
    command.env("GPUSHARE_LOG", "info");
    let said = refused(command, 78);
    assert!(
        said.starts_with("gpushare: the configuration has 6 problems:\n"),
        "{said}"
    );
    for (key, origin) in [
        ("gpu.enabled = 1:", "config.toml:"),
        ("pubish: unknown key; did you mean publish?", "config.toml:"),
        ("publish.interval = \"2h\":", "(from --set publish.interval)"),
        (
            "publish.max_series = \"many\":",
            "(from environment variable GPUSHARE__PUBLISH__MAX_SERIES)",
        ),
        ("publish.namespace = \"AWS/EC2\":", "config.toml:"),
        ("sample.interval = \"0s\":", "config.toml:"),
    ] {
        let line = said.lines().find(|line| line.trim_start().starts_with(key));
        let line = line.unwrap_or_else(|| panic!("{key} is not named:\n{said}"));
        assert!(line.contains(origin), "{line}");
    }
}

#[test]
fn a_variable_of_ours_that_is_no_text_is_refused_not_passed_over() {
    let node = Node::new(NO_GPUS);
    let mut command = node.command(&["run"]);
    command.env(
        "GPUSHARE__PUBLISH__NAMESPACE",
        std::ffi::OsStr::from_bytes(b"gpu\xff"),
    );
    let said = refused(command, 78);
    let variable = "environment variable GPUSHARE__PUBLISH__NAMESPACE: is not UTF-8; set it again in UTF-8";
    assert!(said.contains(variable), "{said}");
}

#[test]
fn a_named_file_that_is_missing_or_is_no_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    for (path, wrong) in [
        (
            missing.as_path(),
            "does not exist; create it, or leave --config out to use the built-in defaults",
        ),
        (dir.path(), "is not a regular file; name a TOML file"),
        (Path::new("/dev/zero"), "is not a regular file; name a TOML file"),
    ] {
        for command in ["run", "check", "status"] {
            let said = refused(gpushare(&[command, "--config", path.to_str().unwrap()]), 78);
            let expected = format!(
                "gpushare: the configuration has 1 problem:\n  {}: {wrong}\n",
                path.display()
            );
            assert_eq!(said, expected);
        }
    }
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_the_place() {
    let node = Node::new(NO_GPUS).with("sample.interval", "\"1s");
    let said = refused_configuration(&node);
    let place = format!("{}:12:22: is not TOML", node.path("config.toml").display());
    assert!(said.contains(&place), "{said}");
}

#[test]
fn a_socket_where_none_can_be_made_is_an_error_that_names_the_key() {
    let node = Node::new(NO_GPUS);
    let below_a_file = format!("{}/status.sock", node.path("kmsg").display());
    for path in ["/proc/gpushare/status.sock", &below_a_file] {
        let set = format!("status.socket={path}");
        let said = refused(node.command(&["run", "--set", &set]), 1);
        let expected = "gpushare: status.socket: cannot make its directory \
                        (run as root, or set status.socket to a directory you may write to): ";
        assert!(said.starts_with(expected), "{said}");
        assert!(
            said.contains(Path::new(path).parent().unwrap().to_str().unwrap()),
            "{said}"
        );
    }
    let (code, found, _) =
        output(node.command(&["check", "--set", &format!("status.socket={below_a_file}")]));
    assert_eq!(code, 1);
    assert!(found.contains("ERROR    status.socket"), "{found}");
}

#[test]
fn a_file_where_the_socket_should_be_is_not_deleted() {
    let node = Node::new(NO_GPUS);
    let precious = node.path("status.sock");
    fs_err::write(&precious, "somebody's data").unwrap();
    let said = refused(node.command(&["run"]), 1);
    assert!(
        said.contains("status.socket") && said.contains(precious.to_str().unwrap()),
        "{said}"
    );
    let (code, found, _) = output(node.command(&["check"]));
    assert_eq!(code, 1);
    assert!(found.contains("ERROR    status.socket"), "{found}");
    assert_eq!(fs_err::read_to_string(&precious).unwrap(), "somebody's data");
}

#[test]
fn a_second_instance_leaves_at_once_and_names_the_first() {
    let node = Node::new(NO_GPUS);
    let agent = node.start();
    let said = refused(node.command(&["run"]), 1);
    let first = format!("gpushare: another gpushare (pid {}) already serves ", agent.pid());
    assert!(said.starts_with(&first), "{said}");
    assert!(said.contains("status.socket"), "{said}");
    let socket = fs_err::symlink_metadata(node.path("status.sock")).unwrap();
    assert!(socket.file_type().is_socket(), "the first one keeps its socket");
    assert_eq!(agent.status().unwrap().agent.pid, agent.pid());
}

#[test]
fn what_the_command_line_does_not_know_is_a_usage_error() {
    for (arguments, named) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["run", "--bogus"], "--bogus"),
        (&["run", "--log-format", "xml"], "xml"),
        (&["run", "--set"], "--set"),
        (&["status", "--json", "--watch"], "--watch"),
        (&[], "Usage: gpushare"),
    ] {
        let said = refused(gpushare(arguments), 64);
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert!(said.contains("--help"), "{arguments:?}: {said}");
    }
}

#[test]
fn the_internal_command_typed_by_hand_says_what_to_type_instead() {
    for stdin in [Stdio::null(), Stdio::piped()] {
        let mut command = gpushare(&["nvml"]);
        command.stdin(stdin);
        let said = refused(command, 64);
        assert!(
            said.contains("gpushare run") && said.contains("gpushare status"),
            "{said}"
        );
    }
}

#[test]
fn help_and_version_are_no_mistakes_and_show_no_internal_command() {
    let (code, version, _) = output(gpushare(&["--version"]));
    assert_eq!(
        (code, version),
        (0, format!("gpushare {}\n", env!("CARGO_PKG_VERSION")))
    );
    for arguments in [&["--help"][..], &["-h"], &["run", "--help"]] {
        let (code, help, stderr) = output(gpushare(arguments));
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(help.contains("--config <PATH>"), "{help}");
        assert!(!help.to_lowercase().contains("nvml"), "{help}");
    }
    let (_, help, _) = output(gpushare(&["--help"]));
    for command in ["run", "status", "check"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
}

#[test]
fn a_status_without_an_agent_is_unavailable() {
    let node = Node::new(NO_GPUS);
    for arguments in [&["status"][..], &["status", "--json"]] {
        let said = refused(node.command(arguments), 69);
        let socket = node.path("status.sock");
        let expected = format!(
            "gpushare: no agent answers on {}; is it running?",
            socket.display()
        );
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.contains("gpushare run"), "{said}");
    }
}

#[test]
fn a_library_that_is_not_nvml_is_an_error_that_names_the_key() {
    let text = Node::new(NO_GPUS);
    fs_err::write(text.path("libnvidia-ml.so.1"), "not a library").unwrap();
    let library = text.path("libnvidia-ml.so.1");
    let text = text.with_library(library);
    let foreign = Node::new(NO_GPUS).without_symbols(&["nvmlInit_v2"]);
    for node in [&text, &foreign] {
        let (code, found, stderr) = output(node.command(&["check"]));
        assert_eq!(code, 1, "{found}{stderr}");
        assert!(
            found.contains("ERROR    gpu                 not an NVML library: "),
            "{found}"
        );
        assert!(
            found.contains(node.path("libnvidia-ml.so.1").to_str().unwrap()),
            "{found}"
        );
        assert!(found.contains("mend: point gpu.nvml_library at "), "{found}");
        assert_eq!(stderr, "gpushare: 1 of 10 checks failed\n");
    }
    let agent = text.start();
    agent.wait("the agent runs on and says the same", |status| {
        let problem = status.problems.first();
        problem.is_some_and(|problem| {
            problem.what.starts_with("not an NVML library") && problem.mend.contains("gpu.nvml_library")
        }) && status.sampler.host.is_some()
    });
}

#[test]
fn an_endpoint_that_is_no_url_is_named_with_an_example() {
    for url in [
        "\"monitoring.internal\"",
        "\"ftp://x\"",
        "\"http://host:99999\"",
        "\"http://[::1\"",
    ] {
        assert_eq!(
            problem_of("publish.endpoint_url", url),
            format!(
                "publish.endpoint_url = {url}: is not an http:// or https:// URL; \
                 write a URL such as \"https://monitoring.eu-west-1.amazonaws.com\""
            )
        );
    }
}

#[test]
fn a_level_that_makes_no_sense_is_reported_and_replaced_by_info() {
    for level in ["verbose", "info,gpushare=loud", "=", "gpushare=debug,warning"] {
        let node = Node::new(NO_GPUS)
            .with("gpu.enabled", "false")
            .with_env("GPUSHARE_LOG", level);
        let log = node.start().terminate().log;
        let warning = log
            .lines()
            .find(|line| line.contains("GPUSHARE_LOG makes no sense"));
        let warning = warning.unwrap_or_else(|| panic!("{level:?} is not refused:\n{log}"));
        assert!(warning.contains("WARN") && warning.contains(level), "{warning}");
        assert!(log.contains("INFO"), "{level:?}: {log}");
        assert!(!log.contains("panicked at"), "{log}");
    }
}

#[test]
fn every_line_of_a_json_log_is_an_object_with_level_and_message() {
    let node = Node::new(TWO_GPUS_ONE_LOST).with_env("GPUSHARE_LOG", "debug");
    let agent = node.start_into(&["run", "--log-format", "json"], Stdio::null());
    agent.wait("NVML is ready", |status| status.gpu.driver.is_ready());
    let log = agent.terminate().log;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}\nin:\n{log}")))
        .collect();
    let mut levels = Vec::new();
    for line in &lines {
        for key in ["timestamp", "level", "message", "target"] {
            assert!(line[key].is_string(), "no {key}: {line}");
        }
        levels.push(line["level"].as_str().unwrap());
    }
    assert!(levels.contains(&"INFO"), "{log}");
    let by_the_child = |line: &&Value| {
        line["target"]
            .as_str()
            .unwrap()
            .starts_with("gpushare::gpu::nvml")
    };
    let lost = lines.iter().find(by_the_child);
    let lost = lost.unwrap_or_else(|| panic!("the NVML process logs the lost GPU as JSON too:\n{log}"));
    assert_eq!(lost["level"], "DEBUG");
}

#[test]
fn every_line_for_the_journal_starts_with_its_priority() {
    let node = Node::new(TWO_GPUS_ONE_LOST);
    // What systemd would say of the file that the agent's standard error goes to.
    fs_err::write(node.path("agent.log"), "").unwrap();
    let log = fs_err::metadata(node.path("agent.log")).unwrap();
    let node = node.with_env("JOURNAL_STREAM", &format!("{}:{}", log.dev(), log.ino()));
    let agent = node.start();
    agent.wait("NVML is ready", |status| status.gpu.driver.is_ready());
    let log = agent.terminate().log;
    for line in log.lines() {
        let priority = line.get(..3).unwrap_or_default();
        assert!(["<3>", "<4>", "<6>"].contains(&priority), "{line:?} in:\n{log}");
        assert!(!line.contains('\x1b'), "{line:?}");
    }
    let is = |priority: &'static str, text: &'static str| {
        log.lines()
            .any(|line| line.starts_with(priority) && line.contains(text))
    };
    assert!(is("<6>", "gpushare is ready"), "{log}");
    assert!(is("<4>", "cannot be opened"), "{log}");
}

#[test]
fn the_last_word_of_a_command_that_failed_has_the_format_of_the_log() {
    let node = Node::new(NO_GPUS)
        .with("sample.interval", "\"0s\"")
        .with("publish.namespace", "\"\"");
    let said = refused(node.command(&["run", "--log-format", "json"]), 78);
    assert_eq!(said.lines().count(), 1, "{said}");
    let line: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(line["level"], "ERROR");
    let message = line["message"].as_str().unwrap();
    assert!(
        message.contains("sample.interval") && message.contains("publish.namespace"),
        "{message}"
    );

    let said = refused(node.command(&["run", "--log-format", "journal"]), 78);
    assert_eq!(said.lines().count(), 3, "{said}");
    for line in said.lines() {
        assert!(line.starts_with("<3>"), "{line:?}");
    }
}
