//! The numbered fields of `nvmlDeviceGetFieldValues`, each with the type that NVML gives it.
//!
//! A scenario's `fields` table comes first, then what follows from the GPU's other keys. A field that the GPU's
//! generation lacks is "not supported", never 0.

use nvml_wrapper_sys::bindings::field_id as id;

use crate::answers::GpuAt;
use crate::code::{Answer, Code};
use crate::ring::whole;
use crate::scenario::{Architecture, FaultKind, Field};
use crate::track::Track;

/// A value with its C type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// `unsigned int`
    Uint(u32),
    /// `unsigned long long`
    UlongLong(u64),
    /// `long long`
    SlongLong(i64),
    /// `double`
    Double(f64),
}

/// `PCIe` bytes moved per percent of utilisation and second: 10 MB out, 4 MB in. Invented, but not flat.
const PCIE_TX_PER_PERCENT: f64 = 10e6;
const PCIE_RX_PER_PERCENT: f64 = 4e6;

/// `NVLink` KiB moved per link, percent of utilisation and second. Invented as well.
const NVLINK_KIB_PER_PERCENT: f64 = 2e5;

/// The answer of field `field`; `scope` is the link, for the fields that have one.
pub(crate) fn value(at: &GpuAt<'_>, field: u32, scope: u32) -> Answer<Number> {
    let default = usual(at, field, scope);
    match at.gpu.fields.get(&field) {
        Some(ordered) if at.moment.within(ordered.from_ms, None) => overridden(at, ordered, default),
        _ => default,
    }
}

/// A field that is a whole number, as the older single-purpose calls give it.
pub(crate) fn count(at: &GpuAt<'_>, field: u32) -> Answer<u64> {
    match value(at, field, 0)? {
        Number::Uint(value) => Ok(value.into()),
        Number::UlongLong(value) => Ok(value),
        Number::SlongLong(_) | Number::Double(_) => Err(Code::UNKNOWN),
    }
}

fn overridden(at: &GpuAt<'_>, ordered: &Field, default: Answer<Number>) -> Answer<Number> {
    if let Some(code) = ordered.error {
        return Err(Code(code));
    }
    let seconds = (at.moment.ms() - ordered.from_ms as f64) / 1e3;
    let value = ordered.value.unwrap_or(0.0) + ordered.ramp_per_s.unwrap_or(0.0) * seconds;
    Ok(match default {
        Ok(Number::Uint(_)) => Number::Uint(whole(value)),
        Ok(Number::UlongLong(_)) => counter(value),
        _ if ordered.ramp_per_s.is_none() && value.fract() != 0.0 => Number::Double(value),
        _ if value < 0.0 => signed(value),
        _ => counter(value),
    })
}

fn usual(at: &GpuAt<'_>, field: u32, scope: u32) -> Answer<Number> {
    match field {
        id::NVML_FI_DEV_ECC_CURRENT..=id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL => ecc(at, field),
        id::NVML_FI_DEV_RETIRED_SBE..=id::NVML_FI_DEV_RETIRED_PENDING => supported(
            at.gpu.ecc && at.gpu.architecture <= Architecture::Turing,
            Number::UlongLong(0),
        ),
        id::NVML_FI_DEV_PERF_POLICY_POWER..=id::NVML_FI_DEV_PERF_POLICY_TOTAL_BASE_CLOCKS => {
            Ok(Number::UlongLong(0))
        }
        id::NVML_FI_DEV_REMAPPED_COR..=id::NVML_FI_DEV_REMAPPED_FAILURE => supported(
            at.gpu.ecc && at.gpu.architecture >= Architecture::Ampere,
            Number::Uint(0),
        ),
        id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX | id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX => {
            let moved = moved(at, &at.gpu.utilization, NVLINK_KIB_PER_PERCENT);
            supported(scope < at.gpu.nvlinks, moved)
        }
        id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES => Ok(moved(at, &at.gpu.utilization, PCIE_TX_PER_PERCENT)),
        id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES => Ok(moved(at, &at.gpu.utilization, PCIE_RX_PER_PERCENT)),
        id::NVML_FI_DEV_PCIE_REPLAY_COUNTER
        | id::NVML_FI_DEV_RESET_STATUS
        | id::NVML_FI_DEV_DRAIN_AND_RESET_STATUS => Ok(Number::Uint(0)),
        id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION => {
            // 0 = none, 1 = reset the GPU (nvmlDeviceGpuRecoveryAction_t).
            Ok(Number::Uint(at.suffers(FaultKind::ResetRequired).into()))
        }
        field if slowdown_fields(&at.moment.scenario.driver).contains(&field) => Ok(Number::UlongLong(0)),
        field => sensors(at, field),
    }
}

