//! The binary around a fake: reads its arguments, says its URL, and plays the script file, again after every change.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use crate::script::ScriptError;
use crate::server::StartError;

/// How often the script file is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// sysexits.h: the command was used incorrectly.
const USAGE: u8 = 64;

/// A fake service that a program can run.
pub trait Service: Sized {
    /// The name of the program.
    const NAME: &'static str;

    /// Starts it, without a script.
    fn start(address: SocketAddr) -> Result<Self, StartError>;

    /// Where it is reached.
    fn url(&self) -> String;

    /// Replaces the script by this one. A wrong one changes nothing.
    fn load(&self, script: &str) -> Result<(), ScriptError>;
}

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Read(std::io::Error),
    #[error("play {}", path.display())]
    Script {
        path: PathBuf,
        #[source]
        source: ScriptError,
    },
    #[error("print the URL")]
    Print(#[source] std::io::Error),
}

/// Runs the service until the process is ended. The first line on stdout is its URL.
#[must_use]
pub fn run<S: Service>() -> ExitCode {
    let failure = match serve::<S>(std::env::args_os().skip(1)) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    complain::<S>(&failure);
    match failure {
        Failure::Usage(_) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

fn serve<S: Service>(args: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible, Failure> {
    let options = Options::parse(S::NAME, args)?;
    let service = S::start(options.listen)?;
    let mut script = options.script.as_deref().map(Script::new);
    // A script that is wrong from the start is a failed start; later it is a slip of the editor.
    if let Some(script) = &mut script {
        script.play_if_changed(&service)?;
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", service.url())
        .and_then(|()| stdout.flush())
        .map_err(Failure::Print)?;
    loop {
        std::thread::sleep(LOOK);
        if let Some(Err(failure)) = script.as_mut().map(|script| script.play_if_changed(&service)) {
            complain::<S>(&failure);
        }
    }
}

fn complain<S: Service>(failure: &Failure) {
    let mut text = format!("{}: {failure}", S::NAME);
    let mut source = std::error::Error::source(failure);
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    // There is nowhere else to say that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    listen: SocketAddr,
    script: Option<PathBuf>,
}

impl Options {
    fn parse(name: &str, mut args: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let usage = |what: String| {
            Failure::Usage(format!(
                "{what}; usage: {name} [--listen 127.0.0.1:0] [--script FILE]"
            ))
        };
        let mut options = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            script: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .ok_or_else(|| usage(format!("{} wants a value", arg.display())))
            };
            match arg.to_str() {
                Some("--listen") => {
                    let text = value()?.to_string_lossy().into_owned();
                    let wrong = |_| usage(format!("--listen wants ADDRESS:PORT, not {text:?}"));
                    options.listen = text.parse().map_err(wrong)?;
                }
                Some("--script") => options.script = Some(PathBuf::from(value()?)),
                _ => return Err(usage(format!("unknown argument {}", arg.display()))),
            }
        }
        Ok(options)
    }
}

/// A script file, and which version of it was played last.
struct Script<'p> {
    path: &'p Path,
    seen: Option<(SystemTime, u64)>,
}

impl<'p> Script<'p> {
    fn new(path: &'p Path) -> Self {
        Self { path, seen: None }
    }

    /// A wrong version is complained about once and the last good one goes on.
    fn play_if_changed(&mut self, service: &impl Service) -> Result<(), Failure> {
        let metadata = fs_err::metadata(self.path).map_err(Failure::Read);
        // Between the removal and the rename of an editor there is no file: only the first look wants one.
        let metadata = match (metadata, self.seen) {
            (Err(_), Some(_)) => return Ok(()),
            (metadata, _) => metadata?,
        };
        let version = (metadata.modified().map_err(Failure::Read)?, metadata.len());
        if self.seen == Some(version) {
            return Ok(());
        }
        self.seen = Some(version);
        let text = fs_err::read_to_string(self.path).map_err(Failure::Read)?;
        service.load(&text).map_err(|source| Failure::Script {
            path: self.path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        let args = args.iter().map(OsString::from);
        Options::parse("fake", args).map_err(|failure| failure.to_string())
    }

    #[test]
    fn arguments_are_read_and_wrong_ones_named() {
        assert_eq!(parse(&[]).unwrap().listen.to_string(), "127.0.0.1:0");
        let options = parse(&["--script", "a.toml", "--listen", "[::1]:80"]).unwrap();
        assert_eq!(options.listen.to_string(), "[::1]:80");
        assert_eq!(options.script.unwrap(), Path::new("a.toml"));
        assert!(
            parse(&["--listen", "80"])
                .unwrap_err()
                .starts_with("--listen wants ADDRESS:PORT")
        );
        assert!(
            parse(&["--listen"])
                .unwrap_err()
                .starts_with("--listen wants a value")
        );
        assert!(
            parse(&["--port", "1"])
                .unwrap_err()
                .contains("unknown argument --port; usage: fake")
        );
    }
}
