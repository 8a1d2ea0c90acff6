//! How many clients a GPU takes, and what a slice of its memory is too small for. Pure.

use super::Warning;

/// Bytes in a MiB.
const MIB: u64 = 1024 * 1024;

/// Memory that a CUDA program needs to start under MPS, before it allocates anything, in MiB.
///
/// No document has it. From reports of how many clients start on a GPU before the next one fails with "all
/// CUDA-capable devices are busy or unavailable" (NVIDIA/k8s-device-plugin#1118): 21 on a T4 of 15360 MiB, which is
/// 698 to 731 MiB for each, and 30 on an A30 of 24576 MiB, 793 to 819 MiB. This lies in the larger range: a slice that
/// passes for useful has to be.
pub const CLIENT_FLOOR_MIB: u64 = 800;

/// A row of the client limits.
struct ClientLimit {
    /// The lowest compute capability that it is for.
    capability: (u32, u32),
    /// The first driver that it is for.
    driver: u32,
    /// Clients of one GPU.
    clients: u32,
}

/// From the manual page `nvidia-cuda-mps-control(1)` of drivers 550 to 595, the best row last. More than 48 is said of
/// newer drivers and was never seen: such a row would name the driver.
const CLIENT_LIMITS: [ClientLimit; 2] = [
    ClientLimit {
        capability: (3, 5),
        driver: 0,
        clients: 16,
    },
    ClientLimit {
        capability: (7, 0),
        driver: 0,
        clients: 48,
    },
];

/// More slices than the GPU takes clients: the last ones could never be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "slices.per_gpu is {per_gpu}, and {model} takes {limit} MPS clients at most: set slices.per_gpu to {limit} or less"
)]
pub struct TooManySlices {
    /// `slices.per_gpu`.
    pub per_gpu: u32,
    /// The most clients.
    pub limit: u32,
    /// The GPU's model.
    pub model: String,
}

/// The most clients that a GPU of this compute capability (`nvmlDeviceGetCudaComputeCapability`) takes under a driver
/// (first number of its version); `None` where MPS does not work at all.
#[must_use]
pub fn client_limit(capability: (u32, u32), driver: u32) -> Option<u32> {
    let fits = |row: &&ClientLimit| row.capability <= capability && row.driver <= driver;
    CLIENT_LIMITS.iter().rev().find(fits).map(|row| row.clients)
}

/// Refuses more slices than clients.
pub fn check_slices(per_gpu: u32, limit: u32, model: &str) -> Result<(), TooManySlices> {
    if per_gpu <= limit {
        return Ok(());
    }
    Err(TooManySlices {
        per_gpu,
        limit,
        model: model.to_owned(),
    })
}

/// The smallest number of slices whose memory a CUDA program starts in, of `per_gpu` slices of a GPU with this much
/// memory to share (without what the driver and the MPS server keep). `None` where the whole GPU is too small.
#[must_use]
pub fn smallest_useful_slices(allocatable_bytes: u64, per_gpu: u32) -> Option<u32> {
    (1..=per_gpu).find(|slices| memory_mib(allocatable_bytes, *slices, per_gpu) >= CLIENT_FLOOR_MIB)
}

/// What a container gets for its slices, in whole MiB, as its limit is written.
#[must_use]
pub fn memory_mib(allocatable_bytes: u64, slices: u32, per_gpu: u32) -> u64 {
    let share = u128::from(allocatable_bytes) * u128::from(slices) / u128::from(per_gpu.max(1));
    u64::try_from(share).unwrap_or(u64::MAX) / MIB
}

/// What to tell where one slice alone is of no use.
#[must_use]
pub fn small_slices(allocatable_bytes: u64, per_gpu: u32, model: &str) -> Option<Warning> {
    let smallest = smallest_useful_slices(allocatable_bytes, per_gpu);
    if smallest == Some(1) {
        return None;
    }
    let slice = memory_mib(allocatable_bytes, 1, per_gpu);
    let what = format!(
        "a slice of {model} is {slice} MiB of memory; a CUDA program needs about {CLIENT_FLOOR_MIB} MiB to start"
    );
    let useful = allocatable_bytes / (CLIENT_FLOOR_MIB * MIB);
    let mend = match smallest {
        Some(smallest) => format!(
            "ask for at least {smallest} slices in a container, or set slices.per_gpu to {useful} or less"
        ),
        None => "the GPU is too small for MPS: set mps.enabled and slices.enabled to false".to_owned(),
    };
    Some(Warning { what, mend })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m23_clients_are_limited_by_compute_capability() {
        for (model, capability, limit) in [
            ("K20", (3, 5), Some(16)),
            ("M60", (5, 2), Some(16)),
            ("P100", (6, 0), Some(16)),
            ("P40", (6, 1), Some(16)),
            ("V100", (7, 0), Some(48)),
            ("T4", (7, 5), Some(48)),
            ("A10G", (8, 6), Some(48)),
            ("H100", (9, 0), Some(48)),
            ("B200", (10, 0), Some(48)),
            ("GK107", (3, 0), None),
        ] {
            for driver in [535, 550, 580, 595, 615] {
                assert_eq!(client_limit(capability, driver), limit, "{model} with {driver}");
            }
        }
    }

    #[test]
    fn m23_more_slices_than_clients_are_refused_with_key_limit_and_model() {
        assert_eq!(check_slices(48, 48, "NVIDIA A10G"), Ok(()));
        let error = check_slices(49, 48, "NVIDIA A10G").unwrap_err();
        assert_eq!(
            error.to_string(),
            "slices.per_gpu is 49, and NVIDIA A10G takes 48 MPS clients at most: set slices.per_gpu to 48 or less"
        );
    }

    #[test]
    fn m23_the_smallest_useful_share_is_known_for_every_gpu() {
        for (model, mib, per_gpu, smallest) in [
            ("T4", 15_360, 48, Some(3)),
            ("T4", 15_360, 19, Some(1)),
            ("A10G", 23_028, 48, Some(2)),
            ("A30", 24_576, 30, Some(1)),
            ("A30", 24_576, 31, Some(2)),
            ("A100 80GB", 81_920, 48, Some(1)),
            ("H200", 143_771, 48, Some(1)),
            ("K20", 900, 16, Some(15)),
            ("none", 700, 48, None),
            ("none", 0, 48, None),
        ] {
            assert_eq!(
                smallest_useful_slices(mib * MIB, per_gpu),
                smallest,
                "{model} in {per_gpu}"
            );
        }
        assert_eq!(smallest_useful_slices(u64::MAX, 100), Some(1));
        assert_eq!(smallest_useful_slices(MIB, 0), None);
    }

    #[test]
    fn m23_small_slices_are_warned_of_with_the_smallest_useful_number() {
        let warning = small_slices(15_360 * MIB, 48, "Tesla T4").unwrap();
        assert_eq!(
            warning.what,
            "a slice of Tesla T4 is 320 MiB of memory; a CUDA program needs about 800 MiB to start"
        );
        assert_eq!(
            warning.mend,
            "ask for at least 3 slices in a container, or set slices.per_gpu to 19 or less"
        );
        assert_eq!(small_slices(15_360 * MIB, 19, "Tesla T4"), None);
        let warning = small_slices(512 * MIB, 48, "GT 710").unwrap();
        assert!(warning.mend.contains("mps.enabled"), "{}", warning.mend);
    }
}
