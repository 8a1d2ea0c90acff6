//! Defaults of scenario keys, and the keys whose text needs more than serde's own reading.
//!
//! The defaults describe an unremarkable data-centre GPU at rest; `README.md` lists them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Architecture, Field, List, Span};
use crate::code::Code;
use crate::track::Track;

impl Architecture {
    /// The compute capability of the generation's usual data-centre part.
    pub(crate) fn compute_capability(self) -> &'static str {
        match self {
            Self::Volta => "7.0",
            Self::Turing => "7.5",
            Self::Ampere => "8.6",
            Self::Ada => "8.9",
            Self::Hopper => "9.0",
            Self::Blackwell => "10.0",
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("milliseconds or \"forever\"")
            }

            fn visit_i64<E: serde::de::Error>(self, ms: i64) -> Result<Span, E> {
                u64::try_from(ms)
                    .map(Span::Ms)
                    .map_err(|_| E::custom("milliseconds cannot be negative"))
            }

            fn visit_u64<E: serde::de::Error>(self, ms: u64) -> Result<Span, E> {
                Ok(Span::Ms(ms))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                if text == "forever" {
                    Ok(Span::Forever)
                } else {
                    Err(E::custom("the only word here is \"forever\""))
                }
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

/// TOML keys are text; field ids are numbers.
pub(super) fn field_ids<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<u32, Field>, D::Error> {
    let named = BTreeMap::<String, Field>::deserialize(deserializer)?;
    let numbered = named.into_iter().map(|(key, field)| {
        let id = key
            .parse()
            .map_err(|_| D::Error::custom(format!("field id {key:?} is not a number")))?;
        Ok((id, field))
    });
    numbered.collect()
}

pub(super) fn default_driver() -> String {
    "580.95.05".to_owned()
}

pub(super) fn default_nvml() -> String {
    "13.580.95.05".to_owned()
}

pub(super) fn default_cuda() -> String {
    "13.0".to_owned()
}

pub(super) fn zero() -> Track {
    Track::Constant(0.0)
}

pub(super) fn yes() -> bool {
    true
}

pub(super) fn default_ring_hz() -> u32 {
    6
}

pub(super) fn default_power() -> Track {
    Track::Constant(71.0)
}

pub(super) fn default_power_limit() -> f64 {
    300.0
}

pub(super) fn default_temperature() -> Track {
    Track::Constant(36.0)
}

pub(super) fn default_sm_clock() -> Track {
    Track::Constant(1410.0)
}

pub(super) fn default_memory_clock() -> Track {
    Track::Constant(1215.0)
}

pub(super) fn default_max_sm_clock() -> u32 {
    1980
}

pub(super) fn default_pcie_generation() -> u32 {
    4
}

pub(super) fn default_pcie_width() -> u32 {
    16
}

pub(super) fn compute_list() -> Vec<List> {
    vec![List::Compute]
}

pub(super) fn uninitialized() -> u32 {
    Code::UNINITIALIZED.0
}

pub(super) fn driver_not_loaded() -> u32 {
    Code::DRIVER_NOT_LOADED.0
}
