//! gpushare

pub mod host;
