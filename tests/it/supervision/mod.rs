//! MPS on every GPU: the real agent and the real `gpushare mps run`, with `fake-mps` and `fake-nvml` at the ends.

mod faults;
mod life;
mod scene;
mod start;
