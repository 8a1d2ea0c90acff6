//! The tests themselves: cargo-nextest where it is installed, else `cargo test`.
//!
//! Whichever runs, the last line is its sum. nextest prints one; for `cargo test`, which prints a sum per binary, they
//! are added up here. Nothing is printed after it. What this machine cannot run is named before it.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::machine::{Group, Machine};
use crate::workspace::{Workspace, stdout_of, succeed};

pub(super) fn run(
    workspace: &Workspace,
    machine: &Machine,
    only_end_to_end: bool,
) -> anyhow::Result<ExitCode> {
    let nextest = has_nextest(workspace);
    ensure!(
        nextest || !only_end_to_end,
        "the end-to-end tests alone take cargo-nextest: cargo install cargo-nextest --locked"
    );
    for gap in machine.left_out() {
        println!("left out, because {}:", gap.reason);
        for name in names(workspace, gap.group, nextest)? {
            println!("  {name}");
        }
    }
    if nextest {
        let mut command = workspace.cargo(["nextest", "run", "--locked", "--workspace", "-E"]);
        command.arg(machine.filter(only_end_to_end));
        machine.tell(&mut command);
        let status = command.status().context("run cargo nextest")?;
        return Ok(exit_code(status.success()));
    }
    println!(
        "cargo-nextest is not installed: `cargo test` stands in (slower, and a test that hangs has no deadline)"
    );
    cargo_test(workspace, machine)
}

/// Builds all tests, and with them the programs that they start.
pub(super) fn build(workspace: &Workspace) -> anyhow::Result<()> {
    let mut command = if has_nextest(workspace) {
        workspace.cargo(["nextest", "run", "--no-run", "--locked", "--workspace"])
    } else {
        let args = [
            "test",
            "--no-run",
            "--locked",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
        ];
        workspace.cargo(args)
    };
    succeed(&mut command)
}

/// The tests of a group that is left out.
fn names(workspace: &Workspace, group: Group, nextest: bool) -> anyhow::Result<Vec<String>> {
    if nextest {
        let list = [
            "nextest",
            "list",
            "--locked",
            "--workspace",
            "--message-format",
            "json",
            "-E",
        ];
        let json = stdout_of(workspace.cargo(list).arg(group.filter()))?;
        return parse_names(&json).context("understand the list of cargo nextest");
    }
    let (cargo, tests) = group.listed();
    let mut command = workspace.cargo(["test", "--locked"]);
    let list = stdout_of(command.args(cargo).args(["--", "--list"]).args(tests))?;
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
}

/// `BINARY TEST` of each test that matches in nextest's list.
fn parse_names(json: &str) -> Option<Vec<String>> {
    let list: Value = serde_json::from_str(json).ok()?;
    let mut names = Vec::new();
    for (binary, suite) in list.get("rust-suites")?.as_object()? {
        for (test, found) in suite.get("testcases")?.as_object()? {
            if found.pointer("/filter-match/status")? == "matches" {
                names.push(format!("{binary} {test}"));
            }
        }
    }
    Some(names)
}

fn has_nextest(workspace: &Workspace) -> bool {
    let mut command: Command = workspace.cargo(["nextest", "--version"]);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn exit_code(success: bool) -> ExitCode {
    if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn cargo_test(workspace: &Workspace, machine: &Machine) -> anyhow::Result<ExitCode> {
    // Not --all-targets: it would run the benchmarks as well.
    let args = [
        "test",
        "--locked",
        "--workspace",
        "--no-fail-fast",
        "--lib",
        "--bins",
        "--tests",
    ];
    let mut command = workspace.cargo(args);
    let skipped = || machine.left_out().iter().map(|gap| gap.group.skipped());
    command.args(skipped().flat_map(|(cargo, _)| cargo)).arg("--");
    command.args(skipped().flat_map(|(_, tests)| tests));
    machine.tell(&mut command);
    let mut child = command.stdout(Stdio::piped()).spawn().context("run cargo test")?;
    let stdout = child
        .stdout
        .take()
        .expect("stdout was asked to be a pipe two lines above");
    let mut sum = Sum::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the output of cargo test")?;
        println!("{line}");
        sum.add(&line);
    }
    let success = child.wait().context("wait for cargo test")?.success();
    println!(
        "{} passed, {} failed, {} skipped",
        sum.passed, sum.failed, sum.skipped
    );
    Ok(exit_code(success))
}

#[derive(Debug, Default, PartialEq)]
struct Sum {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Sum {
    /// Takes in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" | "filtered out" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_matching_tests_are_taken_from_the_list() {
        let json = r#"{"rust-suites": {"e2e::it": {"testcases": {
            "boots": {"filter-match": {"status": "matches"}},
            "other": {"filter-match": {"status": "mismatch", "reason": "expression"}}}}}}"#;
        assert_eq!(parse_names(json).unwrap(), ["e2e::it boots"]);
        assert_eq!(parse_names("{}"), None);
    }

    #[test]
    fn the_sums_of_all_binaries_are_added() {
        let mut sum = Sum::default();
        for line in [
            "running 5 tests",
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "test printed: test result: ok. 9 passed",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 7 measured; 2 filtered out; finished in 1.00s",
        ] {
            sum.add(line);
        }
        assert_eq!(
            sum,
            Sum {
                passed: 6,
                failed: 3,
                skipped: 3
            }
        );
    }
}
