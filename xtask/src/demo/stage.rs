//! Everything that the agent of the demo needs, laid out in `target/demo`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

use super::mps::Mps;
use super::nvml::Nvml;
use crate::agent::{ALL_GROUPS, Agent, Cloud, Launch, Settings, output_within, quit_all};
use crate::workspace::Workspace;

/// The publish interval of the demo: short, so that a window closes while somebody watches.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Longest path of a Unix socket, less its closing zero.
const MAX_SOCKET_PATH: usize = 107;
/// The longest one that the agent makes, in the directory of its sockets: of an MPS daemon.
const LONGEST_SOCKET: &str = "clients/GPU-00000000-0000-0000-0000-000000000000/control_privileged";

pub(super) struct Stage {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) nvml: Nvml,
    pub(super) cloud: Cloud,
    mps: Mps,
    /// The status socket and the directories of MPS.
    sockets: PathBuf,
    /// Held until the end: two demos would share these files.
    _lock: fs_err::File,
    /// Where the sockets are when the checkout's own path is too long for them.
    _short_dir: Option<tempfile::TempDir>,
}

impl Stage {
    pub(super) fn set(workspace: &Workspace, fake_gpus: bool) -> anyhow::Result<Self> {
        let dir = workspace.target("demo");
        let lock = fs_err::File::create(workspace.target("demo.lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .context("another demo runs in this checkout; stop it first")?;
        let binary = workspace.target("debug/gpushare");
        if dir.exists() {
            // Of a demo that was killed. What it cannot read any more it leaves alone.
            let _ = quit_all(&dir.join("mps"), || quit(&binary, &dir.join("config.toml"), None));
            fs_err::remove_dir_all(&dir)?;
        }
        fs_err::create_dir_all(&dir)?;
        let nvml = Nvml::choose(workspace, &dir, fake_gpus)?;
        let cloud = Cloud::start("g5.12xlarge")?;
        let (sockets, short_dir) = sockets(&dir)?;
        let mps = Mps::choose(&dir, &nvml)?;
        let settings = Settings {
            dir: &dir,
            socket: &sockets.join("status.sock"),
            instance_type: nvml.instance_type(),
            endpoint_url: &cloud.endpoint_url(),
            sample_interval: "1s",
            publish_interval: &format!("{}s", WINDOW.as_secs()),
            groups: ALL_GROUPS,
            nvml_library: nvml.library(),
            process_interval: "5s",
            mps: mps.settings(&sockets),
        };
        Ok(Self {
            binary,
            config: settings.write()?,
            log: dir.join("agent.log"),
            dir,
            nvml,
            cloud,
            mps,
            sockets,
            _lock: lock,
            _short_dir: short_dir,
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

    /// What is real here and what is not.
    pub(super) fn title(&self) -> String {
        let mps = self.mps.title().map(|title| format!(" {title}"));
        format!("{}{}", self.nvml.title(), mps.unwrap_or_default())
    }

    /// Lets MPS have its clients when it is ready for them.
    pub(super) fn look_at_mps(&mut self) -> anyhow::Result<()> {
        let Ok(status) = self.status(&["--json"]) else {
            return Ok(());
        };
        self.mps.look(&status, &self.sockets.join("clients"))
    }

    /// Ends the clients and the daemons, which outlive an agent, in the order in which an operator would.
    pub(super) fn quit_mps(&mut self) -> anyhow::Result<()> {
        self.mps.end_clients()?;
        quit_all(&self.sockets.join("mps"), || {
            quit(&self.binary, &self.config, self.nvml.scenario())
        })
    }

    /// The last lines of the agent's log, for an error message.
    pub(super) fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

fn sockets(dir: &Path) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if dir.join(LONGEST_SOCKET).as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((dir.to_owned(), None));
    }
    let short = tempfile::Builder::new()
        .prefix("gpushare-demo-")
        .tempdir()
        .context("make a directory for the sockets")?;
    Ok((short.path().to_owned(), Some(short)))
}

fn quit(binary: &Path, config: &Path, scenario: Option<&Path>) -> Command {
    let mut command = Command::new(binary);
    command.args(["mps", "quit", "--config"]).arg(config);
    command.envs(scenario.map(|scenario| ("FAKE_NVML_SCENARIO", scenario)));
    command
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
        let (plain, kept) = sockets(Path::new("/var/tmp/demo")).unwrap();
        assert_eq!(
            (plain.as_path(), kept.is_some()),
            (Path::new("/var/tmp/demo"), false)
        );
        let (short, kept) = sockets(&Path::new("/var/tmp").join("x".repeat(40))).unwrap();
        assert!(short.join(LONGEST_SOCKET).as_os_str().len() <= MAX_SOCKET_PATH && kept.is_some());
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
