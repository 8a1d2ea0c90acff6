//! The commands of the control daemon and what it answers. Pure.

use serde::{Deserialize, Serialize};

/// What one probe saw: everything that one call of the control program can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Every server that the daemon lists. One at most with `-multiuser-server`.
    pub servers: Vec<Server>,
    /// `get_default_active_thread_percentage`; absent where the answer makes no sense.
    pub default_thread_percentage: Option<f64>,
    /// `get_default_device_pinned_mem_limit 0` as it was answered; `Some("")` = no limit, absent = makes no sense.
    pub default_memory_limit: Option<String>,
    /// What was answered and is not understood: an unknown version degrades, it does not fail.
    pub not_understood: Vec<String>,
}

/// An MPS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its process id.
    pub pid: u32,
    /// How it is.
    pub status: ServerStatus,
    /// Its clients.
    pub clients: Vec<Client>,
}

/// `get_server_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// It is creating its context.
    Initializing,
    /// It serves clients.
    Active,
    /// A client's fault has hit every client of it; it takes no new ones.
    Fault,
    /// Listed, and gone when it was asked for.
    Gone,
    /// The daemon cannot tell (driver 535), or says something that is not known.
    Unknown,
}

/// A client of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its process id on the host; 0 where the daemon cannot see it.
    pub pid: u32,
    /// Its command, where `ps` tells.
    pub command: Option<String>,
}
