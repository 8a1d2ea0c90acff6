//! On a booted node: how soon the agent is ready, and how long it is away when it is started anew.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::{Cache, Node, PATIENCE, Spec};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::machine::Machine;
use super::report::{median, sorted};
use crate::agent::Interrupt;
use crate::workspace::Workspace;

/// Its own document: it takes root, and seconds where the others take an hour.
pub(super) const DOCUMENT: &str = "docs/benchmarks-node.md";

const UNIT: &str = "gpushare.service";
const BOOTS: usize = 5;
const RESTARTS: usize = 20;
const GPUS: usize = 8;
const CONFIG: &str =
    "[node]\ninstance_id = \"i-0node\"\n[publish]\ntarget = \"stdout\"\n[slices]\nenabled = false\n";
const WITHOUT_MPS: &str = "[mps]\nenabled = false\n";
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
    /// From the start of systemd to MPS that is verified on every GPU.
    mps: Vec<f64>,
}

pub(super) fn run(workspace: &Workspace, interrupt: &Interrupt) -> anyhow::Result<Times> {
    Cache::of_this_build()?.prepare()?;
    let mut times = Times::default();
    without_mps(workspace, interrupt, &mut times)?;
    with_mps(workspace, interrupt, &mut times)?;
    Ok(times)
}

fn without_mps(workspace: &Workspace, interrupt: &Interrupt, times: &mut Times) -> anyhow::Result<()> {
    let config = format!("{CONFIG}{WITHOUT_MPS}");
    let mut node = Node::boot(&spec(workspace, &config));
    node.succeed(&["systemctl", "enable", "--now", UNIT]);
    for _ in 0..BOOTS {
        ensure!(!interrupt.raised(), "interrupted");
        node.reboot();
        let manager = booted(&node)?;
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
        let text = format!("{config}[sample]\ninterval = \"{interval}\"\n");
        fs_err::write(node.path("/etc/gpushare/config.toml"), text)?;
        times.reload.push(taken(&node, "reload"));
    }
    Ok(())
}

fn with_mps(workspace: &Workspace, interrupt: &Interrupt, times: &mut Times) -> anyhow::Result<()> {
    let played = workspace.target("debug/fake-mps");
    let mut node = Node::boot(
        &spec(workspace, CONFIG)
            .with_bind(&played, "/usr/bin/nvidia-cuda-mps-control")
            .with_bind(&played, "/usr/bin/nvidia-cuda-mps-server"),
    );
    node.succeed(&["systemctl", "enable", "--now", UNIT]);
    for _ in 0..BOOTS {
        ensure!(!interrupt.raised(), "interrupted");
        node.reboot();
        let manager = booted(&node)?;
        let seen = node.wait_until("MPS on every GPU", PATIENCE, || {
            let said = node.run(&["gpushare", "status", "--json"]).stdout;
            // The clock of the node is that of this machine.
            (ready_gpus(&said) == GPUS).then(|| clock_gettime(ClockId::Monotonic))
        });
        times
            .mps
            .push(Duration::try_from(seen)?.as_secs_f64() * 1000.0 - manager / 1000.0);
    }
    Ok(())
}

/// How many GPUs have a verified daemon, by the agent's word; none while there is no agent.
fn ready_gpus(status: &str) -> usize {
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    let gpus = status["mps"]["gpus"].as_array();
    let is_ready = |gpu: &&Value| gpu["state"]["state"] == "ready";
    gpus.map_or(0, |gpus| gpus.iter().filter(is_ready).count())
}

/// When its systemd was started, in microseconds of `CLOCK_MONOTONIC`.
fn booted(node: &Node) -> anyhow::Result<f64> {
    micros(&node.succeed(&["systemctl", "show", "--property=UserspaceTimestampMonotonic"]))
}

fn spec(workspace: &Workspace, config: &str) -> Spec {
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
            workspace.path("systemd/gpushare-mps@.service"),
            "/usr/lib/systemd/system/gpushare-mps@.service",
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
        .with_file("/etc/gpushare/config.toml", config, 0o644)
        .with_file("/etc/systemd/system/gpushare.service.d/gpus.conf", DROP_IN, 0o644)
        .with_file(
            "/etc/systemd/system/gpushare-mps@.service.d/gpus.conf",
            DROP_IN,
            0o644,
        )
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
         \"stdout\"`, MPS off but in the last row, where fake-mps plays NVIDIA's programs. Milliseconds.\n\n| | Median | Least to greatest | Runs |\n|---|---|---|---|\n"
    );
    for (name, values) in [
        ("start of systemd to READY of the agent", &times.boot),
        ("start of the unit to READY, in those boots", &times.start),
        ("`systemctl restart gpushare`", &times.restart),
        (
            "`systemctl reload gpushare` with another `sample.interval`",
            &times.reload,
        ),
        (
            "start of systemd to MPS that is verified on all eight GPUs",
            &times.mps,
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
