//! What a developer and CI run in this repository: `cargo xtask test | gen | demo | dist | bench`.
//!
//! Job: one entry point whose commands work in a fresh clone with nothing but cargo and a C compiler; what else they
//! need they fetch into `target/tools` or name exactly.
//! Invariants: a command leaves no process behind, writes only below the target directory and into the files that it
//! generates (`docs/`), and exits 0 only when all it promises was done (1 failed, 64 wrong usage).
//! It must not depend on the `gpushare` crate: the build of these tools takes seconds, and a broken agent cannot
//! break the command that says so.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a terminal program: its output is its job"
)]

mod agent;
mod args;
mod bench;
mod debian;
mod demo;
mod dist;
mod generate;
mod python;
mod test;
mod workspace;

use std::process::ExitCode;

use args::{Args, UsageError};
use workspace::Workspace;

const HELP: &str = "\
Usage: cargo xtask COMMAND [OPTIONS]

  test   run everything that CI runs; stops at the first step that fails
           --list          name the steps and leave
           --only STEP     run that step alone
  gen    write docs/configuration.md and docs/metrics.md from their sources
           --check         write nothing; fail when a file is out of date
  demo   build gpushare, run it on simulated (or the real) GPUs and show it live, with what a simulated
         CloudWatch accepts
           --seconds N     stop by itself after N seconds (default: until Ctrl-C)
           --outage        let CloudWatch refuse connections for 15 s
           --fake          simulate the GPUs even where there is a driver
  dist   build the release and make rpm and deb of it in target/dist, with their SHA-256
           --target ARCH   x86_64 or aarch64 alone (default: both)
           --verify        make everything a second time in another folder and compare
           --binary PATH   package this binary and build none (default architecture: this machine's)
           --package-version V
                           its version in the packages (default: the workspace's)
  bench  measure the release build and write docs/benchmarks.md
           --minutes N     length of one steady run (default 10)
           --runs N        number of steady runs (default 3)
           --pushes N      number of publishes watched in time-lapse, 6 s each (default 60)
           --outage N      length of the outage in windows of 6 s (default 75)
           --soak N        minutes with a CloudWatch that comes and goes (default 10)
";

/// sysexits.h `EX_USAGE`, as the agent itself uses it.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let error = match run(Args::from_env()) {
        Ok(code) => return code,
        Err(error) => error,
    };
    eprintln!("xtask: {error:#}");
    if error.is::<UsageError>() {
        eprint!("\n{HELP}");
        return ExitCode::from(EXIT_USAGE);
    }
    ExitCode::FAILURE
}

fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    if args.flag("--help") || args.flag("-h") {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let Some(command) = args.command() else {
        return Err(UsageError::new("a command is missing").into());
    };
    match command.as_str() {
        "test" => test::run(&Workspace::find()?, &test::Options::parse(args)?),
        "gen" => generate::run(&Workspace::find()?, &generate::Options::parse(args)?),
        "demo" => demo::run(&Workspace::find()?, &demo::Options::parse(args)?),
        "dist" => dist::run(&Workspace::find()?, &dist::Options::parse(args)?),
        "bench" => bench::run(&Workspace::find()?, bench::Options::parse(args)?),
        other => Err(UsageError::new(format!("unknown command `{other}`")).into()),
    }
}
