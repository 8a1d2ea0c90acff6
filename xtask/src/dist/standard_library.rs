//! Rust's standard library for the architecture that is built for: there, or added by rustup, or Debian's.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::architecture::Architecture;
use super::debian_rust;
use crate::debian;
use crate::workspace::{Workspace, stdout_of};

/// Makes sure that it is there and returns the compiler that has it, where that is not the usual one; the error says
/// what would bring it.
pub(super) fn prepare(workspace: &Workspace, architecture: Architecture) -> anyhow::Result<Option<PathBuf>> {
    if is_there(workspace, architecture)? {
        return Ok(None);
    }
    let triple = architecture.triple();
    println!("adding Rust's standard library for {triple}");
    let added = workspace
        .program("rustup")
        .args(["target", "add", &triple])
        .stdin(Stdio::null())
        .status();
    if is_there(workspace, architecture)? {
        return Ok(None);
    }
    let mut why = match added {
        Ok(status) => format!("`rustup target add {triple}` brought none ({status})"),
        Err(error) => format!("rustup cannot be run ({error})"),
    };
    if debian::has("apt-get") {
        match debian_rust::fetch(workspace, architecture) {
            Ok(compiler) => return Ok(Some(compiler)),
            Err(error) => why = format!("{why}; Debian's cannot be had ({error:#})"),
        }
    }
    bail!(
        "Rust's standard library for {triple} is missing, and {why}: run `rustup target add {triple}` where \
         static.rust-lang.org can be reached, or leave it out: cargo xtask dist --target {}",
        architecture.other().name()
    )
}

fn is_there(workspace: &Workspace, architecture: Architecture) -> anyhow::Result<bool> {
    let mut rustc: Command = workspace.program("rustc");
    rustc.args(["--print", "target-libdir", "--target", &architecture.triple()]);
    let folder = stdout_of(&mut rustc).context("ask rustc where its standard library is")?;
    let Ok(entries) = fs_err::read_dir(folder.trim()) else {
        return Ok(false);
    };
    let mut names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.any(|name| name.to_string_lossy().starts_with("libstd-")))
}
