//! Publishing to CloudWatch, by the real SDK over a real socket; only CloudWatch itself is fake.
//!
//! * `faults`: requests that fail, and nothing that is lost or counted twice for it;
//! * `refusals`: datums that CloudWatch refuses, requests that are too large;
//! * `permission`: credentials and permissions;
//! * `hangs`: answers that do not come, or do not end;
//! * `stop`: the end of the agent;
//! * `input`: endpoints, regions and clocks that are wrong;
//! * `tls`: certificates, and a proxy;
//! * `scene`: the node that publishes, and how what arrived is compared with what was sampled.

mod faults;
mod hangs;
mod input;
mod permission;
mod refusals;
pub(crate) mod scene;
mod stop;
mod tls;
