//! The part of docs/benchmarks.md about publishing: pure text from figures.

use std::fmt::Write as _;

use super::cost::{Bill, two_daemons};
use super::outage::Outage;
use super::pushes::{Memory, Pushes, WINDOW};
use super::report::{MIB, PSS_BUDGET, RSS_BUDGET, median, sorted};
use super::traffic::{MINUTES, Traffic};

/// A program that does nothing but push, built with the same SDK: name, MB of the stripped binary,
/// MiB of Rss and Pss. It pushes 64 datums of 60 values twice over TLS, then idles.
const PROBES: [(&str, f64, f64, f64); 3] = [
    ("probe: SDK with default features, opt-level 3", 14.9, 13.2, 11.2),
    ("probe: SDK slim on aws-lc, size-optimised", 4.35, 7.1, 5.2),
    ("probe: SDK slim on ring, size-optimised", 3.59, 6.4, 4.4),
];

pub(super) fn traffic(nodes: &[Traffic]) -> String {
    let mut text = format!(
        "## What reaches CloudWatch\n\nPer minute, counted at the simulated CloudWatch over {MINUTES} whole minutes: samples \
         every second, one window a\nminute, the groups host, gpu and agent of the default configuration, this machine's own \
         disks. Bytes are those of\nthe bodies before compression; those on the wire include the HTTP heads, but no TLS.\n\n\
         | Node | GPUs | Requests | Series | Datums | Samples | Bytes | On the wire |\n|---|---|---|---|---|---|---|---|\n"
    );
    for node in nodes {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} |",
            node.instance_type,
            node.gpus,
            node.requests,
            node.series,
            node.datums,
            node.samples,
            node.bytes,
            node.wire_bytes
        );
    }
    text
}

pub(super) fn bill(nodes: &[Traffic]) -> String {
    let mut text = "\n### The bill\n\nUSD a month of 730 hours for one node at list prices of us-east-1: 0.30 a metric \
         (first 10,000), 0.01 a thousand\nrequests, nothing free. The metrics and requests of gpushare are those counted above; a \
         further file system or disk\nadds two metrics. The two daemons that it replaces, `gpumon.py` and the CloudWatch agent, \
         are reckoned from their\nconfiguration on a node with 3 mounts and 5 block devices, with a rollup by instance type. \
         They sample every 10 s and\nevery minute, gpushare every second.\n\n\
         | GPUs | | Metrics | Requests a month | USD a month | Saved |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for node in nodes {
        let theirs = two_daemons(node.gpus);
        let ours = Bill {
            metrics: node.series,
            requests_a_minute: node.requests,
        };
        let saved = (1.0 - ours.usd() / theirs.usd()) * 100.0;
        let row = |name: &str, bill: Bill, saved: &str| {
            format!(
                "| {} | {name} | {} | {:.0} | {:.2} | {saved} |\n",
                node.gpus,
                bill.metrics,
                bill.requests(),
                bill.usd()
            )
        };
        text.push_str(&row("two daemons", theirs, ""));
        text.push_str(&row("gpushare", ours, &format!("{saved:.0} %")));
    }
    text
}

pub(super) fn pushes(pushes: &Pushes) -> String {
    let cpu = sorted(&pushes.cpu_ms);
    let ([least, .., greatest], [first, .., end]) = (cpu.as_slice(), pushes.memory.as_slice()) else {
        return String::new();
    };
    let median = median(&cpu);
    let pss: Vec<f64> = pushes.memory.iter().map(|memory| mib(memory.pss_bytes)).collect();
    let greatest_pss = pss.iter().copied().fold(0.0, f64::max);
    let mut text = format!(
        "\n## {} publishes\n\nEight GPUs in time-lapse: samples every 100 ms, a driver's ring at 60 Hz, windows of 6 s. Each \
         publish carries as many\nsamples as that of a real minute at the usual rates: {:.0} in {:.0} datums, {:.0} bytes before \
         compression. The first\none, which connects, is left out. Plain HTTP: what TLS takes is not in it.\n\n\
         | Memory, MiB | First | Last | Greatest |\n|---|---|---|---|\n",
        pushes.memory.len(),
        pushes.samples,
        pushes.datums,
        pushes.bytes
    );
    let row = |name: &str, of: fn(&Memory) -> u64, greatest: f64| {
        let [first, end] = [first, end].map(|memory| mib(of(memory)));
        format!("| {name} | {first:.2} | {end:.2} | {greatest:.2} |\n")
    };
    text.push_str(&row(
        "all processes (Pss)",
        |memory| memory.pss_bytes,
        greatest_pss,
    ));
    text.push_str(&row(
        "agent (Rss)",
        |memory| memory.rss_bytes,
        mib(pushes.peak_rss_bytes),
    ));
    let _ = write!(
        text,
        "\nRead 3 s after each publish; the greatest Rss is the kernel's own high-water mark (`VmHWM`).\n\nCPU of one publish: \
         median {median:.2} ms, {least:.2} to {greatest:.2}, which at one a minute is {:.4} % of a core. It is\nwhat the agent's \
         main thread spent in the half second around the arrival of a request (`/proc/PID/schedstat`), less\nwhat it spent in \
         another half second of the same window, on sampling alone.\n",
        median / 60_000.0 * 100.0
    );
    text
}

