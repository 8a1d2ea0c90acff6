//! For tests: puts the programs in a directory, changes their script, counts their calls, runs them with deadlines.
//!
//! ```no_run
//! let mps = fake_mps::Installed::in_dir("/tmp/stage")?;
//! let pipe = std::path::Path::new("/tmp/stage/pipe");
//! let mut daemon = fake_mps::Running::start(mps.control(pipe).arg("-f"))?;
//! daemon.wait_for("Starting control daemon")?;
//! mps.play("[server]\nfault = \"held\"\n")?;
//! assert_eq!(mps.ask(pipe, "get_server_list\n")?.stdout, "");
//! # Ok::<(), std::io::Error>(())
//! ```

mod locate;
mod running;

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

pub use locate::program_path;
pub use running::{Answer, PATIENCE, Running};

use crate::calls::{self, CALLS, Call, Event};
use crate::program::{CLIENT, CONTROL, SERVER};
use crate::script::{self, SCRIPT};

/// The programs in a directory of their own, with a script and a call log.
///
/// When it is dropped, every daemon and server that was started from it is killed if it still runs.
#[derive(Debug)]
pub struct Installed {
    dir: PathBuf,
}

impl Installed {
    /// Puts the three programs in `dir/bin`, and an empty script beside it. `dir` is made if need be.
    ///
    /// For programs of other users than the test's, the parents of `dir` have to let them through.
    pub fn in_dir(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let installed = Self { dir: dir.into() };
        let bin = installed.bin();
        fs_err::create_dir_all(&bin)?;
        fs_err::set_permissions(&bin, PermissionsExt::from_mode(0o755))?;
        let program = program_path()?;
        for name in [CONTROL, SERVER, CLIENT] {
            put(&program, &bin.join(name))?;
        }
        installed.play("")?;
        // Servers of other users write it too.
        fs_err::write(installed.call_log(), "")?;
        fs_err::set_permissions(installed.call_log(), PermissionsExt::from_mode(0o666))?;
        Ok(installed)
    }

    /// The directory of the programs: what a search path has to begin with.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// `nvidia-cuda-mps-control` as a file.
    #[must_use]
    pub fn control_program(&self) -> PathBuf {
        self.bin().join(CONTROL)
    }

    /// The script's file.
    #[must_use]
    pub fn script(&self) -> PathBuf {
        self.dir.join("mps.toml")
    }

    /// The call log's file.
    #[must_use]
    pub fn call_log(&self) -> PathBuf {
        self.dir.join("mps-calls")
    }

    /// The environment that finds the programs, the script and the call log.
    #[must_use]
    pub fn env(&self) -> [(&'static str, OsString); 3] {
        let mut path = self.bin().into_os_string();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        [
            ("PATH", path),
            (SCRIPT, self.script().into()),
            (CALLS, self.call_log().into()),
        ]
    }

    /// Puts another script in the place of the present one, atomically. Running programs notice within 20 ms.
    ///
    /// A text that is not a script is an error of kind `InvalidInput` that names the key.
    pub fn play(&self, text: &str) -> io::Result<()> {
        let path = self.script();
        script::parse(&path, text).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            io::Error::new(
                ErrorKind::InvalidInput,
                format!("{error}: {}", cause.unwrap_or_default()),
            )
        })?;
        let new = self.dir.join("mps.toml.new");
        fs_err::write(&new, text)?;
        fs_err::set_permissions(&new, PermissionsExt::from_mode(0o644))?;
        fs_err::rename(&new, &path)
    }

    /// All calls so far.
    pub fn calls(&self) -> io::Result<Vec<Call>> {
        calls::read(&self.call_log())
    }

    /// How many command lines were started so far, whatever they asked.
    pub fn uis(&self) -> io::Result<usize> {
        Ok(self
            .calls()?
            .iter()
            .filter(|call| call.event == Event::Ui)
            .count())
    }

    /// A command that runs `nvidia-cuda-mps-control` on this pipe directory; logs go to `log` beside it.
    #[must_use]
    pub fn control(&self, pipe: &Path) -> Command {
        let mut command = self.program(CONTROL, pipe);
        command.env("CUDA_MPS_LOG_DIRECTORY", self.dir.join("log"));
        command
    }

    /// A command that runs `fake-mps-client` on this pipe directory.
    #[must_use]
    pub fn client(&self, pipe: &Path) -> Command {
        self.program(CLIENT, pipe)
    }

    fn program(&self, name: &str, pipe: &Path) -> Command {
        let mut command = Command::new(self.bin().join(name));
        command.envs(self.env()).env("CUDA_MPS_PIPE_DIRECTORY", pipe);
        // Of whoever runs the tests.
        for name in [
            "CUDA_VISIBLE_DEVICES",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Asks the daemon of this pipe directory, one command a line. An answer that does not come is an error of kind
    /// `TimedOut`.
    pub fn ask(&self, pipe: &Path, commands: &str) -> io::Result<Answer> {
        running::ask(&mut self.control(pipe), commands)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // A daemon that is being killed may have started one more server.
        while kill_all(&[self.bin().join(CONTROL), self.bin().join(SERVER)]) > 0 {
            thread::yield_now();
        }
    }
}

/// Kills every process that runs one of these files, and says how many there were.
fn kill_all(programs: &[PathBuf]) -> usize {
    let Ok(processes) = fs_err::read_dir("/proc") else {
        return 0;
    };
    let running = processes.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let exe = fs_err::read_link(entry.path().join("exe")).ok()?;
        programs.contains(&exe).then(|| Pid::from_raw(pid))?
    });
    running
        .filter(|pid| kill_process(*pid, Signal::KILL).is_ok())
        .count()
}

/// A hard link, which is quick; a copy where that is another file system.
fn put(program: &Path, place: &Path) -> io::Result<()> {
    match fs_err::remove_file(place) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs_err::hard_link(program, place).or_else(|_| fs_err::copy(program, place).map(drop))
}
