//! The programs of MPS as the test kit plays them, and the players that a scenario of GPUs names.
//!
//! A scenario's processes have process ids of their own. Beside played servers and clients they would be strangers,
//! whom the agent reports: they get the ids of those who play them, and who is not played yet is left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use fake_mps::{Installed, Running};
use serde::Deserialize;

use super::process::output_within;

/// `gpushare mps quit` gives a daemon 15 s to end in order, and NVML 30 to restore the compute mode.
const QUIT_LIMIT: Duration = Duration::from_secs(50);
/// `CAP_SYS_ADMIN` of linux/capability.h, without which a driver sets no compute mode.
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// The name that a scenario gives to an MPS server.
pub(crate) const SERVER: &str = "nvidia-cuda-mps-server";

/// fake-mps in a directory. Its daemons and servers are killed when this is dropped.
pub(crate) struct PlayedMps {
    installed: Installed,
    control: PathBuf,
}

impl PlayedMps {
    pub(crate) fn in_dir(dir: &Path) -> anyhow::Result<Self> {
        let installed = Installed::in_dir(dir)?;
        let control = wrap(&installed, &dir.join("driver"))?;
        Ok(Self { installed, control })
    }

    /// What `mps.control_binary` is set to.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// How often the control program was asked something, whatever it was.
    pub(crate) fn questions(&self) -> anyhow::Result<usize> {
        Ok(self.installed.uis()?)
    }

    /// Starts a client on what pods see of a daemon, and waits until it has its server.
    pub(crate) fn client(&self, directory: &Path) -> anyhow::Result<Running> {
        let client = Running::start(&mut self.installed.client(directory))?;
        client.wait_for("connected server=")?;
        Ok(client)
    }
}

/// The agent starts the daemon with a clean environment, as a driver's programs want it: these put back what the played
/// ones need.
fn wrap(installed: &Installed, dir: &Path) -> anyhow::Result<PathBuf> {
    fs_err::create_dir_all(dir)?;
    let mut variables = String::new();
    for (name, value) in installed.env().iter().filter(|(name, _)| *name != "PATH") {
        let _ = writeln!(variables, "export {name}={}", quoted(Path::new(value)));
    }
    let control = installed.control_program();
    let name = control.file_name().unwrap_or_default();
    for name in [name, SERVER.as_ref()] {
        let real = quoted(&installed.bin().join(name));
        executable(
            &dir.join(name),
            &format!("#!/bin/sh\n{variables}exec {real} \"$@\"\n"),
        )?;
    }
    Ok(dir.join(name))
}

/// A word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn executable(path: &Path, script: &str) -> io::Result<()> {
    fs_err::write(path, script)?;
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o755))
}

/// The scenario with the process ids that `pid` gives to its processes, by the UUID of the GPU and the name of the
/// process; without those to whom it gives none.
pub(crate) fn with_processes(scenario: &str, mut pid: impl FnMut(&str, &str) -> Option<u32>) -> String {
    let mut gpu = "";
    let kept = scenario.split("\n\n").filter_map(|paragraph| {
        gpu = value(paragraph, "uuid").unwrap_or(gpu);
        if !paragraph.starts_with("[[gpu.process]]") {
            return Some(paragraph.to_owned());
        }
        let (old, name) = (value(paragraph, "pid")?, value(paragraph, "name")?);
        let new = pid(gpu, name)?;
        Some(paragraph.replacen(&format!("pid = {old}"), &format!("pid = {new}"), 1))
    });
    kept.collect::<Vec<_>>().join("\n\n")
}

fn value<'a>(paragraph: &'a str, key: &str) -> Option<&'a str> {
    let line = paragraph
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
    Some(line.trim_matches('"'))
}

/// Whether a driver would let this process set compute modes.
pub(crate) fn may_set_modes() -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & CAP_SYS_ADMIN != 0)
}

