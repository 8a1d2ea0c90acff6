//! Logs, to standard error: text on a terminal, journal priorities under systemd, JSON on request.
//!
//! The level comes from `GPUSHARE_LOG`: `info`, or per module as in `info,gpushare::gpu=debug`.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// The variable that holds the level.
pub const LEVEL_VARIABLE: &str = "GPUSHARE_LOG";

/// The level where the variable says nothing, or nothing that makes sense.
const DEFAULT_LEVEL: Level = Level::INFO;

/// What lasts is logged again after this time.
const LOG_AGAIN: Duration = Duration::from_mins(10);

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

    /// What fits where standard error goes. A child of a service inherits `JOURNAL_STREAM` although its standard error
    /// may go elsewhere, so the variable counts only where it names that very file.
    #[must_use]
    pub fn detect() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        if names(&stream, io::stderr()) {
            Self::Journal
        } else {
            Self::Text
        }
    }
}

/// Whether `DEVICE:INODE`, in decimals as systemd writes `JOURNAL_STREAM`, is this file.
fn names(stream: &str, file: impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Starts logging. Where any part of [`LEVEL_VARIABLE`] makes no sense, that is reported and the whole of it is
/// replaced by `info`.
pub fn init(format: Format) {
    let wanted = std::env::var_os(LEVEL_VARIABLE).unwrap_or_default();
    // What is no text is no level either, and is reported as such.
    let wanted = wanted.to_string_lossy();
    let parsed = parse_levels(&wanted);
    let filter = parsed.as_ref().map_or_else(|_| default_levels(), Clone::clone);
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
        tracing::warn!(
            value = %wanted,
            error,
            "{LEVEL_VARIABLE} makes no sense; logging at info"
        );
    }
}

/// A line of the log that would repeat itself as long as something lasts.
#[derive(Debug, Default)]
pub struct Repeated {
    logged: Option<Instant>,
}

impl Repeated {
    /// Whether it is to be logged now: the first time, and once in ten minutes from then on.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN);
        if is_due {
            self.logged = Some(Instant::now());
        }
        is_due
    }
}

/// Says why a command failed, in the form of the log but at any level: it explains the exit code.
pub fn last_word(format: Format, error: &dyn Error) {
    // Nobody is left to be told that standard error is closed.
    let _ = io::stderr().write_all(worded(format, &chain(error), SystemTime::now()).as_bytes());
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

/// An error and its last two causes.
#[must_use]
pub fn ends(error: &(dyn Error + 'static)) -> String {
    let cause = error.source().map(|cause| format!(": {}", last_two(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// The last two causes of an error: the layers of an HTTP client above them say nothing.
#[must_use]
pub fn last_two(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<_> = std::iter::successors(Some(error), |error| <dyn Error>::source(*error)).collect();
    let lowest = &causes[causes.len().saturating_sub(2)..];
    let texts: Vec<String> = lowest.iter().map(ToString::to_string).collect();
    texts.join(": ")
}

fn default_levels() -> Targets {
    quiet_sdk().with_default(DEFAULT_LEVEL)
}

/// The SDK warns at every attempt, at length, of what the publisher says once and with the mend.
/// `GPUSHARE_LOG=aws_config=debug` and the like let it speak.
fn quiet_sdk() -> Targets {
    Targets::new().with_target("aws_", Level::ERROR)
}

/// Reads `LEVEL` and `MODULE=LEVEL`, several with commas between; empty is [`DEFAULT_LEVEL`].
///
/// Stricter than [`Targets`]' own parser, which takes a misspelt level for a module and silences all others.
fn parse_levels(text: &str) -> Result<Targets, String> {
    if text.trim().is_empty() {
        return Ok(default_levels());
    }
    let mut levels = quiet_sdk();
    for part in text.split(',').map(str::trim) {
        let (module, level) = part.split_once('=').unwrap_or(("", part));
        let is_complete = !level.is_empty() && !part.starts_with('=');
        let level = level.parse::<LevelFilter>().ok().filter(|_| is_complete);
        let level = level.ok_or_else(|| format!("{part:?} is neither a level nor MODULE=LEVEL"))?;
        levels = if module.is_empty() {
            levels.with_default(level)
        } else {
            levels.with_target(module, level)
        };
    }
    Ok(levels)
}

fn worded(format: Format, message: &str, now: SystemTime) -> String {
    match format {
        Format::Text => format!("gpushare: {message}\n"),
        // The journal makes an entry of every line.
        Format::Journal => format!("<3>{}\n", message.replace('\n', "\n<3>")),
        Format::Json => {
            let timestamp = humantime::format_rfc3339_micros(now).to_string();
            let line = serde_json::json!({
                "timestamp": timestamp, "level": "ERROR", "message": message, "target": "gpushare",
            });
            format!("{line}\n")
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_for_all_and_for_single_modules() {
        let levels = parse_levels("warn, gpushare::gpu=debug").unwrap();
        assert!(levels.would_enable("gpushare::gpu::task", &Level::DEBUG));
        assert!(levels.would_enable("gpushare::agent", &Level::WARN));
        assert!(!levels.would_enable("gpushare::agent", &Level::INFO));
        for nothing in ["", " "] {
            let levels = parse_levels(nothing).unwrap();
            assert!(levels.would_enable("gpushare", &Level::INFO));
            assert!(!levels.would_enable("gpushare", &Level::DEBUG));
        }
    }

    #[test]
    fn the_sdk_says_nothing_but_errors_unless_it_is_asked_to() {
        for text in ["", "info", "debug", "gpushare::publish=debug"] {
            let levels = parse_levels(text).unwrap();
            for module in [
                "aws_config::imds::region",
                "aws_smithy_runtime::client",
                "aws_sdk_cloudwatch",
            ] {
                assert!(levels.would_enable(module, &Level::ERROR), "{text:?}: {module}");
                assert!(!levels.would_enable(module, &Level::WARN), "{text:?}: {module}");
            }
        }
        let levels = parse_levels("aws_config=debug").unwrap();
        assert!(levels.would_enable("aws_config::imds::region", &Level::DEBUG));
        assert!(!levels.would_enable("aws_config::imds::region", &Level::TRACE));
        assert!(!levels.would_enable("aws_smithy_runtime::client", &Level::WARN));
    }

    #[test]
    fn what_is_no_level_is_refused_not_taken_for_a_module() {
        for text in [
            "verbose",
            "gpushare",
            "info,gpushare=loud",
            "gpushare=",
            "=",
            "=info",
            "info,",
        ] {
            assert!(parse_levels(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_stream_is_the_journal_only_where_device_and_inode_are_those_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        assert!(names(&format!("{}:{}", stat.st_dev, stat.st_ino), &file));
        for other in [
            format!("{}:{}", stat.st_dev, stat.st_ino + 1),
            "9:1:2".into(),
            String::new(),
        ] {
            assert!(!names(&other, &file), "{other}");
        }
    }

    #[test]
    fn the_last_word_has_the_form_of_the_log() {
        let now = SystemTime::UNIX_EPOCH;
        let message = "the configuration has 1 problem:\n  a: unknown key";
        assert_eq!(
            worded(Format::Text, message, now),
            "gpushare: the configuration has 1 problem:\n  a: unknown key\n"
        );
        assert_eq!(
            worded(Format::Journal, message, now),
            "<3>the configuration has 1 problem:\n<3>  a: unknown key\n"
        );
        let line = worded(Format::Json, message, now);
        assert_eq!(line.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], message);
        assert_eq!(line["timestamp"], "1970-01-01T00:00:00.000000Z");
    }
}
