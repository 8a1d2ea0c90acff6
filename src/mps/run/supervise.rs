//! The life of one daemon, from nothing to its end.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use super::attention::{Attention, Wake};
use super::captor;
use super::daemon::{self, Daemon, Launch, Programs};
use super::drain::Drain;
use super::exclusive::Exclusive;
use super::journal::{About, Journal};
use super::ready::{self, Came, Coming};
use super::trouble::{no_multi_user, no_server_program, no_version, stuck, unavailable};
use super::verdict::{self, Wanted};
use super::{RunError, leftovers, lock, place};
use crate::cli::Global;
use crate::commands::Failure;
use crate::config;
use crate::gpu::GpuUuid;
use crate::log::chain;
use crate::mps::compute_mode::Driver;
use crate::mps::configured::{self, Configured, Origin};
use crate::mps::control::{self, Control, ControlError};
use crate::mps::directories::Directories;
use crate::mps::events::Event;
use crate::mps::{Trouble, Warning, argument, call};
use crate::systemd;

/// How long clients are waited for when the daemon is told to leave.
const QUIT_GRACE: Duration = Duration::from_secs(5);

/// How long the daemon may take to leave from then on, before it is killed.
const QUIT_LIMIT: Duration = Duration::from_secs(3);

/// How long the daemon may take to be gone once it was killed.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// How long the rest of the log may take to come, after everything that writes it was killed.
const LOG_LIMIT: Duration = Duration::from_millis(500);

/// How long an end in order takes at the most. SIGTERM is heard between two questions to a daemon that comes up, of which
/// each takes as long as it may, and so does the killing of the one that asks.
pub(crate) const STOP_LIMIT: Duration = control::LIMIT
    .saturating_mul(2)
    .saturating_add(QUIT_GRACE)
    .saturating_add(QUIT_LIMIT)
    .saturating_add(QUIT_LIMIT)
    .saturating_add(KILL_LIMIT)
    .saturating_add(daemon::REAP_LIMIT)
    .saturating_add(LOG_LIMIT)
    .saturating_add(call::KILL_LIMIT.saturating_mul(3));

/// `gpushare mps run`.
pub fn command(global: &Global, gpu: &str) -> Result<(), Failure> {
    let supervisor = Supervisor::new(global, gpu)?;
    let outcome = supervisor.run();
    if let Err(error) = &outcome {
        systemd::status(&chain(error));
    }
    Ok(outcome?)
}

/// Of one GPU.
struct Supervisor {
    global: Global,
    gpu: GpuUuid,
    mps: config::Mps,
    origin: Origin,
    /// `mps.enabled`, and `gpu.enabled`.
    is_on: bool,
    directories: Directories,
    control: Control,
    driver: Driver,
}

impl Supervisor {
    /// Takes from the configuration what it needs; the rest of it must not stay in memory for each GPU.
    fn new(global: &Global, gpu: &str) -> Result<Self, Failure> {
        let Configured { config, origin } = configured::load(global)?;
        let numbers = config.node.state_dir.join("gpus.json");
        let gpu = argument::named(gpu, &numbers).map_err(RunError::from)?;
        let directories = Directories::of(&config.mps, &gpu).map_err(RunError::from)?;
        Ok(Self {
            global: global.clone(),
            control: Control::of(&config.mps, &directories),
            driver: Driver::new(&config.gpu.nvml_library, &gpu),
            gpu,
            is_on: config.mps.enabled && config.gpu.enabled,
            mps: config.mps,
            directories,
            origin,
        })
    }

    fn run(&self) -> Result<(), RunError> {
        place::prepare(&self.directories, &self.mps).map_err(|error| unavailable(&error, error.mend()))?;
        // Early: the default of SIGHUP would end us, and our starter may ask for a reload at any time.
        let attention = Attention::new().map_err(RunError::system("hear signals"))?;
        let lock = lock::take(&self.directories.supervisor_lock());
        let _lock = lock.map_err(|error| unavailable(&error, error.mend()))?;
        self.origin.keep();
        // The agent may be told by its own environment that MPS is off, which its units do not see.
        let is_to_put_back = fs_err::remove_file(self.directories.put_back()).is_ok();
        if !self.is_on || is_to_put_back {
            return Err(RunError::Unavailable(self.leave_as_before()));
        }
        // Whoever starts it does not want it to stay stopped any more.
        let _ = fs_err::remove_file(self.directories.quit());
        let journal = Journal::open(&self.directories.events());
        let pid = std::process::id();
        journal.write(Event::Begun { pid });
        journal.settle(About::Configuration, self.origin.wrong.clone());
        captor::look(Path::new(captor::DEFAULT_PIPE_DIR), &journal);
        let prepared = self.prepare(&journal);
        let started = prepared.and_then(|prepared| self.start(&prepared, &attention, &journal));
        let (daemon, drain) =
            started.inspect_err(|error| journal.write(Event::NotStarted(error.trouble())))?;
        let life = Life {
            supervisor: self,
            attention,
            journal,
            drain,
            daemon,
            resetting: None,
        };
        life.live()
    }

