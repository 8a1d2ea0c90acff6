//! The life of the agent, from READY to the end.
//!
//! * `windows`: what is in them, that no sample is lost or counted twice, and the cap on series;
//! * `stop`: signals, and readers that do not read;
//! * `systemd`: READY, STATUS, WATCHDOG, STOPPING;
//! * `reload`: another configuration for the same process;
//! * `status`: the socket, `gpushare status` and `gpushare check`;
//! * `scene`: the nodes that these tests run on, and how they look at what was printed.

mod reload;
pub(crate) mod scene;
mod status;
mod stop;
mod systemd;
mod windows;
