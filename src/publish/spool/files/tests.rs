use super::*;
use crate::metrics::{ClosedWindow, Distribution, Metric, Series};
use crate::publish::spool::totals::Totals;

fn directory() -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(dir.path().join("spool"));
    (dir, directory)
}

fn record(key: u64) -> (u64, Vec<u8>) {
    let counts = (0..50).map(|n| (f64::from(n) * 1.1, n + 1)).collect();
    let window = ClosedWindow {
        start: key * 60,
        series: vec![(
            Series::plain(Metric::CpuUsageActive),
            Distribution::of_counts(counts),
        )],
    };
    (key, record::seal(key, &Origin::default(), &window))
}

fn fill(directory: &mut Directory, keys: std::ops::Range<u64>) {
    let mut disk = directory.open().unwrap().disk;
    for key in keys {
        disk.commit(&[], &[record(key)], None).unwrap();
    }
}

/// The file with everything in it, without the log that is written ahead.
fn whole(directory: &Directory) -> Vec<u8> {
    fs_err::read(directory.file()).unwrap()
}

#[test]
fn what_was_written_is_found_again() {
    let (_dir, mut directory) = directory();
    fill(&mut directory, 0..3);
    let opened = directory.open().unwrap();
    let keys: Vec<u64> = opened.found.iter().map(|found| found.key).collect();
    assert_eq!((keys, opened.damaged.len()), (vec![0, 1, 2], 0));
    assert_eq!(opened.set_aside, None);
    directory.still_there().unwrap();
    directory.probe().unwrap();
}

#[test]
fn c15_a_damaged_record_is_lost_alone() {
    let (_dir, mut directory) = directory();
    fill(&mut directory, 0..3);
    let mut bytes = whole(&directory);
    let (_, target) = record(1);
    let at = bytes
        .windows(target.len())
        .position(|part| part == target)
        .unwrap();
    bytes[at + target.len() / 2] ^= 1;
    fs_err::write(directory.file(), bytes).unwrap();
    let opened = directory.open().unwrap();
    let keys: Vec<u64> = opened.found.iter().map(|found| found.key).collect();
    assert_eq!((keys, opened.damaged), (vec![0, 2], vec![1]));
}

#[test]
fn c15_a_file_whose_pages_do_not_fit_is_set_aside_and_what_can_be_read_of_it_is_saved() {
    let (_dir, mut directory) = directory();
    fill(&mut directory, 0..400);
    let mut bytes = whole(&directory);
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0);
    fs_err::write(directory.file(), &bytes).unwrap();
    let opened = directory.open().unwrap();
    let aside = opened.set_aside.expect("the file makes way");
    assert_eq!(fs_err::read(&aside.path).unwrap().len(), bytes.len());
    assert!(
        aside.saved_windows > 300 && aside.saved_windows < 400,
        "{aside:?}"
    );
    assert_eq!(opened.found.len(), aside.saved_windows);
}

/// Bytes of SQLite's header, of the schema, of a page's and a cell's head, and of a ledger: the places where a flipped
/// bit is more than a damaged record.
fn tender(bytes: &[u8]) -> Vec<usize> {
    let start = |text: &[u8]| bytes.windows(text.len()).position(|part| part == text).unwrap();
    let (schema, ledger) = (start(b"CREATE TABLE ledgers"), start(b"{\"instance\"") - 12);
    (16..100)
        .chain((schema..4096).step_by(31))
        .chain((4096..4096 * 4).step_by(4096).flat_map(|page| page..page + 12))
        .chain((ledger - 4..ledger + 40).step_by(11))
        .collect()
}

#[test]
fn c15_no_flipped_bit_makes_the_spool_useless() {
    let (_dir, mut directory) = directory();
    let totals = Totals {
        instance: Some("i-a".into()),
        ..Totals::default()
    };
    let mut disk = directory.open().unwrap().disk;
    let records: Vec<_> = (0..12).map(record).collect();
    disk.commit(&[], &records, Some(&totals)).unwrap();
    drop(disk);
    let bytes = whole(&directory);
    for at in tender(&bytes) {
        let bit = if at % 4 == 1 { 7 } else { 0 };
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        let (_dir, mut directory) = self::directory();
        fs_err::create_dir_all(&directory.dir).unwrap();
        fs_err::write(directory.file(), &flipped).unwrap();
        let written = directory
            .open()
            .and_then(|opened| { opened }.disk.commit(&[], &[record(99)], Some(&totals)));
        assert!(written.is_ok(), "bit {bit} of byte {at}: {written:?}");
    }
}

