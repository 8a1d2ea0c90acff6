use super::*;
use crate::metrics::{Metric, Series, Windows};
use crate::publish::spool::record::Recorded;

mod doubt;

const NOW: Duration = Duration::from_secs(100);
const MUCH: usize = 1 << 20;

impl Index {
    /// Windows that wait, and whether they are on the disk as far as is known here.
    pub(in crate::publish::spool) fn waiting(&self) -> Vec<(WindowId, bool)> {
        let entries = self.entries.iter();
        entries.map(|entry| (entry.id, entry.stored > 0)).collect()
    }
}

pub(super) fn window(start: u64, samples: u32) -> ClosedWindow {
    let mut windows = Windows::new(Duration::from_secs(1), 10);
    windows.advance(Duration::from_secs(start));
    let points = (0..samples).map(|n| (Series::plain(Metric::CpuUsageActive), f64::from(n)));
    windows.record(points, Duration::ZERO);
    windows.close().remove(0)
}

fn here() -> Origin {
    origin("boot-2")
}

fn origin(boot: &str) -> Origin {
    Origin {
        instance: Some("i-a".into()),
        boot: boot.into(),
        machine: "m".into(),
    }
}

fn fresh(windows: usize, bytes: usize) -> Index {
    let mut index = Index::new(Limits { windows, bytes }, here(), 50, NOW);
    index.claim(Some("i-a"));
    index
}

/// One whose disk is of no use.
fn in_memory(windows: usize) -> Index {
    let mut index = fresh(windows, MUCH);
    index.failed(Disk::Failing);
    index
}

/// One with a disk on which this was found.
fn on_disk(found: Vec<Found>) -> Index {
    let mut index = fresh(60, MUCH);
    index.opened(found, Vec::new());
    index
}

fn found(key: u64, start: u64, samples: u64) -> Found {
    Found {
        key,
        bytes: 1000,
        start,
        samples,
        origin: Arc::new(origin("boot-1")),
    }
}

/// Does what the disk has to do, as a disk does that works.
fn work(index: &mut Index) -> Vec<String> {
    let mut done = Vec::new();
    while let Some(work) = index.work(true, NOW) {
        match work {
            Work::Commit(commit) => {
                done.extend(commit.puts.iter().map(|put| format!("+{}", put.window.start)));
                done.extend(commit.removals.iter().map(|removal| format!("-{}", removal.key)));
                index.committed(&commit, &vec![1000; commit.puts.len()]);
            }
            Work::Load(id, key) => {
                done.push(format!("?{key}"));
                let window = window(7, 1);
                index.loaded(id, Recorded { window, unknown: 0 });
            }
        }
    }
    done
}

fn newest(index: &mut Index) -> Next {
    index.newest(&BTreeSet::new(), NOW)
}

#[track_caller]
fn ready(next: Next) -> Waiting {
    next.ready().expect("a window is at hand")
}

/// The tally, which must add up to what was pushed and found.
#[track_caller]
fn balanced(index: &Index, pushed: u64) -> Tally {
    let tally = index.tally();
    let sum = tally.accepted + tally.samples + tally.dropped_total();
    assert_eq!(sum, pushed, "{tally:?}");
    tally
}

#[test]
fn a_window_stays_until_it_is_finished() {
    let mut index = in_memory(2);
    index.push(window(1, 3));
    let first = ready(index.oldest(NOW));
    index.accept(first.id, 2);
    assert_eq!(balanced(&index, 3).samples, 1);
    index.accept(first.id, 1);
    index.finish(first.id, DropReason::Refused);
    let tally = balanced(&index, 3);
    assert_eq!((tally.windows, tally.accepted, tally.oldest), (0, 3, None));
    assert!(tally.dropped.is_empty());
}

#[test]
fn what_is_left_of_a_finished_window_is_never_forgotten() {
    let mut index = in_memory(2);
    index.push(window(1, 5));
    let id = ready(newest(&mut index)).id;
    index.accept(id, 1);
    index.give_up(id, DropReason::Refused, 1);
    index.finish(id, DropReason::TooOld);
    let dropped = balanced(&index, 5).dropped;
    assert_eq!(dropped[&DropReason::Refused], 1);
    assert_eq!(dropped[&DropReason::TooOld], 3);
}

