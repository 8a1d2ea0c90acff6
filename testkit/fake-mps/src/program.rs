//! Which program this is: the name by which it was called, or its first argument where that name says nothing.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::{client, control, server};

/// The control daemon and its command line.
pub const CONTROL: &str = "nvidia-cuda-mps-control";
/// The server, which the daemon looks up in `PATH`.
pub const SERVER: &str = "nvidia-cuda-mps-server";
/// The client.
pub const CLIENT: &str = "fake-mps-client";
/// The moment between the daemon's fork and its `execlp` of the server.
pub(crate) const LAUNCHER: &str = "fake-mps-launcher";

/// sysexits.h: the command was used incorrectly.
const USAGE: u8 = 64;

/// Runs whichever program was asked for.
#[must_use]
pub fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = run(&args) {
        return code;
    }
    // Called by its own name: `fake-mps nvidia-cuda-mps-control -f`.
    if !args.is_empty() {
        args.remove(0);
    }
    run(&args).unwrap_or_else(|| {
        let message = format!("fake-mps: call it {CONTROL}, {SERVER} or {CLIENT}, or name one of them first");
        let _ = writeln!(std::io::stderr(), "{message}");
        ExitCode::from(USAGE)
    })
}

fn run(args: &[OsString]) -> Option<ExitCode> {
    let (name, rest) = args.split_first()?;
    let rest: Vec<String> = rest
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match Path::new(name).file_name()?.to_str()? {
        CONTROL => Some(control::main(&rest)),
        SERVER => Some(server::main(&rest)),
        CLIENT => Some(client::main(&rest)),
        LAUNCHER => Some(control::launch(&rest)),
        _ => None,
    }
}
