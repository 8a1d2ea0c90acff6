//! MPS in the demo: played on simulated GPUs, with a few clients; the machine's own on real ones, where that can be.
//!
//! The agent keeps the daemons as on a host without systemd. They outlive it by design, so that the demo quits them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use fake_mps::Running;
use serde::Deserialize;

use super::nvml::Nvml;
use crate::agent::{MpsSettings, PlayedMps, SERVER, in_path, output_within, with_processes};

const CONTROL: &str = "nvidia-cuda-mps-control";
/// `gpushare mps quit` gives a daemon 15 s to end in order, and NVML 30 to restore the compute mode.
const QUIT_LIMIT: Duration = Duration::from_secs(50);
/// `CAP_SYS_ADMIN` of linux/capability.h, without which a driver sets no compute mode.
const CAP_SYS_ADMIN: u64 = 1 << 21;

pub(super) enum Mps {
    /// The test kit's, on simulated GPUs.
    Played(Box<Played>),
    /// The machine's own.
    Real,
    Off {
        reason: &'static str,
    },
}

/// Servers and clients on simulated GPUs.
pub(super) struct Played {
    programs: PlayedMps,
    /// What the GPUs play, and its text with every process in it.
    scenario: PathBuf,
    text: String,
    clients: Vec<Running>,
}

impl Mps {
    /// Played where the GPUs are; else the machine's own if it can be had. A scenario is played without its processes
    /// until there are servers and clients.
    pub(super) fn choose(dir: &Path, nvml: &Nvml) -> anyhow::Result<Self> {
        if let Some(scenario) = nvml.scenario() {
            let text = fs_err::read_to_string(scenario)?;
            fs_err::write(scenario, with_processes(&text, |_, _| None))?;
            return Ok(Self::Played(Box::new(Played {
                programs: PlayedMps::in_dir(&dir.join("mps-programs"))?,
                scenario: scenario.to_owned(),
                text,
                clients: Vec::new(),
            })));
        }
        Ok(if !rustix::process::geteuid().is_root() {
            Self::Off {
                reason: "MPS is off: it needs root.",
            }
        } else if in_path(CONTROL).is_none() {
            Self::Off {
                reason: "MPS is off: this machine has no nvidia-cuda-mps-control.",
            }
        } else {
            Self::Real
        })
    }

    /// The agent's, with its directories in `dir`.
    pub(super) fn settings(&self, dir: &Path) -> Option<MpsSettings> {
        let (control_binary, exclusive_process) = match self {
            Self::Played(played) => (played.programs.control().to_owned(), may_set_modes()),
            // Whoever computes on this machine without MPS is left alone.
            Self::Real => (CONTROL.into(), false),
            Self::Off { .. } => return None,
        };
        Some(MpsSettings {
            dir: dir.join("mps"),
            client_dir: dir.join("clients"),
            control_binary,
            exclusive_process,
        })
    }

    /// Why it is off.
    pub(super) fn title(&self) -> Option<&'static str> {
        match self {
            Self::Off { reason } => Some(reason),
            Self::Played(_) | Self::Real => None,
        }
    }

    /// Lets clients in as soon as MPS is ready on every simulated GPU. `status` is `gpushare status --json`.
    pub(super) fn look(&mut self, status: &str, client_dir: &Path) -> anyhow::Result<()> {
        match self {
            Self::Played(played) if played.clients.is_empty() => played.start_clients(status, client_dir),
            _ => Ok(()),
        }
    }

    /// Ends the clients as programs end that have done their work.
    pub(super) fn end_clients(&mut self) -> anyhow::Result<()> {
        let Self::Played(played) = self else {
            return Ok(());
        };
        for mut client in played.clients.drain(..) {
            client.close_stdin();
            client.wait()?;
        }
        Ok(())
    }
}

impl Played {
    fn start_clients(&mut self, status: &str, client_dir: &Path) -> anyhow::Result<()> {
        let servers = servers(status)?;
        let mut wanted = Vec::new();
        with_processes(&self.text, |gpu, name| {
            wanted.push((gpu.to_owned(), name == SERVER));
            None
        });
        if !wanted.iter().all(|(gpu, _)| servers.contains_key(gpu)) {
            return Ok(());
        }
        for (gpu, _) in wanted.iter().filter(|(_, is_server)| !is_server) {
            self.clients.push(self.programs.client(&client_dir.join(gpu))?);
        }
        let mut clients = self.clients.iter().map(Running::pid);
        let played = with_processes(&self.text, |gpu, name| {
            if name == SERVER {
                servers.get(gpu).copied()
            } else {
                clients.next()
            }
        });
        // Whoever reads it meanwhile reads the old one or the new one.
        let fresh = self.scenario.with_extension("new");
        fs_err::write(&fresh, played)?;
        fs_err::rename(&fresh, &self.scenario)?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Snapshot {
    mps: Part,
}

#[derive(Deserialize)]
struct Part {
    gpus: Vec<Gpu>,
}

#[derive(Deserialize)]
struct Gpu {
    uuid: String,
    state: State,
    server: Option<Server>,
}

#[derive(Deserialize)]
struct State {
    state: String,
}

#[derive(Deserialize)]
struct Server {
    pid: u32,
}

/// The servers of those GPUs whose MPS is ready.
fn servers(status: &str) -> anyhow::Result<BTreeMap<String, u32>> {
    let snapshot: Snapshot =
        serde_json::from_str(status).context("the agent's status has another shape than it should")?;
    let gpus = snapshot.mps.gpus.into_iter();
    let ready = gpus.filter(|gpu| gpu.state.state == "ready");
    Ok(ready
        .filter_map(|gpu| Some((gpu.uuid, gpu.server?.pid)))
        .collect())
}

fn may_set_modes() -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & CAP_SYS_ADMIN != 0)
}

/// `gpushare mps quit` for every GPU that has a directory in `dir`, all at once. `quit` makes the command without the
/// GPU's name.
pub(super) fn quit_all(dir: &Path, quit: impl Fn() -> Command) -> anyhow::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut running = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let mut command = quit();
        command.arg(entry?.file_name());
        running.push(thread::spawn(move || output_within(&mut command, QUIT_LIMIT)));
    }
    for ended in running {
        let output = ended.join().expect("running a command does not panic")?;
        ensure!(
            output.status.success(),
            "gpushare mps quit: {} ({})",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_of_gpus_that_are_ready_get_clients() {
        let status = r#"{"mps": {"gpus": [
            {"uuid": "GPU-a", "state": {"state": "ready"}, "server": {"pid": 7}},
            {"uuid": "GPU-b", "state": {"state": "down", "why": "", "mend": ""}, "server": {"pid": 8}},
            {"uuid": "GPU-c", "state": {"state": "starting"}, "server": null}]}}"#;
        assert_eq!(
            servers(status).unwrap(),
            BTreeMap::from([("GPU-a".to_owned(), 7)])
        );
        assert!(servers("{}").is_err());
    }

    #[test]
    fn a_daemon_that_cannot_be_quit_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let none = || Command::new("false");
        quit_all(&dir.path().join("none"), none).unwrap();
        quit_all(dir.path(), none).unwrap();
        fs_err::create_dir(dir.path().join("GPU-a")).unwrap();
        quit_all(dir.path(), || Command::new("true")).unwrap();
        let error = quit_all(dir.path(), none).unwrap_err().to_string();
        assert!(error.starts_with("gpushare mps quit: exit status: 1"), "{error}");
    }
}
