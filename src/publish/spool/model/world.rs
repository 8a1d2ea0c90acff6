//! The disk over all runs: starts, crashes, harm, and what has to be on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::flaky::{Fault, Seen, Written};
use super::image::{Cut, Harm, Image, log_of};
use super::op::{Call, Mix, Op, Start};
use super::run::{NOW, Run};
use super::truth::{OnDisk, Seq, Stored, seq, window};
use crate::metrics::ClosedWindow;
use crate::metrics::window::DropReason;
use crate::publish::spool::files::Directory;
use crate::publish::spool::index::{Commit, Disk, Work};
use crate::publish::spool::origin::Origin;
use crate::publish::spool::record;
use crate::publish::spool::room::Bounds;
use crate::publish::spool::totals::Totals;
use crate::publish::store::Next;

/// After so many pieces of work the disk has to be where memory is.
const ENOUGH: usize = 300;

/// What the next look at the disk has to find.
enum Expected {
    /// One of these, of which the ledger knows this.
    One(Vec<(OnDisk, Ledgers)>),
    /// Whatever is left of it after it was harmed. `true`: what is lost must be named.
    Remains(bool),
}

/// Windows of a node that its ledger has ever known, and samples that were refused before they were in one.
#[derive(Clone, Debug, Default)]
struct Known {
    windows: BTreeSet<Seq>,
    refused: u64,
}

type Ledgers = BTreeMap<Option<String>, Known>;

/// Everything.
pub(super) struct World {
    mix: Mix,
    bounds: Bounds,
    dir: tempfile::TempDir,
    pushed: Vec<ClosedWindow>,
    /// Every record that was ever on the disk.
    records: BTreeSet<(u64, Seq, Origin)>,
    /// Every ledger that was.
    rows: Vec<Totals>,
    disk: OnDisk,
    known: Ledgers,
    /// What this run's part of the ledger counts at the moment: windows that are gone, samples that were refused.
    counted: Known,
    expected: Option<Expected>,
    /// A file that has to be set aside as it is.
    untouched: Option<Vec<u8>>,
    /// The file was removed, and that has not been noticed yet.
    is_removed: bool,
    /// The disk was harmed: its ledger is not the whole truth.
    is_harmed: bool,
    /// A node has let another one's windows go.
    has_let_others_go: bool,
    boots: usize,
    starts: u64,
    run: Run,
}

fn file(dir: &Path) -> PathBuf {
    Directory::new(dir.join("spool")).file()
}

impl World {
    pub(super) fn new(mix: Mix, is_small: bool) -> Self {
        // Where there is a file system in memory, syncing it costs nothing.
        let memory = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(memory)
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let bounds = Bounds {
            max_bytes: if is_small { 96 << 10 } else { 1 << 30 },
            min_free_bytes: 0,
        };
        let start = Start {
            node: 0,
            reboots: false,
            is_named: true,
        };
        let run = run(dir.path(), bounds, start, 0, 0);
        Self {
            mix,
            bounds,
            dir,
            pushed: Vec::new(),
            records: BTreeSet::new(),
            rows: Vec::new(),
            disk: OnDisk::default(),
            known: Ledgers::new(),
            counted: Known::default(),
            expected: None,
            untouched: None,
            is_removed: false,
            is_harmed: false,
            has_let_others_go: false,
            boots: 0,
            starts: 0,
            run,
        }
    }

    pub(super) fn play(&mut self, history: &[Op]) {
        for op in history {
            self.op(op);
        }
        for node in 0..3 {
            self.drain(node);
        }
    }

    pub(super) fn op(&mut self, op: &Op) {
        match op {
            Op::Call(call) => self.call(call, false),
            Op::Work {
                tries,
                fault,
                slow,
                meanwhile,
            } => {
                self.work(*tries, *fault, *slow, meanwhile);
            }
            Op::Idle => self.idle(),
            Op::Full(is_full) => self.run.stage.script().is_full = *is_full,
            Op::Away(is_away) => self.run.stage.script().is_away = *is_away,
            Op::Remove => self.remove(),
            Op::Restart { start, in_order } => {
                let image = self.end(*in_order);
                self.start(*start, &image);
            }
            Op::Crash { start, cut } => self.crash(*start, *cut),
            Op::Harmed {
                start,
                in_order,
                harms,
            } => self.harm(*start, *in_order, harms),
        }
    }

    fn file(&self) -> PathBuf {
        file(self.dir.path())
    }

