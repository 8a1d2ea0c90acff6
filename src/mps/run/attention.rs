//! What `gpushare mps run` waits for: a signal, the end of the daemon, a time.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// The signals, as bytes in a socket.
pub(super) struct Attention {
    socket: UnixStream,
    poke: UnixStream,
    terminate: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    Reload,
    /// The daemon has ended, and nobody has reaped it.
    Gone,
    /// Time is up.
    Time,
}

impl Attention {
    /// From now on SIGHUP is heard. SIGTERM still ends the process by itself: nothing has been started.
    pub(super) fn new() -> io::Result<Self> {
        let (socket, poke) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let attention = Self {
            socket,
            poke,
            terminate: Arc::default(),
            reload: Arc::default(),
        };
        attention.hear(SIGHUP, &attention.reload)?;
        Ok(attention)
    }

    /// From now on SIGTERM and SIGINT are heard, too.
    pub(super) fn hear_the_end(&self) -> io::Result<()> {
        self.hear(SIGTERM, &self.terminate)?;
        self.hear(SIGINT, &self.terminate)
    }

    /// The flag first: whoever is woken looks at it.
    fn hear(&self, signal: i32, raised: &Arc<AtomicBool>) -> io::Result<()> {
        flag::register(signal, Arc::clone(raised))?;
        low_level::pipe::register(signal, self.poke.try_clone()?)?;
        Ok(())
    }

    /// Waits for what comes first. `daemon` is its pidfd.
    pub(super) fn wait(&self, daemon: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<Wake> {
        let mut ends = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(daemon.as_fd(), PollFlags::IN),
        ];
        let limit = limit.map(|limit| Timespec::try_from(limit).expect("a limit of seconds fits"));
        match poll(&mut ends, limit.as_ref()) {
            // The handler has written by then; the flags tell.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let gone = !ends[1].revents().is_empty();
        self.drain()?;
        // The end of the daemon is the end of everything, whatever else there is.
        Ok(if gone {
            Wake::Gone
        } else if self.terminate.swap(false, Ordering::Relaxed) {
            Wake::Terminate
        } else if self.reload.swap(false, Ordering::Relaxed) {
            Wake::Reload
        } else {
            Wake::Time
        })
    }

    /// Waits for the daemon alone. Whether it ended in time.
    pub(super) fn wait_for_the_end(&self, daemon: BorrowedFd<'_>, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait(daemon, Some(left)) {
                Ok(Wake::Gone) => return true,
                Ok(_) if !left.is_zero() => {}
                _ => return false,
            }
        }
    }

    fn drain(&self) -> io::Result<()> {
        let mut bytes = [0; 64];
        loop {
            match (&self.socket).read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
