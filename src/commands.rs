//! What the commands have in common: loading the configuration, exit codes; and `gpushare status`.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use crate::agent::AgentError;
use crate::check::ChecksFailed;
use crate::cli::Global;
use crate::config::{self, Config, ConfigError, Loaded, Sources};
use crate::gpu::nvml::NvmlChildError;
use crate::gpu::nvml::compute_mode::ComputeModeError;
use crate::log;
use crate::mps::commands::MpsCommandError;
use crate::mps::run::{ExecError, RunError};
use crate::reload::ReloadError;
use crate::status::client::{self, ClientError};
use crate::status::text;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The agent could not start, or had to stop.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// There is no status.
    #[error(transparent)]
    Status(#[from] ClientError),
    /// The NVML child.
    #[error(transparent)]
    Nvml(#[from] NvmlChildError),
    /// The compute mode of a GPU.
    #[error(transparent)]
    ComputeMode(#[from] ComputeModeError),
    /// `gpushare mps run` ended.
    #[error(transparent)]
    MpsRun(#[from] RunError),
    /// `gpushare mps exec` did not become the daemon.
    #[error(transparent)]
    MpsExec(#[from] ExecError),
    /// `gpushare mps quit` and `gpushare mps restart`.
    #[error(transparent)]
    Mps(#[from] MpsCommandError),
    /// `gpushare reload`.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// `gpushare check` found something.
    #[error(transparent)]
    Checks(#[from] ChecksFailed),
    /// Standard output takes nothing: the disk behind it is full.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// The process's exit code: 1 failed, 64 usage, 69 unavailable, 78 configuration.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Reload(ReloadError::Refused(_)) => 78,
            Self::Mps(error) => error.exit_code(),
            Self::Status(_) => 69,
            Self::Nvml(NvmlChildError::NotAChild) => 64,
            Self::MpsRun(error) => error.exit_code(),
            Self::MpsExec(error) => error.exit_code(),
            Self::ComputeMode(error) if error.is_unavailable() => 69,
            Self::ComputeMode(_)
            | Self::Nvml(_)
            | Self::Agent(_)
            | Self::Reload(_)
            | Self::Checks(_)
            | Self::Output(_) => 1,
        }
    }
}

/// The effective configuration.
pub fn load_config(global: &Global) -> Result<Config, ConfigError> {
    read_config(global).map(|loaded| loaded.config)
}

/// The same, with the values of its keys.
pub fn read_config(global: &Global) -> Result<Loaded, ConfigError> {
    config::read(&Sources {
        file: global.config.clone(),
        env: Sources::configuring(std::env::vars_os()),
        set: global.set.clone(),
    })
}

/// `gpushare status`: once, as JSON, or again every second until interrupted.
pub fn status(global: &Global, json: bool, watch: bool) -> Result<(), Failure> {
    let config = match load_config(global) {
        Ok(config) => config,
        Err(error) => {
            // An agent goes on with the configuration before, as a rule on the usual socket, and how it is matters now.
            let usual = Config::default().status.socket;
            if let Ok(text) = shown(&usual, json) {
                let _ = print(&text)?;
            }
            return Err(error.into());
        }
    };
    let socket = &config.status.socket;
    if !watch {
        let _ = print(&shown(socket, json)?)?;
        return Ok(());
    }
    loop {
        // An agent that is restarted comes back: until then its absence is what there is to see.
        let text = shown(socket, json).unwrap_or_else(|error| log::chain(&error) + "\n");
        let text = if io::stdout().is_terminal() {
            redrawn(&text)
        } else {
            text
        };
        if print(&text)?.is_break() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn shown(socket: &Path, json: bool) -> Result<String, ClientError> {
    let answer = client::request(socket, "status")?;
    if json {
        return Ok(answer + "\n");
    }
    Ok(text::render(&client::parse(socket, &answer)?))
}

/// Writes to standard output. `Break` when nobody reads it any more, which is no failure: `| head` has seen enough.
pub fn print(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Failure::Output(error)),
    }
}

/// The text over the one before it: cursor home, each line cleared to its end, everything below cleared.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
