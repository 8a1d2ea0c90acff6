//! The command: prepare, show, stop, sum up.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use fake_cloudwatch::Script;

use super::accepted::{Accepted, Window};
use super::digest;
use super::ledger::Ledger;
use super::screen::{Frame, Screen};
use super::stage::{Stage, WINDOW};
use super::summary;
use crate::agent::{Agent, Interrupt};
use crate::args::{Args, UsageError};
use crate::workspace::{Workspace, succeed};

/// Between two looks at the status and at what was accepted.
const REFRESH: Duration = Duration::from_secs(1);
/// When an outage begins: the first window has arrived by then.
const OUTAGE_FROM: Duration = Duration::from_secs(15);
const OUTAGE: Duration = Duration::from_secs(15);
/// A shorter demo would end before the backlog is gone.
const SECONDS_WITH_OUTAGE: u64 = 60;

#[derive(Debug)]
pub(crate) struct Options {
    seconds: Option<u64>,
    fake: bool,
    outage: bool,
}

impl Options {
    pub(crate) fn parse(mut args: Args) -> Result<Self, UsageError> {
        let options = Self {
            seconds: args.count("--seconds")?,
            fake: args.flag("--fake"),
            outage: args.flag("--outage"),
        };
        args.finish()?;
        match options.seconds {
            Some(seconds) if options.outage && seconds < SECONDS_WITH_OUTAGE => {
                Err(UsageError::new(format!(
                    "--outage wants --seconds {SECONDS_WITH_OUTAGE} or more: an outage of {} s, and time to recover",
                    OUTAGE.as_secs()
                )))
            }
            _ => Ok(options),
        }
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<ExitCode> {
    succeed(&mut workspace.cargo([
        "build",
        "--locked",
        "-p",
        "gpushare",
        "-p",
        "fake-nvml",
        "-p",
        "fake-mps",
    ]))?;
    let mut stage = Stage::set(workspace, options.fake)?;
    let interrupt = Interrupt::listen()?;
    let mut agent = stage.start()?;
    if options.outage {
        stage.cloud.cloudwatch.play(Script {
            rules: Vec::new(),
            refuse: vec![(OUTAGE_FROM, Some(OUTAGE_FROM + OUTAGE))],
        });
    }
    let mut show = Show {
        screen: Screen::new(),
        accepted: Accepted::new(WINDOW),
        began: Instant::now(),
        outage: options.outage,
        answers: 0,
    };
    let deadline = options
        .seconds
        .map(|seconds| show.began + Duration::from_secs(seconds));
    let watched = show.play(&mut stage, &mut agent, &interrupt, deadline);
    let quit = watched.and_then(|()| stage.quit_mps());
    let ledger = quit.and_then(|()| last_ledger(&stage));
    show.screen.close();
    let ledger = match ledger {
        Ok(ledger) => ledger,
        Err(error) => {
            return Err(anyhow!(
                "{error:#}; the agent's log ends with:\n{}",
                stage.log_tail()
            ));
        }
    };
    let stopped = agent.stop()?;
    let flushed = show.accepted.look(&stage.cloud.cloudwatch);
    summary::print(&stage, &show.accepted, &flushed);
    summary::judge(&stage, &show.accepted, &ledger, &stopped, show.answers)
}

fn last_ledger(stage: &Stage) -> anyhow::Result<Ledger> {
    let status = stage.status(&["--json"]).map_err(|reason| anyhow!(reason))?;
    Ledger::parse(&status)
}

struct Show {
    screen: Screen,
    accepted: Accepted,
    began: Instant,
    outage: bool,
    /// How often the status answered.
    answers: usize,
}

impl Show {
    /// Shows the agent until the deadline or Ctrl-C; an agent that ends before is an error.
    fn play(
        &mut self,
        stage: &mut Stage,
        agent: &mut Agent,
        interrupt: &Interrupt,
        deadline: Option<Instant>,
    ) -> anyhow::Result<()> {
        // An agent that has just been started has no status yet.
        let mut next = Instant::now() + REFRESH;
        while deadline.is_none_or(|deadline| next < deadline) {
            if !interrupt.sleep_until(next) {
                return Ok(());
            }
            if let Some(status) = agent.ended()? {
                bail!("the agent ended by itself ({status})");
            }
            let status = stage.status(&[]);
            self.answers += usize::from(status.is_ok());
            if status.is_ok() {
                stage.look_at_mps()?;
            }
            let fresh = self.accepted.look(&stage.cloud.cloudwatch);
            self.draw(stage, &status.unwrap_or_else(|reason| reason), &fresh)?;
            // After a slow look the next one is a whole step away, not at once.
            next = (next + REFRESH).max(Instant::now());
        }
        interrupt.sleep_until(deadline.unwrap_or(next));
        Ok(())
    }

    fn draw(&mut self, stage: &Stage, status: &str, fresh: &[Window]) -> anyhow::Result<()> {
        let outage = self.outage_line();
        let title = format!("{}{outage}", stage.title());
        let newest = self.accepted.newest();
        let published = match newest {
            Some(window) => format!(
                "{}\n{}",
                digest::arrivals(&self.accepted),
                digest::statistics(window)
            ),
            None => digest::arrivals(&self.accepted),
        };
        let frame = Frame {
            title: &title,
            status,
            published: &published,
        };
        self.screen.draw(&frame, &news(fresh))
    }

    /// What is going on with the outage, if one was asked for.
    fn outage_line(&self) -> String {
        let at = self.began.elapsed();
        let end = OUTAGE_FROM + OUTAGE;
        if !self.outage {
            String::new()
        } else if at < OUTAGE_FROM {
            format!(
                "\nOutage: CloudWatch will refuse connections in {} s.",
                OUTAGE_FROM.saturating_sub(at).as_secs()
            )
        } else if at < end {
            format!(
                "\nOutage: CloudWatch refuses connections for another {} s; windows wait.",
                end.saturating_sub(at).as_secs()
            )
        } else {
            "\nOutage: over. The newest window goes first, then those that waited, each with its own time stamp."
                .to_owned()
        }
    }
}

/// What a log of the demo shows of windows that arrived.
fn news(fresh: &[Window]) -> String {
    let Some(newest) = fresh.iter().max_by_key(|window| window.start) else {
        return String::new();
    };
    let lines: String = fresh.iter().map(digest::arrival).collect();
    format!(
        "\nThe simulated CloudWatch accepted\n{}{lines}\n{}",
        digest::heading(),
        digest::statistics(newest)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, UsageError> {
        Options::parse(Args::new(line.split_whitespace().map(str::to_owned)))
    }

    #[test]
    fn an_outage_wants_time_to_recover_from() {
        assert!(parse("--outage").unwrap().outage);
        assert!(parse("--outage --seconds 60").is_ok() && parse("--seconds 5").is_ok());
        let error = parse("--outage --seconds 30").unwrap_err().to_string();
        assert_eq!(
            error,
            "--outage wants --seconds 60 or more: an outage of 15 s, and time to recover"
        );
    }
}
