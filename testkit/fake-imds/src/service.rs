//! The fake itself: starts, is scripted, is asked what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_stub::program::Service;
use http_stub::{Clock, Rule, Schedule, ScriptError, Server, StartError, lock};

use crate::desk::Desk;
use crate::node::Node;
use crate::request::Request;
use crate::script::Script;
use crate::trouble::Trouble;

/// A running fake. Dropping it closes the port, cuts all connections and ends all threads.
pub struct FakeImds {
    desk: Arc<Desk>,
    server: Server,
}

impl FakeImds {
    /// Starts on a free port of 127.0.0.1 with the default [`Node`].
    pub fn start() -> Result<Self, StartError> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts on this address.
    pub fn start_at(address: SocketAddr) -> Result<Self, StartError> {
        let desk = Arc::new(Desk::default());
        let server = Server::start(address, Arc::clone(&desk) as _)?;
        Ok(Self { desk, server })
    }

    /// What a client takes as `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Changes what is described from the next answer on.
    pub fn change(&self, change: impl FnOnce(&mut Node)) {
        change(&mut lock(&self.desk.node));
    }

    /// Replaces the rules; their times and their seeds' sequences count from now. `[]` makes everything well again.
    pub fn play(&self, rules: impl Into<Vec<Rule<Trouble>>>) {
        *lock(&self.desk.schedule) = Schedule::new(rules.into());
    }

    /// Replaces node, rules and refused spans by those of a script.
    pub fn play_script(&self, script: Script) {
        *lock(&self.desk.node) = script.node;
        self.play(script.rules);
        self.server.refuse(&script.refuse);
    }

    /// Closes the listener and cuts all connections; listens again after this time, or when told to by
    /// [`FakeImds::appear`].
    pub fn vanish(&self, span: Option<Duration>) {
        self.server.refuse(&[(Duration::ZERO, span)]);
    }

    /// Listens again.
    pub fn appear(&self) {
        self.server.refuse(&[]);
    }

    /// Sets the clock by which tokens and credentials end and notices appear.
    pub fn set_clock(&self, clock: Clock) {
        *lock(&self.desk.clock) = clock;
    }

    /// Forgets all tokens, as a restart of the service does: those in use get 401.
    pub fn forget_tokens(&self) {
        lock(&self.desk.tokens).forget();
    }

    /// The log, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.desk.log).clone()
    }
}

impl Service for FakeImds {
    const NAME: &'static str = "fake-imds";

    fn start(address: SocketAddr) -> Result<Self, StartError> {
        Self::start_at(address)
    }

    fn url(&self) -> String {
        self.url()
    }

    fn load(&self, script: &str) -> Result<(), ScriptError> {
        self.play_script(Script::parse(script, self.desk.now())?);
        Ok(())
    }
}
