//! What systemd is told: READY, STATUS, RELOADING, WATCHDOG, STOPPING (`sd_notify(3)`). Without `NOTIFY_SOCKET` nothing
//! happens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// Where systemd listens.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// We work: the agent's sockets are open and its tasks run, the MPS daemon answers.
pub fn ready(status: &str) {
    let news = [NotifyState::Ready, NotifyState::Status(&one_line(status))];
    if notify(&news).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
        // systemd would give up a unit that never got ready: this one message waits, on a thread of its own.
        let message = message(&news);
        let wait = move || send(&message, Patience::Waits);
        if let Err(error) = std::thread::Builder::new().name("ready".into()).spawn(wait) {
            tracing::warn!(%error, "systemd does not read, and will not hear that we are ready");
        }
    }
}

/// The line that `systemctl status` shows.
pub fn status(status: &str) {
    let _ = notify(&[NotifyState::Status(&one_line(status))]);
}

/// The agent is alive.
pub fn watchdog() {
    let _ = notify(&[NotifyState::Watchdog]);
}

/// The agent takes up another configuration; [`ready`] ends that.
pub fn reloading(status: &str) {
    let told = NotifyState::monotonic_usec_now().map(|now| {
        notify(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status(&one_line(status)),
        ])
    });
    if let Err(error) = told {
        tracing::debug!(%error, "systemd is not told of the reload");
    }
}

/// The agent is on its way out.
pub fn stopping(status: &str) {
    let _ = notify(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// How often [`watchdog`] must be called: half of `WatchdogSec=`. `None` when the watchdog is off, as it is with a
/// limit of zero.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let interval = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    interval.filter(|interval| !interval.is_zero())
}

/// A line break would begin another assignment: a library's error text must not be able to.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

/// Whether a message may wait for systemd to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Waits,
    Never,
}

/// Tells systemd, unless its queue is full: while it does not read (it loads its units anew, or hangs), nothing here
/// may hang with it.
fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    let sent = send(&message(states), Patience::Never);
    if let Err(error) = &sent {
        tracing::debug!(%error, "cannot notify systemd");
    }
    sent
}

fn message(states: &[NotifyState<'_>]) -> String {
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn send(message: &str, patience: Patience) -> io::Result<()> {
    match std::env::var_os(SOCKET_VARIABLE) {
        Some(socket) => send_to(&socket, message, patience),
        None => Ok(()),
    }
}

/// `socket` is a path, or `@` and the name of an abstract socket.
fn send_to(socket: &OsStr, message: &str, patience: Patience) -> io::Result<()> {
    let ours = UnixDatagram::unbound()?;
    ours.set_nonblocking(patience == Patience::Never)?;
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => ours.send_to_addr(message.as_bytes(), &SocketAddr::from_abstract_name(name)?)?,
        None => ours.send_to(message.as_bytes(), socket)?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systemd_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        // The kernel queues a few messages (net.unix.max_dgram_qlen), then it refuses or makes wait.
        let refused =
            (0..100_000).find_map(|_| send_to(path.as_os_str(), "WATCHDOG=1", Patience::Never).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1");
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("gpushare-test-{}", std::process::id());
        let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let states = [NotifyState::Ready, NotifyState::Status("well")];
        send_to(
            OsStr::new(&format!("@{name}")),
            &message(&states),
            Patience::Never,
        )
        .unwrap();
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=well");
    }
}
