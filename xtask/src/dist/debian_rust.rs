//! Debian's own Rust, for a machine whose rustup cannot fetch the standard library of another architecture.
//!
//! `rustc-web` of the security archive is as new as Firefox wants it, and its standard library is there for every
//! architecture of Debian. Nothing is installed: compiler and libraries lie in `target/tools`, and a small script starts
//! the compiler with them. What it builds differs from what the toolchain of `rust-toolchain.toml` builds.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use e2e::Apt;

use super::architecture::Architecture;
use crate::workspace::{Workspace, stdout_of};

const SOURCES: [(&str, &str, &str); 2] = [
    (
        "http://deb.debian.org/debian-security",
        "bookworm-security",
        "main",
    ),
    ("http://deb.debian.org/debian", "bookworm", "main"),
];
/// Whoever links a program has these, and others of them would not fit the machine's programs.
const OF_THE_MACHINE: [&str; 5] = ["libc6", "libcrypt1", "libgcc-s1", "libstdc++6", "gcc-12-base"];

/// A compiler with the standard libraries of this machine and of the other architecture.
pub(super) fn fetch(workspace: &Workspace, architecture: Architecture) -> anyhow::Result<PathBuf> {
    let name = format!("rustc-web-{}", architecture.name());
    let at = workspace.target("tools").join(&name);
    let folder = workspace.tool(&name, |folder| {
        println!("fetching Debian's rustc-web for {}", architecture.name());
        unpack(folder, architecture)
            .map_err(|error| anyhow!(error.chain()))
            .context("fetch rustc-web from deb.debian.org")?;
        let script = folder.join("rustc");
        fs_err::write(&script, starter(&at))?;
        fs_err::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
        Ok(())
    })?;
    let compiler = folder.join("rustc");
    let version = stdout_of(workspace.program(&compiler).arg("--version"))?;
    println!(
        "{} is built by Debian's {}, not by the toolchain of rust-toolchain.toml: the bytes are others",
        architecture.name(),
        version.trim()
    );
    Ok(compiler)
}

fn unpack(folder: &Path, architecture: Architecture) -> Result<(), e2e::Error> {
    let (here, there) = (Architecture::of_this_machine().goarch(), architecture.goarch());
    let apt = Apt::new(&folder.join("apt"), &SOURCES, &[here, there])?;
    let libraries = apt.closure(&format!("libstd-rust-web-dev:{here}"))?;
    let wanted = libraries
        .iter()
        .filter(|name| !OF_THE_MACHINE.contains(&name.as_str()));
    let mut packages: Vec<String> = wanted.map(|name| format!("{name}:{here}")).collect();
    packages.push(format!("rustc-web:{here}"));
    packages.push(format!("libstd-rust-web-dev:{there}"));
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    apt.unpack(&packages, &folder.join("root"))?;
    apt.remove()
}

/// The folder that it will lie in stands in the script.
fn starter(folder: &Path) -> String {
    let root = folder.join("root/usr");
    let libraries = root
        .join("lib")
        .join(format!("{}-linux-gnu", Architecture::of_this_machine().name()));
    format!(
        "#!/bin/sh\nexport LD_LIBRARY_PATH='{}'\nexec '{}' \"$@\"\n",
        libraries.display(),
        root.join("bin/rustc").display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_started_with_its_own_libraries() {
        let script = starter(Path::new("/x"));
        let machine = Architecture::of_this_machine().name();
        let libraries = format!("LD_LIBRARY_PATH='/x/root/usr/lib/{machine}-linux-gnu'");
        assert!(
            script.contains(&libraries) && script.contains("exec '/x/root/usr/bin/rustc' \"$@\""),
            "{script}"
        );
    }
}
