//! What the fake AWS services of the test kit share: a small HTTP/1.1 server, a schedule of faults, a program frame.
//!
//! A real server crate hides the socket; these fakes need it bare, because what they prove is how a client takes a
//! reset, a trickle, an answer without end or none at all.
//!
//! | part | job |
//! |---|---|
//! | [`server`] | listens, one thread per connection, closes its door for a span; all of it ends when dropped |
//! | [`exchange`] | one request and every way to answer it, decent or not |
//! | [`head`], [`response`] | what comes in before the body, what goes out |
//! | [`schedule`] | which rule of a script is in force for a request; pure |
//! | [`script`] | reads scripts from TOML and reports all their mistakes together |
//! | [`clock`] | a clock that tests can set, and the date formats of HTTP and `SigV4` |
//! | [`program`] | the binary around a fake: `--listen`, `--script`, re-read on change |
//! | `door`, `connection` | when the listener is open; buffered reading of one socket |
//!
//! Invariants: no thread outlives its [`Server`]; nothing waits without being woken by the server's end or by the
//! peer's leaving; a malformed request gets 400 and never a panic.
//! It must not be used for anything but tests and demonstrations: no TLS, no limit on the number of connections.

pub mod clock;
pub mod exchange;
pub mod head;
pub mod program;
pub mod response;
pub mod schedule;
pub mod script;
pub mod server;

mod connection;
mod door;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use clock::Clock;
pub use exchange::{BodyError, Exchange};
pub use head::Head;
pub use response::Response;
pub use schedule::{Rule, Schedule};
pub use script::{Keys, ScriptError};
pub use server::{Handler, Server, StartError};

/// Locks what a panicking test may have left locked: the state behind it is plain data and whole at every instant.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
