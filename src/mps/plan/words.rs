//! What is wrong with a daemon, in words.

use crate::mps::Trouble;
use crate::mps::backend::Ended;
use crate::mps::protocol::Report;

/// Where a daemon's process says what it does.
pub(super) const LOG: &str =
    "journalctl -u 'gpushare-mps@*' (the agent's own log, with mps.backend = \"process\")";

/// What `mps run` exits with when something that it needs is not there.
const UNAVAILABLE: i32 = 69;

/// The same when its command line is wrong.
const WRONG_USAGE: i32 = 64;

/// The same when its configuration is wrong, and none is kept that was right.
const WRONG_CONFIGURATION: i32 = 78;

/// Settings that cannot be read may be anything; a fresh daemon of that version would answer in the same way.
pub(super) fn unreadable(report: &Report) -> Option<Trouble> {
    let can_be_read = report.default_thread_percentage.is_some() && report.default_memory_limit.is_some();
    let said = report.not_understood.join("; ");
    (!can_be_read).then(|| Trouble {
        why: format!("its settings cannot be read: this version of MPS answers in another way ({said})"),
        mend: "use a driver that gpushare knows (see docs/mps.md)".into(),
    })
}

/// A default that is not what a fresh daemon has caps every client, however many slices it has.
pub(super) fn wrong_defaults(report: &Report) -> Trouble {
    let percentage = report.default_thread_percentage.unwrap_or_default();
    let limit = report.default_memory_limit.as_deref().unwrap_or_default();
    let why = if limit.is_empty() {
        format!("the daemon's default active thread percentage is {percentage:.1}, it should be 100.0")
    } else {
        format!("the daemon has a default memory limit of {limit}, it should have none")
    };
    Trouble {
        why,
        mend: "gpushare mps restart GPU: the defaults live in the daemon's memory alone".into(),
    }
}

pub(super) fn quit() -> Trouble {
    Trouble {
        why: "it was stopped on purpose".into(),
        mend: "gpushare mps restart GPU starts it again".into(),
    }
}

pub(super) fn stopping() -> Trouble {
    Trouble {
        why: "it is being stopped".into(),
        mend: "wait: it is started again if that is wished".into(),
    }
}

pub(super) fn failed(ended: &Ended) -> Trouble {
    let look = || format!("run `gpushare check`, and look at: {LOG}");
    let (why, mend) = match ended.code {
        Some(WRONG_CONFIGURATION) => (
            "its configuration is wrong".into(),
            "correct it: gpushare check shows what is wrong".into(),
        ),
        Some(WRONG_USAGE) => (
            "its command line is wrong (exit code 64)".into(),
            "look at the ExecStart= of gpushare-mps@.service and its drop-ins".into(),
        ),
        Some(UNAVAILABLE) => ("something that it needs is not there".into(), look()),
        Some(code) => (format!("it ended with exit code {code}"), look()),
        None => (format!("it ended: {}", ended.result), look()),
    };
    Trouble {
        why,
        mend: format!("{mend}; it is tried again by itself"),
    }
}
