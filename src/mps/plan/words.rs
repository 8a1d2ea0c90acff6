//! What is wrong with a daemon, in words.

use crate::mps::Trouble;
use crate::mps::backend::Ended;
use crate::mps::protocol::Report;

/// What `mps run` exits with when something that it needs is not there.
const UNAVAILABLE: i32 = 69;

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
    let why = match ended.code {
        Some(UNAVAILABLE) => "something that it needs is not there".into(),
        Some(code) => format!("it ended with exit code {code}"),
        None => format!("it ended: {}", ended.result),
    };
    Trouble {
        why,
        mend:
            "run `gpushare check`, and look at: journalctl -u 'gpushare-mps@*'; it is tried again by itself"
                .into(),
    }
}
