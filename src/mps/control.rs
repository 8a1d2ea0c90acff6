//! Calls the control program, never longer than a limit.
