//! When the listener is open, and the port that stays ours while it is not.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, sockopt};

use crate::lock;

/// Pending connections; a burst of a few hundred test clients fits.
const BACKLOG: i32 = 128;

/// From an instant on, and until when if ever.
type Span = (Instant, Option<Instant>);

/// When connections are refused. One thread asks for its next move; the others set the spans.
pub(crate) struct Door {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    shut: Vec<Span>,
    /// What the keeper has done last.
    open: bool,
    ended: bool,
}

impl Door {
    pub(crate) fn new() -> Self {
        let state = State {
            shut: Vec::new(),
            open: true,
            ended: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Replaces the spans and waits until the listener is as they want it now.
    pub(crate) fn shut_during(&self, spans: Vec<Span>) {
        let mut state = lock(&self.state);
        state.shut = spans;
        self.changed.notify_all();
        while !state.ended && state.open != state.wanted(Instant::now()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// Waits until the listener must change: true to open it, false to shut it, `None` at the end.
    pub(crate) fn next_move(&self, open: bool) -> Option<bool> {
        let mut state = lock(&self.state);
        state.open = open;
        loop {
            // Whoever waits for the spans to take effect looks again whenever the keeper has.
            self.changed.notify_all();
            let now = Instant::now();
            if state.ended {
                return None;
            }
            if state.wanted(now) != open {
                return Some(!open);
            }
            state = match state.next_edge(now) {
                Some(edge) => {
                    let waited = self.changed.wait_timeout(state, edge - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl State {
    fn wanted(&self, now: Instant) -> bool {
        let within = |(from, to): &Span| *from <= now && to.is_none_or(|to| now < to);
        !self.shut.iter().any(within)
    }

    fn next_edge(&self, now: Instant) -> Option<Instant> {
        let edges = self.shut.iter().flat_map(|(from, to)| [Some(*from), *to]);
        edges.flatten().filter(|edge| *edge > now).min()
    }
}

/// A bound port. The socket in it never listens, so that the port is refused, yet nobody else's, while the door is shut.
pub(crate) struct Port {
    address: SocketAddr,
    _reserved: OwnedFd,
}

impl Port {
    pub(crate) fn reserve(address: SocketAddr) -> io::Result<Self> {
        let reserved = bound(address)?;
        let address = SocketAddr::try_from(getsockname(&reserved)?)?;
        Ok(Self {
            address,
            _reserved: reserved,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let socket = bound(self.address)?;
        listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    }
}

/// `SO_REUSEADDR` lets two sockets share the port as long as only one of them listens.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket)
}
