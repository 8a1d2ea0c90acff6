//! What the spool costs: a minute online, a day offline, and the way back. `--series N`, 64 where it is not given.
//!
//! Prints `name=value` lines, which `cargo xtask bench` reads. With `--fill DIR --instance ID --until SECONDS` it
//! fills a spool for the benchmark of a replay instead, with a day's windows up to that Unix second.
#![expect(clippy::print_stdout, reason = "the figures are the output")]

mod day;
mod meter;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use gpushare::metrics::window::DropReason;
use gpushare::publish::spool::{Origin, Spool, SpoolSettings};
use gpushare::publish::store::{Next, Store, Waiting};

use day::Node;
use meter::{Cost, anonymous_kib};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60;
/// Minutes online that are measured, and those before them, in which the file and its log get their sizes.
const ONLINE: u64 = 300;
const SETTLE: u64 = 60;
/// Nothing that is waited for here takes longer, however busy the disk is.
const LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Some minute.
const FIRST: u64 = 1_700_000_040;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str| option(name).map(|text| text.parse::<u64>().expect("a whole number"));
    let series = number("--series").map_or(64, |series| usize::try_from(series).expect("a number of series"));
    if let Some(dir) = option("--fill") {
        let instance = option("--instance").expect("--fill takes an --instance");
        let until = number("--until").expect("--fill takes an --until");
        let spool = start(Path::new(&dir), &instance);
        fill(&spool, &mut Node::new(series), until - DAY * MINUTE);
    } else {
        measure(series);
    }
}

fn start(dir: &Path, instance: &str) -> Spool {
    let (spool, _) = Spool::start(&SpoolSettings {
        dir: dir.to_owned(),
        max_bytes: 512 << 20,
        min_free_bytes: 0,
        interval: Duration::from_secs(MINUTE),
        origin: Origin {
            instance: Some(instance.to_owned()),
            boot: "boot".to_owned(),
            machine: "machine".to_owned(),
        },
    })
    .expect("a thread can be started");
    spool.claim(Some(instance));
    settle(&spool);
    spool
}

fn measure(series: usize) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory below target");
    let mut node = Node::new(series);
    let first = node.minute(FIRST);
    let distinct: usize = first.series.iter().map(|(_, values)| values.counts().len()).sum();
    println!(
        "series={series} samples={} distinct_values={distinct}",
        first.samples()
    );
    let before = anonymous_kib();
    let memory = |name: &str| println!("{name}_kib={}", anonymous_kib().saturating_sub(before));
    let spool = start(dir.path(), "i-bench");
    memory("open");
    minutes_online(&spool, &mut node);
    memory("online");
    day_offline(&spool, &mut node);
    println!(
        "day_record_bytes={} day_file_bytes={}",
        spool.tally().bytes,
        file_bytes(dir.path())
    );
    memory("day");
    way_back(&spool);
    println!("empty_file_bytes={}", file_bytes(dir.path()));
    memory("empty");
}

fn minutes_online(spool: &Spool, node: &mut Node) {
    for minute in 0..SETTLE {
        online(spool, node, FIRST + minute * MINUTE);
    }
    let before = Cost::of_spool();
    let mut written: Vec<Duration> = (SETTLE..SETTLE + ONLINE)
        .map(|minute| online(spool, node, FIRST + minute * MINUTE))
        .collect();
    print("online", Cost::of_spool().since(before), ONLINE);
    written.sort_unstable();
    println!(
        "written_us_median={} written_us_max={}",
        written[written.len() / 2].as_micros(),
        written[written.len() - 1].as_micros()
    );
}

fn day_offline(spool: &Spool, node: &mut Node) {
    let before = Cost::of_spool();
    fill(spool, node, FIRST);
    print("offline", Cost::of_spool().since(before), DAY);
}

fn way_back(spool: &Spool) {
    let before = Cost::of_spool();
    while let Some(waiting) = newest(spool) {
        spool.accept(waiting.id, waiting.window.samples());
        spool.finish(waiting.id, DropReason::SpoolDamaged);
    }
    settle(spool);
    print("replay", Cost::of_spool().since(before), DAY);
}

/// One minute of a node that publishes: written, sent, removed. Returns how long the window waited for the disk.
fn online(spool: &Spool, node: &mut Node, start: u64) -> Duration {
    let window = node.minute(start);
    let begun = Instant::now();
    spool.push(window);
    let waiting = newest(spool).expect("the window waits");
    let took = begun.elapsed();
    spool.accept(waiting.id, waiting.window.samples());
    spool.finish(waiting.id, DropReason::SpoolDamaged);
    settle(spool);
    took
}

fn fill(spool: &Spool, node: &mut Node, first: u64) {
    for minute in 0..DAY {
        spool.push(node.minute(first + minute * MINUTE));
        settle(spool);
    }
}

/// The newest window, as soon as it is handed out.
fn newest(spool: &Spool) -> Option<Waiting> {
    let begun = Instant::now();
    loop {
        match spool.newest(&BTreeSet::new()) {
            Next::Ready(waiting) => return Some(waiting),
            Next::Empty => return None,
            Next::Loading => pause(begun),
        }
    }
}

/// Waits until the disk is where memory is.
fn settle(spool: &Spool) {
    let begun = Instant::now();
    while spool.tally().is_busy {
        pause(begun);
    }
    assert_eq!(spool.tally().unsaved, 0, "{:?}", spool.spool());
}

fn pause(begun: Instant) {
    assert!(begun.elapsed() < LIMIT, "the disk does not answer");
    thread::sleep(LOOK_EVERY);
}

fn print(name: &str, cost: Cost, windows: u64) {
    let a_window = |total: u64| total as f64 / windows as f64;
    println!(
        "{name}_device_bytes={:.0} {name}_syncs={:.2} {name}_cpu_us={:.0}",
        a_window(cost.device_bytes),
        a_window(cost.syncs),
        a_window(cost.cpu_ns) / 1000.0
    );
}

/// Of all files in the directory.
fn file_bytes(dir: &Path) -> u64 {
    let files = fs_err::read_dir(dir).expect("the spool's directory");
    let paths = files.map(|file| file.expect("a file").path());
    paths
        .map(|path: PathBuf| fs_err::metadata(path).expect("a file").len())
        .sum()
}
