//! The command: build, measure from the quick to the long, write.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use super::machine::Machine;
use super::report::{Figures, render};
use super::{ready, steady, tick};
use crate::agent::{ALL_GROUPS, Cloud, Interrupt, Settings};
use crate::args::{Args, UsageError};
use crate::workspace::{Workspace, succeed};

const DOCUMENT: &str = "docs/benchmarks.md";
const SCENARIO: &str = "testkit/scenarios/p5.48xlarge.toml";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(super) minutes: u64,
    pub(super) runs: usize,
}

impl Options {
    pub(crate) fn parse(mut args: Args) -> Result<Self, UsageError> {
        let options = Self {
            minutes: args.count("--minutes")?.unwrap_or(10),
            runs: args.count("--runs")?.unwrap_or(3),
        };
        args.finish()?;
        Ok(options)
    }
}

/// What every measured agent is started from.
pub(super) struct Subject {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) scenario: PathBuf,
    pub(super) log: PathBuf,
    /// A short directory, for the sockets.
    pub(super) dir: tempfile::TempDir,
    pub(super) cloud: Cloud,
}

pub(crate) fn run(workspace: &Workspace, options: Options) -> anyhow::Result<ExitCode> {
    succeed(&mut workspace.cargo([
        "build",
        "--locked",
        "--release",
        "-p",
        "gpushare",
        "-p",
        "fake-nvml",
    ]))?;
    let tick = tick::run(workspace)?;
    let subject = subject(workspace)?;
    let interrupt = Interrupt::listen()?;
    let binary_bytes = fs_err::metadata(&subject.binary)?.len();
    let measured = ready::run(&subject, &interrupt)
        .and_then(|ready| Ok((ready, steady::run(&subject, options, &interrupt)?)))
        .with_context(|| {
            format!(
                "measure {}; its log is {}",
                subject.binary.display(),
                subject.log.display()
            )
        });
    let (ready_ms, steady) = measured?;
    let figures = Figures {
        binary_bytes,
        ready_ms,
        steady,
        tick,
    };
    let text = render(&figures, &Machine::find()?, options);
    fs_err::create_dir_all(workspace.path("docs"))?;
    fs_err::write(workspace.path(DOCUMENT), &text)?;
    println!("\n{text}\nwritten to {DOCUMENT}");
    Ok(ExitCode::SUCCESS)
}

fn subject(workspace: &Workspace) -> anyhow::Result<Subject> {
    let dir = tempfile::Builder::new()
        .prefix("gpushare-bench-")
        .tempdir()
        .context("make a directory for the agent")?;
    let library = workspace.target("release/libfake_nvml.so");
    ensure!(
        library.is_file(),
        "{} was not built: is fake-nvml still a cdylib?",
        library.display()
    );
    let scenario = dir.path().join("p5.48xlarge.toml");
    fs_err::write(&scenario, fs_err::read(workspace.path(SCENARIO))?)?;
    let cloud = Cloud::start("p5.48xlarge")?;
    let settings = Settings {
        dir: dir.path(),
        socket: &dir.path().join("status.sock"),
        instance_type: None,
        endpoint_url: &cloud.endpoint_url(),
        sample_interval: "1s",
        groups: ALL_GROUPS,
        publish_interval: "60s",
        nvml_library: &library,
    };
    let log = workspace.target("bench.log");
    fs_err::write(&log, "")?;
    Ok(Subject {
        binary: workspace.target("release/gpushare"),
        config: settings.write()?,
        scenario,
        log,
        dir,
        cloud,
    })
}
