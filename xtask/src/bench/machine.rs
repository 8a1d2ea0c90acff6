//! The machine on which the figures were taken.

use std::time::SystemTime;

use anyhow::Context;

use crate::workspace::{Workspace, stdout_of};

pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    /// Day of the measurement, UTC.
    pub(super) date: String,
    /// What was measured; "unknown" outside a git checkout.
    pub(super) commit: String,
}

impl Machine {
    pub(super) fn find(workspace: &Workspace) -> anyhow::Result<Self> {
        let uname = rustix::system::uname();
        let cpuinfo = fs_err::read_to_string("/proc/cpuinfo")?;
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Ok(Self {
            // ARM kernels give no model name there.
            cpu: cpu_model(&cpuinfo).unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
            cores: std::thread::available_parallelism()
                .context("count the CPUs")?
                .get(),
            kernel: uname.release().to_string_lossy().into_owned(),
            date: now.split('T').next().unwrap_or(&now).to_owned(),
            commit: commit(workspace),
        })
    }
}

fn commit(workspace: &Workspace) -> String {
    let args = [
        "-c",
        "safe.directory=*",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=10",
    ];
    let described = stdout_of(workspace.program("git").args(args));
    described.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(": ").map(|(_, model)| model.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_model_name_counts() {
        let cpuinfo =
            "processor\t: 0\nmodel name\t: Some CPU @ 2.5GHz\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("Some CPU @ 2.5GHz"));
        assert_eq!(cpu_model("processor : 0\n"), None);
    }

    #[test]
    fn this_machine_has_cores_and_a_date() {
        let machine = Machine::find(&Workspace::find().unwrap()).unwrap();
        assert!(machine.cores >= 1 && !machine.kernel.is_empty() && !machine.cpu.is_empty());
        assert!(!machine.commit.is_empty());
        assert_eq!(machine.date.len(), "2026-01-31".len());
    }
}
