//! The command: build, measure from the quick to the long, write.

use std::process::ExitCode;

use super::machine::Machine;
use super::report::{Figures, render};
use super::subject::{Node, Subject};
use super::{mps, node, outage, pushes, ready, replay, soak, spool, steady, supervising, tick, traffic};
use crate::agent::Interrupt;
use crate::args::{Args, UsageError};
use crate::workspace::{Workspace, succeed};

const DOCUMENT: &str = "docs/benchmarks.md";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(super) minutes: u64,
    pub(super) runs: usize,
    pub(super) pushes: usize,
    pub(super) outage: usize,
    pub(super) soak: u64,
    /// MPS alone, and the document stays as it is.
    pub(super) only_mps: bool,
    /// A booted node alone, with a document of its own.
    pub(super) only_node: bool,
}

impl Options {
    pub(crate) fn parse(mut args: Args) -> Result<Self, UsageError> {
        let options = Self {
            minutes: args.count("--minutes")?.unwrap_or(10),
            runs: args.count("--runs")?.unwrap_or(3),
            pushes: usize::from(args.count::<u16>("--pushes")?.unwrap_or(60)),
            outage: usize::from(args.count::<u16>("--outage")?.unwrap_or(75)),
            soak: args.count("--soak")?.unwrap_or(10),
            only_mps: args.flag("--only-mps"),
            only_node: args.flag("--only-node"),
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
    // Beside this tool, which looks for it there.
    succeed(&mut workspace.cargo(["build", "--locked", "-p", "fake-mps"]))?;
    keep(workspace)?;
    if options.only_mps {
        let figures = mps::run(workspace, &Interrupt::listen()?)?;
        println!("{}", supervising::mps(&figures));
        return Ok(ExitCode::SUCCESS);
    }
    if options.only_node {
        let times = node::run(workspace, &Interrupt::listen()?)?;
        return written(
            workspace,
            node::DOCUMENT,
            &node::render(&times, &Machine::find(workspace)?),
        );
    }
    let figures = measure(workspace, options)?;
    let text = render(&figures, &Machine::find(workspace)?, options);
    written(workspace, DOCUMENT, &text)
}

fn written(workspace: &Workspace, document: &str, text: &str) -> anyhow::Result<ExitCode> {
    fs_err::create_dir_all(workspace.path("docs"))?;
    fs_err::write(workspace.path(document), text)?;
    println!("\n{text}\nwritten to {document}");
    Ok(ExitCode::SUCCESS)
}

/// `cargo bench` builds the agent again, with what tests need in it, and puts it in the place of the release.
fn keep(workspace: &Workspace) -> anyhow::Result<()> {
    fs_err::create_dir_all(workspace.target("bench"))?;
    for name in ["gpushare", "libfake_nvml.so"] {
        let built = workspace.target(format!("release/{name}"));
        let kept = workspace.target(format!("bench/{name}"));
        // Not written over: a copy of an earlier run may still be mapped somewhere.
        let _ = fs_err::remove_file(&kept);
        fs_err::copy(built, kept)?;
    }
    Ok(())
}

fn measure(workspace: &Workspace, options: Options) -> anyhow::Result<Figures> {
    let tick = tick::run(workspace)?;
    let spool = spool::run(workspace)?;
    let interrupt = Interrupt::listen()?;
    let subject = Subject::set(workspace, &Node::large())?;
    let measured = || {
        Ok(Figures {
            binary_bytes: fs_err::metadata(&subject.binary)?.len(),
            tick,
            spool,
            ready_ms: ready::run(&subject, &interrupt)?,
            replay: replay::run(workspace, &interrupt)?,
            soak: soak::run(workspace, options.soak, &interrupt)?,
            traffic: traffic::run(workspace, &interrupt)?,
            mps: mps::run(workspace, &interrupt)?,
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
