//! The tests themselves: cargo-nextest where it is installed, else `cargo test`.
//!
//! Whichever runs, the last line is its sum. nextest prints one; for `cargo test`, which prints a sum per binary, they
//! are added up here. Nothing is printed after it.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

use crate::workspace::Workspace;

pub(super) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    if has_nextest(workspace) {
        let mut command = workspace.cargo(["nextest", "run", "--locked", "--workspace"]);
        let status = command.status().context("run cargo nextest")?;
        return Ok(exit_code(status.success()));
    }
    println!(
        "cargo-nextest is not installed: `cargo test` stands in (slower, and a test that hangs has no deadline)"
    );
    cargo_test(workspace)
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

fn cargo_test(workspace: &Workspace) -> anyhow::Result<ExitCode> {
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
    let mut child = workspace
        .cargo(args)
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo test")?;
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
