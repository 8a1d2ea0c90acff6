//! Programs of the operating system: found, or installed as root on Debian.

use anyhow::Context;

use crate::workspace::{Workspace, succeed};

/// A program and the package of Debian that has it.
pub(crate) type Program = (&'static str, &'static str);

/// Installs those that are missing, as root and where there is apt; elsewhere whoever needs one says so.
pub(crate) fn install(workspace: &Workspace, programs: &[Program], more: &[&str]) -> anyhow::Result<()> {
    let missing = programs.iter().filter(|(program, _)| !has(program));
    let packages: Vec<&str> = missing
        .map(|(_, package)| *package)
        .chain(more.iter().copied())
        .collect();
    if packages.is_empty() || !rustix::process::geteuid().is_root() || !has("apt-get") {
        return Ok(());
    }
    println!("installing {}", packages.join(", "));
    let apt = || {
        let mut command = workspace.program("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    succeed(apt().args(["update", "-qq"]))
        .and_then(|()| succeed(apt().args(install).args(&packages)))
        .with_context(|| format!("install {}", packages.join(", ")))
}

/// Whether a program is in the search path of root.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
