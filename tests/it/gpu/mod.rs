//! What the GPUs do, and what becomes of it in the windows and in the status.
//!
//! * `compute_mode`: the command that reads and sets it, and what the agent sees of it;
//! * `driver`: NVML as a whole is missing, wrong, late, or never answers;
//! * `faults`: one GPU is lost, broken or hangs;
//! * `readings`: what is read, how often, and that no value is invented;
//! * `scene`: the GPUs that these tests play, and the windows that they look at.

mod compute_mode;
mod driver;
mod faults;
mod readings;
pub(crate) mod scene;
