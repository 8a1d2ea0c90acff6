//! What the commands have in common: loading the configuration, exit codes; and `gpushare status`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::agent::AgentError;
use crate::check::ChecksFailed;
use crate::cli::Global;
use crate::config::{self, Config, ConfigError, Sources};
use crate::gpu::nvml::NvmlChildError;
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
    /// `gpushare check` found something.
    #[error(transparent)]
    Checks(#[from] ChecksFailed),
    /// Standard output is closed or full.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// The process's exit code: 1 failed, 64 usage, 69 unavailable, 78 configuration.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Agent(AgentError::NotBuilt) => 78,
            Self::Status(_) => 69,
            Self::Nvml(NvmlChildError::NotAChild) => 64,
            Self::Nvml(_) | Self::Agent(_) | Self::Checks(_) | Self::Output(_) => 1,
        }
    }
}

/// The effective configuration.
pub fn load_config(global: &Global) -> Result<Config, ConfigError> {
    config::load(&Sources {
        file: global.config.clone(),
        env: Sources::configuring(std::env::vars_os()),
        set: global.set.clone(),
    })
}

/// `gpushare status`: once, as JSON, or again every second.
pub fn status(global: &Global, json: bool, watch: bool) -> Result<(), Failure> {
    let config = load_config(global)?;
    let socket = &config.status.socket;
    loop {
        let answer = client::ask(socket)?;
        let text = if json {
            answer + "\n"
        } else {
            text::render(&client::parse(socket, &answer)?)
        };
        // Home, the text, and whatever a longer text before it has left below.
        let text = if watch && io::stdout().is_terminal() {
            redrawn(&text)
        } else {
            text
        };
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(Failure::Output)?;
        if !watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The text over the one before it: cursor home, each line cleared to its end, everything below cleared.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
