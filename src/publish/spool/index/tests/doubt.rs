//! Disks that are exchanged, come back, or may have written what they refused.

use super::*;

#[test]
fn c15_a_disk_that_is_mounted_late_keeps_what_earlier_runs_left_on_it() {
    let mut index = on_disk(Vec::new());
    index.push(window(600, 2));
    index.push(window(660, 3));
    work(&mut index);
    index.push(window(720, 4));
    index.failed(Disk::Failing);
    let earlier = Totals {
        instance: Some("i-a".into()),
        since: 10,
        runs: 2,
        accepted: 100,
        waiting: 11,
        ..Totals::default()
    };
    index.exchanged(vec![found(0, 60, 5), found(1, 120, 6)], vec![earlier]);
    let tally = balanced(&index, 9 + 11);
    assert_eq!((tally.oldest, tally.windows), (Some(60), 3), "{tally:?}");
    assert_eq!(
        tally.dropped[&DropReason::SpoolDamaged],
        5,
        "they were on the other disk alone"
    );
    assert_eq!((tally.earlier.runs, tally.earlier.collected), (2, 100 + 11));
    assert_eq!(
        work(&mut index),
        ["+720"],
        "under a key of its own, and nothing is removed"
    );
    let ids: BTreeSet<WindowId> = index.entries.iter().map(|entry| entry.id).collect();
    let keys: Vec<Option<u64>> = index.entries.iter().map(|entry| entry.key).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(keys[..2], [Some(0), Some(1)]);
    assert!(keys[2] > keys[1]);
}

#[test]
fn c15_a_disk_that_comes_back_is_not_counted_twice() {
    let mut index = on_disk(Vec::new());
    index.push(window(600, 2));
    let id = index.oldest_id().unwrap();
    index.accept(id, 2);
    index.finish(id, DropReason::Refused);
    index.push(window(660, 3));
    let Some(Work::Commit(commit)) = index.work(true, NOW) else {
        panic!("the window is written");
    };
    index.committed(&commit, &[1000]);
    let written = commit.totals.unwrap();
    index.failed(Disk::Failing);
    index.exchanged(Vec::new(), Vec::new());
    work(&mut index);
    index.failed(Disk::Failing);
    index.exchanged(vec![found(0, 660, 3)], vec![written]);
    assert_eq!(
        (index.tally().earlier.runs, index.tally().earlier.accepted),
        (0, 0)
    );
    assert_eq!(index.tally().earlier.collected, 3, "what was found on it");
    balanced(&index, 5 + 3);
}

#[test]
fn c14_nothing_goes_for_a_window_that_does_not_fit_anyway() {
    let mut index = on_disk(vec![found(0, 60, 1), found(1, 120, 1)]);
    assert!(!index.let_go(2001));
    assert_eq!(balanced(&index, 2).windows, 2);
    assert!(index.let_go(1500));
    assert_eq!(balanced(&index, 2).windows, 0);
}

#[test]
fn c14_a_window_that_may_have_been_written_is_removed_when_it_was_sent() {
    let mut index = on_disk(Vec::new());
    index.push(window(1, 3));
    index.push(window(2, 3));
    let Some(Work::Commit(commit)) = index.work(true, NOW) else {
        panic!("there is something to write");
    };
    let send = |index: &mut Index, now| {
        let sent = ready(index.newest(&BTreeSet::new(), now)).id;
        index.finish(sent, DropReason::Refused);
    };
    // One is sent while the disk is slow, the other after it has failed.
    send(&mut index, NOW + Duration::from_secs(3));
    index.in_doubt(&commit);
    index.failed(Disk::ReadOnly);
    send(&mut index, NOW);
    assert_eq!(work(&mut index), ["-1", "-0"]);
}

#[test]
fn c02_windows_from_before_the_name_was_known_are_found_after_every_boot() {
    let nameless = |boot: &str| {
        Arc::new(Origin {
            instance: None,
            ..origin(boot)
        })
    };
    let of = |boot: &str| Found {
        origin: nameless(boot),
        ..found(1, 60, 7)
    };
    // This boot began without a name; the ledger says so once the name is known.
    let mut first = Index::new(
        Limits {
            windows: 60,
            bytes: MUCH,
        },
        (*nameless("boot-1")).clone(),
        50,
        NOW,
    );
    first.opened(Vec::new(), Vec::new());
    first.claim(Some("i-a"));
    first.push(window(1, 1));
    let Some(Work::Commit(commit)) = first.work(true, NOW) else {
        panic!("there is something to write");
    };
    let totals = commit.totals.unwrap();
    // Two boots later nothing else names it.
    let mut later = fresh(60, MUCH);
    later.opened(
        vec![
            of("boot-1"),
            Found {
                key: 2,
                ..of("boot-9")
            },
        ],
        vec![totals],
    );
    assert_eq!((later.tally().windows, later.others().len()), (1, 1));
    let totals = later.totals(&[]).unwrap();
    assert_eq!(totals.boots, ["boot-1".to_owned()].into());
}
