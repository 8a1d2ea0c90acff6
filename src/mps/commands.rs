//! `gpushare mps quit` and `gpushare mps restart`: an operator's hand on one GPU's MPS.
//!
//! Both end `gpushare mps run`, which ends the daemon in order; whoever keeps it (systemd, the agent) starts it again
//! after a restart. Nothing here waits without a limit.
//!
//! `quit` is also `ExecStop=` of the unit, which it knows by its own cgroup. systemd calls that as well when the main
//! process has ended by itself and is about to be started again: `$MAINPID` is missing then, and there is nothing to
//! end and nothing to restore.

mod error;

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

pub use error::MpsCommandError;

use super::argument::named;
use super::backend::{Backend, BackendError, Unit};
use super::compute_mode::{self, Driver};
use super::configured;
use super::control::{self, Control, ControlError};
use super::directories::{self, Directories};
use super::protocol::{Client, Report};
use super::quit_mark;
use super::run::{STOP_LIMIT, clear_leftovers, make_place};
use super::supervisor::{Supervisor, own_unit};
use super::units::{Units, unit_name};
use crate::cli::Global;
use crate::commands::{Failure, print};
use crate::config::{Config, MpsBackend};
use crate::gpu::{ComputeMode, GpuUuid};

/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// How long systemd may take to stop the unit (its `TimeoutStopSec=`): `STOP_LIMIT`, and NVML's time to restore the compute
/// mode.
const UNIT_LIMIT: Duration = Duration::from_mins(1);

const _: () = assert!(
    STOP_LIMIT.as_secs() + 2 * KILL_LIMIT.as_secs() + compute_mode::LIMIT.as_secs() < UNIT_LIMIT.as_secs(),
    "systemd would kill ExecStop= before it is through"
);

/// How long a daemon may take to be there again: systemd starts it within a second, the agent within ten, and CUDA's
/// init takes seconds where no persistence daemon runs.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a daemon that nobody supervises waits for its clients.
const QUIT_GRACE: Duration = Duration::from_secs(5);

/// Is there where systemd is the init system (`sd_booted(3)`).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// `gpushare mps quit`. An operator's lasts; the agent's (`by_agent`) and systemd's end the daemon that runs now.
pub fn quit(global: &Global, gpu: &str, by_agent: bool) -> Result<(), Failure> {
    let scene = Scene::of(global, gpu)?;
    if scene.is_exec_stop() && main_pid_is_missing() {
        tracing::debug!(gpu = %scene.gpu, "the main process has ended: nothing to do");
        return Ok(());
    }
    // Before the end, so that the agent does not start at once what it sees ended.
    let stays = !by_agent && !scene.is_exec_stop();
    if stays {
        scene.mark_quit()?;
    }
    let end = scene.end()?;
    if stays {
        // One that was being started again has taken the mark away.
        scene.mark_quit()?;
    }
    let restored = scene.restore()?;
    let mut text = end.in_words(&scene.gpu);
    if let Some(mode) = restored {
        let _ = writeln!(text, "The compute mode is {mode} again.");
    }
    if stays {
        let _ = writeln!(
            text,
            "It stays stopped until the node boots again, or: gpushare mps restart {}",
            scene.gpu
        );
    }
    let _ = print(&text)?;
    Ok(())
}

/// `gpushare mps restart`.
pub fn restart(global: &Global, gpu: &str, force: bool) -> Result<(), Failure> {
    let scene = Scene::of(global, gpu)?;
    let was_quit = scene.unmark_quit()?;
    let Some(before) = scene.supervisor()? else {
        return scene.start_again(was_quit);
    };
    if !force {
        scene.check_clients()?;
    }
    let end = scene.end_supervised(&before)?;
    let now = scene.wait_for_another(before.pid())?;
    let text = end.in_words(&scene.gpu);
    let _ = print(&format!("{text}It answers again: process {now}.\n"))?;
    Ok(())
}

/// One GPU, and what there is to know of its MPS.
struct Scene {
    config: Config,
    gpu: GpuUuid,
    directories: Directories,
    control: Control,
}

impl Scene {
    fn of(global: &Global, argument: &str) -> Result<Self, Failure> {
        let config = configured::load(global)?.config;
        let numbers = config.node.state_dir.join("gpus.json");
        let gpu = named(argument, &numbers).map_err(MpsCommandError::from)?;
        let directories = Directories::of(&config.mps, &gpu).map_err(MpsCommandError::from)?;
        let control = Control::of(&config.mps, &directories);
        Ok(Self {
            config,
            gpu,
            directories,
            control,
        })
    }

    fn supervisor(&self) -> Result<Option<Supervisor>, MpsCommandError> {
        Ok(Supervisor::find(&self.directories.supervisor_lock())?)
    }

    /// Whether systemd has called us to stop the unit.
    fn is_exec_stop(&self) -> bool {
        own_unit() == Some(unit_name(&self.gpu))
    }

