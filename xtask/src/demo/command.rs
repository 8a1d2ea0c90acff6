//! The command: prepare, show, stop, sum up.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use super::digest;
use super::nvml::Nvml;
use super::screen::Screen;
use super::windows::{Window, Windows};
use crate::agent::{Agent, Interrupt, Launch, STOP_BUDGET, Settings, Stopped, output_within};
use crate::args::{Args, UsageError};
use crate::workspace::{Workspace, succeed};

/// Between two looks at the status and the output.
const REFRESH: Duration = Duration::from_secs(1);
/// The publish interval of the demo: short, so that a window closes while somebody watches.
const WINDOW: &str = "10s";
/// Longest path of a Unix socket, less its closing zero.
const MAX_SOCKET_PATH: usize = 107;

#[derive(Debug)]
pub(crate) struct Options {
    seconds: Option<u64>,
    fake: bool,
}

impl Options {
    pub(crate) fn parse(mut args: Args) -> Result<Self, UsageError> {
        let options = Self {
            seconds: args.count("--seconds")?,
            fake: args.flag("--fake"),
        };
        args.finish()?;
        Ok(options)
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<ExitCode> {
    succeed(&mut workspace.cargo(["build", "--locked", "-p", "gpushare", "-p", "fake-nvml"]))?;
    let stage = Stage::set(workspace, options)?;
    println!("Watching {}", stage.nvml);
    let interrupt = Interrupt::listen()?;
    let mut agent = stage.start()?;
    let mut show = Show {
        screen: Screen::new(),
        windows: Windows::open(&stage.output)?,
        answers: 0,
    };
    let deadline = options
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let watched = show.play(&stage, &mut agent, &interrupt, deadline);
    show.screen.close();
    if let Err(error) = watched {
        return Err(anyhow!(
            "{error:#}; the agent's log ends with:\n{}",
            tail(&stage.log)
        ));
    }
    let stopped = agent.stop()?;
    show.windows.read()?;
    close(&stage, &show, &stopped)
}

/// Everything that the agent needs, laid out in `target/demo`.
struct Stage {
    binary: PathBuf,
    config: PathBuf,
    output: PathBuf,
    log: PathBuf,
    dir: PathBuf,
    nvml: Nvml,
    /// Held until the end: two demos would share these files.
    _lock: fs_err::File,
    /// Where the socket is when the checkout's own path is too long for one.
    _socket_dir: Option<tempfile::TempDir>,
}

impl Stage {
    fn set(workspace: &Workspace, options: &Options) -> anyhow::Result<Self> {
        let dir = workspace.target("demo");
        let lock = fs_err::File::create(workspace.target("demo.lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .context("another demo runs in this checkout; stop it first")?;
        if dir.exists() {
            fs_err::remove_dir_all(&dir)?;
        }
        fs_err::create_dir_all(&dir)?;
        let nvml = Nvml::choose(workspace, &dir, options.fake)?;
        let (socket, socket_dir) = socket(&dir)?;
        let settings = Settings {
            dir: &dir,
            socket: &socket,
            instance_type: nvml.instance_type(),
            publish_interval: WINDOW,
            nvml_library: nvml.library(),
        };
        Ok(Self {
            binary: workspace.target("debug/gpushare"),
            config: settings.write()?,
            output: dir.join("windows.jsonl"),
            log: dir.join("agent.log"),
            dir,
            nvml,
            _lock: lock,
            _socket_dir: socket_dir,
        })
    }

    fn start(&self) -> anyhow::Result<Agent> {
        let output = fs_err::File::create(&self.output)?.into_parts().0;
        Agent::start(Launch {
            binary: &self.binary,
            config: &self.config,
            scenario: self.nvml.scenario(),
            notify_socket: None,
            stdout: Stdio::from(output),
            log: fs_err::File::create(&self.log)?.into_parts().0,
            tied: true,
        })
    }

    /// What `gpushare status` prints, or why it does not.
    fn status(&self) -> Result<String, String> {
        const LIMIT: Duration = Duration::from_secs(2);
        let mut command = Command::new(&self.binary);
        command.arg("status").arg("--config").arg(&self.config);
        let output =
            output_within(&mut command, LIMIT).map_err(|error| format!("gpushare status: {error:#}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("gpushare status: {} ({reason})", output.status))
    }
}

fn socket(dir: &Path) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let socket = dir.join("status.sock");
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((socket, None));
    }
    let short = tempfile::Builder::new()
        .prefix("gpushare-demo-")
        .tempdir()
        .context("make a directory for the socket")?;
    Ok((short.path().join("status.sock"), Some(short)))
}

struct Show {
    screen: Screen,
    windows: Windows,
    /// How often the status answered.
    answers: usize,
}

impl Show {
    /// Shows the agent until the deadline or Ctrl-C; an agent that ends before is an error.
    fn play(
        &mut self,
        stage: &Stage,
        agent: &mut Agent,
        interrupt: &Interrupt,
        deadline: Option<Instant>,
    ) -> anyhow::Result<()> {
        let mut next = Instant::now();
        while deadline.is_none_or(|deadline| next < deadline) {
            if !interrupt.sleep_until(next) {
                return Ok(());
            }
            if let Some(status) = agent.ended()? {
                bail!("the agent ended by itself ({status})");
            }
            let status = stage.status();
            self.answers += usize::from(status.is_ok());
            let news = self.windows.read()?;
            let window = self.windows.latest().map(|window| digest::render(&window));
            self.screen
                .draw(&status.unwrap_or_else(|reason| reason), window.as_deref(), news)?;
            // After a slow look the next one is a whole step away, not at once.
            next = (next + REFRESH).max(Instant::now());
        }
        interrupt.sleep_until(deadline.unwrap_or(next));
        Ok(())
    }
}

/// The closing paragraph, and the verdict.
fn close(stage: &Stage, show: &Show, stopped: &Stopped) -> anyhow::Result<ExitCode> {
    let took = stopped.took.as_secs_f64();
    let verdict = if stopped.took <= STOP_BUDGET {
        "within"
    } else {
        "LATER THAN"
    };
    println!(
        "\nThe agent stopped {took:.2} s after SIGTERM, {verdict} its {} s.",
        STOP_BUDGET.as_secs()
    );
    if let Some(window) = show.windows.latest() {
        println!("{}\n\n{}", last_window(&window), digest::render(&window));
    }
    println!(
        "Shown: {} answers of `gpushare status` and {} windows of {WINDOW}, from {}\nConfiguration, windows (every \
         line fits `aws cloudwatch put-metric-data --cli-input-json`) and log: config.toml, windows.jsonl and agent.log \
         in {}",
        show.answers,
        show.windows.count(),
        stage.nvml,
        stage.dir.display()
    );
    ensure!(
        stopped.status.success(),
        "the agent ended badly ({}):\n{}",
        stopped.status,
        tail(&stage.log)
    );
    ensure!(
        stopped.left_behind == 0,
        "the agent left {} processes behind; they were killed",
        stopped.left_behind
    );
    ensure!(
        show.answers > 0,
        "`gpushare status` never answered:\n{}",
        tail(&stage.log)
    );
    ensure!(
        show.windows.count() > 0,
        "no window was printed:\n{}",
        tail(&stage.log)
    );
    Ok(ExitCode::SUCCESS)
}

fn last_window(window: &Window) -> String {
    let count = window
        .series
        .iter()
        .map(|(_, data)| data.samples())
        .fold(0.0, f64::max);
    let witness = window
        .series
        .iter()
        .find(|(series, _)| series.metric == "cpu_usage_active");
    let witness = witness.map_or(String::new(), |(_, data)| {
        format!(" ({} of cpu_usage_active)", data.samples())
    });
    format!(
        "It closed its open window, from {}, with up to {count} samples a series{witness}.",
        window.start
    )
}

/// The last lines of the log, for an error message.
fn tail(log: &Path) -> String {
    const LINES: usize = 15;
    let text = fs_err::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_replaced() {
        let (plain, kept) = socket(Path::new("/var/tmp/demo")).unwrap();
        assert_eq!(
            (plain.as_path(), kept.is_some()),
            (Path::new("/var/tmp/demo/status.sock"), false)
        );
        let (short, kept) = socket(&Path::new("/var/tmp").join("x".repeat(100))).unwrap();
        assert!(short.as_os_str().len() <= MAX_SOCKET_PATH && kept.is_some());
    }

    #[test]
    fn the_tail_is_the_last_fifteen_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs_err::write(
            &log,
            (1..=20).fold(String::new(), |text, n| format!("{text}{n}\n")),
        )
        .unwrap();
        assert!(tail(&log).starts_with("6\n") && tail(&log).ends_with("\n20"));
        assert!(tail(&dir.path().join("none")).contains("none"));
    }
}
