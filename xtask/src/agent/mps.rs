//! The programs of MPS as the test kit plays them, and the players that a scenario of GPUs names.
//!
//! A scenario's processes have process ids of their own. Beside played servers and clients they would be strangers,
//! whom the agent reports: they get the ids of those who play them, and who is not played yet is left out.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fake_mps::{Installed, Running};

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
}