    /// Ends whatever runs for the GPU.
    fn end(&self) -> Result<End, MpsCommandError> {
        let supervisor = self.supervisor()?;
        // Ended in another way, systemd would start it again; as it does with one that crashes all the time.
        let is_in_unit = supervisor.as_ref().is_some_and(|found| found.unit().is_some());
        if !self.is_exec_stop() && (is_in_unit || supervisor.is_none() && self.unit_is_alive()) {
            return stop_unit(&self.gpu);
        }
        supervisor.map_or_else(
            || self.end_unsupervised(),
            |supervisor| self.end_supervised(&supervisor),
        )
    }

    fn end_supervised(&self, supervisor: &Supervisor) -> Result<End, MpsCommandError> {
        let end = end(supervisor)?;
        if matches!(end, End::Killed(_)) {
            // The kernel ends the daemon with it, and the servers are nobody's then.
            self.clear_leftovers()?;
        }
        Ok(end)
    }

    /// A daemon that is just being killed does not tell any more whose it was: it gets a moment to be gone.
    fn clear_leftovers(&self) -> Result<(), MpsCommandError> {
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            match clear_leftovers(&self.directories) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(MpsCommandError::Trouble(error)),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Whether systemd keeps a unit for the GPU that has no process now.
    fn unit_is_alive(&self) -> bool {
        if self.config.mps.backend != MpsBackend::Systemd || !Path::new(SYSTEMD_RUNS).is_dir() {
            return false;
        }
        let unit = runtime().map(|runtime| runtime.block_on(Units::new().unit(&self.gpu)));
        matches!(
            unit,
            Ok(Ok(Unit::Starting | Unit::Running { .. } | Unit::Stopping))
        )
    }

    /// A daemon whose supervisor was killed, or one that somebody has started by hand.
    fn end_unsupervised(&self) -> Result<End, MpsCommandError> {
        match self.control.quit(QUIT_GRACE, QUIT_GRACE + control::LIMIT) {
            Ok(()) => Ok(End::Unsupervised),
            // Without the program there is nothing that could run.
            Err(ControlError::NotRunning { .. } | ControlError::Binary { .. }) => Ok(End::NothingRan),
            Err(error) => Err(MpsCommandError::Control(error)),
        }
    }

    fn restore(&self) -> Result<Option<ComputeMode>, MpsCommandError> {
        let driver = Driver::new(&self.config.gpu.nvml_library, &self.gpu);
        driver
            .restore(&self.directories.compute_mode())
            .map_err(|source| MpsCommandError::Restore {
                gpu: self.gpu.clone(),
                source,
            })
    }

    /// What was stopped on purpose is the agent's to start.
    fn start_again(&self, was_quit: bool) -> Result<(), Failure> {
        if !was_quit {
            let gpu = self.gpu.clone();
            return Err(MpsCommandError::NotRunning { gpu }.into());
        }
        let now = self.wait_for_another(0)?;
        let _ = print(&format!("MPS runs on {} again: process {now}.\n", self.gpu))?;
        Ok(())
    }

    /// Whoever keeps the daemon leaves it stopped from now on, also where it has never run.
    fn mark_quit(&self) -> Result<(), MpsCommandError> {
        if !self.directories.daemon.is_dir() {
            make_place(&self.directories, &self.config.mps).map_err(MpsCommandError::Trouble)?;
        }
        quit_mark::set(&self.directories.quit()).map_err(|error| self.unmarked(error))
    }

    /// Whether it was marked.
    fn unmark_quit(&self) -> Result<bool, MpsCommandError> {
        quit_mark::remove(&self.directories.quit()).map_err(|error| self.unmarked(error))
    }

    fn unmarked(&self, source: io::Error) -> MpsCommandError {
        MpsCommandError::Mark {
            mend: directories::mend(&self.directories.daemon, &source),
            source,
        }
    }

    /// Refuses while there are clients, or may be.
    fn check_clients(&self) -> Result<(), MpsCommandError> {
        let gpu = self.gpu.clone();
        match self.control.probe(None, control::LIMIT) {
            Ok(report) => safe_to_end(gpu, &report),
            Err(ControlError::NotRunning { .. }) => Ok(()),
            Err(error) => Err(MpsCommandError::ClientsUnknown {
                gpu,
                why: error.to_string(),
            }),
        }
    }

    /// Waits until another process keeps a daemon that answers, and returns its id.
    fn wait_for_another(&self, before: u32) -> Result<u32, MpsCommandError> {
        let deadline = Instant::now() + START_LIMIT;
        let mut why = None;
        while Instant::now() < deadline {
            let supervisor = self.supervisor()?;
            if let Some(now) = supervisor.map(|now| now.pid()).filter(|now| *now != before) {
                match self.control.probe(None, control::LIMIT) {
                    Ok(_) => return Ok(now),
                    Err(error) => why = Some(error.to_string()),
                }
            }
            std::thread::sleep(PAUSE);
        }
        Err(MpsCommandError::NotBack {
            gpu: self.gpu.clone(),
            why,
        })
    }
}

/// systemd names the main process to `ExecStop=`, while there is one.
fn main_pid_is_missing() -> bool {
    std::env::var_os("MAINPID").is_none_or(|pid| pid.is_empty())
}

/// How MPS ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    NothingRan,
    InOrder(u32),
    Killed(u32),
    UnitStopped(String),
    Unsupervised,
}