    /// What one has left that was not ended in order: systemd runs `ExecStop=` only for a unit that had come up, and
    /// lets the agent start us where MPS was switched off meanwhile.
    fn leave_as_before(&self) -> Trouble {
        let left = leftovers::clear(&self.directories.daemon, &self.directories.control_lock());
        if let Err(error) = left {
            tracing::warn!(
                error = chain(&error),
                mend = error.mend(),
                "something of MPS is left"
            );
        }
        let off = "MPS is switched off (mps.enabled, gpu.enabled)";
        match self.driver.restore(&self.directories.compute_mode()) {
            Ok(_) => Trouble {
                why: off.into(),
                mend: "nothing; or set both to true".into(),
            },
            Err(error) => Trouble {
                why: format!("{off}; {}", chain(&error)),
                mend: format!(
                    "the agent tries it again every minute; or: nvidia-smi -i {} -c DEFAULT",
                    self.gpu
                ),
            },
        }
    }

    /// Everything that has to be so before the daemon is there.
    fn prepare(&self, journal: &Journal) -> Result<Prepared, RunError> {
        let directories = &self.directories;
        // Not before: its failure is told through the daemon's.
        let view = place::prepare_view(directories, &self.mps);
        view.map_err(|error| unavailable(&error, error.mend()))?;
        let left = leftovers::clear(&directories.daemon, &directories.control_lock());
        for process in left.map_err(|error| unavailable(&error, error.mend()))? {
            tracing::warn!(process, "killed what an earlier gpushare mps run left behind");
        }
        let binary = |error: ControlError| unavailable(&error, error.mend());
        let programs = Programs::find(&self.mps.control_binary).map_err(binary)?;
        if !programs.server {
            journal.warn(no_server_program());
        }
        let version = self.control.version(control::LIMIT).map_err(no_version)?;
        let multi_user = self.mps.multi_user && version.has_multi_user();
        if self.mps.multi_user && !multi_user {
            journal.warn(no_multi_user());
        }
        let odd = place::admit(directories, &self.mps, multi_user);
        for warning in odd.map_err(|error| unavailable(&error, error.mend()))? {
            journal.warn(warning);
        }
        self.exclusive(self.mps.exclusive_process, journal).apply()?;
        Ok(Prepared { programs, multi_user })
    }

    /// What can be changed under a daemon that runs, as it is configured now or, where that is wrong, as it was last.
    fn configured_now(&self, journal: &Journal) -> config::Mps {
        match configured::now(&self.global) {
            Ok(now) => {
                now.origin.keep();
                journal.settle(About::Configuration, None);
                now.config.mps
            }
            Err(error) => {
                journal.settle(About::Configuration, Some(configured::warning(&error)));
                configured::kept().map_or_else(|| self.mps.clone(), |kept| kept.config.mps)
            }
        }
    }

    fn exclusive(&self, wished: bool, journal: &Journal) -> Exclusive {
        Exclusive {
            driver: self.driver.clone(),
            wished,
            kept: self.directories.compute_mode(),
            journal: journal.clone(),
        }
    }

    fn start(
        &self,
        prepared: &Prepared,
        attention: &Attention,
        journal: &Journal,
    ) -> Result<(Daemon, Drain), RunError> {
        daemon::adopt_orphans().map_err(RunError::system("adopt what the MPS daemon leaves behind"))?;
        attention
            .hear_the_end()
            .map_err(RunError::system("hear signals"))?;
        let launch = Launch {
            programs: &prepared.programs,
            directories: &self.directories,
            gpu: &self.gpu,
            multi_user: prepared.multi_user,
        };
        let started = Daemon::start(&launch);
        let (mut daemon, log) = started.map_err(RunError::system("start the MPS control daemon"))?;
        let drain = Drain::start(log, journal.clone());
        // A daemon whose log nobody reads would wedge.
        let drain = drain.inspect_err(|_| daemon.kill());
        let drain = drain.map_err(RunError::system("start a thread"))?;
        tracing::info!(gpu = %self.gpu, pid = daemon.pid(), multi_user = prepared.multi_user, "MPS daemon started");
        journal.write(Event::DaemonStarted {
            pid: daemon.pid(),
            multi_user: prepared.multi_user,
        });
        Ok((daemon, drain))
    }
}

/// What the daemon is started with.
struct Prepared {
    programs: Programs,
    multi_user: bool,
}

/// From the start of the daemon to its end.
struct Life<'a> {
    supervisor: &'a Supervisor,
    attention: Attention,
    journal: Journal,
    drain: Drain,
    daemon: Daemon,
    /// Sets the compute mode again: NVML may hang, and the end of the daemon must be noticed meanwhile.
    resetting: Option<JoinHandle<()>>,
}