    fn call(&mut self, call: &Call, is_slow: bool) {
        if let Call::Push(values, is_back) = *call {
            let seq = self.pushed.len();
            let start = 10_000 + 60 * seq as u64 - if is_back { 600 } else { 0 };
            self.pushed.push(window(seq, start, values));
        }
        let now = if is_slow {
            NOW + std::time::Duration::from_secs(3)
        } else {
            NOW
        };
        self.run.call(call, now, &self.pushed, &self.disk);
        self.compare(matches!(call, Call::Push(..)));
    }

    /// The disk does one thing. False if it has nothing to do.
    fn work(&mut self, tries: bool, fault: Option<Fault>, is_slow: bool, meanwhile: &[Call]) -> bool {
        let Some(mut disk) = self.run.disk.take() else {
            for call in meanwhile {
                self.call(call, false);
            }
            return self.open();
        };
        let work = self.run.index(|index| index.work(tries, NOW));
        let has_worked = work.is_some();
        if let Some(Work::Commit(commit)) = &work {
            self.run.in_flight = commit.puts.iter().map(|put| put.id).collect();
            self.check(commit);
            self.counted = Known {
                windows: self.run.gone.clone(),
                refused: self.run.refused.values().sum(),
            };
        }
        let is_slow = is_slow && has_worked;
        for call in meanwhile {
            self.call(call, is_slow);
        }
        self.run.in_flight.clear();
        let Some(work) = work else {
            self.run.disk = Some(disk);
            return false;
        };
        self.run.stage.script().fault = fault;
        let is_well = self.run.task.step(&mut disk, work);
        self.run.is_unsure |= self.run.stage.script().fault.take() != fault;
        self.apply();
        if is_well {
            self.run.disk = Some(disk);
        }
        self.compare(true);
        has_worked
    }

    fn check(&self, commit: &Commit) {
        assert_eq!(
            commit.totals,
            self.run.totals(commit, &self.pushed),
            "the ledger on the disk"
        );
        assert_eq!(commit.origin, self.run.here);
        for put in &commit.puts {
            let there = self.disk.records.get(&put.key);
            let seq = seq(&put.window);
            assert!(
                there.is_none_or(|there| there.seq == seq) || self.is_removed,
                "its key is taken"
            );
        }
    }

    /// Takes what was written into the model.
    fn apply(&mut self) {
        let written = std::mem::take(&mut self.run.stage.script().written);
        for Written {
            removals,
            records,
            totals,
        } in written
        {
            for key in removals {
                if let Some(gone) = self.disk.records.remove(&key) {
                    let waits = self.run.ids.values().any(|seq| *seq == gone.seq);
                    assert!(!waits, "{gone:?} waits and was removed");
                }
            }
            for (key, record) in records {
                let origin = record::header(key, &record).expect("it is whole").origin;
                let window = record::open(key, &record).expect("it is whole").window;
                let seq = seq(&window);
                assert_eq!(window, self.pushed[seq]);
                self.records.insert((key, seq, origin.clone()));
                self.disk.records.insert(key, Stored { seq, origin });
            }
            if let Some(totals) = totals {
                self.add_up(&totals);
                self.rows.push(totals.clone());
                self.disk.rows.insert(totals.instance.clone(), totals);
            }
        }
    }

    /// Collected = accepted + waiting + dropped, of everything that the disk has ever known of this node.
    fn add_up(&mut self, totals: &Totals) {
        let before = self.known.get(&totals.instance).cloned().unwrap_or_default();
        let mut windows = before.windows;
        let there = self.disk.records.values().map(|stored| stored.seq);
        let own: Vec<Seq> = there.filter(|seq| self.run.fates.contains_key(seq)).collect();
        windows.extend(self.counted.windows.iter().chain(&own));
        let samples = |seq: &Seq| self.pushed[*seq].samples();
        let collected: u64 = windows.iter().map(samples).sum::<u64>() + before.refused + self.counted.refused;
        let waiting: u64 = own.iter().map(samples).sum();
        let dropped: u64 = totals.dropped.values().sum();
        if !self.is_harmed && !self.run.is_unsure {
            assert_eq!(totals.waiting, waiting, "what waits on the disk");
        }
        // What a node lets go of another one's is missed, and that may hide behind what was written without a name.
        if !self.is_harmed && !self.has_let_others_go {
            assert_eq!(
                collected,
                totals.accepted + waiting + dropped,
                "the ledger of all runs: {totals:?}"
            );
        }
        // Refused samples of this run come anew with every ledger.
        self.known.entry(totals.instance.clone()).or_default().windows = windows;
    }

