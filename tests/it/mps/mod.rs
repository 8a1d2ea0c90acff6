//! The real `gpushare mps run` with a control daemon, a server and a driver that are played.

mod run;
mod scene;
