//! On a booted node: how soon the agent is ready, and how long it is away when it is started anew.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, ensure};
use e2e::{Cache, Node, Spec};

use super::machine::Machine;
use super::report::{median, sorted};
use crate::agent::Interrupt;
use crate::workspace::Workspace;

/// Its own document: it takes root, and seconds where the others take an hour.
pub(super) const DOCUMENT: &str = "docs/benchmarks-node.md";

const UNIT: &str = "gpushare.service";
const BOOTS: usize = 5;
const RESTARTS: usize = 20;
const CONFIG: &str = "[node]\ninstance_id = \"i-0node\"\n[publish]\ntarget = \"stdout\"\n[mps]\nenabled = false\n[slices]\nenabled = false\n";
const DROP_IN: &str =
    "[Service]\nEnvironment=FAKE_NVML_SCENARIO=/etc/gpushare/scenario.toml AWS_EC2_METADATA_DISABLED=true\n";

/// In milliseconds.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// From the start of systemd to READY.
    boot: Vec<f64>,
    /// From the start of the unit to READY, in those boots.
    start: Vec<f64>,
    /// What `systemctl restart` took.
    restart: Vec<f64>,
    /// What `systemctl reload` took with another configuration.
    reload: Vec<f64>,
}

pub(super) fn run(workspace: &Workspace, interrupt: &Interrupt) -> anyhow::Result<Times> {
    Cache::of_this_build()?.prepare()?;
    let mut node = Node::boot(&spec(workspace));
    node.succeed(&["systemctl", "enable", "--now", UNIT]);
    let mut times = Times::default();
    for _ in 0..BOOTS {
        ensure!(!interrupt.raised(), "interrupted");
        node.reboot();
        let manager =
            micros(&node.succeed(&["systemctl", "show", "--property=UserspaceTimestampMonotonic"]))?;
        let (begun, ready) = (
            moment(&node, "InactiveExitTimestampMonotonic")?,
            moment(&node, "ActiveEnterTimestampMonotonic")?,
        );
        times.boot.push((ready - manager) / 1000.0);
        times.start.push((ready - begun) / 1000.0);
    }
    for run in 0..RESTARTS {
        ensure!(!interrupt.raised(), "interrupted");
        times.restart.push(taken(&node, "restart"));
        let interval = if run % 2 == 0 { "2s" } else { "1s" };
        let text = format!("{CONFIG}[sample]\ninterval = \"{interval}\"\n");
        fs_err::write(node.path("/etc/gpushare/config.toml"), text)?;
        times.reload.push(taken(&node, "reload"));
    }
    Ok(times)
}

fn spec(workspace: &Workspace) -> Spec {
    Spec::new("bench")
        .with_bind(workspace.target("bench/gpushare"), "/usr/bin/gpushare")
        .with_bind(
            workspace.target("bench/libfake_nvml.so"),
            "/usr/lib/libnvidia-ml.so.1",
        )
        .with_copy(
            workspace.path("systemd/gpushare.service"),
            "/usr/lib/systemd/system/gpushare.service",
            0o644,
        )
        .with_copy(
            workspace.path("systemd/gpushare.tmpfiles"),
            "/usr/lib/tmpfiles.d/gpushare.conf",
            0o644,
        )
        .with_copy(
            workspace.path("testkit/scenarios/p5.48xlarge.toml"),
            "/etc/gpushare/scenario.toml",
            0o644,
        )
        .with_file("/etc/gpushare/config.toml", CONFIG, 0o644)
        .with_file("/etc/systemd/system/gpushare.service.d/gpus.conf", DROP_IN, 0o644)
}

fn moment(node: &Node, property: &str) -> anyhow::Result<f64> {
    micros(&node.property(UNIT, property))
}

/// Microseconds of `CLOCK_MONOTONIC`, with or without the name of the property.
fn micros(text: &str) -> anyhow::Result<f64> {
    let number = text.trim().rsplit('=').next().unwrap_or_default();
    number
        .parse()
        .with_context(|| format!("{text:?} is no time of systemd's"))
}

fn taken(node: &Node, verb: &str) -> f64 {
    let begun = Instant::now();
    node.succeed(&["systemctl", verb, UNIT]);
    begun.elapsed().as_secs_f64() * 1000.0
}

/// The document.
pub(super) fn render(times: &Times, machine: &Machine) -> String {
    let Machine {
        cpu,
        cores,
        kernel,
        date,
        commit,
    } = machine;
    let mut text = format!(
        "<!-- Written by `cargo xtask bench --only-node`: run it again rather than editing. -->\n\n# On a booted node\n\n\
         Figures of the release build of commit {commit}, taken on {date} on {cpu}, {cores} cores, Linux {kernel}, with\n\
         `cargo xtask bench --only-node`: a Debian node in a container with a real systemd, eight simulated GPUs, `publish.target =\n\
         \"stdout\"`, MPS off. Milliseconds.\n\n| | Median | Least to greatest | Runs |\n|---|---|---|---|\n"
    );
    for (name, values) in [
        ("start of systemd to READY of the agent", &times.boot),
        ("start of the unit to READY, in those boots", &times.start),
        ("`systemctl restart gpushare`", &times.restart),
        (
            "`systemctl reload gpushare` with another `sample.interval`",
            &times.reload,
        ),
    ] {
        let sorted = sorted(values);
        let (least, greatest) = (sorted.first().unwrap_or(&0.0), sorted.last().unwrap_or(&0.0));
        let _ = writeln!(
            text,
            "| {name} | {:.0} | {least:.0} to {greatest:.0} | {} |",
            median(&sorted),
            sorted.len()
        );
    }
    text
}
