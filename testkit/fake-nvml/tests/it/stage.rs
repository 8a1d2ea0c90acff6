//! A process of its own for each test.
//!
//! The library reads its environment when it is loaded and keeps one state per process, so a test runs itself again as
//! a child with that environment set. This holds for any test runner, with threads or without.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use fake_nvml::calllog::{self, Call};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// Tells the child where its files are.
const STAGE: &str = "FAKE_NVML_TEST_STAGE";

/// Tells a process that is not the first of its test what it is to do.
const PART: &str = "FAKE_NVML_TEST_PART";

pub(crate) const EPOCH_MS: &str = "FAKE_NVML_EPOCH_MS";

/// No test takes a tenth of it; a child that lives longer is stuck.
const PATIENCE: Duration = Duration::from_mins(1);

/// Longer than the library takes to notice a new scenario: it looks every 20 ms.
pub(crate) const NOTICED: Duration = Duration::from_millis(40);

/// The files of a test, seen from the child.
pub(crate) struct Stage {
    dir: PathBuf,
    library: PathBuf,
    epoch_ms: u64,
}

impl Stage {
    /// In the child, the stage on which `scenario` has just begun. In the parent, `None` after the child has passed.
    pub(crate) fn enter(test: &str, scenario: &str) -> Option<Self> {
        Self::enter_late(test, scenario, 0)
    }

    /// The same with a scenario that has been going on for `age_ms`.
    pub(crate) fn enter_late(test: &str, scenario: &str, age_ms: u64) -> Option<Self> {
        if let Some(dir) = std::env::var_os(STAGE) {
            let epoch = std::env::var(EPOCH_MS).expect("the parent sets it");
            return Some(Self::at(dir.into(), epoch.parse().expect("a number")));
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let stage = Self::at(dir.path().to_owned(), unix_ms() - age_ms);
        stage.play(scenario);
        let status = stage.run(test);
        let (out, err) = (stage.text("stdout"), stage.text("stderr"));
        assert!(
            status.success(),
            "{test} failed in its own process: {status}\n{out}\n{err}"
        );
        assert!(
            out.contains("1 passed"),
            "there is no test of the name {test}\n{out}"
        );
        None
    }

    fn at(dir: PathBuf, epoch_ms: u64) -> Self {
        Self {
            dir,
            library: fake_nvml::library_path(),
            epoch_ms,
        }
    }

    fn run(&self, test: &str) -> ExitStatus {
        let sink = |name: &str| {
            fs_err::File::create(self.dir.join(name))
                .expect("create")
                .into_parts()
                .0
        };
        let child = self
            .command(test)
            .env(EPOCH_MS, self.epoch_ms.to_string())
            .stdout(sink("stdout"))
            .stderr(sink("stderr"))
            .spawn()
            .expect("start the test again");
        wait(child).expect("wait for the child")
    }

    fn command(&self, test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("own executable"));
        command
            .args([test, "--exact", "--nocapture"])
            .env(STAGE, &self.dir)
            .env("FAKE_NVML_SCENARIO", self.dir.join("scenario.toml"))
            .env("FAKE_NVML_CALLLOG", self.dir.join("calls"));
        command
    }

    /// Runs the test once more on the same stage, as another process that is told `part`, and waits until it has passed.
    /// `change` may alter its environment.
    pub(crate) fn another_process(&self, test: &str, part: &str, change: impl FnOnce(&mut Command)) {
        let mut command = self.command(test);
        command.env(PART, part);
        change(&mut command);
        let status = wait(command.spawn().expect("start the test again")).expect("wait for it");
        assert!(status.success(), "{test}, {part}: {status}");
    }

    /// Which part of the test this process plays; `None` for the first.
    pub(crate) fn part() -> Option<String> {
        std::env::var(PART).ok()
    }

    /// Puts another scenario in the place of the present one, atomically, as the README says to do it.
    pub(crate) fn play(&self, scenario: &str) {
        let new = self.dir.join("scenario.new");
        fs_err::write(&new, scenario).expect("write");
        fs_err::rename(&new, self.dir.join("scenario.toml")).expect("rename");
    }

    /// Loads the library and initialises it.
    pub(crate) fn nvml(&self) -> Result<Nvml, NvmlError> {
        Self::nvml_at(&self.library)
    }

    /// The same with a copy of the library.
    pub(crate) fn nvml_at(library: &Path) -> Result<Nvml, NvmlError> {
        Nvml::builder().lib_path(library.as_os_str()).init()
    }

    /// A path for a file of the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        calllog::read(&self.dir.join("calls")).expect("a readable call log")
    }

    /// What a file of the stage holds: `stdout` and `stderr` are those of the child.
    pub(crate) fn text(&self, name: &str) -> String {
        fs_err::read_to_string(self.dir.join(name)).expect("readable")
    }

    /// The epoch of the scenario, in microseconds since 1970.
    pub(crate) fn epoch_us(&self) -> u64 {
        self.epoch_ms * 1000
    }

    /// Milliseconds since the epoch, rounded up.
    pub(crate) fn ms_now(&self) -> u64 {
        unix_ms() + 1 - self.epoch_ms
    }

    /// Sleeps until `ms` after the epoch.
    pub(crate) fn wait_until(&self, ms: u64) {
        thread::sleep(Duration::from_millis(
            (self.epoch_ms + ms).saturating_sub(unix_ms()),
        ));
    }
}

fn wait(mut child: Child) -> io::Result<ExitStatus> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(status),
            None if Instant::now() > end => child.kill()?,
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("fits")
}

/// One GPU of a scenario, with further keys.
pub(crate) fn gpu(number: usize, keys: &str) -> String {
    format!(
        "[[gpu]]\nuuid = \"GPU-{number}\"\nname = \"Fake {number}\"\npci = \"00000000:00:1{number}.0\"\nmemory_mib = 1000\n{keys}\n"
    )
}