impl End {
    fn in_words(&self, gpu: &GpuUuid) -> String {
        match self {
            Self::NothingRan => format!("MPS does not run on {gpu}.\n"),
            Self::InOrder(pid) => format!("MPS has ended on {gpu}, in order: process {pid}.\n"),
            Self::Killed(pid) => {
                format!("MPS has ended on {gpu}: process {pid} did not end in time and was killed.\n")
            }
            Self::UnitStopped(unit) => format!("MPS has ended on {gpu}: {unit} is stopped.\n"),
            Self::Unsupervised => format!("MPS has ended on {gpu}: a daemon that nobody supervised.\n"),
        }
    }
}

fn end(supervisor: &Supervisor) -> Result<End, MpsCommandError> {
    let pid = supervisor.pid();
    supervisor.signal(Signal::TERM)?;
    if supervisor.has_ended(STOP_LIMIT)? {
        return Ok(End::InOrder(pid));
    }
    supervisor.signal(Signal::KILL)?;
    if supervisor.has_ended(KILL_LIMIT)? {
        return Ok(End::Killed(pid));
    }
    Err(MpsCommandError::Stuck { pid })
}

fn stop_unit(gpu: &GpuUuid) -> Result<End, MpsCommandError> {
    let unit = unit_name(gpu);
    let failed = |source: BackendError| MpsCommandError::Unit {
        unit: unit.clone(),
        mend: source.mend.clone(),
        source,
    };
    let no_runtime = |error: io::Error| BackendError {
        what: format!("no runtime: {error}"),
        mend: format!("systemctl stop {unit}"),
    };
    let runtime = runtime().map_err(no_runtime).map_err(failed)?;
    // The timer needs the runtime around it.
    let limited = async { tokio::time::timeout(UNIT_LIMIT, stopped(gpu)).await };
    match runtime.block_on(limited) {
        Ok(Ok(())) => Ok(End::UnitStopped(unit)),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(MpsCommandError::UnitStays { unit }),
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Stops the unit, and waits until its `ExecStop=` is through as well.
async fn stopped(gpu: &GpuUuid) -> Result<(), BackendError> {
    let mut units = Units::new();
    units.stop(gpu).await?;
    while !matches!(units.unit(gpu).await?, Unit::Inactive | Unit::Failed(_)) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn safe_to_end(gpu: GpuUuid, report: &Report) -> Result<(), MpsCommandError> {
    let clients: Vec<String> = report.clients().map(in_words).collect();
    if !clients.is_empty() {
        let clients = clients.join(", ");
        return Err(MpsCommandError::HasClients { gpu, clients });
    }
    if report.not_understood.is_empty() {
        return Ok(());
    }
    // No clients in an answer that is not understood are not known to be none.
    let why = report.not_understood.join("; ");
    Err(MpsCommandError::ClientsUnknown { gpu, why })
}

fn in_words(client: &Client) -> String {
    match (client.pid, &client.command) {
        (0, _) => "one that the daemon cannot see".to_owned(),
        (pid, Some(command)) => format!("{pid} ({command})"),
        (pid, None) => pid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mps::protocol::{Server, ServerStatus};

    fn report(clients: Vec<Client>) -> Report {
        Report {
            servers: vec![Server {
                pid: 7,
                status: ServerStatus::Active,
                clients: Some(clients),
            }],
            ..Report::default()
        }
    }

    #[test]
    fn clients_are_named_before_they_are_lost() {
        assert!(safe_to_end("GPU-1".into(), &report(Vec::new())).is_ok());
        let clients = [(9741, Some("./nbody")), (9742, None), (0, None)].map(|(pid, command)| Client {
            pid,
            command: command.map(str::to_owned),
        });
        let error = safe_to_end("GPU-1".into(), &report(clients.to_vec())).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(": 9741 (./nbody), 9742, one that the daemon cannot see; mend: "),
            "{text}"
        );
        assert!(text.contains("--force"), "{text}");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn m26_an_answer_that_is_not_understood_is_no_proof_that_there_are_no_clients() {
        let report = Report {
            not_understood: vec!["get_client_list 7: Server 7 is <busy>".to_owned()],
            ..report(Vec::new())
        };
        let error = safe_to_end("GPU-1".into(), &report).unwrap_err();
        assert!(matches!(error, MpsCommandError::ClientsUnknown { .. }), "{error}");
        assert!(
            error.to_string().contains("is <busy>; mend: give --force"),
            "{error}"
        );
    }
}
