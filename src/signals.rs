//! The signals that end the agent: SIGTERM, SIGINT, and SIGHUP, for then the terminal is gone.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Absent where it was ignored at the start: `nohup` asks for that.
    hang_up: Option<Signal>,
}

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    pub(crate) fn new() -> io::Result<Self> {
        let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
        let hang_up = if ignores_hang_up(&status) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up,
        })
    }

    /// The name of the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = received(self.hang_up.as_mut()) => "SIGHUP",
        }
    }
}

/// Never, where there is no such signal. Cancel-safe.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether the signals that a process ignores, `SigIgn` in the text of `/proc/self/status`, include SIGHUP.
fn ignores_hang_up(status: &str) -> bool {
    // The lowest bit is signal 1.
    const SIGHUP: u64 = 1;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & SIGHUP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bit_of_the_ignored_signals_is_sighup() {
        for (status, ignores) in [
            ("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n", true),
            ("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", false),
            ("SigIgn:\todd\n", false),
            ("", false),
        ] {
            assert_eq!(ignores_hang_up(status), ignores, "{status}");
        }
    }
}
