//! What is measured: the release build on a simulated node, publishing to a simulated CloudWatch.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::agent::{ALL_GROUPS, Cloud, MpsSettings, PlayedMps, Settings, may_set_modes, with_processes};
use crate::workspace::Workspace;

/// A simulated node.
pub(super) struct Node<'a> {
    /// EC2 type, and the name of the scenario in the test kit.
    pub(super) instance_type: &'a str,
    pub(super) sample_interval: &'a str,
    pub(super) publish_interval: &'a str,
    pub(super) groups: &'a [&'a str],
    /// Samples a second in the driver's ring, in place of a driver's usual 6.
    pub(super) ring_hz: Option<u32>,
    /// Whether MPS is on, and nothing on the GPUs but its servers.
    pub(super) mps: bool,
}

impl Node<'_> {
    /// Eight GPUs and the default intervals.
    pub(super) fn large() -> Self {
        Self {
            instance_type: "p5.48xlarge",
            sample_interval: "1s",
            publish_interval: "60s",
            groups: ALL_GROUPS,
            ring_hz: None,
            mps: false,
        }
    }
}

/// What a measured agent is started from.
pub(super) struct Subject {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) scenario: PathBuf,
    pub(super) log: PathBuf,
    /// Dropped before its directory: it kills what runs by its file.
    pub(super) mps: Option<PlayedMps>,
    /// A short directory, for the sockets.
    pub(super) dir: tempfile::TempDir,
    pub(super) cloud: Cloud,
}

impl Subject {
    pub(super) fn set(workspace: &Workspace, node: &Node<'_>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("gpushare-bench-")
            .tempdir()
            .context("make a directory for the agent")?;
        let library = workspace.target("bench/libfake_nvml.so");
        let name = format!("{}.toml", node.instance_type);
        let scenario = dir.path().join(&name);
        let text = fs_err::read_to_string(workspace.path("testkit/scenarios").join(&name))?;
        let kit = dir.path().join("kit");
        let mps = node.mps.then(|| PlayedMps::in_dir(&kit)).transpose()?;
        // The servers' process ids are not known before they are there.
        let text = if node.mps {
            with_processes(&text, |_, _| None)
        } else {
            text
        };
        fs_err::write(&scenario, with_ring(&text, node.ring_hz))?;
        let cloud = Cloud::start(node.instance_type)?;
        let settings = Settings {
            dir: dir.path(),
            socket: &dir.path().join("status.sock"),
            instance_type: None,
            endpoint_url: &cloud.endpoint_url(),
            sample_interval: node.sample_interval,
            publish_interval: node.publish_interval,
            groups: node.groups,
            nvml_library: &library,
            process_interval: "15s",
            mps: mps.as_ref().map(|mps| settings_of(mps, dir.path())),
        };
        let log = workspace.target(format!("bench-{}.log", node.instance_type));
        fs_err::write(&log, "")?;
        Ok(Self {
            binary: workspace.target("bench/gpushare"),
            config: settings.write()?,
            scenario,
            log,
            mps,
            dir,
            cloud,
        })
    }
}

fn settings_of(mps: &PlayedMps, dir: &Path) -> MpsSettings {
    MpsSettings {
        dir: dir.join("mps"),
        client_dir: dir.join("clients"),
        control_binary: mps.control().to_owned(),
        exclusive_process: may_set_modes(),
        probe_interval: "10s",
    }
}

/// The scenario with this ring for each GPU.
fn with_ring(scenario: &str, ring_hz: Option<u32>) -> String {
    let mut text = String::new();
    for line in scenario.lines() {
        let _ = writeln!(text, "{line}");
        if let Some(hz) = ring_hz.filter(|_| line == "[[gpu]]") {
            let _ = writeln!(text, "ring_hz = {hz}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_gets_the_ring_and_no_process_does() {
        let scenario = "[[gpu]]\nuuid = 1\n[[gpu.process]]\npid = 2\n[[gpu]]\n";
        assert_eq!(with_ring(scenario, None), scenario);
        let wanted = "[[gpu]]\nring_hz = 60\nuuid = 1\n[[gpu.process]]\npid = 2\n[[gpu]]\nring_hz = 60\n";
        assert_eq!(with_ring(scenario, Some(60)), wanted);
    }
}
