//! The body of `PutMetricData`: gzip and CBOR to the request's members. Pure.
//!
//! Checks types only; what the members say is judged in `limits`. Members that the fake does not know are passed over,
//! as Smithy asks of a server. `null` is an absent member.

use std::io::Read;

use ciborium::Value;

use crate::refusal::Refusal;

/// What a gzipped body may become before unpacking stops; eight times what the service takes.
const MAX_UNPACKED_BYTES: u64 = 8 * 1024 * 1024;

/// Why a body means nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// HTTP does not say where it ends, or says it twice.
    Framing(String),
    /// The content encoding is not one that the service takes.
    Encoding(String),
    /// It does not unpack.
    Gzip,
    /// It unpacks to more than anybody wants to look at.
    Bomb,
    /// It is not CBOR, or something follows.
    Cbor,
    /// A member has the wrong type.
    Type { path: String, expected: &'static str },
}

impl DecodeError {
    pub(crate) fn refusal(self) -> Refusal {
        let message = match self {
            Self::Bomb => return Refusal::bare(413),
            Self::Framing(what) => format!("The body cannot be read: {what}."),
            Self::Encoding(other) => format!("The content encoding {other} is not supported."),
            Self::Gzip => "The body is not gzip.".to_owned(),
            Self::Cbor => "The body is not CBOR.".to_owned(),
            Self::Type { path, expected } => format!("The member {path} is not {expected}."),
        };
        Refusal::sender(400, "SerializationException", message)
    }
}

/// `PutMetricDataInput`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Input {
    pub(crate) namespace: Option<String>,
    pub(crate) data: Vec<Datum>,
    /// `EntityMetricData` is there, which the fake does not play.
    pub(crate) entities: bool,
}

/// `MetricDatum`, as far as it was sent.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Datum {
    pub(crate) metric: Option<String>,
    pub(crate) dimensions: Vec<Dimension>,
    /// Seconds since 1970.
    pub(crate) timestamp: Option<f64>,
    pub(crate) value: Option<f64>,
    pub(crate) values: Option<Vec<f64>>,
    pub(crate) counts: Option<Vec<f64>>,
    pub(crate) statistics: Option<Statistics>,
    pub(crate) unit: Option<String>,
    pub(crate) resolution: Option<i64>,
}

/// `Dimension`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Dimension {
    pub(crate) name: Option<String>,
    pub(crate) value: Option<String>,
}

/// `StatisticSet`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) sample_count: Option<f64>,
    pub(crate) sum: Option<f64>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
}

/// Undoes the content encoding.
pub(crate) fn unpack(encoding: Option<&str>, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    match encoding.map(str::trim) {
        None | Some("" | "identity") => Ok(body.to_vec()),
        Some("gzip") => {
            let mut unpacked = Vec::new();
            let decoder = flate2::read::MultiGzDecoder::new(body);
            let read = decoder.take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut unpacked);
            read.map_err(|_| DecodeError::Gzip)?;
            if unpacked.len() as u64 > MAX_UNPACKED_BYTES {
                return Err(DecodeError::Bomb);
            }
            Ok(unpacked)
        }
        Some(other) => Err(DecodeError::Encoding(other.to_owned())),
    }
}

/// Reads an unpacked body.
pub(crate) fn decode(mut body: &[u8]) -> Result<Input, DecodeError> {
    let value: Value = ciborium::from_reader(&mut body).map_err(|_| DecodeError::Cbor)?;
    if !body.is_empty() {
        return Err(DecodeError::Cbor);
    }
    input(&value).map_err(|wrong| DecodeError::Type {
        path: wrong.path.trim_start_matches('.').to_owned(),
        expected: wrong.expected,
    })
}

/// A member of the wrong type; the path grows on the way out, each part with its dot in front.
struct Wrong {
    path: String,
    expected: &'static str,
}

impl Wrong {
    fn expected(expected: &'static str) -> Self {
        let path = String::new();
        Self { path, expected }
    }

    fn below(self, part: &str) -> Self {
        Self {
            path: format!(".{part}{}", self.path),
            ..self
        }
    }
}

type Map = [(Value, Value)];

fn input(value: &Value) -> Result<Input, Wrong> {
    let map = map(value)?;
    Ok(Input {
        namespace: member(map, "Namespace", text)?,
        data: member(map, "MetricData", |value| list(value, datum))?.unwrap_or_default(),
        entities: find(map, "EntityMetricData").is_some(),
    })
}

fn datum(value: &Value) -> Result<Datum, Wrong> {
    let map = map(value)?;
    Ok(Datum {
        metric: member(map, "MetricName", text)?,
        dimensions: member(map, "Dimensions", |value| list(value, dimension))?.unwrap_or_default(),
        timestamp: member(map, "Timestamp", timestamp)?,
        value: member(map, "Value", number)?,
        values: member(map, "Values", |value| list(value, number))?,
        counts: member(map, "Counts", |value| list(value, number))?,
        statistics: member(map, "StatisticValues", statistics)?,
        unit: member(map, "Unit", text)?,
        resolution: member(map, "StorageResolution", whole)?,
    })
}

fn dimension(value: &Value) -> Result<Dimension, Wrong> {
    let map = map(value)?;
    Ok(Dimension {
        name: member(map, "Name", text)?,
        value: member(map, "Value", text)?,
    })
}

fn statistics(value: &Value) -> Result<Statistics, Wrong> {
    let map = map(value)?;
    Ok(Statistics {
        sample_count: member(map, "SampleCount", number)?,
        sum: member(map, "Sum", number)?,
        minimum: member(map, "Minimum", number)?,
        maximum: member(map, "Maximum", number)?,
    })
}

