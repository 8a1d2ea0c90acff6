//! Clients that ask for a server, and those that wait for one.

use std::mem;

use super::daemon::{Daemon, Link};
use crate::wire;

/// Servers that are started again for a waiting client when the first one failed.
const RETRIES: u32 = 5;

/// A client without a server.
#[derive(Debug)]
pub(super) struct Pending {
    link: Link,
    /// What it asks for, to be passed on.
    wish: String,
}

impl Pending {
    fn uid(&self) -> u32 {
        self.link.peer.uid.as_raw()
    }

    fn pid(&self) -> i32 {
        self.link.peer.pid.as_raw_nonzero().get()
    }
}

impl Daemon {
    /// The lines are those of healthy logs: the complaint about credentials precedes every client.
    pub(super) fn admit(&mut self, link: Link, wish: &str) {
        let client = Pending {
            link,
            wish: wish.to_owned(),
        };
        let uid = self.server_uid(client.uid());
        self.log("User did not send valid credentials");
        self.log("Accepting connection...");
        let head = format!("NEW CLIENT {} from user {uid}", client.pid());
        if self.ready_server(uid).is_some() {
            self.log(&format!("{head}: Server already exists"));
        } else {
            self.log(&format!(
                "{head}: Server is not ready, push client to pending list"
            ));
            let _ = wire::send(&client.link.socket, "PENDING");
        }
        self.pending.push(client);
        self.place_pending();
    }

    fn ready_server(&self, uid: u32) -> Option<i32> {
        let ready = self
            .servers
            .iter()
            .find(|server| server.uid == uid && server.is_up() && !server.stopping);
        ready.map(|server| server.pid)
    }

    /// Hands waiting clients to their server, makes room for another user's, or starts one.
    pub(super) fn place_pending(&mut self) {
        for client in mem::take(&mut self.pending) {
            match self.ready_server(self.server_uid(client.uid())) {
                Some(server) => self.hand_over(server, &client),
                None => self.pending.push(client),
            }
        }
        let Some(first) = self.pending.first() else { return };
        let uid = self.server_uid(first.uid());
        if let Some(server) = self.servers.first() {
            let idle = server.uid != uid && server.clients.is_empty() && server.is_up();
            if idle && !server.stopping {
                self.stop(server.pid, false);
            }
            return;
        }
        if self.retries > RETRIES {
            self.retries = 0;
            return self.give_up(uid);
        }
        self.retries += 1;
        if !self.start_server(uid) {
            self.give_up(uid);
        }
    }

    fn hand_over(&self, server: i32, client: &Pending) {
        let message = format!("CLIENT {} {} {}", client.pid(), client.uid(), client.wish);
        if let Some(link) = self.link_to(server) {
            let _ = wire::send_with(&link.socket, &message, &client.link.socket);
        }
    }

    /// No server starts for this user: its clients fail, and the next user's turn comes.
    fn give_up(&mut self, uid: u32) {
        for client in mem::take(&mut self.pending) {
            if self.server_uid(client.uid()) == uid {
                let _ = wire::send(&client.link.socket, "ERROR 805");
            } else {
                self.pending.push(client);
            }
        }
        self.place_pending();
    }
}
