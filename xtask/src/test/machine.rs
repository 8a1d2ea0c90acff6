//! What this machine has for the tests that need more than cargo, and what is done where it lacks it.
//!
//! Four things are needed by some tests: nodes that boot (root, namespaces, `systemd-nspawn`), packages to install on
//! them (nfpm), what the image is rehearsed with, and NVIDIA's own MPS control daemon (downloads). As root on Debian
//! missing packages are installed. A test whose need cannot be met is left out by name and with the reason; in CI, as
//! root, that is an error.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use e2e::{Cache, IMAGE_TOOLS_VARIABLE, PACKAGES_VARIABLE, REAL_MPS_VARIABLE};

use super::runner;
use crate::workspace::{Workspace, succeed};
use crate::{debian, dist};

/// Tests that need what not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// They boot nodes: all of `tests/e2e/tests/it`.
    Nodes,
    /// They install packages on nodes: `package` and `image` in `tests/e2e/tests/it`.
    Packages,
    /// They mount a disk of their own: `_tmpfs_` stands in their name.
    Disks,
    /// They talk to NVIDIA's MPS, in any package: `real_mps` stands in their module or their name.
    RealMps,
    /// They run packer, or EC2 as moto plays it: `tests/e2e/tests/it/image`.
    Image,
}

impl Group {
    /// These tests in nextest's language.
    pub(super) fn filter(self) -> &'static str {
        match self {
            Self::Nodes => "binary_id(e2e::it)",
            Self::Packages => "binary_id(e2e::it) & test(/^(package|image)::/)",
            Self::Disks => "test(/_tmpfs_/)",
            Self::RealMps => "test(/real_mps/)",
            Self::Image => "binary_id(e2e::it) & test(/^image::/)",
        }
    }

    /// What `cargo test --workspace` is told to list them: arguments for cargo, and for the tests.
    pub(super) fn listed(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Nodes => (&["-p", "e2e", "--test", "it"], &[]),
            Self::Packages => (&["-p", "e2e", "--test", "it"], &["package::", "image::"]),
            Self::Disks => (&["-p", "gpushare", "--tests"], &["_tmpfs_"]),
            Self::RealMps => (&["--workspace", "--lib", "--bins", "--tests"], &["real_mps"]),
            Self::Image => (&["-p", "e2e", "--test", "it"], &["image::"]),
        }
    }

    /// What `cargo test --workspace` is told to leave them out.
    pub(super) fn skipped(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Nodes => (&["--exclude", "e2e"], &[]),
            Self::Packages => (&[], &["--skip", "package::", "--skip", "image::"]),
            Self::Disks => (&[], &["--skip", "_tmpfs_"]),
            Self::RealMps => (&[], &["--skip", "real_mps"]),
            Self::Image => (&[], &["--skip", "image::"]),
        }
    }
}

/// Programs and the packages of Debian that have them.
const PROGRAMS: [debian::Program; 6] = [
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

/// Python, with what makes environments: Debian has that in a package of its own.
const PYTHON: &str = "python3-venv";

/// What the tests get, and which of them are left out.
#[derive(Debug, Default)]
pub(super) struct Machine {
    real_mps: Option<PathBuf>,
    image_tools: Option<PathBuf>,
    packages: Option<PathBuf>,
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
        match cache.prepare() {
            Ok(()) => machine.prepare_packages(workspace)?,
            Err(error) => machine.leave_out(Group::Nodes, error.chain()),
        }
        if let Err(error) = mount_a_disk() {
            machine.leave_out(Group::Disks, format!("no disk can be mounted here: {error:#}"));
        }
        match cache.prepare_real_mps() {
            Ok(mps) => machine.real_mps = Some(mps.control().to_owned()),
            Err(error) => machine.leave_out(Group::RealMps, error.chain()),
        }
        match cache.prepare_image_tools() {
            Ok(tools) => machine.image_tools = Some(tools.folder().to_owned()),
            Err(error) => machine.leave_out(Group::Image, error.chain()),
        }
        machine.refuse_gaps(expects_everything())
    }

    /// Makes the packages that tests install, of the agent that they are built with.
    fn prepare_packages(&mut self, workspace: &Workspace) -> anyhow::Result<()> {
        runner::build(workspace)?;
        let folder = workspace.target("e2e/packages");
        match dist::make_packages_of_tests(workspace, &folder) {
            Ok(()) => self.packages = Some(folder),
            Err(error) => self.leave_out(Group::Packages, format!("there are no packages: {error:#}")),
        }
        Ok(())
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
            .map(|gap| format!(" - ({})", gap.group.filter()));
        wanted.to_owned() + &gaps.collect::<String>()
    }

    /// Tells the tests what was found.
    pub(super) fn tell(&self, command: &mut Command) {
        for (variable, found) in [
            (REAL_MPS_VARIABLE, &self.real_mps),
            (IMAGE_TOOLS_VARIABLE, &self.image_tools),
            (PACKAGES_VARIABLE, &self.packages),
        ] {
            match found {
                Some(path) => command.env(variable, path),
                None => command.env_remove(variable),
            };
        }
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

/// Installs what boots nodes, as root and where there is apt.
fn install(workspace: &Workspace) -> anyhow::Result<()> {
    let keyring = (!Path::new(KEYRING.0).exists()).then_some(KEYRING.1);
    let python = (!makes_environments()).then_some(PYTHON);
    let more: Vec<&str> = keyring.into_iter().chain(python).collect();
    debian::install(workspace, &PROGRAMS, &more).context("for the end-to-end tests")
}

fn makes_environments() -> bool {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import ensurepip, venv"])
        .stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
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
            "all() - (binary_id(e2e::it)) - (test(/real_mps/))"
        );
        assert_eq!(
            machine(&[Group::Packages]).filter(false),
            "all() - (binary_id(e2e::it) & test(/^(package|image)::/))"
        );
        assert_eq!(
            machine(&[Group::Nodes]).filter(true),
            "(package(e2e) | test(/real_mps/)) - (binary_id(e2e::it))"
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
        let variables = |machine: &Machine| {
            let mut command = Command::new("true");
            machine.tell(&mut command);
            [REAL_MPS_VARIABLE, IMAGE_TOOLS_VARIABLE, PACKAGES_VARIABLE].map(|variable| {
                let (_, value) = command.get_envs().find(|(name, _)| *name == variable).unwrap();
                value.map(|value| value.to_str().unwrap().to_owned())
            })
        };
        assert_eq!(variables(&machine(&[Group::RealMps])), [None, None, None]);
        let found = Machine {
            real_mps: Some("/x".into()),
            image_tools: Some("/y".into()),
            packages: Some("/z".into()),
            left_out: Vec::new(),
        };
        assert_eq!(
            variables(&found),
            ["/x", "/y", "/z"].map(|path| Some(path.to_owned()))
        );
    }
}