impl Life<'_> {
    fn live(mut self) -> Result<(), RunError> {
        let wanted = match self.bring_up() {
            Ok(Came::Ready(line)) => {
                self.say_ready(&line);
                self.watch()
            }
            Ok(Came::Interrupted(Wake::Terminate)) => Ok(self.stop()),
            Ok(Came::Interrupted(_)) => Ok(Wanted::NotReady),
            Err(error) => Err(error),
        };
        let wanted = wanted.inspect_err(|_| self.daemon.kill());
        let verdict = self.bury(*wanted.as_ref().unwrap_or(&Wanted::Yes));
        wanted.and(verdict)
    }

    fn bring_up(&self) -> Result<Came, RunError> {
        let coming = Coming {
            mps: &self.supervisor.mps,
            directories: &self.supervisor.directories,
            control: &self.supervisor.control,
            attention: &self.attention,
            drain: &self.drain,
            daemon: self.daemon.pidfd(),
        };
        let came = coming.wait();
        came.inspect_err(|error| self.journal.write(Event::NotStarted(error.trouble())))
    }

    fn say_ready(&self, line: &str) {
        let pid = self.daemon.pid();
        self.journal.write(Event::DaemonReady { pid });
        tracing::info!(pid, state = line, "MPS daemon ready");
        systemd::ready(&format!("MPS daemon {pid} {line}"));
    }

    /// Until the daemon ends.
    fn watch(&mut self) -> Result<Wanted, RunError> {
        loop {
            let wake = self.attention.wait(self.daemon.pidfd(), Some(captor::INTERVAL));
            match wake.map_err(RunError::system("wait for the MPS daemon"))? {
                Wake::Gone => return Ok(Wanted::No),
                Wake::Terminate => return Ok(self.stop()),
                Wake::Reload => self.reload(),
                Wake::Time => self.look_around(),
            }
        }
    }

    /// What nobody tells us of.
    fn look_around(&self) {
        captor::look(Path::new(captor::DEFAULT_PIPE_DIR), &self.journal);
        if self.journal.is_warned_of(About::Configuration) {
            // It may have been corrected.
            let _ = self.supervisor.configured_now(&self.journal);
        }
    }

    /// Ends the daemon in order, or by force where that does not work. Never by SIGTERM, at which it would leave its
    /// server behind.
    fn stop(&mut self) -> Wanted {
        systemd::stopping("the MPS daemon is told to leave");
        let told = self.supervisor.control.quit(QUIT_GRACE, QUIT_GRACE + QUIT_LIMIT);
        if let Err(error) = &told {
            tracing::warn!(error = %chain(error), "the MPS daemon does not leave in order and is killed");
        }
        let left = told.is_ok() && self.attention.wait_for_the_end(self.daemon.pidfd(), QUIT_LIMIT);
        if !left {
            self.daemon.kill();
        }
        Wanted::Yes
    }

    /// Puts right what others may have changed. Clients notice nothing.
    fn reload(&mut self) {
        tracing::info!("SIGHUP: compute mode and view are set again");
        let supervisor = self.supervisor;
        let mps = supervisor.configured_now(&self.journal);
        let shown = ready::show(&mps, &supervisor.directories).map_err(|error| error.trouble());
        let warning = shown
            .err()
            .map(|Trouble { why, mend }| Warning { what: why, mend });
        self.journal.settle(About::View, warning);
        if self
            .resetting
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        let exclusive = supervisor.exclusive(mps.exclusive_process, &self.journal);
        let set = move || exclusive.apply_again();
        let thread = std::thread::Builder::new().name("compute-mode".into()).spawn(set);
        match thread {
            Ok(thread) => self.resetting = Some(thread),
            Err(error) => tracing::warn!(%error, "the compute mode is not set again: no thread"),
        }
    }

    /// Reaps the daemon and ends everything that it left. Says what the end means.
    fn bury(&mut self, wanted: Wanted) -> Result<(), RunError> {
        // Told or killed by now; one that is stuck in the driver would keep us for ever.
        if !self.attention.wait_for_the_end(self.daemon.pidfd(), KILL_LIMIT) {
            return Err(stuck(self.daemon.pid()));
        }
        let status = self.daemon.wait();
        let status = status.map_err(RunError::system("learn how the MPS daemon ended"))?;
        for process in daemon::end_orphans() {
            let process = leftovers::described(process);
            tracing::error!(
                process,
                "is left of the MPS daemon and survives SIGKILL: it is stuck in the driver"
            );
        }
        if !self.drain.finish(LOG_LIMIT) {
            tracing::warn!("the MPS daemon's log is still held open");
        }
        let verdict = verdict::of(status, wanted, &self.drain.heard(), &self.supervisor.gpu);
        self.journal
            .write(Event::DaemonEnded(verdict::event(status, &verdict)));
        verdict
    }
}
