//! The server: listens, gives each connection a thread, ends all of them when dropped.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::door::{Door, Port};
use crate::exchange::Exchange;
use crate::lock;
use crate::response::Response;

/// What a fake does with a request. Runs on the connection's own thread and may block.
pub trait Handler: Send + Sync + 'static {
    /// Answers the request, or leaves it unanswered. An error ends the connection, as does anything left undone.
    fn handle(&self, exchange: &mut Exchange<'_>) -> io::Result<()>;
}

/// Why a fake could not be started.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}; is the port taken?")]
pub struct StartError {
    /// What was asked for.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A running server. Dropping it closes the port, cuts all connections and waits for all threads.
pub struct Server {
    address: SocketAddr,
    door: Arc<Door>,
    keeper: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens; port 0 takes a free one. The port is taken when this returns, and stays so even while the door is shut.
    pub fn start(address: SocketAddr, handler: Arc<dyn Handler>) -> Result<Self, StartError> {
        let failed = |source| StartError { address, source };
        let port = Port::reserve(address).map_err(failed)?;
        let address = port.address();
        let first = port.listen().map_err(failed)?;
        let door = Arc::new(Door::new());
        let guests = Arc::new(Guests {
            handler,
            present: Mutex::default(),
        });
        let keeper = {
            let door = Arc::clone(&door);
            Builder::new()
                .name("http-door".to_owned())
                .spawn(move || keep(&door, &port, first, &guests))
                .map_err(failed)?
        };
        Ok(Self {
            address,
            door,
            keeper: Some(keeper),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Refuses connections in these spans and no others, counted from now; a span without an end lasts until this is
    /// called again. Connections that are open when a span begins are cut.
    pub fn refuse(&self, spans: &[(Duration, Option<Duration>)]) {
        let now = Instant::now();
        let spans = spans
            .iter()
            .map(|(from, to)| (now + *from, to.map(|to| now + to)));
        self.door.shut_during(spans.collect());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.door.end();
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has said so on stderr, and there is nothing left to wait for.
            let _ = keeper.join();
        }
    }
}

/// Opens and shuts the listener as the door wants it, until the end.
fn keep(door: &Door, port: &Port, first: TcpListener, guests: &Arc<Guests>) {
    let mut reception = Some(Reception::open(first, guests));
    while let Some(open) = door.next_move(reception.is_some()) {
        if open {
            // The port is ours already, so a failure is a lack of descriptors and may pass.
            match port.listen() {
                Ok(listener) => reception = Some(Reception::open(listener, guests)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        } else {
            drop(reception.take());
            guests.cut_all();
        }
    }
    drop(reception);
    guests.cut_all();
}

/// An open listener and the thread that accepts on it.
struct Reception {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Reception {
    fn open(listener: TcpListener, guests: &Arc<Guests>) -> Self {
        let listener = Arc::new(listener);
        let (accepting, guests) = (Arc::clone(&listener), Arc::clone(guests));
        let thread = std::thread::spawn(move || {
            loop {
                match accepting.accept() {
                    Ok((stream, _)) => guests.admit(stream),
                    // EINVAL: the listener was shut down.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        // Wakes the accepting thread; the kernel refuses connections from here on.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All open connections.
struct Guests {
    handler: Arc<dyn Handler>,
    present: Mutex<HashMap<u64, (TcpStream, JoinHandle<()>)>>,
}

impl Guests {
    fn admit(self: &Arc<Self>, stream: TcpStream) {
        let Ok(copy) = stream.try_clone() else { return };
        // Answers are written in one piece or on purpose in small ones; neither gains by waiting.
        let _ = stream.set_nodelay(true);
        let mut present = lock(&self.present);
        let number = present.keys().max().map_or(0, |last| last + 1);
        let guests = Arc::clone(self);
        let thread = std::thread::spawn(move || {
            let mut connection = Connection::new(stream);
            // A peer that left or talks nonsense concerns nobody but itself.
            let _ = serve(&mut connection, guests.handler.as_ref());
            drop(connection);
            lock(&guests.present).remove(&number);
        });
        present.insert(number, (copy, thread));
    }

    fn cut_all(&self) {
        let all: Vec<_> = lock(&self.present).drain().map(|(_, guest)| guest).collect();
        for (stream, _) in &all {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for (_, thread) in all {
            let _ = thread.join();
        }
    }
}

fn serve(connection: &mut Connection, handler: &dyn Handler) -> io::Result<()> {
    loop {
        let head = match connection.next_head() {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = Response::with_body(400, "text/plain", format!("not HTTP: {error}\n"));
                return connection.stream.write_all(&refusal.whole(false));
            }
            Err(error) => return Err(error),
        };
        let mut exchange = Exchange::new(connection, head);
        let outcome = handler.handle(&mut exchange);
        if outcome.is_err() || !exchange.may_go_on() {
            exchange.finish();
            return outcome;
        }
    }
}
