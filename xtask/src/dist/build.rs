//! The release binary, by cargo-zigbuild: linked against the symbols of glibc 2.34 whatever this machine has.
//!
//! Whatever names a place on this machine is replaced in it, so that the folder of the checkout, of cargo and of the
//! toolchain makes no difference.

use std::path::{Path, PathBuf};

use super::architecture::Architecture;
use crate::python::Tool;
use crate::workspace::{Workspace, stdout_of, succeed};

/// The oldest C library that it runs on: Amazon Linux 2023's.
const GLIBC: &str = "2.34";

/// A folder with sources, and one for what is made of them.
pub(super) struct Place {
    pub(super) sources: PathBuf,
    pub(super) output: PathBuf,
}

/// What is built, and by which compiler where it is not the usual one.
pub(super) struct Target {
    pub(super) architecture: Architecture,
    pub(super) compiler: Option<PathBuf>,
}

/// Builds the agent there and returns its path.
pub(super) fn release(workspace: &Workspace, place: &Place, wanted: &Target) -> anyhow::Result<PathBuf> {
    let zig = Tool::Zig.fetch(workspace)?;
    let cache = place.output.join("cache");
    let triple = wanted.architecture.triple();
    let target = format!("{triple}.{GLIBC}");
    let flags = [
        "zigbuild",
        "--locked",
        "--release",
        "--package=gpushare",
        "--bin=gpushare",
        "--target",
        &target,
    ];
    let mut build = workspace.program(zig.join("bin/cargo-zigbuild"));
    build
        .current_dir(&place.sources)
        .args(flags)
        .arg("--target-dir")
        .arg(&place.output)
        // Whoever calls this may have settings of their own; the release has these alone.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", remapped(&places(workspace, place)?))
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ZIGBUILD_ZIG_PATH", zig.join("ziglang/zig"))
        .env("CARGO_ZIGBUILD_CACHE_DIR", &cache)
        .env("ZIG_GLOBAL_CACHE_DIR", &cache);
    if let Some(compiler) = &wanted.compiler {
        build.env("RUSTC", compiler);
    }
    succeed(&mut build)?;
    Ok(place.output.join(triple).join("release/gpushare"))
}

/// Every place that can stand in a binary, and what stands there instead. Where two fit rustc takes the last.
fn places(workspace: &Workspace, place: &Place) -> anyhow::Result<Vec<(PathBuf, &'static str)>> {
    let sysroot = stdout_of(workspace.program("rustc").args(["--print", "sysroot"]))?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    Ok(vec![
        (cargo_home(), "/cargo"),
        (sources, "/rust"),
        (place.sources.clone(), "/gpushare"),
        (place.output.clone(), "/gpushare/target"),
    ])
}

/// Where cargo unpacks the sources of dependencies.
fn cargo_home() -> PathBuf {
    let chosen = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    chosen.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"))
}

fn remapped(places: &[(PathBuf, &str)]) -> String {
    let flags = places
        .iter()
        .map(|(place, name)| format!("--remap-path-prefix={}={name}", place.display()));
    flags.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_this_machine_gets_a_name() {
        let workspace = Workspace::find().unwrap();
        let place = Place {
            sources: workspace.path(""),
            output: workspace.target("dist/build"),
        };
        let flags = remapped(&places(&workspace, &place).unwrap());
        for name in ["/cargo", "/rust", "/gpushare", "/gpushare/target"] {
            assert!(
                flags.split(' ').any(|flag| flag.ends_with(&format!("={name}"))),
                "{flags}"
            );
        }
        assert_eq!(
            remapped(&[("/a".into(), "/b"), ("/c".into(), "/d")]),
            "--remap-path-prefix=/a=/b --remap-path-prefix=/c=/d"
        );
    }
}
