//! docs/benchmarks.md: pure text from figures.

use std::fmt::Write as _;

use super::command::Options;
use super::machine::Machine;
use super::mps::Mps;
use super::outage::Outage;
use super::pushes::Pushes;
use super::replay::Replay;
use super::soak::Soak;
use super::spool::Spool;
use super::steady::Steady;
use super::traffic::Traffic;
use super::{publishing, spooling, supervising};

/// What was measured.
pub(super) struct Figures {
    pub(super) binary_bytes: u64,
    pub(super) ready_ms: Vec<f64>,
    pub(super) steady: Vec<Steady>,
    pub(super) tick: Vec<String>,
    pub(super) traffic: Vec<Traffic>,
    pub(super) pushes: Pushes,
    pub(super) outage: Outage,
    pub(super) spool: Vec<Spool>,
    pub(super) replay: Replay,
    pub(super) soak: Soak,
    pub(super) mps: Mps,
}

pub(super) const MIB: f64 = 1024.0 * 1024.0;
/// In MiB: the sum of Pss over all processes.
pub(super) const PSS_BUDGET: f64 = 24.0;
/// In MiB: the agent's resident memory.
pub(super) const RSS_BUDGET: f64 = 14.0;

/// A figure, and the budget where the design gives it one.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) unit: &'a str,
    pub(super) budget: Option<f64>,
    pub(super) decimals: usize,
    pub(super) values: Vec<f64>,
}

pub(super) fn render(figures: &Figures, machine: &Machine, options: Options) -> String {
    let mut text = whole_process(figures, machine, options);
    text.push_str(&publishing::traffic(&figures.traffic));
    text.push_str(&publishing::bill(&figures.traffic));
    text.push_str(&publishing::pushes(&figures.pushes));
    text.push_str(&publishing::outage(&figures.outage));
    text.push_str(&supervising::mps(&figures.mps));
    text.push_str(&spooling::spool(&figures.spool));
    text.push_str(&spooling::replay(&figures.replay));
    text.push_str(&spooling::soak(&figures.soak));
    let of_steady = |value: fn(&Steady) -> u64| {
        let values: Vec<f64> = figures.steady.iter().map(|run| value(run) as f64 / MIB).collect();
        median(&sorted(&values))
    };
    text.push_str(&publishing::sizes(
        figures.binary_bytes,
        of_steady(|run| run.rss_bytes),
        of_steady(|run| run.pss_bytes),
    ));
    let _ = write!(
        text,
        "\n## One tick\n\n`cargo bench --bench tick` printed:\n\n```\n{}\n```\n",
        figures.tick.join("\n")
    );
    text
}

fn whole_process(figures: &Figures, machine: &Machine, options: Options) -> String {
    let Machine {
        cpu,
        cores,
        kernel,
        date,
        commit,
    } = machine;
    let Options {
        minutes,
        runs,
        pushes,
        outage,
        soak,
        only_mps: _,
        only_node: _,
    } = options;
    let mut text = format!(
        "<!-- Written by `cargo xtask bench`: run it again rather than editing. -->\n\n# Benchmarks\n\n\
         Figures of the release build of commit {commit}, taken on {date} on {cpu}, {cores} cores,\nLinux {kernel}, with\n\n\
         ```\ncargo xtask bench --minutes {minutes} --runs {runs} --pushes {pushes} --outage {outage} --soak {soak}\n```\n\n\
         GPUs, instance metadata and CloudWatch are simulated by the test kit. What a real driver's library takes, in memory\n\
         above all, comes on top, and so does TLS.\n\n## Whole process\n\n\
         Eight GPUs (scenario `p5.48xlarge`), samples every second, windows of 60 s, groups host, gpu, health and agent,\n\
         published to CloudWatch.\n\n\
         | Figure | Median | Least to greatest | Runs | Budget | |\n|---|---|---|---|---|---|\n"
    );
    for row in rows(figures) {
        text.push_str(&line(&row));
    }
    let processes = figures.steady.first().map_or(0, |steady| steady.processes);
    let _ = write!(
        text,
        "\nMemory is the sum of Pss over the agent and its children ({processes} processes) at the end of a run, from\n\
         `/proc/PID/smaps_rollup`. CPU is user and kernel time over the {minutes} minutes of a run, from\n\
         `/proc/PID/stat`. READY is counted from before the fork to the arrival of `READY=1` on the notification\n\
         socket.\n\n"
    );
    text
}

