//! The fake itself: starts, is scripted, is asked what it accepted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_stub::program::Service;
use http_stub::{Clock, ScriptError, Server, StartError};

use crate::attempt::Attempt;
use crate::datum::AcceptedDatum;
use crate::desk::Desk;
use crate::fate::Script;

/// A running fake. Dropping it closes the port, cuts all connections and ends all threads.
pub struct FakeCloudWatch {
    desk: Arc<Desk>,
    server: Server,
}

impl FakeCloudWatch {
    /// Starts on a free port of 127.0.0.1.
    pub fn start() -> Result<Self, StartError> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts on this address.
    pub fn start_at(address: SocketAddr) -> Result<Self, StartError> {
        let desk = Arc::new(Desk::default());
        let server = Server::start(address, Arc::clone(&desk) as _)?;
        Ok(Self { desk, server })
    }

    /// What a client takes as `endpoint_url`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Replaces the script; its times and its seeds' sequences count from now. `[]` makes everything well again.
    pub fn play(&self, script: impl Into<Script>) {
        let script = script.into();
        self.desk.play(script.rules);
        self.server.refuse(&script.refuse);
    }

    /// Closes the listener and cuts all connections at once; listens again after this time.
    pub fn refuse_for(&self, span: Duration) {
        self.server.refuse(&[(Duration::ZERO, Some(span))]);
    }

    /// Sets the clock by which time stamps are judged, arrivals are stamped and the `Date` header is made.
    pub fn set_clock(&self, clock: Clock) {
        self.desk.set_clock(clock);
    }

    /// Whether requests without a `SigV4` signature are refused, which they are from the start. Signatures are never
    /// verified: the fake knows no secret keys.
    pub fn require_signature(&self, required: bool) {
        self.desk.require_signature(required);
    }

    /// Everything accepted and not yet taken, in the order of arrival.
    #[must_use]
    pub fn accepted(&self) -> Vec<AcceptedDatum> {
        self.desk.store.read(|contents| contents.accepted.clone())
    }

    /// The same, and forgets it: what keeps a test of days small.
    #[must_use]
    pub fn take_accepted(&self) -> Vec<AcceptedDatum> {
        self.desk
            .store
            .change(|contents| std::mem::take(&mut contents.accepted))
    }

    /// The log, in the order of arrival.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.desk.store.read(|contents| contents.attempts.clone())
    }

    /// The same, and forgets it.
    #[must_use]
    pub fn take_attempts(&self) -> Vec<Attempt> {
        self.desk
            .store
            .change(|contents| std::mem::take(&mut contents.attempts))
    }

    /// Waits until the condition on the accepted datums and the log holds; false if it did not within the time. Blocks
    /// the thread: where the client runs on the same one, look again and again instead, with an awaited sleep between.
    #[must_use]
    pub fn wait_for(&self, timeout: Duration, holds: impl Fn(&[AcceptedDatum], &[Attempt]) -> bool) -> bool {
        self.desk
            .store
            .wait(timeout, |contents| holds(&contents.accepted, &contents.attempts))
    }
}

impl Service for FakeCloudWatch {
    const NAME: &'static str = "fake-cloudwatch";

    fn start(address: SocketAddr) -> Result<Self, StartError> {
        Self::start_at(address)
    }

    fn url(&self) -> String {
        self.url()
    }

    fn load(&self, script: &str) -> Result<(), ScriptError> {
        self.play(Script::parse(script)?);
        Ok(())
    }
}