#[test]
fn c14_a_full_memory_lets_the_oldest_go_and_counts_what_did_not_arrive() {
    let mut index = in_memory(2);
    index.push(window(1, 4));
    let first = index.oldest_id().unwrap();
    index.accept(first, 1);
    index.push(window(2, 1));
    index.push(window(3, 1));
    let tally = balanced(&index, 6);
    assert_eq!(
        (tally.oldest, tally.windows, tally.dropped[&DropReason::QueueFull]),
        (Some(2), 2, 3)
    );
    index.accept(first, 3);
    index.finish(first, DropReason::Refused);
    assert_eq!(
        balanced(&index, 6).windows,
        2,
        "what was let go is not mistaken for another"
    );
}

#[test]
fn what_is_being_published_is_not_let_go_so_that_it_is_counted_once() {
    let mut index = in_memory(2);
    index.push(window(1, 1));
    let held = ready(index.oldest(NOW));
    for start in 2..=4 {
        index.push(window(start, 1));
    }
    let tally = balanced(&index, 4);
    assert_eq!(
        (tally.oldest, tally.windows, tally.dropped[&DropReason::QueueFull]),
        (Some(1), 2, 2)
    );
    index.accept(held.id, 1);
    index.finish(held.id, DropReason::Refused);
    let tally = balanced(&index, 4);
    assert_eq!((tally.oldest, tally.accepted, tally.samples), (Some(4), 1, 1));
}

#[test]
fn bytes_fill_memory_as_well_as_windows_do() {
    let mut index = fresh(10, 3 * window(1, 1).bytes());
    index.failed(Disk::Failing);
    for start in 1..=5 {
        index.push(window(start, 1));
    }
    let tally = balanced(&index, 5);
    assert_eq!((tally.oldest, tally.samples), (Some(3), 3));
    let held = ready(index.oldest(NOW));
    // Distinct values take room, repeated ones do not.
    index.push(window(6, 100));
    let tally = balanced(&index, 105);
    assert_eq!(
        (tally.windows, tally.samples),
        (2, 101),
        "all have gone but the one in flight, and the newest is there"
    );
    drop(held);
}

#[test]
fn newest_and_oldest_go_by_the_order_of_pushing() {
    let mut index = in_memory(3);
    index.push(window(10, 1));
    index.push(window(5, 1));
    assert_eq!(
        ready(newest(&mut index)).window.start,
        5,
        "the clock was set back"
    );
    assert_eq!(ready(index.oldest(NOW)).window.start, 10);
}

#[test]
fn a_window_is_written_before_it_is_handed_out_and_removed_after() {
    let mut index = on_disk(Vec::new());
    index.push(window(60, 2));
    assert!(matches!(newest(&mut index), Next::Loading));
    assert_eq!(index.tally().unsaved, 2);
    assert_eq!(work(&mut index), ["+60"]);
    assert_eq!(index.tally().unsaved, 0);
    let waiting = ready(newest(&mut index));
    index.accept(waiting.id, 2);
    index.finish(waiting.id, DropReason::Refused);
    assert!(index.tally().is_busy);
    assert_eq!(work(&mut index), ["-0"]);
    assert!(!index.tally().is_busy);
    assert_eq!(balanced(&index, 2).accepted, 2);
}

#[test]
fn c14_a_disk_that_does_not_answer_holds_up_no_window() {
    let mut index = on_disk(Vec::new());
    index.push(window(60, 1));
    let commit = index.work(true, NOW);
    assert!(matches!(newest(&mut index), Next::Loading));
    let later = NOW + PATIENCE;
    let waiting = ready(index.newest(&BTreeSet::new(), later));
    index.accept(waiting.id, 1);
    index.finish(waiting.id, DropReason::Refused);
    let Some(Work::Commit(commit)) = commit else {
        panic!("{commit:?}");
    };
    index.committed(&commit, &[1000]);
    assert_eq!(
        work(&mut index),
        ["-0"],
        "it was written in the end, and is not sent again"
    );
    balanced(&index, 1);
}

