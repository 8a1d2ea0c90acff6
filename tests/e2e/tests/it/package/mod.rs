//! The rpm and the deb on booted nodes: what they install, what their scripts do, and what stays.
//!
//! The rpm goes into the same Debian node, with `--nodeps` where the packages that it wants have other names there.

mod image;
mod installer;
mod life;
mod real_mps;
mod refusal;
