//! The real `gpushare mps run` with a control daemon, a server and a driver that are played.

mod by_hand;
mod check;
mod kept;
mod probe;
mod run;
pub(crate) mod scene;
