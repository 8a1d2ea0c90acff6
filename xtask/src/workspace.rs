//! Where the repository and its build output are, and how cargo is called in it.
//!
//! Every child runs in the repository root, so that the commands work from any directory below it.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// The checkout that this tool was built from.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

impl Workspace {
    /// Asks cargo, which alone knows about `CARGO_TARGET_DIR` and the `build.target-dir` of every config file.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let mut command = Command::new(cargo_path());
        command.args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--manifest-path",
        ]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
        let output = command
            .output()
            .with_context(|| format!("run {}", line(&command)))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{} failed ({}): {stderr}",
            line(&command),
            output.status
        );
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("parse the output of {}", line(&command)))?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
        })
    }

    /// A path in the repository.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A path in the build output.
    pub(crate) fn target(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.target.join(relative)
    }

    /// The folder of a tool in `target/tools`, which `make` fills if there is none yet. It is there whole or not at all.
    pub(crate) fn tool(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let tools = self.target("tools");
        let folder = tools.join(name);
        if folder.exists() {
            return Ok(folder);
        }
        fs_err::create_dir_all(&tools)?;
        let unfinished = tempfile::Builder::new()
            .prefix("unfinished-")
            .tempdir_in(&tools)?;
        make(unfinished.path())?;
        // Another run may have been quicker; its folder is as good.
        let renamed = fs_err::rename(unfinished.path(), &folder);
        if folder.exists() {
            Ok(folder)
        } else {
            renamed.map(|()| folder).map_err(Into::into)
        }
    }

    /// Every file that is in the repository or about to be: tracked, and untracked but not ignored.
    pub(crate) fn files(&self) -> anyhow::Result<Vec<String>> {
        // A container often runs as another user than the checkout's owner, which git refuses without this.
        let args = [
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ];
        let listed = stdout_of(self.program("git").args(args))
            .context("list the repository's files; install git (Debian: apt-get install git)")?;
        let present = |file: &&str| !file.is_empty() && self.path(file).is_file();
        Ok(listed.split('\0').filter(present).map(str::to_owned).collect())
    }

    /// `cargo ARGS…` in the repository root.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.program(cargo_path());
        command.args(args);
        command
    }

    /// Any other program in the repository root.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        // What the cargo that started us says of this package is not for another one: it would build anew whatever
        // looks at such variables, and the next plain cargo again.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(&*name);
            }
        }
        // A CI log keeps escape sequences as noise, and some runners force colours on through the environment.
        if std::env::var_os("CI").is_some() || !std::io::stderr().is_terminal() {
            command
                .env("CARGO_TERM_COLOR", "never")
                .env("NO_COLOR", "1")
                .env_remove("CLICOLOR_FORCE");
        }
        command
    }
}

/// The cargo that started us, so that a `+toolchain` is kept.
fn cargo_path() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs a command with its output on ours; an error names the whole command line.
pub(crate) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("run {}", line(command)))?;
    ensure!(status.success(), "`{}` failed ({status})", line(command));
    Ok(())
}

/// Runs a command and returns its standard output; its standard error stays on ours.
pub(crate) fn stdout_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", line(command)))?;
    ensure!(
        output.status.success(),
        "`{}` failed ({})",
        line(command),
        output.status
    );
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {}", line(command)))
}

/// The command as a person would type it.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_found_and_holds_this_crate() {
        let workspace = Workspace::find().unwrap();
        assert!(workspace.path("xtask/src/workspace.rs").is_file());
        assert!(workspace.target("").is_absolute());
    }

    #[test]
    fn a_failed_command_is_named_in_full() {
        let error = succeed(Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3)");
        let error = stdout_of(&mut Command::new("no-such-program-here")).unwrap_err();
        assert_eq!(error.to_string(), "run no-such-program-here");
    }
}