fn find<'v>(map: &'v Map, name: &str) -> Option<&'v Value> {
    let found = map.iter().find(|(key, _)| key.as_text() == Some(name));
    found.map(|(_, value)| value).filter(|value| !value.is_null())
}

fn member<T>(map: &Map, name: &str, read: impl Fn(&Value) -> Result<T, Wrong>) -> Result<Option<T>, Wrong> {
    let value = find(map, name);
    value.map(read).transpose().map_err(|wrong| wrong.below(name))
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
    let array = value.as_array().ok_or_else(|| Wrong::expected("a list"))?;
    let one =
        |(index, value)| read(value).map_err(|wrong: Wrong| wrong.below(&format!("member.{}", index + 1)));
    array.iter().enumerate().map(one).collect()
}

fn map(value: &Value) -> Result<&Map, Wrong> {
    value
        .as_map()
        .map(Vec::as_slice)
        .ok_or_else(|| Wrong::expected("a structure"))
}

fn text(value: &Value) -> Result<String, Wrong> {
    let text = value.as_text().map(str::to_owned);
    text.ok_or_else(|| Wrong::expected("a string"))
}

fn number(value: &Value) -> Result<f64, Wrong> {
    let whole = || value.as_integer().map(|integer| i128::from(integer) as f64);
    value
        .as_float()
        .or_else(whole)
        .ok_or_else(|| Wrong::expected("a number"))
}

fn whole(value: &Value) -> Result<i64, Wrong> {
    value
        .as_integer()
        .and_then(|integer| i64::try_from(integer).ok())
        .ok_or_else(|| Wrong::expected("an integer"))
}

/// Tag 1 (RFC 8949, section 3.4.2): seconds since 1970, whole or not.
fn timestamp(value: &Value) -> Result<f64, Wrong> {
    match value.as_tag() {
        Some((1, seconds)) => number(seconds),
        _ => Err(Wrong::expected("a time stamp (tag 1)")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    }

    fn object(members: &[(&str, Value)]) -> Value {
        let pair = |(name, value): &(&str, Value)| (Value::from(*name), value.clone());
        Value::Map(members.iter().map(pair).collect())
    }

    fn one_datum(members: &[(&str, Value)]) -> Vec<u8> {
        bytes(&object(&[("MetricData", Value::Array(vec![object(members)]))]))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_member_is_read_and_unknown_ones_are_passed_over() {
        let stamp = Value::Tag(1, Box::new(Value::from(60.5)));
        let body = one_datum(&[
            ("MetricName", "m".into()),
            (
                "Dimensions",
                Value::Array(vec![object(&[("Name", "n".into()), ("Value", "v".into())])]),
            ),
            ("Timestamp", stamp),
            ("Values", Value::Array(vec![1.into(), 2.5.into()])),
            ("Counts", Value::Null),
            ("StatisticValues", object(&[("Sum", 3.into())])),
            ("Unit", "Percent".into()),
            ("StorageResolution", 1.into()),
            ("Colour", "red".into()),
        ]);
        let input = decode(&body).unwrap();
        let datum = &input.data[0];
        assert_eq!(datum.metric.as_deref(), Some("m"));
        assert_eq!(datum.dimensions[0].value.as_deref(), Some("v"));
        assert_eq!(datum.timestamp, Some(60.5));
        assert_eq!(datum.values, Some(vec![1.0, 2.5]));
        assert_eq!((&datum.counts, datum.value), (&None, None));
        assert_eq!(datum.statistics.as_ref().unwrap().sum, Some(3.0));
        assert_eq!(
            (datum.unit.as_deref(), datum.resolution),
            (Some("Percent"), Some(1))
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        let body = one_datum(&[("Values", Value::Array(vec![1.into(), "2".into()]))]);
        let path = "MetricData.member.1.Values.member.2".to_owned();
        assert_eq!(
            decode(&body),
            Err(DecodeError::Type {
                path,
                expected: "a number"
            })
        );
        let body = one_datum(&[("Timestamp", 60.into())]);
        let Err(DecodeError::Type { path, expected }) = decode(&body) else {
            panic!("an untagged time stamp was taken");
        };
        assert_eq!(
            (path.as_str(), expected),
            ("MetricData.member.1.Timestamp", "a time stamp (tag 1)")
        );
    }

    #[test]
    fn what_is_not_cbor_is_refused() {
        assert_eq!(decode(b""), Err(DecodeError::Cbor));
        assert_eq!(decode(b"<html>"), Err(DecodeError::Cbor));
        let mut trailing = bytes(&object(&[]));
        trailing.push(0);
        assert_eq!(decode(&trailing), Err(DecodeError::Cbor));
        // 400 arrays within each other: refused before the stack is in danger.
        assert_eq!(decode(&[0x81; 400]), Err(DecodeError::Cbor));
    }

    #[test]
    fn bodies_are_unpacked_up_to_a_limit() {
        assert_eq!(unpack(Some("gzip"), &gzip(b"abc")).unwrap(), b"abc");
        assert_eq!(unpack(None, b"abc").unwrap(), b"abc");
        assert_eq!(unpack(Some("gzip"), b"abc"), Err(DecodeError::Gzip));
        assert_eq!(unpack(Some("gzip"), &gzip(b"abc")[..15]), Err(DecodeError::Gzip));
        assert_eq!(
            unpack(Some("br"), b"abc"),
            Err(DecodeError::Encoding("br".to_owned()))
        );
        let bomb = gzip(&vec![0; 9 * 1024 * 1024]);
        assert_eq!(unpack(Some("gzip"), &bomb), Err(DecodeError::Bomb));
    }
}
