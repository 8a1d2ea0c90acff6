//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::gpu::ComputeMode;
use crate::log::Format;

/// Shares and shows the GPUs of an EKS node.
#[derive(Debug, Parser)]
#[command(name = "gpushare", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Configuration: the file, then GPUSHARE__SECTION__KEY in the environment, then --set.
Log level: GPUSHARE_LOG (info, debug, info,gpushare::gpu=debug).
Exit codes: 0 ok, 1 failed, 64 usage, 69 unavailable, 78 configuration.";

/// Options that every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Configuration file [default: /etc/gpushare/config.toml, where there is one]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Set one configuration key, such as publish.interval=10s; may be given several times
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Log format [default: journal under systemd, else text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<Format>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent
    Run,
    /// Show what a running agent sees and does
    Status {
        /// Print the whole snapshot as JSON
        #[arg(long)]
        json: bool,
        /// Show it again every second until interrupted
        #[arg(long, conflicts_with = "json")]
        watch: bool,
    },
    /// Check the configuration and this node, and say how to mend what is wrong
    Check {
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the agent take up its configuration as it is now; a wrong one changes nothing
    Reload,
    /// NVIDIA MPS on one GPU
    #[command(subcommand)]
    Mps(MpsCommand),
    /// Read NVML on behalf of the agent (internal)
    #[command(hide = true)]
    Nvml {
        /// The GPU whose compute mode is read or set
        #[arg(long, value_name = "UUID", requires = "compute_mode")]
        gpu: Option<String>,
        /// Set the GPU's compute mode; without a value read it
        #[arg(long, value_name = "MODE", num_args = 0..=1, requires = "gpu")]
        compute_mode: Option<Option<ComputeMode>>,
        /// The NVML library, in place of the configuration's
        #[arg(long, value_name = "PATH", requires = "gpu")]
        library: Option<PathBuf>,
    },
}

/// The commands of MPS.
#[derive(Debug, Subcommand)]
pub enum MpsCommand {
    /// Run a GPU's MPS daemon, until it ends or is told to end
    Run {
        /// The GPU: its UUID, or its number
        gpu: String,
    },
    /// End MPS on a GPU in order, restore its compute mode, and leave it so until it is restarted
    Quit {
        /// The GPU: its UUID, or its number
        gpu: String,
        /// End the daemon that runs now, and leave it to the agent what comes next (internal)
        #[arg(long, hide = true)]
        by_agent: bool,
    },
    /// End MPS on a GPU and wait until it is started again; refused while it has clients
    Restart {
        /// The GPU: its UUID, or its number
        gpu: String,
        /// End its clients with it
        #[arg(long)]
        force: bool,
    },
    /// Become the daemon, and be killed when the parent ends (internal)
    #[command(hide = true)]
    Exec {
        /// The process id of the parent
        #[arg(long)]
        parent: u32,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
}