#[test]
fn c02_what_earlier_runs_left_is_older_than_everything_new_and_read_when_its_turn_comes() {
    let mut index = fresh(60, MUCH);
    index.push(window(300, 1));
    index.opened(vec![found(4, 60, 3), found(9, 120, 4)], Vec::new());
    assert_eq!(work(&mut index), ["+300"], "under the next key");
    let tally = index.tally();
    assert_eq!((tally.windows, tally.samples, tally.oldest), (3, 8, Some(60)));
    assert_eq!(tally.earlier.collected, 7);
    let newest = ready(newest(&mut index));
    index.finish(newest.id, DropReason::Refused);
    assert_eq!(work(&mut index), ["-10"]);
    assert!(matches!(index.newest(&BTreeSet::new(), NOW), Next::Loading));
    assert_eq!(work(&mut index), ["?9"]);
    assert!(index.newest(&BTreeSet::new(), NOW).ready().is_some());
}

#[test]
fn what_can_be_read_again_does_not_stay_in_memory() {
    let mut index = on_disk(Vec::new());
    for start in 1..=5 {
        index.push(window(start * 60, 1));
        work(&mut index);
    }
    let in_memory = |index: &Index| {
        index
            .entries
            .iter()
            .filter(|entry| entry.memory.is_some())
            .count()
    };
    assert_eq!(in_memory(&index), 1, "the newest");
    let held = ready(newest(&mut index));
    assert!(matches!(index.oldest(NOW), Next::Loading));
    assert_eq!(work(&mut index), ["?0"]);
    index.push(window(360, 1));
    work(&mut index);
    assert_eq!(
        in_memory(&index),
        3,
        "the newest, the one that is held and the one that was read"
    );
    drop(held);
}

#[test]
fn c15_windows_of_another_node_are_neither_handed_out_nor_counted_and_go_first() {
    let mut theirs = found(1, 60, 5);
    theirs.origin = Arc::new(Origin {
        instance: Some("i-b".into()),
        ..here()
    });
    let mut index = on_disk(vec![theirs, found(2, 120, 1)]);
    assert_eq!(index.others().len(), 1);
    assert_eq!(index.tally().windows, 1);
    assert!(index.let_go(1));
    assert_eq!(index.others().len(), 0);
    assert_eq!(work(&mut index), ["-1"]);
    let tally = balanced(&index, 1);
    assert_eq!(tally.windows, 1);
    assert!(index.let_go(1));
    assert_eq!(balanced(&index, 1).dropped[&DropReason::SpoolFull], 1);
}

#[test]
fn c11_nothing_is_anybodys_before_the_node_knows_who_it_is() {
    let mut index = Index::new(
        Limits {
            windows: 60,
            bytes: MUCH,
        },
        Origin {
            instance: None,
            ..here()
        },
        50,
        NOW,
    );
    index.opened(vec![found(1, 60, 5)], Vec::new());
    index.push(window(300, 1));
    assert_eq!(index.tally().windows, 1);
    let Some(Work::Commit(commit)) = index.work(true, NOW) else {
        panic!("the window is written");
    };
    assert_eq!((commit.totals, commit.origin.instance), (None, None));
    index.committed(
        &Commit {
            totals: None,
            ..commit_of(&commit.puts)
        },
        &[1000],
    );
    index.claim(Some("i-a"));
    assert_eq!(index.tally().windows, 2);
    assert_eq!(index.tally().earlier.collected, 5);
}

fn commit_of(puts: &[Put]) -> Commit {
    Commit {
        puts: puts.to_vec(),
        removals: Vec::new(),
        totals: None,
        origin: here(),
    }
}

#[test]
fn c14_without_room_on_the_disk_the_oldest_of_all_makes_room() {
    let mut index = fresh(2, MUCH);
    index.opened(vec![found(0, 60, 1)], Vec::new());
    index.failed(Disk::NoRoom);
    for start in [120, 180, 240] {
        index.push(window(start, 1));
    }
    let tally = balanced(&index, 4);
    assert_eq!(
        (tally.oldest, tally.dropped[&DropReason::SpoolFull]),
        (Some(120), 1)
    );
    let Some(Work::Commit(commit)) = index.work(false, NOW) else {
        panic!("the disk is rid of the oldest");
    };
    assert_eq!((commit.puts.len(), commit.removals.len()), (0, 1));
}

