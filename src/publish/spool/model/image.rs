//! What a crash or an ill disk leaves of the files.
//!
//! SQLite writes a transaction to the end of its log (or, when all of the log is in the database, to its beginning),
//! syncs it, and may then copy pages of the log into the database. A crash before the sync leaves the database as it
//! was and any part of what was being written to the log; one while pages are copied leaves the log whole and any of the
//! pages old or new.

use std::path::{Path, PathBuf};

/// The database and its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) database: Vec<u8>,
    pub(super) log: Vec<u8>,
}

/// Where a transaction was cut off.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// Before the sync: so much of what was new in the log is there (of 65536 parts), and the rest is like this.
    Writing(u16, Rest),
    /// After the sync, in the midst of copying pages; the seed says which are new.
    Copying(u64),
    /// Right after it was answered.
    Answered,
}

/// What is in the place of what was not written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    /// What was there before.
    Old,
    /// Nothing.
    Short,
    /// The length was written, the content was not.
    Zeros,
    /// The seed's noise.
    Noise(u64),
    /// The parts that were written do not follow each other; the seed says which are.
    Sectors(u64),
}

/// What happens to files at rest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Harm {
    /// A bit of a byte that is not zero flips; which one, of 65536 parts.
    Flip(u16, u8),
    /// A bit of a number in the ledger flips, so that it is another number.
    Number(u16),
    /// Sixteen bytes become noise.
    Noise(u16, u64),
    /// A page becomes zero.
    ZeroPage(u16),
    /// So much of the file is left.
    Short(u16),
    /// Another program's file.
    Foreign,
    /// A later version's file.
    Newer,
}

/// A small generator: what is noise here need not be good, only the same again.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn bit(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn part(length: usize, of: u16) -> usize {
    usize::try_from(length as u64 * u64::from(of) / 65536).unwrap()
}

impl Image {
    pub(super) fn of(database: &Path) -> Self {
        let read = |path: &Path| fs_err::read(path).unwrap_or_default();
        Self {
            database: read(database),
            log: read(&log_of(database)),
        }
    }

    pub(super) fn put(&self, database: &Path) {
        fs_err::write(database, &self.database).unwrap();
        if self.log.is_empty() {
            let _ = fs_err::remove_file(log_of(database));
        } else {
            fs_err::write(log_of(database), &self.log).unwrap();
        }
    }

    /// What is left if the transaction that made `after` out of this was cut off; and whether it must be there whole.
    pub(super) fn cut(&self, after: &Self, cut: Cut) -> (Self, bool) {
        match cut {
            Cut::Answered => (after.clone(), true),
            Cut::Copying(seed) => (
                Self {
                    database: sectors(&self.database, &after.database, &mut Noise(seed)),
                    log: after.log.clone(),
                },
                true,
            ),
            Cut::Writing(at, rest) => (
                Self {
                    database: self.database.clone(),
                    log: torn(&self.log, &after.log, at, rest),
                },
                false,
            ),
        }
    }
}

/// Where two logs begin to differ, and how far the newer one was written.
fn written(before: &[u8], after: &[u8]) -> (usize, usize) {
    let same = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let same_end = if before.len() == after.len() {
        let ends = before.iter().rev().zip(after.iter().rev());
        ends.take_while(|(a, b)| a == b).count()
    } else {
        0
    };
    (same, (after.len() - same_end).max(same))
}

fn torn(before: &[u8], after: &[u8], at: u16, rest: Rest) -> Vec<u8> {
    let (from, to) = written(before, after);
    let at = from + part(to - from, at);
    let mut torn = after[..at].to_vec();
    let old = before.get(at..).unwrap_or_default();
    match rest {
        Rest::Old => torn.extend(old),
        // What was synced before stays.
        Rest::Short if at < before.len() => torn.extend(old),
        Rest::Short => {}
        Rest::Zeros => torn.extend(after[at..to].iter().map(|_| 0)),
        Rest::Noise(seed) => {
            let mut noise = Noise(seed);
            torn.extend(after[at..to].iter().map(|_| noise.byte()));
        }
        Rest::Sectors(seed) => torn = sectors(before, after, &mut Noise(seed)),
    }
    if torn.len() < before.len() {
        torn.extend(&before[torn.len()..]);
    }
    torn
}

fn sectors(before: &[u8], after: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut mixed = Vec::with_capacity(after.len());
    for start in (0..after.len()).step_by(512) {
        let end = (start + 512).min(after.len());
        if noise.bit() {
            mixed.extend(&after[start..end]);
        } else {
            let old = before.get(start..end.min(before.len())).unwrap_or_default();
            mixed.extend(old);
            mixed.resize(end, 0);
        }
    }
    mixed
}

impl Harm {
    /// Does it to a file.
    pub(super) fn harm(self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, bit) => {
                let full: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
                if let Some(at) = full.get(part(full.len(), at)) {
                    bytes[*at] ^= 1 << (bit % 8);
                }
            }
            Self::Number(at) => {
                let starts = |at: &usize| bytes[at - 1] == b':' && bytes[*at].is_ascii_digit();
                let numbers: Vec<usize> = (1..bytes.len()).filter(starts).collect();
                if let Some(at) = numbers.get(part(numbers.len(), at)) {
                    bytes[*at] ^= 1;
                }
            }
            Self::Noise(at, seed) => {
                let at = part(bytes.len(), at);
                let mut noise = Noise(seed);
                for byte in bytes[at..].iter_mut().take(16) {
                    *byte = noise.byte();
                }
            }
            Self::ZeroPage(at) => {
                let page = part(bytes.len(), at) / 4096 * 4096;
                bytes[page..].iter_mut().take(4096).for_each(|byte| *byte = 0);
            }
            Self::Short(at) => bytes.truncate(part(bytes.len(), at)),
            // The user version, big endian, in SQLite's header.
            Self::Newer if bytes.len() > 64 => bytes[60..64].copy_from_slice(&2_i32.to_be_bytes()),
            Self::Newer => {}
            Self::Foreign => *bytes = b"not a database, and long enough to be looked at ".repeat(30),
        }
    }
}
