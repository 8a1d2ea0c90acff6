//! The GPU that an operator names: by its UUID, or by its sticky `GPUNumber`.

use std::path::Path;

use crate::gpu::GpuUuid;
use crate::gpu::inventory::Numbers;
use crate::log;

/// Digits of the five groups of a UUID.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// The argument names no GPU that MPS can run on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuArgumentError {
    /// A MIG instance.
    #[error(
        "{0} is a MIG instance, and one daemon per MIG instance is not supported: name the GPU, after switching MIG \
         off with `nvidia-smi -i GPU -mig 0`; or leave this GPU to MIG and set mps.enabled = false"
    )]
    Mig(String),
    /// Neither a UUID nor a number.
    #[error("{argument:?} names no GPU: give a UUID such as those of `nvidia-smi -L`, or a number; {known}")]
    Malformed {
        /// What was given.
        argument: String,
        /// The GPUs that are known.
        known: String,
    },
    /// A number that no GPU has.
    #[error("no GPU has the number {number}; {known}")]
    NoSuchNumber {
        /// What was given.
        number: u32,
        /// The GPUs that are known.
        known: String,
    },
    /// Numbers cannot be looked up.
    #[error("the number of a GPU cannot be looked up: {why}; name the GPU by its UUID, from `nvidia-smi -L`")]
    NoNumbers {
        /// Why, with the file's path.
        why: String,
    },
}

impl GpuArgumentError {
    /// 64 usage, 69 unavailable.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Malformed { .. } | Self::NoSuchNumber { .. } => 64,
            Self::Mig(_) | Self::NoNumbers { .. } => 69,
        }
    }
}

/// The GPU that `argument` names: `GPU-` and a whole UUID, or a number that is looked up in `numbers_file`
/// (`<node.state_dir>/gpus.json`).
///
/// A UUID need not be known: MPS may be started before the agent has seen a GPU. It is whole, though, because the
/// driver takes its first digits for it, and two names would be two daemons.
pub fn named(argument: &str, numbers_file: &Path) -> Result<GpuUuid, GpuArgumentError> {
    if argument.starts_with("MIG-") {
        return Err(GpuArgumentError::Mig(argument.to_owned()));
    }
    if let Some(uuid) = whole_uuid(argument) {
        return Ok(uuid);
    }
    let is_number = !argument.is_empty() && argument.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = argument.parse().ok().filter(|_| is_number) else {
        return Err(GpuArgumentError::Malformed {
            argument: argument.to_owned(),
            // Only to help: whether they can be read is not the question.
            known: read(numbers_file).map_or_else(|_| known(&Numbers::default()), |numbers| known(&numbers)),
        });
    };
    let numbers = read(numbers_file)?;
    let found = numbers.gpu(number).cloned();
    found.ok_or_else(|| GpuArgumentError::NoSuchNumber {
        number,
        known: known(&numbers),
    })
}

/// `GPU-5f9a…` with all its digits, in small letters as NVML writes them.
fn whole_uuid(argument: &str) -> Option<GpuUuid> {
    let digits = argument.strip_prefix("GPU-")?.to_ascii_lowercase();
    let groups: Vec<&str> = digits.split('-').collect();
    let is_whole = groups.iter().map(|group| group.len()).eq(GROUPS)
        && groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole.then(|| GpuUuid::from(format!("GPU-{digits}").as_str()))
}

/// Unlike the agent, which may number afresh, this is not allowed to guess.
fn read(path: &Path) -> Result<Numbers, GpuArgumentError> {
    let refuse = |why: String| GpuArgumentError::NoNumbers { why };
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Numbers::default()),
        Err(error) => return Err(refuse(log::chain(&error))),
    };
    serde_json::from_str(&text).map_err(|error| refuse(format!("{}: {error}", path.display())))
}