pub(super) fn outage(outage: &Outage) -> String {
    let Outage {
        windows,
        kept_windows,
        kept_samples,
        before,
        full,
        after,
        peak_rss_bytes,
    } = outage;
    let mut text = format!(
        "\n## An outage\n\nThe node of the publishes above, while CloudWatch refuses connections for {windows} windows of {} s. \
         Of these, {kept_windows} with {kept_samples:.0}\nsamples arrived afterwards: they waited in the spool.\n\n\
         | Memory, MiB | Before | At the end of the outage | Greatest | Backlog gone | Budget | |\n|---|---|---|---|---|---|---|\n",
        WINDOW.as_secs()
    );
    let mut row = |name: &str, of: fn(&Memory) -> u64, peak_bytes: u64, budget: f64| {
        let [before, full, after] = [before, full, after].map(|memory| mib(of(memory)));
        let greatest = mib(peak_bytes).max(before).max(full).max(after);
        let verdict = if greatest <= budget { "met" } else { "missed" };
        let _ = writeln!(
            text,
            "| {name} | {before:.1} | {full:.1} | {greatest:.1} | {after:.1} | <= {budget} MiB | {verdict} |"
        );
    };
    row("all processes (Pss)", |memory| memory.pss_bytes, 0, PSS_BUDGET);
    row(
        "agent (Rss)",
        |memory| memory.rss_bytes,
        *peak_rss_bytes,
        RSS_BUDGET,
    );
    text.push_str(
        "\nThe greatest Rss is the kernel's high-water mark; that of Pss is the greatest of the three.\n",
    );
    text
}

pub(super) fn sizes(binary_bytes: u64, rss_mib: f64, pss_mib: f64) -> String {
    let mut text = "\n## Size beside the SDK alone\n\nThe probes are a program that only pushes 64 datums of 60 values twice over \
         TLS and then idles, measured once on a\n2-core x86-64 machine; gpushare is the whole agent with its NVML \
         process, after the steady runs above.\n\n\
         | | Binary, MB | Rss of the process, MiB | Pss, MiB |\n|---|---|---|---|\n"
        .to_owned();
    for (name, binary, rss, pss) in PROBES {
        let _ = writeln!(text, "| {name} | {binary} | {rss} | {pss} |");
    }
    let _ = writeln!(
        text,
        "| gpushare: agent; Pss with its child | {:.2} | {rss_mib:.1} | {pss_mib:.1} |",
        binary_bytes as f64 / 1e6
    );
    text
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|found| found == *line),
                "{line}\nis not in\n{text}"
            );
        }
    }

    #[test]
    fn traffic_and_bill_come_from_what_was_counted() {
        let nodes = [Traffic {
            instance_type: "p5.48xlarge".to_owned(),
            gpus: 8,
            series: 59,
            requests: 1.0,
            datums: 60.0,
            samples: 6_000.0,
            bytes: 48_000.4,
            wire_bytes: 6_100.0,
        }];
        assert_lines(
            &traffic(&nodes),
            &["| p5.48xlarge | 8 | 1 | 59 | 60 | 6000 | 48000 | 6100 |"],
        );
        assert_lines(
            &bill(&nodes),
            &[
                "| 8 | two daemons | 64 | 2146200 | 40.66 |  |",
                "| 8 | gpushare | 59 | 43800 | 18.14 | 55 % |",
            ],
        );
    }

    #[test]
    fn memory_has_its_first_last_and_greatest() {
        let memory = |pss: u64, rss: u64| Memory {
            pss_bytes: pss << 20,
            rss_bytes: rss << 20,
        };
        let figures = Pushes {
            memory: vec![memory(5, 4), memory(9, 4), memory(6, 5)],
            peak_rss_bytes: 7 << 20,
            cpu_ms: vec![3.0, 6.0, 4.5],
            ..Pushes::default()
        };
        let text = pushes(&figures);
        assert_lines(
            &text,
            &[
                "## 3 publishes",
                "| all processes (Pss) | 5.00 | 6.00 | 9.00 |",
                "| agent (Rss) | 4.00 | 5.00 | 7.00 |",
            ],
        );
        assert!(
            text.contains("median 4.50 ms, 3.00 to 6.00, which at one a minute is 0.0075 %"),
            "{text}"
        );
        assert_eq!(pushes(&Pushes::default()), "");
    }

    #[test]
    fn an_outage_is_judged_by_its_greatest_figure() {
        let memory = |pss: u64, rss: u64| Memory {
            pss_bytes: pss << 20,
            rss_bytes: rss << 20,
        };
        let figures = Outage {
            windows: 75,
            kept_windows: 69,
            kept_samples: 596_160.0,
            before: memory(9, 8),
            full: memory(24, 13),
            after: memory(12, 11),
            peak_rss_bytes: 15 << 20,
        };
        let text = outage(&figures);
        assert_lines(
            &text,
            &[
                "| all processes (Pss) | 9.0 | 24.0 | 24.0 | 12.0 | <= 24 MiB | met |",
                "| agent (Rss) | 8.0 | 13.0 | 15.0 | 11.0 | <= 14 MiB | missed |",
            ],
        );
        assert!(
            text.contains("for 75 windows of 6 s. Of these, 69 with 596160\nsamples arrived afterwards"),
            "{text}"
        );
    }

    #[test]
    fn the_agent_stands_below_the_probes() {
        let text = sizes(5_846_504, 8.04, 9.5);
        assert_lines(
            &text,
            &["| gpushare: agent; Pss with its child | 5.85 | 8.0 | 9.5 |"],
        );
        assert!(text.find("3.59").unwrap() < text.find("5.85").unwrap());
    }
}
