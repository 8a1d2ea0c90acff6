//! The life of the agent: start, status, systemd, stop.
