//! MPS in the demo: played on simulated GPUs, with a few clients; the machine's own on real ones, where that can be.
//!
//! The agent keeps the daemons as on a host without systemd. They outlive it by design, so that the demo quits them.

use std::path::{Path, PathBuf};

use fake_mps::Running;

use super::nvml::Nvml;
use crate::agent::{
    MpsSettings, PlayedMps, SERVER, in_path, may_set_modes, verified_servers, with_processes,
};

const CONTROL: &str = "nvidia-cuda-mps-control";

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
            // A client is to be counted while somebody watches.
            probe_interval: "2s",
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
        let servers = verified_servers(status)?;
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
