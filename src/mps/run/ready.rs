//! From a daemon that was started to one that answers, that pods can see, and whose server is there.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::attention::{Attention, Wake};
use super::drain::Drain;
use super::{RunError, view};
use crate::config::{self, ClientView};
use crate::log::chain;
use crate::mps::Trouble;
use crate::mps::control::{self, Control, ControlError};
use crate::mps::directories::Directories;
use crate::mps::protocol::{Command, Report, ServerStatus};

/// How long a daemon may take to its first answer. It takes 4 ms (measured with 580); 580 and later initialise CUDA
/// first, which takes seconds where no persistence daemon runs.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long is waited for the server that was started ahead, before READY is said without it.
const SERVER_LIMIT: Duration = Duration::from_secs(10);

/// Between the first two questions. Every question costs a process and lines of the daemon's log, so the pauses grow.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Between two questions in the end.
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// The server runs as root for everybody, or for root until another user's client comes.
const ROOT: u32 = 0;

/// The daemon that is being brought up.
pub(super) struct Coming<'a> {
    pub(super) mps: &'a config::Mps,
    pub(super) directories: &'a Directories,
    pub(super) control: &'a Control,
    pub(super) attention: &'a Attention,
    pub(super) drain: &'a Drain,
    /// Its pidfd.
    pub(super) daemon: BorrowedFd<'a>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It answers and can be seen; a line about it.
    Ready(String),
    /// Something else came first.
    Interrupted(Wake),
}

impl Coming<'_> {
    /// All of it, in this order.
    pub(super) fn wait(&self) -> Result<Came, RunError> {
        if let Some(wake) = self.wait_for_an_answer()? {
            return Ok(Came::Interrupted(wake));
        }
        show(self.mps, self.directories)?;
        self.wait_for_the_server()
    }

    fn wait_for_an_answer(&self) -> Result<Option<Wake>, RunError> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(error) = self.control.probe(None, control::LIMIT) else {
                return Ok(None);
            };
            if Instant::now() >= deadline {
                return Err(never_answered(&error));
            }
            if let Some(wake) = self.interrupted(&mut pause)? {
                return Ok(Some(wake));
            }
        }
    }

    fn wait_for_the_server(&self) -> Result<Came, RunError> {
        let start = Command::StartServer { uid: ROOT };
        if let Err(error) = self.control.order(start, control::LIMIT) {
            return Ok(Came::Ready(format!("answers; no server: {}", chain(&error))));
        }
        let deadline = Instant::now() + SERVER_LIMIT;
        let (mut pause, mut server) = (FIRST_PAUSE, None);
        loop {
            let report = self.control.probe(server, control::LIMIT).ok();
            if let Some(state) = report.as_ref().and_then(settled) {
                return Ok(Came::Ready(state));
            }
            server = report.and_then(|report| report.server().map(|server| server.pid));
            if let Some(words) = self.server_failed() {
                return Ok(Came::Ready(format!("answers; its server ended: {words}")));
            }
            if Instant::now() >= deadline {
                return Ok(Came::Ready("answers; its server is not active yet".into()));
            }
            if let Some(wake) = self.interrupted(&mut pause)? {
                return Ok(Came::Interrupted(wake));
            }
        }
    }

    fn server_failed(&self) -> Option<String> {
        let heard = self.drain.heard();
        (heard.servers_ended > 0).then(|| heard.last_words.back().cloned().unwrap_or_default())
    }

    /// The end of the daemon or of us, within the pause. Whoever asks for a reload now gets it: it is all still to come.
    fn interrupted(&self, pause: &mut Duration) -> Result<Option<Wake>, RunError> {
        let wake = self.attention.wait(self.daemon, Some(*pause));
        *pause = (*pause * 2).min(LAST_PAUSE);
        match wake.map_err(RunError::system("wait for the MPS daemon"))? {
            Wake::Time | Wake::Reload => Ok(None),
            wake => Ok(Some(wake)),
        }
    }
}

fn never_answered(error: &ControlError) -> RunError {
    RunError::Failed(Trouble {
        why: format!(
            "the MPS control daemon was started and has not answered within {} s: {}",
            ANSWER_LIMIT.as_secs(),
            chain(error)
        ),
        mend: "it is started again; if that does not help, look at dmesg, and at what it has logged".into(),
    })
}

/// A line about the server, once nothing more is to come.
fn settled(report: &Report) -> Option<String> {
    let server = report.server()?;
    let pid = server.pid;
    match server.status {
        ServerStatus::Active => Some(format!("answers; server {pid} is active")),
        ServerStatus::Unknown => Some(format!("answers; server {pid} is there")),
        ServerStatus::Fault => Some(format!("answers; server {pid} is in state FAULT")),
        ServerStatus::Initializing | ServerStatus::Gone => None,
    }
}

/// Closes the daemon's lock to others, and links into the pods' directory what they may see.
pub(super) fn show(mps: &config::Mps, directories: &Directories) -> Result<(), RunError> {
    // Whoever can open it can keep the next daemon from starting.
    let closed = std::fs::Permissions::from_mode(0o600);
    fs_err::set_permissions(directories.control_lock(), closed)
        .map_err(RunError::system("close the MPS daemon's lock to others"))?;
    match mps.client_view {
        ClientView::Directory => Ok(()),
        ClientView::Links => view::link(directories).map_err(|error| {
            let (why, mend) = (chain(&error), error.mend());
            match error {
                view::ViewError::FileSystems { .. } => RunError::Unavailable(Trouble { why, mend }),
                view::ViewError::Files(_) => RunError::Failed(Trouble { why, mend }),
            }
        }),
    }
}
