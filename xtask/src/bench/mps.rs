//! MPS on eight GPUs: how soon a killed daemon is verified again, how soon an agent that starts has adopted all of them,
//! what a cycle of probes costs, and the memory of it all.
//!
//! The programs of MPS are the test kit's: what NVIDIA's take to start comes on top.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::ready;
use super::steady::family;
use super::subject::{Node, Subject};
use crate::agent::procfs::Process;
use crate::agent::{Agent, Interrupt, output_within, quit_all, verified_servers};
use crate::workspace::Workspace;

const GPUS: usize = 8;
/// Of everything that is measured several times.
const RUNS: usize = 5;
/// Between two questions to the agent: of the size of an error of what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(30);
/// After the start, what is allocated for the first windows and probes.
const SETTLE: Duration = Duration::from_secs(15);
/// How long CPU time is counted, at either interval of probes.
const WATCHED: Duration = Duration::from_mins(1);
/// `mps.probe_interval` by default, and one that lets probes be told from all else; in seconds.
const INTERVALS: [u64; 2] = [10, 1];

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mps {
    /// From SIGKILL of a control daemon to its GPU's being verified again, in milliseconds.
    pub(super) back_ms: Vec<f64>,
    /// The same of daemons that an earlier agent had started.
    pub(super) adopted_back_ms: Vec<f64>,
    /// From before the fork of an agent to every GPU's being verified, with daemons that run.
    pub(super) adopted_ms: Vec<f64>,
    pub(super) cycle: Cycle,
    /// Of each `gpushare mps run`.
    pub(super) supervisor_pss: Vec<u64>,
    /// The agent, its NVML child, and these.
    pub(super) pss_bytes: u64,
    pub(super) processes: usize,
}

/// One probe of each GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cycle {
    /// CPU time of the agent.
    pub(super) agent_ms: f64,
    /// CPU time of the control programs that it calls.
    pub(super) programs_ms: f64,
    /// Control programs.
    pub(super) programs: f64,
}

pub(super) fn run(workspace: &Workspace, interrupt: &Interrupt) -> anyhow::Result<Mps> {
    println!("MPS on {GPUS} GPUs, {RUNS} runs of each");
    let node = Node {
        mps: true,
        ..Node::large()
    };
    let stage = Stage {
        subject: Subject::set(workspace, &node)?,
    };
    let measured = stage.measure(interrupt);
    let quit = stage.quit();
    let measured =
        measured.with_context(|| format!("measure MPS; the log is {}", stage.subject.log.display()))?;
    quit?;
    Ok(measured)
}

struct Stage {
    subject: Subject,
}

impl Stage {
    fn measure(&self, interrupt: &Interrupt) -> anyhow::Result<Mps> {
        let (agent, _) = self.start()?;
        let back_ms = self.killed(interrupt)?;
        ensure!(interrupt.sleep_until(Instant::now() + SETTLE), "interrupted");
        let (supervisor_pss, pss_bytes, processes) = self.memory(&agent)?;
        let slow = self.watch(&agent, interrupt)?;
        let (agent, adopted_ms) = self.restarted(agent, interrupt)?;
        let adopted_back_ms = self.killed(interrupt)?;
        agent.stop_alone()?;
        self.probe_every_second()?;
        let (agent, _) = self.start()?;
        let fast = self.watch(&agent, interrupt)?;
        agent.stop_alone()?;
        Ok(Mps {
            back_ms,
            adopted_back_ms,
            adopted_ms,
            cycle: cycle(slow, fast),
            supervisor_pss,
            pss_bytes,
            processes,
        })
    }

    /// Starts an agent and waits until MPS is verified on every GPU; how long that took from before the fork.
    fn start(&self) -> anyhow::Result<(Agent, Duration)> {
        let start = Instant::now();
        let (agent, _) = ready::start(&self.subject)?;
        self.wait(|servers| servers.len() == GPUS)?;
        Ok((agent, start.elapsed()))
    }

    /// Kills one control daemon after the other.
    fn killed(&self, interrupt: &Interrupt) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        let before = self.wait(|servers| servers.len() == GPUS)?;
        for (gpu, server) in before.iter().take(RUNS) {
            ensure!(!interrupt.raised(), "interrupted");
            let daemon = Pid::from_raw(self.daemon(gpu)?.cast_signed()).context("a process id of zero")?;
            let start = Instant::now();
            kill_process(daemon, Signal::KILL).context("kill a control daemon")?;
            self.wait(|servers| servers.get(gpu).is_some_and(|now| now != server))?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    }