fn rows(figures: &Figures) -> [Row<'static>; 5] {
    let steady = |value: fn(&Steady) -> f64| figures.steady.iter().map(value).collect();
    [
        Row {
            name: "release binary",
            unit: "MiB",
            budget: Some(10.0),
            decimals: 2,
            values: vec![figures.binary_bytes as f64 / MIB],
        },
        Row {
            name: "memory, all processes",
            unit: "MiB",
            budget: Some(PSS_BUDGET),
            decimals: 1,
            values: steady(|run| run.pss_bytes as f64 / MIB),
        },
        Row {
            name: "resident memory, agent",
            unit: "MiB",
            budget: Some(RSS_BUDGET),
            decimals: 1,
            values: steady(|run| run.rss_bytes as f64 / MIB),
        },
        Row {
            name: "CPU, of one core",
            unit: "%",
            budget: Some(0.3),
            decimals: 2,
            values: steady(|run| run.cpu_percent),
        },
        Row {
            name: "exec to READY",
            unit: "ms",
            budget: Some(200.0),
            decimals: 1,
            values: figures.ready_ms.clone(),
        },
    ]
}

pub(super) fn line(row: &Row<'_>) -> String {
    let Row {
        name,
        unit,
        budget,
        decimals,
        values,
    } = row;
    let sorted = sorted(values);
    let (Some(least), Some(greatest)) = (sorted.first(), sorted.last()) else {
        return String::new();
    };
    let median = median(&sorted);
    let judged = budget.map_or_else(
        || "| | |".to_owned(),
        |budget| {
            // Judged as measured, not as rounded: 0.304 % would pass for 0.30 %.
            let verdict = if median <= budget { "met" } else { "missed" };
            format!("| <= {budget} {unit} | {verdict} |")
        },
    );
    format!(
        "| {name} | {median:.decimals$} {unit} | {least:.decimals$} to {greatest:.decimals$} | {} {judged}\n",
        values.len()
    )
}

pub(super) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Of a sorted list; the mean of the middle two when there are two, and not a number when there is none.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.is_empty() {
        f64::NAN
    } else if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(cpu_percent: f64, pss_mib: u64) -> Steady {
        Steady {
            cpu_percent,
            pss_bytes: pss_mib << 20,
            rss_bytes: 7 << 20,
            processes: 2,
        }
    }

    #[test]
    fn medians_stand_beside_their_budgets() {
        let figures = Figures {
            binary_bytes: 11 << 20,
            ready_ms: vec![30.0, 10.0, 20.0, 250.0],
            steady: vec![steady(0.304, 12), steady(0.2, 10), steady(0.4, 30)],
            tick: vec!["tick_us_median=12".to_owned()],
            traffic: Vec::new(),
            pushes: Pushes::default(),
            outage: Outage::default(),
            spool: Vec::new(),
            replay: Replay::default(),
            soak: Soak::default(),
            mps: Mps::default(),
        };
        let machine = Machine {
            cpu: "CPU".into(),
            cores: 2,
            kernel: "6.1".into(),
            date: "2026-01-31".into(),
            commit: "0123abc".into(),
        };
        let options = Options {
            minutes: 10,
            runs: 3,
            pushes: 60,
            outage: 75,
            soak: 10,
            only_mps: false,
            only_node: false,
        };
        let text = render(&figures, &machine, options);
        for line in [
            "| release binary | 11.00 MiB | 11.00 to 11.00 | 1 | <= 10 MiB | missed |",
            "| memory, all processes | 12.0 MiB | 10.0 to 30.0 | 3 | <= 24 MiB | met |",
            "| resident memory, agent | 7.0 MiB | 7.0 to 7.0 | 3 | <= 14 MiB | met |",
            "| CPU, of one core | 0.30 % | 0.20 to 0.40 | 3 | <= 0.3 % | missed |",
            "| exec to READY | 25.0 ms | 10.0 to 250.0 | 4 | <= 200 ms | met |",
            "cargo xtask bench --minutes 10 --runs 3 --pushes 60 --outage 75 --soak 10",
            "| gpushare: agent; Pss with its child | 11.53 | 7.0 | 12.0 |",
            "tick_us_median=12",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.contains("of commit 0123abc, taken on 2026-01-31 on CPU, 2 cores,\nLinux 6.1"));
    }
}
