//! The command: build, measure from the quick to the long, write.

use std::process::ExitCode;

use super::machine::Machine;
use super::report::{Figures, render};
use super::subject::{Node, Subject};
use super::{outage, pushes, ready, steady, tick, traffic};
use crate::agent::{ALL_GROUPS, Interrupt};
use crate::args::{Args, UsageError};
use crate::workspace::{Workspace, succeed};

const DOCUMENT: &str = "docs/benchmarks.md";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(super) minutes: u64,
    pub(super) runs: usize,
    pub(super) pushes: usize,
    pub(super) outage: usize,
}

impl Options {
    pub(crate) fn parse(mut args: Args) -> Result<Self, UsageError> {
        let options = Self {
            minutes: args.count("--minutes")?.unwrap_or(10),
            runs: args.count("--runs")?.unwrap_or(3),
            pushes: usize::from(args.count::<u16>("--pushes")?.unwrap_or(60)),
            outage: usize::from(args.count::<u16>("--outage")?.unwrap_or(75)),
        };
        args.finish()?;
        Ok(options)
    }
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
    let figures = measure(workspace, options)?;
    let text = render(&figures, &Machine::find(workspace)?, options);
    fs_err::create_dir_all(workspace.path("docs"))?;
    fs_err::write(workspace.path(DOCUMENT), &text)?;
    println!("\n{text}\nwritten to {DOCUMENT}");
    Ok(ExitCode::SUCCESS)
}

fn measure(workspace: &Workspace, options: Options) -> anyhow::Result<Figures> {
    let tick = tick::run(workspace)?;
    let interrupt = Interrupt::listen()?;
    let node = Node {
        instance_type: "p5.48xlarge",
        sample_interval: "1s",
        publish_interval: "60s",
        groups: ALL_GROUPS,
        ring_hz: None,
    };
    let subject = Subject::set(workspace, &node)?;
    let measured = || {
        Ok(Figures {
            binary_bytes: fs_err::metadata(&subject.binary)?.len(),
            tick,
            ready_ms: ready::run(&subject, &interrupt)?,
            traffic: traffic::run(workspace, &interrupt)?,
            pushes: pushes::run(workspace, options.pushes, &interrupt)?,
            outage: outage::run(workspace, options.outage, &interrupt)?,
            steady: steady::run(&subject, options, &interrupt)?,
        })
    };
    let binary = subject.binary.display();
    measured().map_err(|error: anyhow::Error| {
        error.context(format!(
            "measure {binary}; its logs are {}",
            workspace.target("bench-*.log").display()
        ))
    })
}