    fn compare(&mut self, may_let_go: bool) {
        let reasons = self.run.compare(&self.pushed);
        assert!(reasons.is_empty() || may_let_go, "{reasons:?}");
        if !self.mix.harm {
            assert!(!reasons.contains(&DropReason::SpoolDamaged), "nothing is damaged");
        }
        if !self.mix.faults && self.bounds.max_bytes > 1 << 20 {
            assert!(!reasons.contains(&DropReason::SpoolFull), "there is room");
        }
        self.has_let_others_go |= self.run.has_let_others_go;
        if !self.is_harmed && !self.has_let_others_go {
            assert_eq!(self.run.missing, 0, "nothing is lost");
        }
        if !self.is_harmed && !self.is_removed && !self.run.is_unsure {
            for (id, seq) in &self.run.ids {
                let is_stored = self.run.stored.contains(id);
                assert_eq!(is_stored, self.disk.holds(*seq), "window {seq} on the disk");
            }
        }
    }

    fn open(&mut self) -> bool {
        self.run.disk = self.run.task.begin();
        let refusals = std::mem::take(&mut self.run.stage.script().refusals);
        assert!(refusals.is_empty(), "it refuses to start: {refusals:?}");
        let seen = std::mem::take(&mut self.run.stage.script().seen);
        for seen in seen {
            self.see(&seen);
            self.apply();
            self.run.opened(&self.disk, &self.pushed);
        }
        self.compare(true);
        self.run.disk.is_some()
    }

    fn see(&mut self, seen: &Seen) {
        let mut found = OnDisk::default();
        for (record, window) in &seen.records {
            let seq = seq(window);
            assert_eq!(*window, self.pushed[seq], "what was pushed, and nothing else");
            let origin = (*record.origin).clone();
            assert!(
                self.records.contains(&(record.key, seq, origin.clone())),
                "it was never written"
            );
            assert!(!found.holds(seq), "window {seq} is there twice");
            found.records.insert(record.key, Stored { seq, origin });
        }
        for totals in &seen.totals {
            assert!(
                self.rows.contains(totals),
                "a ledger that was never written: {totals:?}"
            );
            found.rows.insert(totals.instance.clone(), totals.clone());
        }
        let now = || Expected::One(vec![(self.disk.clone(), self.known.clone())]);
        if let Some(untouched) = self.untouched.take() {
            let aside = seen.set_aside.as_ref().expect("another's file makes way");
            assert_eq!(fs_err::read(&aside.path).unwrap(), untouched);
        }
        match self.expected.take().unwrap_or_else(now) {
            Expected::One(disks) => {
                let fits = disks.iter().find(|(disk, _)| *disk == found);
                let (_, known) = fits.unwrap_or_else(|| panic!("expected {disks:#?}, found {found:#?}"));
                self.known.clone_from(known);
                self.settle_refused(&found);
                assert!(seen.damaged.is_empty() && seen.set_aside.is_none(), "{seen:?}");
            }
            Expected::Remains(must_name) => {
                let there = |key: &&u64| found.records.contains_key(*key);
                let lost = self.disk.records.keys().filter(|key| !there(key)).count();
                // By number: a bit may flip in a key, too.
                let is_named = seen.damaged.len() >= lost || seen.set_aside.is_some();
                assert!(!must_name || is_named, "{lost} windows are lost without a word");
                let has_row = |name: &Option<String>| found.rows.contains_key(name);
                let is_named = seen.damaged_ledgers > 0 || seen.set_aside.is_some();
                let is_lost = !self.disk.rows.keys().all(has_row);
                assert!(
                    !must_name || !is_lost || is_named,
                    "a ledger is lost without a word"
                );
            }
        }
        self.is_removed = false;
        self.disk = found;
    }

    /// Refused samples of earlier runs stay in the ledger.
    fn settle_refused(&mut self, found: &OnDisk) {
        if self.run.others.is_none() {
            for (name, known) in &mut self.known {
                let row = found.rows.get(name);
                let refused = row.and_then(|row| row.dropped.get(&DropReason::SeriesLimit));
                known.refused = refused.copied().unwrap_or(0);
            }
        }
    }

    fn idle(&mut self) {
        for round in 0..ENOUGH {
            if self.run.stage.script().is_away && self.run.disk.is_none() {
                return;
            }
            if !self.work(round < 2, None, false, &[]) {
                break;
            }
            assert!(round + 1 < ENOUGH, "it never comes to rest: {}", self.trouble());
        }
        if self.run.state() == Disk::Well && !self.is_removed {
            assert_eq!(self.run.stored.len(), self.run.ids.len(), "everything is written");
            let waits: BTreeSet<Seq> = self.run.ids.values().copied().collect();
            let others = self.run.others.as_ref().expect("it was opened");
            let own = self
                .disk
                .records
                .iter()
                .filter(|(key, _)| !others.contains_key(key));
            let own: BTreeSet<Seq> = own.map(|(_, stored)| stored.seq).collect();
            assert_eq!(own, waits, "the disk is where memory is");
            assert!(!self.run.index(|index| index.tally()).is_busy);
            self.run.is_unsure = false;
        }
    }

