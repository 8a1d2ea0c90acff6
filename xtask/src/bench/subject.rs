//! What is measured: the release build on a simulated node, publishing to a simulated CloudWatch.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;

use crate::agent::{Cloud, Settings};
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
}

/// What a measured agent is started from.
pub(super) struct Subject {
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) scenario: PathBuf,
    pub(super) log: PathBuf,
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
            mps: None,
        };
        let log = workspace.target(format!("bench-{}.log", node.instance_type));
        fs_err::write(&log, "")?;
        Ok(Self {
            binary: workspace.target("bench/gpushare"),
            config: settings.write()?,
            scenario,
            log,
            dir,
            cloud,
        })
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
