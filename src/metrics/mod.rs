//! From samples to windows: what is measured, under which name, and the exact distribution of it per interval.
//!
//! * [`catalogue`]: every metric by name, unit, group and dimensions. Nothing is published that it lacks.
//! * [`series`]: which series a sample feeds.
//! * [`mps`]: what the status of MPS and a list of processes say together.
//! * [`window`]: the samples of one publish interval, kept exactly.
//! * [`clock`]: which window an instant belongs to, and when the next sample is due, whatever the wall clock does.
//! * [`task`]: the loop that receives samples, ticks once per `sample.interval` and hands closed windows on.
//!
//! All of it but the task is pure: no I/O, and time is an argument.

pub mod catalogue;
pub mod clock;
pub mod mps;
pub mod series;
pub mod task;
pub mod window;

pub use catalogue::{Entry, Label, Metric, Scope, Unit};
pub use series::Series;
pub use window::{ClosedWindow, Distribution, Windows};
