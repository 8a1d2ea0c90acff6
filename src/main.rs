//! `gpushare`: parses the command line, runs one command, maps its outcome to an exit code.

use std::process::ExitCode;

use clap::Parser;
use gpushare::cli::{Cli, Command, MpsCommand};
use gpushare::{agent, check, commands, gpu, log, mps, reload};

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistakes; a closed pipe is nobody's.
            let _ = error.print();
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let format = cli.global.log_format.unwrap_or_else(log::Format::detect);
    log::init(format);
    let outcome = match cli.command {
        Command::Run => agent::command(&cli.global),
        Command::Status { json, watch } => commands::status(&cli.global, json, watch),
        Command::Check { json } => check::command(&cli.global, json),
        Command::Reload => reload::command(&cli.global),
        Command::Mps(MpsCommand::Run { gpu }) => mps::run::command(&cli.global, &gpu),
        Command::Mps(MpsCommand::Quit { gpu, by_agent }) => mps::commands::quit(&cli.global, &gpu, by_agent),
        Command::Mps(MpsCommand::Restart { gpu, force }) => mps::commands::restart(&cli.global, &gpu, force),
        Command::Mps(MpsCommand::Exec { parent, program }) => Err(mps::run::exec(parent, &program).into()),
        Command::Nvml {
            gpu: Some(uuid),
            compute_mode,
            library,
        } => gpu::nvml::compute_mode::command(&cli.global, &uuid, compute_mode.flatten(), library),
        Command::Nvml { gpu: None, .. } => gpu::nvml::run().map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log::last_word(format, &failure);
            failure.exit_code().into()
        }
    }
}