#[test]
fn c15_a_ledger_that_makes_no_sense_begins_anew_and_costs_no_window() {
    let (_dir, mut directory) = directory();
    let totals = Totals {
        instance: Some("i-a".into()),
        ..Totals::default()
    };
    let mut disk = directory.open().unwrap().disk;
    disk.commit(&[], &[record(1)], Some(&totals)).unwrap();
    drop(disk);
    let mut bytes = whole(&directory);
    let at = bytes.windows(9).position(|part| part == b"\"instance").unwrap();
    bytes[at + 3] ^= 0x80;
    fs_err::write(directory.file(), bytes).unwrap();
    let opened = directory.open().unwrap();
    assert_eq!((opened.found.len(), opened.totals), (1, Vec::new()));
    assert_eq!(opened.set_aside, None);
}

#[test]
fn c15_a_file_that_is_no_spool_is_set_aside_as_it_is() {
    let (_dir, mut directory) = directory();
    fs_err::create_dir_all(&directory.dir).unwrap();
    for (content, why) in [
        (
            b"not a database, and long enough to be looked at".repeat(99),
            "not a spool",
        ),
        (b"short".to_vec(), "not a spool"),
    ] {
        fs_err::write(directory.file(), &content).unwrap();
        let opened = directory.open().unwrap();
        let aside = opened.set_aside.expect("the file makes way");
        assert!(aside.why.contains(why), "{aside:?}");
        assert_eq!(fs_err::read(&aside.path).unwrap(), content);
        drop(opened.disk);
        directory
            .open()
            .unwrap()
            .disk
            .commit(&[], &[record(1)], None)
            .unwrap();
    }
}

#[test]
fn c21_a_file_of_a_newer_format_is_set_aside_as_it_is() {
    let (_dir, mut directory) = directory();
    fill(&mut directory, 0..3);
    let mut bytes = whole(&directory);
    // The user version, big endian, in SQLite's header.
    bytes[60..64].copy_from_slice(&2_i32.to_be_bytes());
    fs_err::write(directory.file(), &bytes).unwrap();
    let aside = directory.open().unwrap().set_aside.expect("the file makes way");
    assert!(
        aside.why.starts_with("it has format 2, and this version"),
        "{aside:?}"
    );
    assert_eq!(fs_err::read(&aside.path).unwrap(), bytes);
}

#[test]
fn c15_a_directory_in_its_place_makes_way() {
    let (_dir, mut directory) = directory();
    fs_err::create_dir_all(directory.file()).unwrap();
    assert!(directory.open().unwrap().set_aside.is_some());
}

#[test]
fn a_second_process_is_told_that_the_file_is_in_use() {
    let (_dir, mut directory) = directory();
    let _first = directory.open().unwrap();
    let second = Directory::new(directory.dir.clone()).open().unwrap_err();
    assert!(matches!(second, DiskError::InUse { .. }), "{second:?}");
}

#[test]
fn c14_a_file_that_was_removed_is_noticed() {
    let (_dir, mut directory) = directory();
    let _disk = directory.open().unwrap();
    fs_err::remove_file(directory.file()).unwrap();
    let gone = directory.still_there().unwrap_err();
    assert!(matches!(gone, DiskError::Gone { .. }), "{gone:?}");
}

#[test]
fn c05_a_file_that_a_day_has_filled_is_small_again_when_the_day_is_gone() {
    let (_dir, mut directory) = directory();
    let mut disk = directory.open().unwrap().disk;
    let keys: Vec<u64> = (0..400).collect();
    let records: Vec<(u64, Vec<u8>)> = keys.iter().map(|key| (*key, vec![7; 8000])).collect();
    disk.commit(&[], &records, None).unwrap();
    let full = disk.usage().unwrap();
    assert!(full.file > 3_200_000, "{full:?}");
    for keys in keys.rchunks(7) {
        disk.commit(keys, &[], None).unwrap();
    }
    let empty = disk.usage().unwrap();
    assert!(empty.file < 1_000_000, "{empty:?} of {full:?}");
    drop(disk);
    let length = fs_err::metadata(directory.file()).unwrap().len();
    assert!(length < 1_000_000, "{length} of {full:?}");
}

/// Does something to the tables, as a flipped bit would.
fn edit(directory: &Directory, sql: &str) {
    let mut bytes = whole(directory);
    let (from, to) = sql.split_once(" -> ").unwrap();
    let at = bytes
        .windows(from.len())
        .position(|part| part == from.as_bytes())
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs_err::write(directory.file(), bytes).unwrap();
}

