//! Logs, to standard error: text on a terminal, journal priorities under systemd, JSON on request.
//!
//! The level comes from `GPUSHARE_LOG`: `info`, or per module as in `info,gpushare::gpu=debug`.

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// The variable that holds the level.
pub const LEVEL_VARIABLE: &str = "GPUSHARE_LOG";

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people, with the time.
    Text,
    /// For the journal: a priority such as `<4>` in front, no time (the journal has its own).
    Journal,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// The option's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Journal => "journal",
            Self::Json => "json",
        }
    }

    /// What fits where standard error goes: systemd sets `JOURNAL_STREAM` when that is the journal.
    #[must_use]
    pub fn detect() -> Self {
        let to_journal = std::env::var_os("JOURNAL_STREAM").is_some() && !io::stderr().is_terminal();
        if to_journal { Self::Journal } else { Self::Text }
    }
}

/// Starts logging. A level that makes no sense is reported and replaced by `info`.
pub fn init(format: Format) {
    let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| "info".into());
    let parsed = wanted.parse::<Targets>();
    let filter = parsed
        .as_ref()
        .map_or_else(|_| Targets::new().with_default(Level::INFO), Clone::clone);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Text => Box::new(
            tracing_subscriber::fmt::layer()
                .with_ansi(io::stderr().is_terminal())
                .with_writer(io::stderr),
        ),
        Format::Journal => Box::new(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .without_time()
                .with_level(false)
                .with_writer(Journal),
        ),
        Format::Json => Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(io::stderr),
        ),
    };
    // An embedding program or a test may have set a subscriber already; its choice stands.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    if let Err(error) = parsed {
        tracing::warn!(value = wanted, %error, "{LEVEL_VARIABLE} makes no sense; logging at info");
    }
}

/// An error and its causes, outermost first, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Writes each event to standard error with its priority in front, as `sd-daemon(3)` describes.
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Prioritised;

    fn make_writer(&'a self) -> Prioritised {
        Prioritised { priority: "<6>" }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Prioritised {
        let priority = match *meta.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        };
        Prioritised { priority }
    }
}

struct Prioritised {
    priority: &'static str,
}

impl Write for Prioritised {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // One write per event, so that lines of several threads do not mix.
        let mut line = Vec::with_capacity(self.priority.len() + event.len());
        line.extend_from_slice(self.priority.as_bytes());
        line.extend_from_slice(event);
        io::stderr().lock().write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
