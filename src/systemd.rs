//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING (`sd_notify(3)`). Without `NOTIFY_SOCKET` nothing
//! happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Whether a supervisor wants to be told.
#[must_use]
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The agent works: sockets are open, tasks run.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The line that `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&one_line(status))]);
}

/// The agent is alive.
pub fn watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// The agent is on its way out.
pub fn stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// How often [`watchdog`] must be called: half of `WatchdogSec=`. `None` when the watchdog is off.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// A line break would begin another assignment: a library's error text must not be able to.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
