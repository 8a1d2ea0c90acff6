//! The part of docs/benchmarks.md about what waits: pure text from figures.

use std::fmt::Write as _;

use super::pushes::WINDOW;
use super::replay::Replay;
use super::report::{MIB, RSS_BUDGET};
use super::soak::{Soak, State};
use super::spool::Spool;

/// `publish.interval` of the replay, in seconds: a live window has so long to arrive.
const INTERVAL: f64 = 60.0;
/// In MiB: what memory may grow by in a soak.
const GROWTH_BUDGET: f64 = 1.0;
/// In percent of a core, of an idle agent at the usual rates.
const CPU_BUDGET: f64 = 0.1;

pub(super) fn spool(nodes: &[Spool]) -> String {
    let mut text = "\n## What the spool costs\n\nEvery window is written to the disk before it is sent, and removed after it was \
         accepted. One minute of a node that\npublishes, from `cargo bench --bench spool`: 300 windows of samples every second \
         and a ring of 6 Hz, on this machine's\nfile system. Bytes are those that the kernel counts for the device \
         (`/proc/PID/task/TID/io`), CPU is that of the spool's\nthread, memory is what the open spool adds to the process, file \
         pages left aside.\n\n\
         | Series | Samples | Distinct values | Record, bytes | Written to the device, bytes | `fsync`s | CPU, ms | Until it is safe, ms | Memory, KiB |\n\
         |---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for node in nodes {
        let _ = writeln!(
            text,
            "| {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.1}, at most {:.1} | {:.0} |",
            node.get("series"),
            node.get("samples"),
            node.get("distinct_values"),
            node.get("day_record_bytes") / 1440.0,
            node.get("online_device_bytes"),
            node.get("online_syncs"),
            node.get("online_cpu_us") / 1000.0,
            node.get("written_us_median") / 1000.0,
            node.get("written_us_max") / 1000.0,
            node.get("online_kib")
        );
    }
    text.push_str(
        "\nA day without CloudWatch, 1440 windows that stay, and the way back, one window after the other:\n\n\
         | Series | Files after a day, MiB | Memory then, KiB | Written a window, bytes | `fsync`s | CPU, ms | Read and removed: CPU, ms | Files afterwards, KiB |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for node in nodes {
        let _ = writeln!(
            text,
            "| {:.0} | {:.1} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.0} |",
            node.get("series"),
            node.get("day_file_bytes") / MIB,
            node.get("day_kib"),
            node.get("offline_device_bytes"),
            node.get("offline_syncs"),
            node.get("offline_cpu_us") / 1000.0,
            node.get("replay_cpu_us") / 1000.0,
            node.get("empty_file_bytes") / 1024.0
        );
    }
    text
}

pub(super) fn replay(replay: &Replay) -> String {
    let Some(latest) = replay.live_seconds.iter().copied().max_by(f64::total_cmp) else {
        return String::new();
    };
    let [full, empty] = replay.disk_bytes.map(|bytes| bytes as f64 / MIB);
    let verdict = |met: bool| if met { "met" } else { "missed" };
    let peak = replay.peak_rss_bytes as f64 / MIB;
    format!(
        "\n## A day is replayed\n\nThe agent on eight GPUs (`p5.48xlarge`, default groups, samples every second, windows of 60 s) \
         starts with a day in\nits spool: {windows} windows, {samples:.0} samples, {full:.1} MiB on the disk. `benches/spool` makes them up: \
         compare the\nbytes of a window, {a_window:.0}, with those of a sampled one above.\n\n\
         | Figure | | Budget | |\n|---|---|---|---|\n\
         | exec to READY | {ready:.0} ms | <= 200 ms | {ready_verdict} |\n\
         | until the backlog is gone | {seconds:.0} s | | |\n\
         | requests for it | {requests} | | |\n\
         | their bodies before compression | {mean:.0} bytes, at most {greatest} | | |\n\
         | requests in vain | {in_vain} | | |\n\
         | live windows meanwhile and after it | {live} | | |\n\
         | the latest of them after its end | {latest:.1} s | <= {INTERVAL:.0} s | {late_verdict} |\n\
         | resident memory, agent: greatest | {peak:.1} MiB | <= {RSS_BUDGET} MiB | {rss_verdict} |\n\
         | the same at READY, and when the backlog is gone | {before:.1} and {after:.1} MiB | | |\n\
         | CPU of the agent | {cpu:.2} s, {percent:.2} % of a core | | |\n\
         | files of the spool afterwards | {empty:.1} MiB | | |\n\n\
         A node sends its minute at a place of its own in the first 10 s after it: that is in the lateness.\n",
        windows = replay.windows,
        samples = replay.samples,
        a_window = replay.bytes / replay.windows as f64,
        ready = replay.ready_seconds * 1000.0,
        ready_verdict = verdict(replay.ready_seconds <= 0.2),
        seconds = replay.seconds,
        requests = replay.requests,
        mean = replay.bytes / replay.requests as f64,
        greatest = replay.greatest_bytes,
        in_vain = replay.in_vain,
        live = replay.live_seconds.len(),
        late_verdict = verdict(latest <= INTERVAL),
        rss_verdict = verdict(peak <= RSS_BUDGET),
        before = replay.before.rss_bytes as f64 / MIB,
        after = replay.after.rss_bytes as f64 / MIB,
        cpu = replay.cpu_seconds,
        percent = replay.cpu_seconds / replay.seconds * 100.0,
    )
}