fn fill_with_ledger(directory: &mut Directory) {
    fill(directory, 0..3);
    let totals = Totals {
        instance: Some("i-a".into()),
        accepted: 12_345,
        ..Totals::default()
    };
    let mut disk = directory.open().unwrap().disk;
    disk.commit(&[], &[], Some(&totals)).unwrap();
}

#[test]
fn c15_a_damaged_ledger_is_not_believed_and_refuses_nobody() {
    // Another number, another name, and bytes that are no text.
    for harm in [
        &b"\"accepted\":92345"[..],
        b"\"acceptee\":12345",
        b"\"accepte\xe4\":12345",
    ] {
        let (_dir, mut directory) = directory();
        fill_with_ledger(&mut directory);
        let mut bytes = whole(&directory);
        let before = b"\"accepted\":12345";
        let at = bytes
            .windows(before.len())
            .position(|part| part == before)
            .unwrap();
        bytes[at..at + harm.len()].copy_from_slice(harm);
        fs_err::write(directory.file(), bytes).unwrap();
        let opened = directory.open().unwrap();
        assert_eq!((opened.totals, opened.damaged_ledgers), (Vec::new(), 1));
        assert_eq!(opened.found.len(), 3, "its windows are whole");
    }
}

#[test]
fn c15_a_ledger_under_another_name_is_not_believed_beside_the_next_one() {
    let (_dir, mut directory) = directory();
    fill_with_ledger(&mut directory);
    let mut bytes = whole(&directory);
    // The name of the row, before what it says: the checksum, in hexadecimal digits.
    let sealed = bytes.windows(2).position(|part| part == b" {").unwrap();
    let name = sealed - 8 - "i-a".len();
    assert_eq!(&bytes[name..name + 3], b"i-a");
    bytes[name + 2] = b'c';
    fs_err::write(directory.file(), bytes).unwrap();
    let mut opened = directory.open().unwrap();
    assert_eq!((opened.totals, opened.damaged_ledgers), (Vec::new(), 1));
    let next = Totals {
        instance: Some("i-a".into()),
        accepted: 99_999,
        ..Totals::default()
    };
    opened.disk.commit(&[], &[], Some(&next)).unwrap();
    drop(opened.disk);
    let again = directory.open().unwrap();
    assert_eq!(
        (again.totals, again.damaged_ledgers),
        (vec![next], 0),
        "it is said once"
    );
}

#[test]
fn c15_a_table_or_a_column_that_is_not_there_any_more_is_damage() {
    for harm in [
        "TABLE windows -> TABLE vindows",
        "record BLOB -> recorf BLOB",
        "totals TEXT -> topals TEXT",
    ] {
        let (_dir, mut directory) = directory();
        fill_with_ledger(&mut directory);
        edit(&directory, harm);
        let opened = directory.open().unwrap();
        assert!(opened.set_aside.is_some(), "{harm}");
        drop(opened.disk);
        fill(&mut directory, 5..6);
    }
}

#[test]
fn c15_a_file_that_says_that_it_must_not_be_written_is_set_aside_and_saved() {
    let (_dir, mut directory) = directory();
    fill_with_ledger(&mut directory);
    let mut bytes = whole(&directory);
    // The version of SQLite that may write it, in its header.
    bytes[18] = 6;
    fs_err::write(directory.file(), bytes).unwrap();
    let opened = directory.open().unwrap();
    let aside = opened.set_aside.expect("the file makes way");
    assert_eq!((aside.saved_windows, opened.totals.len()), (3, 1), "{aside:?}");
    drop(opened.disk);
    fill(&mut directory, 5..6);
}

#[test]
fn c15_a_file_that_was_cut_short_anywhere_is_set_aside() {
    let (_dir, mut directory) = directory();
    // One that takes several pages: the end of the last one is looked for when the record is read.
    let counts = (0..2000)
        .map(|n| (f64::from(n * 7919 % 999_983) + 0.25, n % 3 + 1))
        .collect();
    let series = Series::plain(Metric::CpuUsageActive);
    let window = ClosedWindow {
        start: 60,
        series: vec![(series, Distribution::of_counts(counts))],
    };
    let record = record::seal(0, &Origin::default(), &window);
    assert!(record.len() > 4096, "{} bytes", record.len());
    let mut disk = directory.open().unwrap().disk;
    disk.commit(&[], &[(0, record)], None).unwrap();
    drop(disk);
    let whole = whole(&directory);
    for length in (0..whole.len()).step_by(97) {
        fs_err::write(directory.file(), &whole[..length]).unwrap();
        let opened = directory.open().unwrap();
        let is_named = opened.set_aside.is_some() || opened.damaged == [0];
        assert!(is_named || length == 0, "{length} bytes");
    }
}
