//! From the arguments to a daemon that listens.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use fs_err::OpenOptions;
use rustix::fs::Mode;

use super::Options;
use super::daemon::Daemon;
use super::settings::{Settings, limit, percentage, subject};
use crate::calls::{self, Event};
use crate::log::{Log, Speaker};
use crate::pipe_dir::{PipeDir, Refused, make_dir};
use crate::script::{Script, Watched};

/// Marks the process that becomes the daemon of `-d`.
pub(super) const BACKGROUND: &str = "FAKE_MPS_IN_BACKGROUND";
/// What it writes to the process that waits for it.
const LISTENING: u8 = b'k';

pub(super) fn foreground(script: Watched, options: &Options, args: &[String]) -> ExitCode {
    // The real one makes the directory and leaves it empty. The default, which is the system's, is left alone.
    if std::env::var_os("CUDA_MPS_LOG_DIRECTORY").is_some() {
        let _ = make_dir(&log_dir(), 0o700);
    }
    match listen(script, options, args, Log::Stdout) {
        Ok(daemon) => daemon.run(),
        Err(code) => code,
    }
}

/// The first process starts a second one, which is the daemon, and ends when that one listens.
pub(super) fn background(script: Watched, options: &Options, args: &[String]) -> ExitCode {
    if std::env::var_os(BACKGROUND).is_none() {
        return in_background(args).unwrap_or(ExitCode::FAILURE);
    }
    let _ = rustix::process::setsid();
    let daemon = match listen(script, options, args, log_files()) {
        Ok(daemon) => daemon,
        Err(code) => return code,
    };
    let _ = rustix::io::write(rustix::stdio::stdout(), &[LISTENING]);
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    daemon.run()
}

fn in_background(args: &[String]) -> io::Result<ExitCode> {
    let name = std::env::args_os().next().unwrap_or_default();
    let mut daemon = Command::new(std::env::current_exe()?)
        .arg0(name)
        .args(args)
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = [0];
    let heard = daemon
        .stdout
        .as_mut()
        .map_or(Ok(0), |stdout| stdout.read(&mut said))?;
    if heard > 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let code = daemon.wait()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn log_dir() -> PathBuf {
    std::env::var_os("CUDA_MPS_LOG_DIRECTORY").map_or_else(|| "/var/log/nvidia-mps".into(), PathBuf::from)
}

/// The two files of `-d`. A directory that is missing is made, its parents are not.
fn log_files() -> Log {
    let dir = log_dir();
    let open = |name: &str| OpenOptions::new().create(true).append(true).open(dir.join(name));
    let files = make_dir(&dir, 0o700).and_then(|()| Ok((open("control.log")?, open("server.log")?)));
    if let Ok((control, server)) = files {
        return Log::Files { control, server };
    }
    let dir = dir.display();
    stderr(&format!(
        "Warning: Failed writing log files to directory [{dir}]. No logs will be available.\n"
    ));
    Log::Nowhere
}

fn listen(mut script: Watched, options: &Options, args: &[String], mut log: Log) -> Result<Daemon, ExitCode> {
    calls::note(&Event::Control(args.join(" ")));
    let start = script.get().start.clone();
    thread::sleep(start.delay());
    if let Some(code) = start.exit {
        return Err(code.into());
    }
    rustix::process::umask(Mode::empty());
    let dir = PipeDir::from_env();
    let lock = dir.lock().map_err(|refused| refuse(&refused, &dir))?;
    let pid_file = script.get().version.has_pid_file();
    let held = dir
        .hold(lock, pid_file)
        .map_err(|refused| refuse(&refused, &dir))?;
    let mut say = |text: &str| log.write(Speaker::Control, own_pid(), text);
    let path = dir.path().display();
    say(&format!("Starting control daemon using socket {path}/control"));
    say(&format!(
        "To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={path}"
    ));
    if let Some(binary) = script.get().version.binary() {
        say(&format!("CUDA MPS Control binary version: {binary}"));
    }
    let settings = settings(script.get(), &mut say);
    Ok(Daemon::new(script, options, dir, held, log, settings))
}

fn refuse(refused: &Refused, dir: &PipeDir) -> ExitCode {
    match refused {
        Refused::NoAccess => {
            stderr(&format!(
                "Cannot access CUDA_MPS_PIPE_DIRECTORY={}\n",
                dir.path().display()
            ));
        }
        Refused::Running => stderr("An instance of this daemon is already running\n"),
        Refused::Other => {}
    }
    ExitCode::FAILURE
}

/// The defaults of the environment, and then those of the script.
fn settings(script: &Script, say: &mut impl FnMut(&str)) -> Settings {
    let mut settings = Settings::default();
    if let Ok(word) = std::env::var("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") {
        match percentage(&word) {
            Some(value) => settings.percentage = value,
            None => say("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE should be between (0.0, 100.0]"),
        }
    }
    if let Ok(word) = std::env::var("CUDA_MPS_CLIENT_PRIORITY") {
        match word.as_str() {
            "0" => settings.priority = 0,
            "1" => settings.priority = 1,
            _ => say("CUDA_MPS_CLIENT_PRIORITY should be between [0,1]"),
        }
    }
    settings.percentage = script.start.percentage.unwrap_or(settings.percentage);
    for (device, word) in &script.start.pinned_limits {
        if let Ok(subject) = subject(device, script.version) {
            settings.set_limit(subject, limit(word));
        }
    }
    settings
}

pub(super) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn stderr(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
