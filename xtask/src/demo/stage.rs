//! Everything that the agent of the demo needs, laid out in `target/demo`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

use super::nvml::Nvml;
use crate::agent::{ALL_GROUPS, Agent, Cloud, Launch, Settings, output_within};
use crate::workspace::Workspace;

/// The publish interval of the demo: short, so that a window closes while somebody watches.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Longest path of a Unix socket, less its closing zero.
const MAX_SOCKET_PATH: usize = 107;

pub(super) struct Stage {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) nvml: Nvml,
    pub(super) cloud: Cloud,
    /// Held until the end: two demos would share these files.
    _lock: fs_err::File,
    /// Where the socket is when the checkout's own path is too long for one.
    _socket_dir: Option<tempfile::TempDir>,
}

impl Stage {
    pub(super) fn set(workspace: &Workspace, fake_gpus: bool) -> anyhow::Result<Self> {
        let dir = workspace.target("demo");
        let lock = fs_err::File::create(workspace.target("demo.lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .context("another demo runs in this checkout; stop it first")?;
        if dir.exists() {
            fs_err::remove_dir_all(&dir)?;
        }
        fs_err::create_dir_all(&dir)?;
        let nvml = Nvml::choose(workspace, &dir, fake_gpus)?;
        let cloud = Cloud::start("g5.12xlarge")?;
        let (socket, socket_dir) = socket(&dir)?;
        let settings = Settings {
            dir: &dir,
            socket: &socket,
            instance_type: nvml.instance_type(),
            endpoint_url: &cloud.endpoint_url(),
            sample_interval: "1s",
            publish_interval: &format!("{}s", WINDOW.as_secs()),
            groups: ALL_GROUPS,
            nvml_library: nvml.library(),
        };
        Ok(Self {
            binary: workspace.target("debug/gpushare"),
            config: settings.write()?,
            log: dir.join("agent.log"),
            dir,
            nvml,
            cloud,
            _lock: lock,
            _socket_dir: socket_dir,
        })
    }

    pub(super) fn start(&self) -> anyhow::Result<Agent> {
        Agent::start(Launch {
            binary: &self.binary,
            config: &self.config,
            scenario: self.nvml.scenario(),
            environment: self.cloud.environment(),
            notify_socket: None,
            stdout: Stdio::null(),
            log: fs_err::File::create(&self.log)?.into_parts().0,
            tied: true,
        })
    }

    /// What `gpushare status` prints, or why it does not.
    pub(super) fn status(&self, options: &[&str]) -> Result<String, String> {
        const LIMIT: Duration = Duration::from_secs(2);
        let mut command = Command::new(&self.binary);
        command
            .arg("status")
            .args(options)
            .arg("--config")
            .arg(&self.config);
        let output =
            output_within(&mut command, LIMIT).map_err(|error| format!("gpushare status: {error:#}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("gpushare status: {} ({reason})", output.status))
    }

    /// The last lines of the agent's log, for an error message.
    pub(super) fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

fn socket(dir: &Path) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let socket = dir.join("status.sock");
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((socket, None));
    }
    let short = tempfile::Builder::new()
        .prefix("gpushare-demo-")
        .tempdir()
        .context("make a directory for the socket")?;
    Ok((short.path().join("status.sock"), Some(short)))
}

fn tail(log: &Path) -> String {
    const LINES: usize = 15;
    let text = fs_err::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_replaced() {
        let (plain, kept) = socket(Path::new("/var/tmp/demo")).unwrap();
        assert_eq!(
            (plain.as_path(), kept.is_some()),
            (Path::new("/var/tmp/demo/status.sock"), false)
        );
        let (short, kept) = socket(&Path::new("/var/tmp").join("x".repeat(100))).unwrap();
        assert!(short.as_os_str().len() <= MAX_SOCKET_PATH && kept.is_some());
    }

    #[test]
    fn the_tail_is_the_last_fifteen_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs_err::write(
            &log,
            (1..=20).fold(String::new(), |text, n| format!("{text}{n}\n")),
        )
        .unwrap();
        assert!(tail(&log).starts_with("6\n") && tail(&log).ends_with("\n20"));
        assert!(tail(&dir.path().join("none")).contains("none"));
    }
}
