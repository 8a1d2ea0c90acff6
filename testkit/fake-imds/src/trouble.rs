//! Everything that can go wrong, for which paths, and its keys in a script.

use std::time::Duration;

use http_stub::Keys;

/// Bytes of a huge answer: enough to hurt a client that reads without a limit.
const HUGE: usize = 16 * 1024 * 1024;

/// A fate for requests whose path begins in a certain way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What happens.
    pub fate: Fate,
    /// The beginning of the paths to which it happens; empty: all. Tokens have the path `/latest/api/token`.
    pub path: String,
}

impl Trouble {
    /// On all paths.
    #[must_use]
    pub fn everywhere(fate: Fate) -> Self {
        Self::on("", fate)
    }

    /// On paths that begin so.
    #[must_use]
    pub fn on(path: &str, fate: Fate) -> Self {
        let path = path.to_owned();
        Self { fate, path }
    }

    pub(crate) fn read(name: &str, keys: &mut Keys) -> Option<Self> {
        let path = keys.text("path").unwrap_or_default();
        if !path.is_empty() && !path.starts_with('/') {
            keys.complain("`path` must begin with a slash");
        }
        Fate::read(name, keys).map(|fate| Self { fate, path })
    }
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is never answered.
    Hang,
    /// It is answered as usual, but only after this time.
    Delay(Duration),
    /// RST.
    Reset,
    /// This status with a short text.
    Error {
        /// 400 to 599.
        status: u16,
    },
    /// An HTML page, as from a captive portal.
    Html {
        /// The status, usually 200.
        status: u16,
    },
    /// 200 with so many bytes of text.
    Huge {
        /// Bytes.
        bytes: usize,
    },
    /// 200 with bytes that are not UTF-8.
    NotUtf8,
    /// 200 with a body that never ends.
    Endless,
    /// 200 with this text in place of what was asked for.
    Wrong {
        /// The text; may be empty.
        text: String,
    },
}

impl Fate {
    /// Its name in a script and in the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Delay(_) => "delay",
            Self::Reset => "reset",
            Self::Error { .. } => "error",
            Self::Html { .. } => "html",
            Self::Huge { .. } => "huge",
            Self::NotUtf8 => "not_utf8",
            Self::Endless => "endless",
            Self::Wrong { .. } => "wrong",
        }
    }

    fn read(name: &str, keys: &mut Keys) -> Option<Self> {
        Some(match name {
            "hang" => Self::Hang,
            "delay" => Self::Delay(keys.millis("ms").unwrap_or(Duration::from_secs(1))),
            "reset" => Self::Reset,
            "error" => Self::Error {
                status: status(keys, 400, 500),
            },
            "html" => Self::Html {
                status: status(keys, 200, 200),
            },
            "huge" => Self::Huge { bytes: bytes(keys) },
            "not_utf8" => Self::NotUtf8,
            "endless" => Self::Endless,
            "wrong" => Self::Wrong {
                text: keys.text("text").unwrap_or_default(),
            },
            _ => return None,
        })
    }
}

fn status(keys: &mut Keys, least: i64, default: u16) -> u16 {
    let status = keys.whole("status", least, 599);
    status
        .and_then(|status| u16::try_from(status).ok())
        .unwrap_or(default)
}

fn bytes(keys: &mut Keys) -> usize {
    let bytes = keys.whole("bytes", 1, 1 << 30);
    bytes
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(HUGE)
}
