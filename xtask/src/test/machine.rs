//! What this machine has for the tests that need more than cargo, and what is done where it lacks it.
//!
//! Two things are needed by some tests: nodes that boot (root, namespaces, `systemd-nspawn`) and NVIDIA's own MPS
//! control daemon (a download). As root on Debian missing packages are installed. A test whose need cannot be met is
//! left out by name and with the reason; in CI, as root, that is an error.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use e2e::{Cache, REAL_MPS_VARIABLE};

use crate::workspace::{Workspace, succeed};

/// Tests that need what not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// They boot nodes: all of `tests/e2e/tests/it`.
    Nodes,
    /// They mount a disk of their own: `_tmpfs_` stands in their name.
    Disks,
    /// They talk to NVIDIA's MPS, in any package: `real_mps` stands in their module or their name.
    RealMps,
}

impl Group {
    /// These tests in nextest's language.
    pub(super) fn filter(self) -> &'static str {
        match self {
            Self::Nodes => "binary_id(e2e::it)",
            Self::Disks => "test(/_tmpfs_/)",
            Self::RealMps => "test(/real_mps/)",
        }
    }

    /// What `cargo test --workspace` is told to list them: arguments for cargo, and for the tests.
    pub(super) fn listed(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Nodes => (&["-p", "e2e", "--test", "it"], &[]),
            Self::Disks => (&["-p", "gpushare", "--tests"], &["_tmpfs_"]),
            Self::RealMps => (&["--workspace", "--lib", "--bins", "--tests"], &["real_mps"]),
        }
    }

    /// What `cargo test --workspace` is told to leave them out.
    pub(super) fn skipped(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Nodes => (&["--exclude", "e2e"], &[]),
            Self::Disks => (&[], &["--skip", "_tmpfs_"]),
            Self::RealMps => (&[], &["--skip", "real_mps"]),
        }
    }
}

/// Programs and the packages of Debian that have them.
const PROGRAMS: [(&str, &str); 6] = [
    ("systemd-nspawn", "systemd-container"),
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
];
/// Comes with every Debian, and with nothing else.
const KEYRING: (&str, &str) = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "debian-archive-keyring",
);

/// What the tests get, and which of them are left out.
#[derive(Debug, Default)]
pub(super) struct Machine {
    real_mps: Option<PathBuf>,
    left_out: Vec<LeftOut>,
}

/// Tests that cannot run here.
#[derive(Debug)]
pub(super) struct LeftOut {
    /// Which.
    pub(super) group: Group,
    /// Why not, and what would change that.
    pub(super) reason: String,
}

impl Machine {
    /// Fetches and makes whatever the tests need.
    pub(super) fn prepare(workspace: &Workspace) -> anyhow::Result<Self> {
        install(workspace)?;
        let mut machine = Self::default();
        // The cache of the tests is beside this executable, in the same build output.
        let cache = Cache::of_this_build()?;
        if let Err(error) = cache.prepare() {
            machine.leave_out(Group::Nodes, error.chain());
        }
        if let Err(error) = mount_a_disk() {
            machine.leave_out(Group::Disks, format!("no disk can be mounted here: {error:#}"));
        }
        match cache.prepare_real_mps() {
            Ok(mps) => machine.real_mps = Some(mps.control().to_owned()),
            Err(error) => machine.leave_out(Group::RealMps, error.chain()),
        }
        machine.refuse_gaps(expects_everything())
    }

    fn leave_out(&mut self, group: Group, reason: String) {
        self.left_out.push(LeftOut { group, reason });
    }

    fn refuse_gaps(self, everything_is_expected: bool) -> anyhow::Result<Self> {
        if everything_is_expected && let Some(gap) = self.left_out.first() {
            bail!(
                "CI runs every test, and this machine cannot run those of `{}`: {}",
                gap.group.filter(),
                gap.reason
            );
        }
        Ok(self)
    }

    /// The tests that cannot run here.
    pub(super) fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// nextest's filter for the tests that are to run: all of those that can, or the end-to-end tests among them.
    pub(super) fn filter(&self, only_end_to_end: bool) -> String {
        let wanted = if only_end_to_end {
            "(package(e2e) | test(/real_mps/))"
        } else {
            "all()"
        };
        let gaps = self
            .left_out
            .iter()
            .map(|gap| format!(" - {}", gap.group.filter()));
        wanted.to_owned() + &gaps.collect::<String>()
    }

    /// Tells the tests what was found.
    pub(super) fn tell(&self, command: &mut Command) {
        match &self.real_mps {
            Some(path) => command.env(REAL_MPS_VARIABLE, path),
            None => command.env_remove(REAL_MPS_VARIABLE),
        };
    }
}

/// Mounts a disk in memory for a moment, as the tests do that want a full one.
fn mount_a_disk() -> anyhow::Result<()> {
    let place = tempfile::tempdir().context("a directory to mount it on")?;
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(place.path()),
    )?;
    succeed(Command::new("umount").arg(place.path()))
}

/// In CI as root everything can be had, so that a gap is a mistake.
fn expects_everything() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true") && rustix::process::geteuid().is_root()
}

/// Installs what is missing, as root and where there is apt.
fn install(workspace: &Workspace) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() || !has("apt-get") {
        return Ok(());
    }
    let programs = PROGRAMS.iter().filter(|(program, _)| !has(program));
    let mut packages: Vec<&str> = programs.map(|(_, package)| *package).collect();
    if !std::path::Path::new(KEYRING.0).exists() {
        packages.push(KEYRING.1);
    }
    if packages.is_empty() {
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
        .context("install what boots nodes for the end-to-end tests")
}

fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(gaps: &[Group]) -> Machine {
        let mut machine = Machine::default();
        for gap in gaps {
            machine.leave_out(*gap, "no luck".to_owned());
        }
        machine
    }

    #[test]
    fn what_cannot_run_is_taken_out_of_what_is_wanted() {
        assert_eq!(machine(&[]).filter(false), "all()");
        assert_eq!(
            machine(&[Group::Nodes, Group::RealMps]).filter(false),
            "all() - binary_id(e2e::it) - test(/real_mps/)"
        );
        assert_eq!(
            machine(&[Group::Nodes]).filter(true),
            "(package(e2e) | test(/real_mps/)) - binary_id(e2e::it)"
        );
    }

    #[test]
    fn a_gap_is_an_error_where_everything_is_expected_and_only_there() {
        let gap = || machine(&[Group::Nodes]);
        assert!(machine(&[]).refuse_gaps(true).is_ok() && gap().refuse_gaps(false).is_ok());
        let error = gap().refuse_gaps(true).unwrap_err().to_string();
        assert_eq!(
            error,
            "CI runs every test, and this machine cannot run those of `binary_id(e2e::it)`: no luck"
        );
    }

    #[test]
    fn tests_are_told_of_what_was_found_and_of_nothing_else() {
        let variable = |machine: &Machine| {
            let mut command = Command::new("true");
            machine.tell(&mut command);
            let (_, value) = command
                .get_envs()
                .find(|(name, _)| *name == REAL_MPS_VARIABLE)
                .unwrap();
            value.map(std::ffi::OsStr::to_owned)
        };
        assert_eq!(variable(&machine(&[Group::RealMps])), None);
        let found = Machine {
            real_mps: Some("/x".into()),
            left_out: Vec::new(),
        };
        assert_eq!(variable(&found), Some("/x".into()));
    }
}
