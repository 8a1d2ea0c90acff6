//! What is decided: a state, and at most one step.

use std::time::Duration;

use crate::mps::MpsState;

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start the daemon's process.
    Start,
    /// Stop it in order.
    Stop,
    /// End it and start it anew.
    Restart,
    /// Let it set the compute mode and the pods' view again.
    Reload,
    /// Give the daemon the defaults of a fresh one.
    RestoreDefaults,
    /// Start a server ahead of the first client.
    StartServer,
    /// Let the server drop these clients.
    Terminate {
        /// The server.
        server: u32,
        /// Its clients.
        clients: Vec<u32>,
    },
    /// End the server, whoever is connected.
    ShutDownServer {
        /// The server.
        server: u32,
    },
}

impl Step {
    /// Whether clients that have connected since the report may lose their work by it.
    pub(super) fn ends_work(&self) -> bool {
        match self {
            Self::Stop | Self::Restart | Self::Terminate { .. } | Self::ShutDownServer { .. } => true,
            Self::Start | Self::Reload | Self::RestoreDefaults | Self::StartServer => false,
        }
    }

    /// The word for it in the status and in logs.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Start => "start the daemon".into(),
            Self::Stop => "stop the daemon".into(),
            Self::Restart => "restart the daemon".into(),
            Self::Reload => "set the compute mode and the pods' view again".into(),
            Self::RestoreDefaults => "restore the daemon's defaults".into(),
            Self::StartServer => "start a server".into(),
            Self::Terminate { server, clients } => {
                format!("let server {server} drop {}", super::server::listed(clients))
            }
            Self::ShutDownServer { server } => format!("shut down server {server}"),
        }
    }
}

/// What to do, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How it is.
    pub state: MpsState,
    /// What to do now, and why.
    pub step: Option<(Step, String)>,
    /// When to probe; absent while there is nothing to probe.
    pub probe_at: Option<Duration>,
}

impl Decision {
    pub(super) fn of(state: MpsState) -> Self {
        Self {
            state,
            step: None,
            probe_at: None,
        }
    }

    pub(super) fn and(self, step: Step, why: impl Into<String>) -> Self {
        Self {
            step: Some((step, why.into())),
            ..self
        }
    }
}
