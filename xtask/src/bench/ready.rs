//! From exec to READY=1, as systemd would see it.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::subject::Subject;
use crate::agent::{Agent, Interrupt, Launch};

const RUNS: usize = 20;
const LIMIT: Duration = Duration::from_secs(30);

/// Starts the agent 20 times; returns milliseconds from before the fork to the arrival of READY=1.
pub(super) fn run(subject: &Subject, interrupt: &Interrupt) -> anyhow::Result<Vec<f64>> {
    println!("exec to READY, {RUNS} runs");
    let mut times = Vec::new();
    for run in 1..=RUNS {
        ensure!(!interrupt.raised(), "interrupted");
        let (agent, took) = start(subject).with_context(|| format!("start {run} of {RUNS}"))?;
        agent.stop()?;
        times.push(took.as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// Starts the agent and waits until it is ready.
pub(super) fn start(subject: &Subject) -> anyhow::Result<(Agent, Duration)> {
    let socket = Notifications::bind(&subject.dir.path().join("notify.sock"))?;
    let log = fs_err::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&subject.log)?;
    let launch = Launch {
        binary: &subject.binary,
        config: &subject.config,
        scenario: Some(&subject.scenario),
        environment: subject.cloud.environment(),
        notify_socket: Some(&subject.dir.path().join("notify.sock")),
        stdout: Stdio::null(),
        log: log.into_parts().0,
        tied: false,
    };
    let start = Instant::now();
    let mut agent = Agent::start(launch)?;
    socket.wait_for_ready(&mut agent, start + LIMIT)?;
    Ok((agent, start.elapsed()))
}

struct Notifications(UnixDatagram);

impl Notifications {
    fn bind(path: &Path) -> anyhow::Result<Self> {
        if path.exists() {
            fs_err::remove_file(path)?;
        }
        let socket = UnixDatagram::bind(path).with_context(|| format!("bind {}", path.display()))?;
        // Short enough to notice an agent that ended without a word.
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .context("set a read timeout")?;
        Ok(Self(socket))
    }

    fn wait_for_ready(&self, agent: &mut Agent, deadline: Instant) -> anyhow::Result<()> {
        let mut message = [0_u8; 4096];
        while Instant::now() < deadline {
            let length = match self.0.recv(&mut message) {
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    0
                }
                Err(error) => return Err(error).context("read the notification socket"),
            };
            if message[..length]
                .split(|byte| *byte == b'\n')
                .any(|line| line == b"READY=1")
            {
                return Ok(());
            }
            if let Some(status) = agent.ended()? {
                anyhow::bail!("the agent ended before it was ready ({status})");
            }
        }
        anyhow::bail!("no READY=1 within {} s", LIMIT.as_secs())
    }
}
