//! Conversations that the daemon cuts off: how they look, and how often they are tried again. Pure.
//!
//! NVIDIA's daemon (550, measured) closes a conversation now and then while another program talks to it, or while one
//! of its servers ends: 37 of 300 beside a busy reader, none of 300 alone. The control program then says that it
//! cannot send, or ends without a word, with code 0 or 1, or in the midst of its answers. Nothing is wrong with such a
//! daemon, and whoever believes the silence takes a daemon with clients for one that is gone.

use std::time::Duration;

use crate::mps::call::Finished;

/// The pauses before the second attempt and those that follow. One answer takes 9 ms at most.
pub(super) const PAUSES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
];

/// Whether the conversation was cut off. `is_whole`: what was printed is all that was asked for.
pub(super) fn was_cut_off(finished: &Finished, is_whole: bool) -> bool {
    if finished.status.success() {
        return !is_whole;
    }
    finished.status.code() == Some(1) && (is_silent(finished) || cannot_send(finished))
}

/// Not a word: a daemon that dies while it is asked has the program end so, too.
pub(super) fn is_silent(finished: &Finished) -> bool {
    let said = |bytes: &[u8]| !bytes.trim_ascii().is_empty();
    !said(&finished.stdout) && !said(&finished.stderr)
}

fn cannot_send(finished: &Finished) -> bool {
    [&finished.stdout, &finished.stderr]
        .into_iter()
        .any(|bytes| String::from_utf8_lossy(bytes).contains("Cannot send command"))
}
