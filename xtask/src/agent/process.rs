//! The life of one agent: start, stop, and certainty that nothing of it is left.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::procfs::Process;

/// What the agent promises between SIGTERM and its end, for an endpoint that never answers.
pub(crate) const STOP_BUDGET: Duration = Duration::from_secs(9);
/// When to stop believing in that promise and kill it.
const KILL_AFTER: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(crate) struct Launch<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) config: &'a Path,
    /// What the fake NVML library plays; none with the real one.
    pub(crate) scenario: Option<&'a Path>,
    /// Where it finds its AWS; see [`super::Cloud::environment`].
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Where READY=1 is awaited.
    pub(crate) notify_socket: Option<&'a Path>,
    pub(crate) stdout: Stdio,
    pub(crate) log: File,
    /// End the agent even when this process is killed; costs one more exec at its start.
    pub(crate) tied: bool,
}

/// A running agent, in a process group of its own so that Ctrl-C does not reach it.
pub(crate) struct Agent {
    child: Child,
    process: Process,
    /// Descendants as last seen: once the agent has ended, nothing tells whose they were.
    family: Vec<Process>,
}

/// How an agent ended.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) status: ExitStatus,
    pub(crate) took: Duration,
    /// Processes that the agent left behind, and that were killed here.
    pub(crate) left_behind: usize,
}

impl Agent {
    pub(crate) fn start(launch: Launch<'_>) -> anyhow::Result<Self> {
        let mut command = command(launch.binary, launch.tied);
        command.arg("run").arg("--config").arg(launch.config);
        undisturbed(&mut command);
        command.envs(launch.environment);
        if let Some(scenario) = launch.scenario {
            let since_1970 = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .context("the clock stands before 1970")?;
            command.env("FAKE_NVML_SCENARIO", scenario);
            // One time line for every NVML process of this agent, from now on.
            command.env("FAKE_NVML_EPOCH_MS", since_1970.as_millis().to_string());
        }
        if let Some(socket) = launch.notify_socket {
            command.env("NOTIFY_SOCKET", socket);
        }
        command
            .stdin(Stdio::null())
            .stdout(launch.stdout)
            .stderr(launch.log)
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", launch.binary.display()))?;
        let Some(process) = Process::find(child.id()) else {
            let status = child.wait().context("wait for the agent")?;
            anyhow::bail!("the agent ended at once ({status})");
        };
        Ok(Self {
            child,
            process,
            family: Vec::new(),
        })
    }

    pub(crate) fn process(&self) -> Process {
        self.process
    }

    /// The exit status, if the agent ended by itself. Whoever asks regularly lets its children be known, and so ended.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.remember_family();
        self.child.try_wait().context("ask for the agent's state")
    }

    /// SIGTERM, wait, and look after its descendants.
    pub(crate) fn stop(mut self) -> anyhow::Result<Stopped> {
        self.remember_family();
        let start = Instant::now();
        signal(self.process, Signal::TERM);
        let status = wait_until(&mut self.child, start + KILL_AFTER)?;
        let took = start.elapsed();
        if status.is_none() {
            signal(self.process, Signal::KILL);
        }
        let status = self.child.wait().context("wait for the agent")?;
        Ok(Stopped {
            status,
            took,
            left_behind: kill_all(&self.family),
        })
    }

    /// SIGTERM and wait; what is to outlive the agent is left to whoever ends it.
    pub(crate) fn stop_alone(mut self) -> anyhow::Result<ExitStatus> {
        signal(self.process, Signal::TERM);
        let status = wait_until(&mut self.child, Instant::now() + KILL_AFTER)?;
        self.family.clear();
        status.context("the agent does not end")
    }

    fn remember_family(&mut self) {
        // Added to, not replaced: the agent may end while its children are counted.
        self.family.retain(|process| process.alive());
        let seen = self.process.descendants();
        let new: Vec<Process> = seen
            .into_iter()
            .filter(|process| !self.family.contains(process))
            .collect();
        self.family.extend(new);
    }
}

impl Drop for Agent {
    /// The way out of every error: nobody waits for a good end any more.
    fn drop(&mut self) {
        self.remember_family();
        signal(self.process, Signal::KILL);
        let _ = self.child.wait();
        kill_all(&self.family);
    }
}