pub(super) fn soak(soak: &Soak) -> String {
    let ([first, .., last], [_, rest @ ..]) = (soak.states.as_slice(), soak.states.as_slice()) else {
        return String::new();
    };
    let mut text = format!(
        "\n## An endpoint that flaps\n\nThe node of the publishes above for {minutes:.0} minutes, {windows} windows of {} s: as many as \
         {hours:.1} hours have. Every 36 s CloudWatch is\naway for 12 s, in turn by refused connections, 503, no answer, throttling, \
         resets and expired tokens: {times} times, {in_vain} of\n{requests} requests in vain. Windows that are missing afterwards: \
         {missing}. Read at the end of each 36 s, when nothing waits.\n\n\
         | | First | Last | Greatest | Growth | Budget | |\n|---|---|---|---|---|---|---|\n",
        WINDOW.as_secs(),
        minutes = soak.seconds / 60.0,
        windows = soak.windows,
        hours = soak.windows as f64 / 60.0,
        times = soak.states.len(),
        in_vain = soak.in_vain,
        requests = soak.requests,
        missing = soak.missing,
    );
    let mut row = |name: &str, of: fn(&State) -> f64, decimals: usize, budget: f64, unit: &str| {
        let greatest = soak.states.iter().map(of).fold(0.0, f64::max);
        let (first, last) = (of(first), of(last));
        let growth = last - first;
        let verdict = if growth <= budget { "met" } else { "missed" };
        let _ = writeln!(
            text,
            "| {name} | {first:.decimals$} | {last:.decimals$} | {greatest:.decimals$} | {growth:+.decimals$} | <= {budget}{unit} | {verdict} |"
        );
    };
    row(
        "resident memory, agent, MiB",
        |state| state.memory.rss_bytes as f64 / MIB,
        2,
        GROWTH_BUDGET,
        " MiB",
    );
    row(
        "memory, all processes (Pss), MiB",
        |state| state.memory.pss_bytes as f64 / MIB,
        2,
        GROWTH_BUDGET,
        " MiB",
    );
    row(
        "open files, all processes",
        |state| state.files as f64,
        0,
        0.0,
        "",
    );
    row("threads, all processes", |state| state.threads as f64, 0, 0.0, "");
    let cycles = rest.len() + 1;
    let usual = soak.cpu_percent / 10.0;
    let verdict = if usual < CPU_BUDGET { "met" } else { "missed" };
    let _ = write!(
        text,
        "\nThe agent's high-water mark over all {cycles} cycles is {:.2} MiB. All processes took {:.2} % of a core at ten times the usual \
         rates, sampling\nincluded; a tenth of it is {usual:.3} % (wanted at the usual rates: below {CPU_BUDGET} %, {verdict}).\n",
        soak.peak_rss_bytes as f64 / MIB,
        soak.cpu_percent,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::pushes::Memory;

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|found| found == *line),
                "{line}\nis not in\n{text}"
            );
        }
    }

    #[test]
    fn the_spool_has_a_line_for_a_minute_and_one_for_a_day() {
        let printed = "series=64 samples=6600 distinct_values=1200 online_device_bytes=41000 online_syncs=2.4 \
             online_cpu_us=900 written_us_median=2100 written_us_max=9000 offline_device_bytes=30000 offline_syncs=1.2 \
             offline_cpu_us=700 day_record_bytes=8640000 day_file_bytes=9437184 replay_cpu_us=800 empty_file_bytes=524288 \
             online_kib=400 day_kib=700 empty_kib=500";
        assert_lines(
            &spool(&[Spool::parse(printed)]),
            &[
                "| 64 | 6600 | 1200 | 6000 | 41000 | 2.40 | 0.90 | 2.1, at most 9.0 | 400 |",
                "| 64 | 9.0 | 700 | 30000 | 1.20 | 0.70 | 0.80 | 512 |",
            ],
        );
    }

    #[test]
    fn a_replay_is_judged_by_its_latest_live_window() {
        let mut figures = Replay {
            windows: 1440,
            requests: 250,
            seconds: 312.4,
            bytes: 50e6,
            live_seconds: vec![2.0, 61.5, 3.0],
            peak_rss_bytes: 13 << 20,
            ..Replay::default()
        };
        let lines = |late: &'static str| {
            [
                "| until the backlog is gone | 312 s | | |",
                late,
                "| resident memory, agent: greatest | 13.0 MiB | <= 14 MiB | met |",
            ]
        };
        assert_lines(
            &replay(&figures),
            &lines("| the latest of them after its end | 61.5 s | <= 60 s | missed |"),
        );
        figures.live_seconds[1] = 4.0;
        assert_lines(
            &replay(&figures),
            &lines("| the latest of them after its end | 4.0 s | <= 60 s | met |"),
        );
        assert_eq!(replay(&Replay::default()), "");
    }

    #[test]
    fn a_soak_is_judged_by_what_has_grown() {
        let state = |rss: u64, files: usize| State {
            memory: Memory {
                pss_bytes: 9 << 20,
                rss_bytes: rss << 20,
            },
            files,
            threads: 12,
        };
        let figures = Soak {
            states: vec![state(8, 30), state(11, 31), state(10, 31)],
            ..Soak::default()
        };
        assert_lines(
            &soak(&figures),
            &[
                "| resident memory, agent, MiB | 8.00 | 10.00 | 11.00 | +2.00 | <= 1 MiB | missed |",
                "| memory, all processes (Pss), MiB | 9.00 | 9.00 | 9.00 | +0.00 | <= 1 MiB | met |",
                "| open files, all processes | 30 | 31 | 31 | +1 | <= 0 | missed |",
                "| threads, all processes | 12 | 12 | 12 | +0 | <= 0 | met |",
            ],
        );
        assert_eq!(soak(&Soak::default()), "");
    }
}
