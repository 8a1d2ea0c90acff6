//! The steps, and the loop over them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::machine::Machine;
use super::{ceiling, deny, runner, shell, tidy};
use crate::args::{Args, UsageError};
use crate::generate;
use crate::workspace::{Workspace, succeed};

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Workspace) -> anyhow::Result<()>,
}

/// Cheap steps first; all but the tests, which are [`runner::run`].
const CHECKS: [Step; 9] = [
    Step {
        name: "fmt",
        about: "the formatting of every crate",
        run: fmt,
    },
    Step {
        name: "tidy",
        about: "the rules of the tree that no compiler knows",
        run: tidy::run,
    },
    Step {
        name: "shell",
        about: "shellcheck on every shell script",
        run: shell::run,
    },
    Step {
        name: "gen",
        about: "the generated documents match their sources",
        run: generate::check,
    },
    Step {
        name: "ceiling",
        about: "the number of crates in the agent",
        run: ceiling::run,
    },
    Step {
        name: "deny",
        about: "duplicates, licences and origin of the dependencies",
        run: deny::run,
    },
    Step {
        name: "clippy",
        about: "the lints, warnings refused",
        run: clippy,
    },
    Step {
        name: "doc",
        about: "the API documentation, warnings refused",
        run: doc,
    },
    Step {
        name: "doctest",
        about: "the examples in the documentation",
        run: doctest,
    },
];
const TESTS: &str = "test";
const TESTS_ABOUT: &str = "unit, integration and end-to-end tests";
/// Comes before them and is not chosen by itself.
const MACHINE: &str = "machine";
const MACHINE_ABOUT: &str = "what the end-to-end tests need";
/// A part of the tests that can be chosen alone.
const E2E: &str = "e2e";
const E2E_ABOUT: &str = "those of them that boot nodes, or talk to NVIDIA's MPS";

#[derive(Debug, Default)]
pub(crate) struct Options {
    list: bool,
    only: Option<String>,
}

impl Options {
    pub(crate) fn parse(mut args: Args) -> Result<Self, UsageError> {
        let options = Self {
            list: args.flag("--list"),
            only: args.value("--only")?,
        };
        args.finish()?;
        let Some(only) = &options.only else {
            return Ok(options);
        };
        let names: Vec<&str> = CHECKS.iter().map(|step| step.name).chain([TESTS, E2E]).collect();
        if names.contains(&only.as_str()) {
            return Ok(options);
        }
        Err(UsageError::new(format!(
            "--only {only}: there is no such step; the steps are {}",
            names.join(", ")
        )))
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<ExitCode> {
    if options.list {
        print!("{}", list());
        return Ok(ExitCode::SUCCESS);
    }
    let mut durations = Vec::new();
    for step in CHECKS.iter().filter(|step| options.wants(step.name)) {
        heading(step.name, step.about);
        let start = Instant::now();
        (step.run)(workspace).map_err(|error| {
            let name = step.name;
            anyhow!("step `{name}` failed: {error:#}\nto repeat it alone: cargo xtask test --only {name}")
        })?;
        durations.push((step.name, start.elapsed()));
        println!("-- {}: ok, {:.1} s", step.name, start.elapsed().as_secs_f64());
    }
    let only_end_to_end = options.only.as_deref() == Some(E2E);
    if !options.wants(TESTS) && !only_end_to_end {
        return Ok(ExitCode::SUCCESS);
    }
    heading(MACHINE, MACHINE_ABOUT);
    let start = Instant::now();
    let machine = Machine::prepare(workspace)?;
    durations.push((MACHINE, start.elapsed()));
    let (name, about) = if only_end_to_end {
        (E2E, E2E_ABOUT)
    } else {
        (TESTS, TESTS_ABOUT)
    };
    heading(name, about);
    // Said now, because nothing may follow the runner's summary.
    println!(
        "so far: {}; to repeat the tests alone: cargo xtask test --only {name}",
        timetable(&durations)
    );
    std::io::stdout().flush().context("write to standard output")?;
    runner::run(workspace, &machine, only_end_to_end)
}

fn heading(name: &str, about: &str) {
    println!("\n== {name}: {about}");
}

fn list() -> String {
    let named = CHECKS
        .iter()
        .map(|step| (step.name, step.about))
        .chain([(TESTS, TESTS_ABOUT), (E2E, E2E_ABOUT)]);
    named.fold(String::new(), |mut text, (name, about)| {
        let _ = writeln!(text, "{name:<8} {about}");
        text
    })
}

fn timetable(durations: &[(&str, Duration)]) -> String {
    let parts: Vec<String> = durations
        .iter()
        .map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64()))
        .collect();
    parts.join(", ")
}

fn fmt(workspace: &Workspace) -> anyhow::Result<()> {
    succeed(&mut workspace.cargo(["fmt", "--all", "--check"])).context("`cargo fmt` mends it")
}

fn clippy(workspace: &Workspace) -> anyhow::Result<()> {
    let args = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    succeed(&mut workspace.cargo(args))
}

fn doc(workspace: &Workspace) -> anyhow::Result<()> {
    let flags = std::env::var("RUSTDOCFLAGS").unwrap_or_default();
    let args = [
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    succeed(
        workspace
            .cargo(args)
            .env("RUSTDOCFLAGS", format!("{flags} -D warnings")),
    )
}

fn doctest(workspace: &Workspace) -> anyhow::Result<()> {
    succeed(&mut workspace.cargo(["test", "--locked", "--doc", "-p", "gpushare"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, UsageError> {
        Options::parse(Args::new(line.split_whitespace().map(str::to_owned)))
    }

    #[test]
    fn every_listed_step_can_be_chosen_alone() {
        for line in list().lines() {
            let name = line.split_whitespace().next().unwrap();
            let options = parse(&format!("--only {name}")).unwrap();
            let chosen = CHECKS
                .iter()
                .map(|step| step.name)
                .chain([TESTS, E2E])
                .filter(|step| options.wants(step));
            assert_eq!(chosen.collect::<Vec<_>>(), [name]);
        }
        assert!(parse("").unwrap().wants("fmt") && parse("").unwrap().wants(TESTS));
    }

    #[test]
    fn an_unknown_step_is_answered_with_the_known_ones() {
        let error = parse("--only format").unwrap_err().to_string();
        assert!(
            error.starts_with("--only format: there is no such step; the steps are fmt, tidy,"),
            "{error}"
        );
        assert!(error.ends_with("doctest, test, e2e"), "{error}");
    }
}