fn command(binary: &Path, tied: bool) -> Command {
    let Some(setpriv) = tied.then(|| in_path("setpriv")).flatten() else {
        return Command::new(binary);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "TERM"]).arg(binary);
    command
}

/// The first such file in `PATH`.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Takes away what the caller's environment would change in the agent.
fn undisturbed(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["GPUSHARE__", "FAKE_NVML_", "AWS_"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if ours || text.to_ascii_uppercase().ends_with("_PROXY") {
            command.env_remove(&name);
        }
    }
    command
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID");
}

fn signal(process: Process, signal: Signal) {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| process.alive()) {
        // A process that ended between the look and the call needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// Kills those still alive after a moment's grace; returns how many there were.
fn kill_all(family: &[Process]) -> usize {
    const GRACE: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + GRACE;
    while family.iter().any(|process| process.alive()) && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
    let left: Vec<&Process> = family.iter().filter(|process| process.alive()).collect();
    for process in &left {
        signal(**process, Signal::KILL);
    }
    left.len()
}

fn wait_until(child: &mut Child, deadline: Instant) -> anyhow::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait().context("wait for a child process")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Runs a command that prints at most a pipe's worth (64 KiB) and kills it when it takes longer than `limit`.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let status = wait_until(&mut child, Instant::now() + limit)?;
    if status.is_none() {
        child.kill().context("kill a command that hangs")?;
    }
    let output = child.wait_with_output().context("read the output of a command")?;
    ensure!(status.is_some(), "no answer within {} s", limit.as_secs_f64());
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// An agent of a few lines of shell.
    fn start(script: &str) -> (tempfile::TempDir, Agent) {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("agent");
        fs_err::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs_err::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        let log = tempfile::tempfile().unwrap();
        let launch = Launch {
            binary: &binary,
            config: Path::new("config.toml"),
            scenario: None,
            environment: Vec::new(),
            notify_socket: None,
            stdout: Stdio::null(),
            log,
            tied: false,
        };
        let agent = Agent::start(launch).unwrap();
        (dir, agent)
    }

    fn family(agent: &Agent, size: usize) -> Vec<Process> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while agent.process.descendants().len() < size {
            assert!(
                Instant::now() < deadline,
                "the script has started no {size} children"
            );
            thread::sleep(LOOK_EVERY);
        }
        agent.process.descendants()
    }

    fn gone(process: Process) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while process.alive() {
            assert!(Instant::now() < deadline, "{process:?} is still alive");
            thread::sleep(LOOK_EVERY);
        }
    }

    #[test]
    fn a_stopped_agent_takes_its_left_over_children_with_it() {
        let (_dir, agent) = start("trap 'exit 7' TERM; sleep 600 & sleep 600 & wait");
        let children = family(&agent, 2);
        let stopped = agent.stop().unwrap();
        assert_eq!(stopped.status.code(), Some(7));
        assert_eq!(stopped.left_behind, 2);
        assert!(stopped.took < KILL_AFTER);
        children.into_iter().for_each(gone);
    }

    #[test]
    fn a_dropped_agent_is_gone() {
        let (_dir, agent) = start("trap '' TERM; sleep 600 & wait; sleep 600");
        let mut all = family(&agent, 1);
        all.push(agent.process);
        drop(agent);
        assert!(!all[1].alive());
        gone(all[0]);
    }

    #[test]
    fn an_agent_that_ends_by_itself_is_noticed_and_its_orphans_end() {
        let (_dir, mut agent) = start("sleep 600 & sleep 1; exit 78");
        let deadline = Instant::now() + Duration::from_secs(10);
        let orphan = family(&agent, 1)[0];
        let status = loop {
            if let Some(status) = agent.ended().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline);
            thread::sleep(LOOK_EVERY);
        };
        assert_eq!(status.code(), Some(78));
        drop(agent);
        gone(orphan);
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let mut command = Command::new("sleep");
        let start = Instant::now();
        let error = output_within(command.arg("600"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "no answer within 0.05 s");
        assert!(start.elapsed() < Duration::from_mins(1));
        let output = output_within(Command::new("echo").arg("hi"), Duration::from_secs(10)).unwrap();
        assert_eq!(output.stdout, b"hi\n");
    }
}
