//! What was sampled while nothing could be sent, and where it waited.
//!
//! * `endpoint`: every way in which `CloudWatch` can be away (C1), and how it is told everything afterwards (C5);
//! * `flapping`: what of it stays behind in the agent (C20);
//! * `restart`: agents that are killed, stopped, cloned and upgraded meanwhile (C2, C15, C21);
//! * `disk`: disks that are full or read-only (C14);
//! * `notice`: instances that are taken away (C17);
//! * `scene`: which windows must have arrived, and with which values.

mod disk;
mod endpoint;
mod flapping;
mod notice;
mod restart;
mod scene;