/// Temperature, energy, power.
fn sensors(at: &GpuAt<'_>, field: u32) -> Answer<Number> {
    match field {
        id::NVML_FI_DEV_MEMORY_TEMP => {
            let track = at.gpu.memory_temperature.as_ref().ok_or(Code::NOT_SUPPORTED)?;
            Ok(Number::Uint(whole(at.track(track))))
        }
        // Millijoules: watts times seconds times a thousand.
        id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => Ok(moved(at, &at.gpu.power_watts, 1e3)),
        id::NVML_FI_DEV_POWER_AVERAGE | id::NVML_FI_DEV_POWER_INSTANT => Ok(Number::Uint(at.power_mw())),
        id::NVML_FI_DEV_POWER_MAX_LIMIT
        | id::NVML_FI_DEV_POWER_DEFAULT_LIMIT
        | id::NVML_FI_DEV_POWER_CURRENT_LIMIT
        | id::NVML_FI_DEV_POWER_REQUESTED_LIMIT => Ok(Number::Uint(at.power_limit_mw())),
        _ => Err(Code::NOT_SUPPORTED),
    }
}

/// Modes 1 and 2 (current and pending), counters 3 to 6.
fn ecc(at: &GpuAt<'_>, field: u32) -> Answer<Number> {
    let is_mode = field <= id::NVML_FI_DEV_ECC_PENDING;
    if is_mode {
        Ok(Number::Uint(at.gpu.ecc.into()))
    } else {
        supported(at.gpu.ecc, Number::UlongLong(0))
    }
}

/// The times of the three hardware and thermal slowdowns: NVML renumbered them with driver 580.82.
fn slowdown_fields(driver: &str) -> std::ops::RangeInclusive<u32> {
    let mut parts = driver.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= (580, 82) {
        269..=271
    } else {
        251..=253
    }
}

fn supported(is_supported: bool, value: Number) -> Answer<Number> {
    if is_supported {
        Ok(value)
    } else {
        Err(Code::NOT_SUPPORTED)
    }
}

/// A counter of what has moved since the epoch: the area under `track` times `per_unit_second`.
fn moved(at: &GpuAt<'_>, track: &Track, per_unit_second: f64) -> Number {
    counter(at.integral(track) * per_unit_second)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, as is wanted"
)]
fn counter(value: f64) -> Number {
    Number::UlongLong(value.round() as u64)
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates, as is wanted")]
fn signed(value: f64) -> Number {
    Number::SlongLong(value.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::{Number, value};
    use crate::answers::Moment;
    use crate::code::{Answer, Code};
    use crate::scenario::Scenario;

    fn ask(scenario: &str, ms: u64, field: u32) -> Answer<Number> {
        let head = "[[gpu]]\nuuid = \"GPU-1\"\nname = \"T4\"\npci = \"0000:00:1e.0\"\nmemory_mib = 100\n";
        let (top, gpu) = scenario.split_once("---\n").unwrap_or(("", scenario));
        let scenario = Scenario::parse(&format!("{top}{head}{gpu}")).expect("valid");
        let moment = Moment {
            scenario: &scenario,
            epoch_us: 0,
            now_us: ms * 1000,
        };
        value(&moment.gpu(0).expect("there"), field, 0)
    }

    #[test]
    fn generation_decides_which_error_counters_exist() {
        assert_eq!(
            ask("architecture = \"turing\"\n", 0, 29),
            Ok(Number::UlongLong(0))
        );
        assert_eq!(
            ask("architecture = \"turing\"\n", 0, 142),
            Err(Code::NOT_SUPPORTED)
        );
        assert_eq!(
            ask("architecture = \"hopper\"\n", 0, 29),
            Err(Code::NOT_SUPPORTED)
        );
        assert_eq!(ask("architecture = \"hopper\"\n", 0, 145), Ok(Number::Uint(0)));
    }

    #[test]
    fn energy_is_the_area_under_the_power() {
        assert_eq!(
            ask("power_watts = 71\n", 2000, 83),
            Ok(Number::UlongLong(142_000))
        );
        assert_eq!(
            ask("power_watts = [[0, 0], [1000, 100]]\n", 1000, 83),
            Ok(Number::UlongLong(50_000))
        );
    }

    #[test]
    fn ramp_counts_from_its_start_and_keeps_the_type() {
        let keys = "[gpu.fields]\n4 = { value = 2, ramp_per_s = 3, from_ms = 1000 }\n";
        assert_eq!(ask(keys, 999, 4), Ok(Number::UlongLong(0)));
        assert_eq!(ask(keys, 3000, 4), Ok(Number::UlongLong(8)));
    }

    #[test]
    fn override_of_an_unknown_field_takes_the_type_of_its_value() {
        let keys = "[gpu.fields]\n9000 = { value = 1.5 }\n9001 = { value = -2 }\n82 = { error = 15 }\n";
        assert_eq!(ask(keys, 0, 9000), Ok(Number::Double(1.5)));
        assert_eq!(ask(keys, 0, 9001), Ok(Number::SlongLong(-2)));
        assert_eq!(ask(keys, 0, 82), Err(Code::GPU_IS_LOST));
    }

    #[test]
    fn slowdown_times_move_with_the_driver() {
        assert_eq!(
            ask("driver = \"580.65.06\"\n---\n", 0, 251),
            Ok(Number::UlongLong(0))
        );
        assert_eq!(
            ask("driver = \"580.95.05\"\n---\n", 0, 251),
            Err(Code::NOT_SUPPORTED)
        );
        assert_eq!(
            ask("driver = \"580.95.05\"\n---\n", 0, 271),
            Ok(Number::UlongLong(0))
        );
    }
}
