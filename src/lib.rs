//! gpushare turns an EKS GPU node into a shared-GPU node that can be seen.

pub mod config;
pub mod gpu;
pub mod host;
pub mod log;
pub mod metrics;
