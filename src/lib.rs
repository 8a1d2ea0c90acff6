//! gpushare turns an EKS GPU node into a shared-GPU node that can be seen.

pub mod config;
pub mod host;
