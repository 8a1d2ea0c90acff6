//! One closed window as the bytes of a record. Pure.
//!
//! ```text
//! format (1 byte)  CRC-32 of all that follows and of the key (4, little endian)  length of the header (2, little endian)
//! header: start, samples, origin (postcard)
//! series: metric, labels, values with counts (postcard, deflated)
//! ```
//!
//! Metrics stand in it by name, so that a version with other metrics reads what this one wrote. The key is part of the
//! checksum: a record that turns up in another's place is not taken for it.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use super::origin::Origin;
use crate::metrics::{ClosedWindow, Distribution, Metric, Series};

/// Of this layout. A record of another one is refused.
const FORMAT: u8 = 1;

/// Format, checksum, length of the header.
const PREFIX: usize = 1 + 4 + 2;

/// No window is longer when it is inflated: what comes near has many times the largest number of series.
const MAX_INFLATED: u64 = 64 * 1024 * 1024;

/// What a record says without being inflated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Start of the window, Unix seconds.
    pub(super) start: u64,
    /// Samples in it.
    pub(super) samples: u64,
    /// Where it was written.
    pub(super) origin: Origin,
}

/// A window that was read.
#[derive(Debug, PartialEq)]
pub(super) struct Recorded {
    /// What of it this version knows.
    pub(super) window: ClosedWindow,
    /// Samples of metrics that this version does not know.
    pub(super) unknown: u64,
}

/// Why bytes are no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// Fewer bytes than there have to be.
    #[error("the record is cut short")]
    Short,
    /// Another layout.
    #[error("the record has format {0}, and this version reads format {FORMAT}")]
    Format(u8),
    /// The bytes are not those that were written.
    #[error("the record's checksum is wrong")]
    Checksum,
    /// The checksum is right and the content is not.
    #[error("the record makes no sense")]
    Content,
}

#[derive(Serialize, Deserialize)]
struct RecordedSeries<'a> {
    #[serde(borrow)]
    metric: Cow<'a, str>,
    labels: Cow<'a, [Arc<str>]>,
    counts: Cow<'a, [(f64, u32)]>,
}

/// The record of a window under this key.
pub(super) fn seal(key: u64, origin: &Origin, window: &ClosedWindow) -> Vec<u8> {
    let header = Header {
        start: window.start,
        samples: window.samples(),
        origin: origin.clone(),
    };
    let header = postcard::to_stdvec(&header).expect("numbers and strings have a form");
    let length = u16::try_from(header.len()).expect("an instance id, a boot id and a machine id are short");
    let mut body = length.to_le_bytes().to_vec();
    body.extend(header);
    body.extend(deflated(window));
    let mut record = vec![FORMAT];
    record.extend(checksum(key, &body).to_le_bytes());
    record.extend(body);
    record
}

/// Checks a record and reads its header.
pub(super) fn header(key: u64, record: &[u8]) -> Result<Header, RecordError> {
    split(key, record).map(|(header, _)| header)
}

/// Checks a record and reads all of it.
pub(super) fn open(key: u64, record: &[u8]) -> Result<Recorded, RecordError> {
    let (header, series) = split(key, record)?;
    let mut inflated = Vec::new();
    DeflateDecoder::new(series)
        .take(MAX_INFLATED)
        .read_to_end(&mut inflated)
        .map_err(|_| RecordError::Content)?;
    let series: Vec<RecordedSeries<'_>> =
        postcard::from_bytes(&inflated).map_err(|_| RecordError::Content)?;
    let series: Vec<_> = series.into_iter().filter_map(RecordedSeries::known).collect();
    let window = ClosedWindow {
        start: header.start,
        series,
    };
    let unknown = header.samples.saturating_sub(window.samples());
    Ok(Recorded { window, unknown })
}

fn split(key: u64, record: &[u8]) -> Result<(Header, &[u8]), RecordError> {
    let format = *record.first().ok_or(RecordError::Short)?;
    if format != FORMAT {
        return Err(RecordError::Format(format));
    }
    let (prefix, _) = record.split_at_checked(PREFIX).ok_or(RecordError::Short)?;
    let body = &record[1 + 4..];
    if prefix[1..5] != checksum(key, body).to_le_bytes() {
        return Err(RecordError::Checksum);
    }
    let length = usize::from(u16::from_le_bytes([prefix[5], prefix[6]]));
    let (header, series) = record[PREFIX..]
        .split_at_checked(length)
        .ok_or(RecordError::Content)?;
    let header = postcard::from_bytes(header).map_err(|_| RecordError::Content)?;
    Ok((header, series))
}

fn checksum(key: u64, body: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&key.to_le_bytes());
    crc.update(body);
    crc.sum()
}

fn deflated(window: &ClosedWindow) -> Vec<u8> {
    let series: Vec<_> = window.series.iter().map(RecordedSeries::of).collect();
    let plain = postcard::to_stdvec(&series).expect("numbers and strings have a form");
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
    deflate
        .write_all(&plain)
        .and_then(|()| deflate.finish())
        .expect("memory takes every byte")
}

impl<'a> RecordedSeries<'a> {
    fn of((series, distribution): &'a (Series, Distribution)) -> Self {
        Self {
            metric: series.metric.name().into(),
            labels: Cow::Borrowed(&series.labels),
            counts: Cow::Borrowed(distribution.counts()),
        }
    }

    /// `None` for a metric of another version, or one that has other labels there.
    fn known(self) -> Option<(Series, Distribution)> {
        let metric = Metric::named(&self.metric)?;
        let series = Series {
            metric,
            labels: self.labels.into_owned(),
        };
        let fits = series.labels.len() == metric.entry().labels.len();
        fits.then(|| (series, Distribution::of_counts(self.counts.into_owned())))
    }
}
