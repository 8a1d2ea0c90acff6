//! The part of docs/benchmarks.md about MPS: pure text from figures.

use std::fmt::Write as _;

use super::mps::Mps;
use super::report::{MIB, PSS_BUDGET, Row, line};

/// In milliseconds: from the end of a control daemon to one that is verified.
const BACK_BUDGET: f64 = 2000.0;

pub(super) fn mps(figures: &Mps) -> String {
    let mut text = "\n## MPS\n\nEight GPUs with a daemon each as a plain process, `mps.probe_interval` of 10 s, played by fake-mps: what NVIDIA's programs\n\
         take to start comes on top. Verified is what `gpushare status` says, asked every 10 ms and more.\n\n\
         | Figure | Median | Least to greatest | Runs | Budget | |\n|---|---|---|---|---|---|\n"
        .to_owned();
    let ms = |name, values: &[f64], budget| Row {
        name,
        unit: "ms",
        budget,
        decimals: 0,
        values: values.to_vec(),
    };
    let mib = |name, bytes: &[u64], budget, decimals| Row {
        name,
        unit: "MiB",
        budget,
        decimals,
        values: bytes.iter().map(|bytes| *bytes as f64 / MIB).collect(),
    };
    for row in [
        ms(
            "control daemon killed, until its GPU is verified again",
            &figures.back_ms,
            Some(BACK_BUDGET),
        ),
        ms(
            "the same after the agent was started anew",
            &figures.adopted_back_ms,
            Some(BACK_BUDGET),
        ),
        ms(
            "agent started, until it has verified 8 daemons that ran on",
            &figures.adopted_ms,
            None,
        ),
        mib(
            "memory of a `gpushare mps run` (Pss)",
            &figures.supervisor_pss,
            None,
            2,
        ),
        mib(
            "memory, all our processes (Pss)",
            &[figures.pss_bytes],
            Some(PSS_BUDGET),
            1,
        ),
    ] {
        text.push_str(&line(&row));
    }
    let cycle = figures.cycle;
    let _ = write!(
        text,
        "\nThose are {} processes: the agent, its NVML child, and a `gpushare mps run` for each GPU. A cycle of probes takes {:.1}\n\
         control programs for the 8 GPUs, {:.1} ms of CPU in the agent and {:.1} ms in the programs: what a minute of probes every\n\
         second costs more than one of probes every 10 s, divided by the probes. The restarts of the agent changed no server.\n",
        figures.processes, cycle.programs, cycle.agent_ms, cycle.programs_ms
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::mps::Cycle;
    use super::*;

    #[test]
    fn medians_stand_beside_their_budgets() {
        let text = mps(&Mps {
            back_ms: vec![300.0, 2100.0, 2200.0],
            adopted_back_ms: vec![90.0],
            adopted_ms: vec![700.0, 800.0],
            cycle: Cycle {
                agent_ms: 1.25,
                programs_ms: 20.0,
                programs: 8.0,
            },
            supervisor_pss: vec![1 << 20, 2 << 20],
            pss_bytes: 23 << 20,
            processes: 10,
        });
        for line in [
            "| control daemon killed, until its GPU is verified again | 2100 ms | 300 to 2200 | 3 | <= 2000 ms | missed |",
            "| the same after the agent was started anew | 90 ms | 90 to 90 | 1 | <= 2000 ms | met |",
            "| agent started, until it has verified 8 daemons that ran on | 750 ms | 700 to 800 | 2 | | |",
            "| memory of a `gpushare mps run` (Pss) | 1.50 MiB | 1.00 to 2.00 | 2 | | |",
            "| memory, all our processes (Pss) | 23.0 MiB | 23.0 to 23.0 | 1 | <= 24 MiB | met |",
            "Those are 10 processes",
            "takes 8.0\ncontrol programs for the 8 GPUs, 1.2 ms",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
