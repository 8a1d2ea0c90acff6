//! NVIDIA's MPS without a GPU: the control daemon with its command line, the server, and a CUDA client.
//!
//! One program plays them all, by the name under which it is called ([`program`]). What it does was measured on the
//! real control daemon (550, 580, 595) where the README says so; the real server and the real client were not. The
//! protocol between the parts (`wire`) is the fake's own: only its own parts understand each other.
//!
//! ```text
//! UI --commands--> control ----------- control daemon --starts, tells, lists--> server
//!                  control_privileged /       ^   |
//!                                             |   +-- the client's socket, passed on --> server
//! client --asks for a server--> control ------+           (so a client outlives the daemon, and sees its server die)
//! ```
//!
//! A script ([`script`]) says what goes wrong; every part reads it again when it changes. Tests use [`kit`].

pub mod calls;
mod client;
mod control;
mod device;
pub mod kit;
mod log;
mod pipe_dir;
pub mod program;
pub mod script;
mod server;
mod version;
mod wire;
pub use kit::{Installed, Running};
