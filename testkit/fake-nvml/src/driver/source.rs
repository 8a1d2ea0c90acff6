//! The scenario file on disk: read again when it changes, the last good reading kept.
//!
//! Only this file knows the environment variables and the file system. A scenario that cannot be read or parsed is
//! reported on stderr once per version of the file, and the calls go on with the one before.

use std::error::Error;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answers::Moment;
use crate::clock::unix_us;
use crate::scenario::{Scenario, ScenarioError};

/// The environment variable that names the scenario file.
pub(super) const SCENARIO: &str = "FAKE_NVML_SCENARIO";

/// The environment variable with the epoch, in milliseconds since 1970.
pub(super) const EPOCH_MS: &str = "FAKE_NVML_EPOCH_MS";

/// How long a look at the file's metadata is good for: far below any interval of sampling, and a call costs no
/// system call of its own.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A scenario and the instant its times count from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) scenario: Scenario,
    pub(crate) epoch_us: u64,
}

/// What tells one version of the file from another: modification time, inode, length.
type Version = (i64, i64, u64, u64);

#[derive(Debug, Default)]
pub(crate) struct Source {
    looked: Option<Instant>,
    version: Option<Version>,
    good: Option<Arc<Loaded>>,
    is_broken: bool,
}

impl Loaded {
    pub(crate) fn now(&self) -> Moment<'_> {
        Moment {
            scenario: &self.scenario,
            epoch_us: self.epoch_us,
            now_us: unix_us(),
        }
    }
}

impl Source {
    /// Looks at the file if the last look is old; true if there is a new scenario.
    pub(crate) fn refresh(&mut self) -> bool {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return false;
        }
        self.looked = Some(Instant::now());
        let path = std::env::var_os(SCENARIO).map(PathBuf::from);
        let version = path
            .as_deref()
            .and_then(|path| fs_err::metadata(path).ok())
            .map(|data| version(&data));
        let is_first_look = self.version.is_none() && !self.is_broken;
        if version == self.version && !is_first_look {
            return false;
        }
        self.version = version;
        match load(path.as_deref()) {
            Ok(loaded) => {
                self.good = Some(Arc::new(loaded));
                self.is_broken = false;
                true
            }
            Err(error) => {
                self.is_broken = true;
                complain(error.as_ref());
                false
            }
        }
    }

    /// The last scenario that could be read.
    pub(crate) fn good(&self) -> Option<Arc<Loaded>> {
        self.good.clone()
    }

    /// Whether the file as it is now cannot be played.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }
}

/// Writes the chain of causes to stderr, the only way out of a C interface that returns numbers.
#[expect(
    clippy::print_stderr,
    reason = "a C interface that returns numbers has no other way to say why"
)]
pub(super) fn complain(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    eprintln!("fake-nvml: {text}");
}

fn version(data: &std::fs::Metadata) -> Version {
    (data.mtime(), data.mtime_nsec(), data.ino(), data.len())
}

fn load(path: Option<&Path>) -> Result<Loaded, Box<dyn Error>> {
    let path = path.ok_or_else(|| invalid(format!("set {SCENARIO} to the path of a scenario file")))?;
    let mut file = fs_err::File::open(path)?;
    let epoch_us = match std::env::var(EPOCH_MS) {
        Ok(text) => epoch_us(&text)?,
        Err(_) => modified_us(&file.metadata()?),
    };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let scenario = Scenario::parse(&text).map_err(|source| Unplayable {
        path: path.to_owned(),
        source,
    })?;
    Ok(Loaded { scenario, epoch_us })
}

fn epoch_us(text: &str) -> io::Result<u64> {
    let ms = text.parse::<u64>().ok().and_then(|ms| ms.checked_mul(1000));
    ms.ok_or_else(|| {
        invalid(format!(
            "{EPOCH_MS} = {text:?} is not a number of milliseconds since 1970"
        ))
    })
}

fn modified_us(data: &std::fs::Metadata) -> u64 {
    let us = data
        .mtime()
        .saturating_mul(1_000_000)
        .saturating_add(data.mtime_nsec() / 1000);
    u64::try_from(us).unwrap_or(0)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Which file cannot be played; the source says why.
#[derive(Debug)]
struct Unplayable {
    path: PathBuf,
    source: ScenarioError,
}

impl std::fmt::Display for Unplayable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot play {}", self.path.display())
    }
}

impl Error for Unplayable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}