fn known(numbers: &Numbers) -> String {
    let named: Vec<String> = numbers
        .by_number()
        .iter()
        .map(|(number, uuid)| format!("{number} = {uuid}"))
        .collect();
    if named.is_empty() {
        return "no GPU has a number yet, because `gpushare run` has seen none".to_owned();
    }
    format!("known: {}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuInfo;

    const A: &str = "GPU-7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3f4";
    const B: &str = "GPU-0b54d1ce-88f3-5a27-a6d0-41c7f92e5b10";

    /// The numbers of two GPUs, in a file.
    fn two_gpus() -> (tempfile::TempDir, std::path::PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gpus.json");
        let present = [(A, 0), (B, 1)].map(|(uuid, nvml_index)| GpuInfo {
            uuid: uuid.into(),
            model: String::new(),
            pci_bus_id: String::new(),
            nvml_index,
            compute_capability: None,
        });
        let mut numbers = Numbers::default();
        numbers.assign("boot", &present);
        fs_err::write(&path, serde_json::to_string(&numbers).unwrap()).unwrap();
        (root, path)
    }

    #[test]
    fn a_uuid_is_taken_as_it_is_and_a_number_is_looked_up() {
        let (_root, path) = two_gpus();
        let missing = path.with_extension("missing");
        assert_eq!(named(A, &missing), Ok(A.into()));
        assert_eq!(
            named("GPU-7F1C9A52-3D08-5B6E-9C41-2E8A60D7B3F4", &missing),
            Ok(A.into())
        );
        assert_eq!(named("0", &path), Ok(A.into()));
        assert_eq!(named("1", &path), Ok(B.into()));
    }

    #[test]
    fn whatever_names_no_gpu_is_a_usage_error_that_names_those_that_there_are() {
        let (_root, path) = two_gpus();
        let short = &A[..20];
        let long = format!("{A}0");
        for argument in [
            "",
            "a10g",
            "-1",
            "+1",
            "1.0",
            " 1",
            "99999999999",
            "GPU-",
            "GPU-../../etc",
            "GPU-7f1c9a52",
            short,
            &long,
            "gpu-7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3f4",
            "7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3f4",
            "GPU-/../",
            "7\n",
            "GPU-7f1c9a52-3d08-5b6e-9c41-2e8a60d7b3fé",
        ] {
            let error = named(argument, &path).unwrap_err();
            assert!(
                matches!(error, GpuArgumentError::Malformed { .. }),
                "{argument:?}: {error}"
            );
            assert_eq!(error.exit_code(), 64);
            let text = error.to_string();
            assert!(text.contains(&format!("0 = {A}, 1 = {B}")), "{text}");
        }
    }

    #[test]
    fn a_number_that_nobody_has_is_a_usage_error() {
        let (_root, path) = two_gpus();
        let error = named("7", &path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("no GPU has the number 7; known: 0 = {A}, 1 = {B}")
        );
        assert_eq!(error.exit_code(), 64);
        let error = named("0", &path.with_extension("missing")).unwrap_err();
        assert!(error.to_string().contains("no GPU has a number yet"), "{error}");
        assert_eq!(error.exit_code(), 64);
    }

    #[test]
    fn a_mig_instance_is_refused_with_the_mend() {
        let error = named("MIG-0b54d1ce-88f3-5a27-a6d0-41c7f92e5b10", Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("-mig 0"), "{error}");
        assert_eq!(error.exit_code(), 69);
    }

    #[test]
    fn numbers_that_make_no_sense_are_named_and_a_uuid_still_works() {
        let (_root, path) = two_gpus();
        fs_err::write(&path, "{\"gpus\": 7}").unwrap();
        let error = named("0", &path).unwrap_err();
        assert!(error.to_string().contains("gpus.json"), "{error}");
        assert!(error.to_string().contains("nvidia-smi -L"), "{error}");
        assert_eq!(error.exit_code(), 69);
        assert_eq!(named(A, &path), Ok(A.into()));
    }
}
