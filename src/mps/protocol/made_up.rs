//! Reports for tests, as if a daemon had made them.

use super::{Client, Report, Server, ServerStatus};

/// A daemon with these servers, which limits nobody.
pub(crate) fn report(servers: &[Server]) -> Report {
    Report {
        servers: servers.to_vec(),
        lists_all_servers: true,
        default_thread_percentage: Some(100.0),
        default_memory_limit: Some(String::new()),
        not_understood: Vec::new(),
    }
}

/// A server with clients of these process ids.
pub(crate) fn server(pid: u32, status: ServerStatus, clients: &[u32]) -> Server {
    let client = |pid: &u32| Client {
        pid: *pid,
        command: Some("./train".into()),
    };
    Server {
        pid,
        status,
        clients: Some(clients.iter().map(client).collect()),
    }
}

/// The same, at work.
pub(crate) fn active(pid: u32, clients: &[u32]) -> Server {
    server(pid, ServerStatus::Active, clients)
}