    /// Stops the agent and starts another one, several times.
    fn restarted(&self, mut agent: Agent, interrupt: &Interrupt) -> anyhow::Result<(Agent, Vec<f64>)> {
        let before = self.wait(|servers| servers.len() == GPUS)?;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            ensure!(!interrupt.raised(), "interrupted");
            agent.stop_alone()?;
            let (next, took) = self.start()?;
            agent = next;
            times.push(took.as_secs_f64() * 1000.0);
        }
        let after = self.wait(|servers| servers.len() == GPUS)?;
        ensure!(
            after == before,
            "an agent's restart has changed servers: {before:?}, then {after:?}"
        );
        Ok((agent, times))
    }

    /// Pss of each `gpushare mps run`, of all our processes, and how many these are.
    fn memory(&self, agent: &Agent) -> anyhow::Result<(Vec<u64>, u64, usize)> {
        let binary = fs_err::canonicalize(&self.subject.binary)?;
        let mut ours = family(agent.process());
        ours.retain(|process| process.program().is_ok_and(|program| program == binary));
        let mut supervisors = Vec::new();
        for gpu in self.wait(|servers| servers.len() == GPUS)?.keys() {
            let daemon = self.daemon(gpu)?;
            let supervisor = ours.iter().find(|process| {
                process.descendants().iter().any(|child| child.pid == daemon) && **process != agent.process()
            });
            let supervisor =
                supervisor.with_context(|| format!("no process of ours keeps the daemon of {gpu}"))?;
            supervisors.push(supervisor.memory()?.pss_bytes);
        }
        let mut sum = 0;
        for process in &ours {
            sum += process.memory()?.pss_bytes;
        }
        Ok((supervisors, sum, ours.len()))
    }

    fn watch(&self, agent: &Agent, interrupt: &Interrupt) -> anyhow::Result<Watched> {
        let before = self.spent(agent.process())?;
        ensure!(interrupt.sleep_until(Instant::now() + WATCHED), "interrupted");
        let after = self.spent(agent.process())?;
        Ok(Watched {
            agent: after.agent.saturating_sub(before.agent),
            programs: after.programs.saturating_sub(before.programs),
            questions: after.questions - before.questions,
        })
    }

    fn spent(&self, agent: Process) -> anyhow::Result<Watched> {
        let kit = self.subject.mps.as_ref().context("MPS is off")?;
        Ok(Watched {
            agent: agent.cpu_time()?,
            programs: agent.children_time()?,
            questions: kit.questions()?,
        })
    }

    fn probe_every_second(&self) -> anyhow::Result<()> {
        let text = fs_err::read_to_string(&self.subject.config)?;
        let [slow, fast] = INTERVALS.map(|seconds| format!("probe_interval = \"{seconds}s\""));
        ensure!(
            text.contains(&slow),
            "{} has no {slow}",
            self.subject.config.display()
        );
        Ok(fs_err::write(&self.subject.config, text.replace(&slow, &fast))?)
    }

    /// The control daemon's process.
    fn daemon(&self, gpu: &str) -> anyhow::Result<u32> {
        let file = self
            .subject
            .dir
            .path()
            .join("mps")
            .join(gpu)
            .join("nvidia-cuda-mps-control.pid");
        let text = fs_err::read_to_string(&file)?;
        text.trim()
            .parse()
            .with_context(|| format!("{}: {text:?}", file.display()))
    }

    /// Waits for a state of the servers of those GPUs whose MPS is verified, by UUID.
    fn wait(&self, wanted: impl Fn(&BTreeMap<String, u32>) -> bool) -> anyhow::Result<BTreeMap<String, u32>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let servers = self.servers()?;
            if wanted(&servers) {
                return Ok(servers);
            }
            ensure!(
                Instant::now() < deadline,
                "MPS is not verified within {} s: {servers:?}",
                LIMIT.as_secs()
            );
            thread::sleep(LOOK_EVERY);
        }
    }

    fn servers(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let mut command = self.command("status");
        let output = output_within(command.arg("--json"), LIMIT)?;
        ensure!(output.status.success(), "gpushare status: {}", output.status);
        verified_servers(&String::from_utf8_lossy(&output.stdout))
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.subject.binary);
        command
            .args(verb.split(' '))
            .arg("--config")
            .arg(&self.subject.config);
        command
    }

    fn quit(&self) -> anyhow::Result<()> {
        quit_all(&self.subject.dir.path().join("mps"), || {
            let mut command = self.command("mps quit");
            command.env("FAKE_NVML_SCENARIO", &self.subject.scenario);
            command
        })
    }
}

/// What was spent so far, or in a time.
#[derive(Clone, Copy)]
struct Watched {
    agent: Duration,
    programs: Duration,
    questions: usize,
}

/// A cycle's part: what more of them cost more.
fn cycle(slow: Watched, fast: Watched) -> Cycle {
    let cycles = INTERVALS.map(|seconds| WATCHED.as_secs() as f64 / seconds as f64);
    let more = cycles[1] - cycles[0];
    let part = |slow: Duration, fast: Duration| (fast.as_secs_f64() - slow.as_secs_f64()) * 1000.0 / more;
    Cycle {
        agent_ms: part(slow.agent, fast.agent),
        programs_ms: part(slow.programs, fast.programs),
        programs: (fast.questions as f64 - slow.questions as f64) / more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_costs_what_more_of_them_cost_more() {
        let watched = |agent, programs, questions| Watched {
            agent: Duration::from_millis(agent),
            programs: Duration::from_millis(programs),
            questions,
        };
        let cycle = cycle(watched(100, 30, 48), watched(640, 570, 480));
        let figures = [cycle.agent_ms, cycle.programs_ms, cycle.programs];
        assert_eq!(
            figures.map(|figure| format!("{figure:.3}")),
            ["10.000", "10.000", "8.000"]
        );
    }
}