#[test]
fn c14_a_disk_that_was_ill_is_given_what_waits_in_pieces_and_the_newest_first() {
    let mut index = on_disk(Vec::new());
    index.failed(Disk::ReadOnly);
    for start in 1..=10 {
        index.push(window(start, 1));
    }
    assert!(index.work(false, NOW).is_none(), "not before its time");
    assert!(
        ready(newest(&mut index)).window.start == 10,
        "nothing waits for it"
    );
    let Some(Work::Commit(first)) = index.work(true, NOW) else {
        panic!("one window is tried");
    };
    assert_eq!(first.puts.len(), 1);
    index.committed(&first, &[1000]);
    let Some(Work::Commit(next)) = index.work(true, NOW) else {
        panic!("the others follow");
    };
    let starts: Vec<u64> = next.puts.iter().map(|put| put.window.start).collect();
    assert_eq!(starts, [9, 8, 7, 6, 5, 4, 3, 2]);
}

#[test]
fn c15_what_a_new_file_lacks_is_written_again_or_counted_as_damaged() {
    let mut index = on_disk(vec![found(3, 60, 7)]);
    index.push(window(120, 2));
    work(&mut index);
    let held = ready(newest(&mut index));
    index.failed(Disk::Failing);
    index.opened(Vec::new(), Vec::new());
    let tally = balanced(&index, 9);
    assert_eq!((tally.windows, tally.dropped[&DropReason::SpoolDamaged]), (1, 7));
    assert_eq!(work(&mut index), ["+120"]);
    drop(held);
}

#[test]
fn what_was_removed_while_the_disk_was_away_does_not_come_back() {
    let mut index = on_disk(vec![found(3, 60, 7)]);
    index.failed(Disk::Failing);
    let id = index.oldest_id().unwrap();
    index.finish(id, DropReason::TooOld);
    index.opened(vec![found(3, 60, 7)], Vec::new());
    assert_eq!(work(&mut index), ["-3"]);
    assert_eq!(balanced(&index, 7).windows, 0);
}

#[test]
fn the_totals_count_what_is_gone_with_the_commit_and_nothing_else() {
    let mut index = fresh(60, MUCH);
    let earlier = Totals {
        instance: Some("i-a".into()),
        since: 10,
        runs: 2,
        accepted: 100,
        waiting: 9,
        dropped: BTreeMap::from([(DropReason::TooOld, 1)]),
        ..Totals::default()
    };
    index.opened(vec![found(3, 60, 7)], vec![earlier]);
    let tally = index.tally();
    assert_eq!(tally.earlier.runs, 2);
    assert_eq!(
        tally.earlier.dropped[&DropReason::SpoolDamaged],
        2,
        "nine waited, seven are there"
    );
    assert_eq!(tally.earlier.collected, 100 + 1 + 2 + 7);
    index.note_refused(&BTreeMap::from([(DropReason::SeriesLimit, 4)]));
    index.push(window(120, 5));
    let id = index.oldest_id().unwrap();
    index.accept(id, 3);
    let totals = |index: &mut Index| match index.work(true, NOW) {
        Some(Work::Commit(commit)) => {
            index.committed(&commit, &vec![1000; commit.puts.len()]);
            commit.totals.unwrap()
        }
        other => panic!("{other:?}"),
    };
    let first = totals(&mut index);
    assert_eq!(
        (first.accepted, first.waiting, first.runs, first.since),
        (100, 12, 3, 10)
    );
    assert_eq!(first.dropped[&DropReason::SeriesLimit], 4);
    index.accept(id, 2);
    index.finish(id, DropReason::Refused);
    let second = totals(&mut index);
    assert_eq!((second.accepted, second.waiting), (105, 5));
    assert_eq!(second.dropped[&DropReason::Refused], 2);
}

#[test]
fn c09_what_is_too_old_goes_without_being_read_unless_somebody_has_it() {
    let mut index = on_disk(vec![found(1, 60, 1), found(2, 120, 2), found(3, 180, 3)]);
    assert_eq!(index.expire(180), 3);
    assert_eq!(work(&mut index), ["-1", "-2"]);
    assert_eq!(balanced(&index, 6).dropped[&DropReason::TooOld], 3);
    assert!(matches!(index.oldest(NOW), Next::Loading));
    work(&mut index);
    let held = ready(index.oldest(NOW));
    assert_eq!(index.expire(10_000), 0);
    drop(held);
    assert_eq!(index.expire(10_000), 3);
}
