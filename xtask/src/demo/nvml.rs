//! Which NVML the demo runs on: the machine's own, or the test kit's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;

use crate::workspace::Workspace;

const LIBRARY: &str = "libnvidia-ml.so.1";
const SCENARIO: &str = "testkit/scenarios/g5.12xlarge.toml";
/// Where drivers put the library when the loader's cache does not know it, containers above all.
const USUAL_DIRS: [&str; 5] = [
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/nvidia/lib64",
    "/usr/lib",
];
/// Either is there once the kernel module is loaded; the library alone drives no GPU.
const DRIVER_FILES: [&str; 2] = ["/dev/nvidiactl", "/proc/driver/nvidia/version"];

pub(super) enum Nvml {
    Real {
        library: PathBuf,
    },
    Fake {
        library: PathBuf,
        scenario: PathBuf,
        reason: &'static str,
    },
}

impl Nvml {
    /// The machine's own if it has one and a driver, unless `fake` is asked for. The scenario is copied to `dir`, where
    /// it can be changed while the demo runs.
    pub(super) fn choose(workspace: &Workspace, dir: &Path, fake: bool) -> anyhow::Result<Self> {
        let library = find(&loader_cache());
        let reason = match library {
            _ if fake => "as asked for with --fake",
            None => "because this machine has no NVIDIA driver library",
            Some(_) if !DRIVER_FILES.iter().any(|file| Path::new(file).exists()) => {
                "because the NVIDIA kernel driver is not loaded here"
            }
            Some(library) => return Ok(Self::Real { library }),
        };
        let library = workspace.target("debug/libfake_nvml.so");
        ensure!(
            library.is_file(),
            "{} was not built: is fake-nvml still a cdylib?",
            library.display()
        );
        let scenario = dir.join("g5.12xlarge.toml");
        // Written, not copied: the fake counts the scenario's time from the file's modification.
        fs_err::write(&scenario, fs_err::read(workspace.path(SCENARIO))?)?;
        Ok(Self::Fake {
            library,
            scenario,
            reason,
        })
    }

    pub(super) fn library(&self) -> &Path {
        match self {
            Self::Real { library } | Self::Fake { library, .. } => library,
        }
    }

    pub(super) fn scenario(&self) -> Option<&Path> {
        match self {
            Self::Real { .. } => None,
            Self::Fake { scenario, .. } => Some(scenario),
        }
    }

    /// The simulated metadata describe a node with four simulated GPUs: a machine with real ones is not called so.
    pub(super) fn instance_type(&self) -> Option<&'static str> {
        match self {
            Self::Real { .. } => Some("this-machine"),
            Self::Fake { .. } => None,
        }
    }

    /// What is real here and what is not.
    pub(super) fn title(&self) -> &'static str {
        match self {
            Self::Real { .. } => {
                "The GPUs of this machine. The instance metadata and CloudWatch are simulated: not AWS."
            }
            Self::Fake { .. } => {
                "Simulated: the 4 GPUs of a g5.12xlarge with MPS, its metadata and CloudWatch. No driver, not AWS."
            }
        }
    }
}

impl fmt::Display for Nvml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real { library } => write!(f, "GPUs through {}", library.display()),
            Self::Fake { scenario, reason, .. } => {
                write!(f, "GPUs from {}, {reason}", scenario.display())
            }
        }
    }
}

/// What `ldconfig -p` prints; empty where there is none.
fn loader_cache() -> String {
    // Not in every user's PATH.
    let programs = ["ldconfig", "/sbin/ldconfig"];
    let run = |program: &str| {
        Command::new(program)
            .arg("-p")
            .stderr(Stdio::null())
            .output()
            .ok()
    };
    let output = programs.into_iter().find_map(run);
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

fn find(cache: &str) -> Option<PathBuf> {
    let usual = USUAL_DIRS.iter().map(|dir| Path::new(dir).join(LIBRARY));
    cached(cache).into_iter().chain(usual).find(|file| file.is_file())
}

/// The library's path in a line such as `libnvidia-ml.so.1 (libc6,x86-64) => /usr/lib64/libnvidia-ml.so.1`; the 32-bit
/// one names no architecture.
fn cached(cache: &str) -> Option<PathBuf> {
    let line = cache
        .lines()
        .find(|line| line.trim_start().starts_with(LIBRARY) && line.contains("64)"))?;
    line.split_once("=> ").map(|(_, path)| PathBuf::from(path.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_64_bit_library_is_taken_from_the_cache() {
        let cache = "3 libs found in cache\n\
            \tlibnvidia-ml.so.1 (libc6) => /usr/lib/libnvidia-ml.so.1\n\
            \tlibnvidia-ml.so.1 (libc6,x86-64) => /usr/lib64/libnvidia-ml.so.1\n";
        assert_eq!(cached(cache), Some(PathBuf::from("/usr/lib64/libnvidia-ml.so.1")));
        let arm = "\tlibnvidia-ml.so.1 (libc6,AArch64) => /usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1\n";
        assert_eq!(
            cached(arm),
            Some(PathBuf::from("/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1"))
        );
        assert_eq!(
            cached("\tlibm.so.6 (libc6,x86-64) => /usr/lib64/libm.so.6\n"),
            None
        );
    }
}
