//! How many bytes a request takes: the length of the CBOR that the SDK's RPC v2 protocol makes of it. Pure.
//!
//! Measured, not made: encoding a batch twice would cost more than the rest of publishing. The rules are those of
//! the SDK's encoder: structures are maps of indefinite length (a byte to begin, a byte to end), lists and texts
//! carry their length in front, every number with a fraction takes nine bytes, a timestamp a tag and such a number.
//! `cloudwatch`'s tests compare the result with the body of a real request.

use super::{Datum, Dimension};

/// Begin and end of a map of indefinite length.
const MAP: usize = 2;
/// Initial byte and eight bytes of value.
const DOUBLE: usize = 9;
/// Tag 1 (epoch time) in front of a double.
const TIMESTAMP: usize = 1 + DOUBLE;

/// Bytes of a request besides its datums; the head of the list of 1000 datums takes three.
#[must_use]
pub fn of_envelope(namespace: &str) -> usize {
    MAP + text("Namespace") + text(namespace) + text("MetricData") + head(super::limits::MAX_DATUMS)
}

/// Bytes of one datum in a request.
#[must_use]
pub fn of_datum(datum: &Datum) -> usize {
    let dimensions: usize = datum.dimensions.iter().map(of_dimension).sum();
    let counts = if datum.occurs_once() {
        0
    } else {
        text("Counts") + doubles(datum.counts.len())
    };
    MAP + text("MetricName")
        + text(datum.metric_name)
        + text("Dimensions")
        + head(datum.dimensions.len())
        + dimensions
        + text("Timestamp")
        + TIMESTAMP
        + text("Values")
        + doubles(datum.values.len())
        + counts
        + text("Unit")
        + text(datum.unit.as_str())
        + text("StorageResolution")
        + head(usize::from(datum.storage_resolution))
}

fn of_dimension(dimension: &Dimension) -> usize {
    MAP + text("Name") + text(&dimension.name) + text("Value") + text(&dimension.value)
}

fn doubles(count: usize) -> usize {
    head(count) + count * DOUBLE
}

fn text(text: &str) -> usize {
    head(text.len()) + text.len()
}

/// Bytes of an item's initial byte and of the number that belongs to it (RFC 8949, section 3).
fn head(number: usize) -> usize {
    match number {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_item_grows_with_its_number() {
        let lengths = [0, 23, 24, 255, 256, 65_535, 65_536].map(head);
        assert_eq!(lengths, [1, 1, 2, 2, 3, 3, 5]);
        assert_eq!(text("Name"), 5);
        assert_eq!(doubles(150), 2 + 1_350);
    }
}