    fn trouble(&self) -> String {
        let state = self.run.shared.lock();
        format!("{:?}", state.report.status(&state.index, NOW))
    }

    /// The agent is gone, and this is what it left.
    fn end(&mut self, in_order: bool) -> Image {
        let file = self.file();
        let killed = Image::of(&file);
        self.run.disk = None;
        if in_order { Image::of(&file) } else { killed }
    }

    fn start(&mut self, start: Start, image: &Image) {
        self.boots += usize::from(start.reboots);
        self.starts += 1;
        self.run = run(self.dir.path(), self.bounds, start, self.boots, self.starts);
        if !image.database.is_empty() {
            image.put(&self.file());
        }
    }

    fn crash(&mut self, start: Start, cut: Cut) {
        let file = self.file();
        let before = (Image::of(&file), self.disk.clone(), self.known.clone());
        let pages = self.pages();
        let is_open = self.run.disk.is_some() && self.expected.is_none() && !self.is_removed;
        if is_open {
            self.work(true, None, false, &[]);
        }
        let after = Image::of(&file);
        // A second transaction made it smaller: its log may stand in the place of the first one's.
        let cut = if self.pages() < pages { Cut::Answered } else { cut };
        self.end(false);
        if !is_open || self.disk == before.1 {
            self.start(start, &after);
            return;
        }
        let (image, must_be_there) = before.0.cut(&after, cut);
        let mut disks = vec![(self.disk.clone(), self.known.clone())];
        if !must_be_there {
            disks.push((before.1, before.2));
        }
        self.expected = Some(Expected::One(disks));
        self.start(start, &image);
    }

    fn pages(&mut self) -> u64 {
        use crate::publish::spool::disk::Disk as _;
        let disk = self.run.disk.as_mut();
        disk.map_or(0, |disk| disk.usage().expect("it is open").file)
    }

    fn harm(&mut self, start: Start, in_order: bool, harms: &[(bool, Harm)]) {
        let mut image = self.end(in_order);
        for (in_log, harm) in harms {
            harm.harm(if *in_log {
                &mut image.log
            } else {
                &mut image.database
            });
        }
        let is_whole = in_order && image.log.is_empty() && !image.database.is_empty();
        self.untouched = match harms {
            [(false, Harm::Foreign | Harm::Newer)] if is_whole => Some(image.database.clone()),
            _ => None,
        };
        let was_certain = self.expected.is_none() && !self.is_removed;
        self.expected = Some(Expected::Remains(was_certain && image.log.is_empty()));
        self.is_harmed = true;
        self.start(start, &image);
    }

    fn remove(&mut self) {
        let file = self.file();
        let _ = fs_err::remove_file(log_of(&file));
        if fs_err::remove_file(&file).is_ok() {
            self.disk = OnDisk::default();
            self.expected = None;
            self.untouched = None;
            self.is_removed = true;
            self.run.is_unsure = true;
            self.is_harmed = true;
        }
    }

    /// A healthy disk and a CloudWatch that takes everything: nothing waits in the end.
    fn drain(&mut self, node: usize) {
        let start = Start {
            node,
            reboots: false,
            is_named: true,
        };
        let image = self.end(node == 1);
        self.start(start, &image);
        self.call(&Call::Claim, false);
        for round in 0.. {
            assert!(round < ENOUGH, "it never ends: {}", self.trouble());
            self.idle();
            let next = self.run.index(|index| index.newest(&BTreeSet::new(), NOW));
            match next {
                Next::Empty => break,
                Next::Loading => {}
                Next::Ready(waiting) => {
                    drop(waiting);
                    self.call(&Call::Newest, false);
                    for _ in 0..40 {
                        self.call(&Call::Accept(0, u8::MAX), false);
                    }
                    self.call(&Call::Finish(0, DropReason::Refused), false);
                }
            }
        }
        let own = self.disk.owned(&self.run.here);
        assert!(own.is_empty(), "{own:?} are left");
    }
}

fn run(dir: &Path, bounds: Bounds, start: Start, boot: usize, starts: u64) -> Run {
    // Two instances of one image, and a machine that is no instance.
    let (name, machine) = [(Some("i-a"), "image"), (Some("i-b"), "image"), (None, "lab")][start.node];
    let name = name.map(str::to_owned);
    let here = Origin {
        instance: name.clone().filter(|_| start.is_named),
        boot: format!("boot-{boot}-of-{}", start.node),
        machine: machine.into(),
    };
    Run::new(Directory::new(dir.join("spool")), bounds, here, name, starts)
}