/// `gpushare mps quit` for every GPU that has a directory in `dir`, all at once. `quit` makes the command without the
/// GPU's name.
pub(crate) fn quit_all(dir: &Path, quit: impl Fn() -> Command) -> anyhow::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut running = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        // The agent keeps a file there too: the configuration that worked last.
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let mut command = quit();
        command.arg(entry.file_name());
        running.push(thread::spawn(move || output_within(&mut command, QUIT_LIMIT)));
    }
    for ended in running {
        let output = ended.join().expect("running a command does not panic")?;
        ensure!(
            output.status.success(),
            "gpushare mps quit: {} ({})",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[derive(Deserialize)]
struct Snapshot {
    mps: Part,
}

#[derive(Deserialize)]
struct Part {
    gpus: Vec<Gpu>,
}

#[derive(Deserialize)]
struct Gpu {
    uuid: String,
    state: State,
    server: Option<Server>,
}

#[derive(Deserialize)]
struct State {
    state: String,
}

#[derive(Deserialize)]
struct Server {
    pid: u32,
}

/// The servers of those GPUs whose MPS is verified, by UUID; from `gpushare status --json`.
pub(crate) fn verified_servers(status: &str) -> anyhow::Result<BTreeMap<String, u32>> {
    let snapshot: Snapshot =
        serde_json::from_str(status).context("the agent's status has another shape than it should")?;
    let gpus = snapshot.mps.gpus.into_iter();
    let ready = gpus.filter(|gpu| gpu.state.state == "ready");
    Ok(ready
        .filter_map(|gpu| Some((gpu.uuid, gpu.server?.pid)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = "driver = \"1\"\n\n# One.\n[[gpu]]\nuuid = \"GPU-a\"\nname = \"A10G\"\n\n\
        [[gpu.process]]\npid = 7\nname = \"nvidia-cuda-mps-server\"\nmemory_mib = 7\n\n\
        [[gpu.process]]\npid = 8\nname = \"python3\"\n\n[[gpu]]\nuuid = \"GPU-b\"\n\n[[gpu.process]]\npid = 9\nname = \"x\"\n";

    #[test]
    fn processes_get_the_ids_of_their_players_and_the_others_are_left_out() {
        let mut asked = Vec::new();
        let played = with_processes(SCENARIO, |gpu, name| {
            asked.push(format!("{gpu} {name}"));
            (name == SERVER).then_some(4711)
        });
        assert_eq!(
            asked,
            ["GPU-a nvidia-cuda-mps-server", "GPU-a python3", "GPU-b x"]
        );
        let wanted = "[[gpu.process]]\npid = 4711\nname = \"nvidia-cuda-mps-server\"\nmemory_mib = 7\n\n[[gpu]]\nuuid = \"GPU-b\"";
        assert!(played.ends_with(wanted), "{played}");
        assert_eq!(
            with_processes(SCENARIO, |_, name| name.len().try_into().ok()).len(),
            SCENARIO.len() + 1
        );
    }

    #[test]
    fn a_word_of_the_shell_is_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn a_daemon_that_cannot_be_quit_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let none = || Command::new("false");
        quit_all(&dir.path().join("none"), none).unwrap();
        fs_err::write(dir.path().join("gpushare.config.toml"), "").unwrap();
        quit_all(dir.path(), none).unwrap();
        fs_err::create_dir(dir.path().join("GPU-a")).unwrap();
        quit_all(dir.path(), || Command::new("true")).unwrap();
        let error = quit_all(dir.path(), none).unwrap_err().to_string();
        assert!(error.starts_with("gpushare mps quit: exit status: 1"), "{error}");
    }

    #[test]
    fn only_servers_of_gpus_that_are_ready_count() {
        let status = r#"{"mps": {"gpus": [
            {"uuid": "GPU-a", "state": {"state": "ready"}, "server": {"pid": 7}},
            {"uuid": "GPU-b", "state": {"state": "down", "why": "", "mend": ""}, "server": {"pid": 8}},
            {"uuid": "GPU-c", "state": {"state": "starting"}, "server": null}]}}"#;
        assert_eq!(
            verified_servers(status).unwrap(),
            BTreeMap::from([("GPU-a".to_owned(), 7)])
        );
        assert!(verified_servers("{}").is_err());
    }
}
