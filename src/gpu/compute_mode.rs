//! Who may compute on a GPU: the setting that makes a GPU refuse whoever goes around MPS.

use serde::{Deserialize, Serialize};

/// NVML's compute modes, by NVML's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ComputeMode {
    /// Any number of processes.
    Default,
    /// One thread of one process. Drivers of today know it no more, so it can be read and not set.
    #[value(skip)]
    ExclusiveThread,
    /// Nobody.
    Prohibited,
    /// One process, such as an MPS server.
    ExclusiveProcess,
}

impl ComputeMode {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::ExclusiveThread => "exclusive_thread",
            Self::Prohibited => "prohibited",
            Self::ExclusiveProcess => "exclusive_process",
        }
    }
}

impl std::fmt::Display for ComputeMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `gpushare nvml --gpu UUID --compute-mode` prints as one line of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeModes {
    /// The mode that was found.
    pub before: ComputeMode,
    /// The mode that was read when all was done.
    pub now: ComputeMode,
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_mode_has_one_name_on_the_command_line_in_json_and_in_words() {
        for mode in [
            ComputeMode::Default,
            ComputeMode::Prohibited,
            ComputeMode::ExclusiveProcess,
        ] {
            let json = serde_json::to_string(&mode).unwrap();
            assert_eq!(json, format!("\"{mode}\""));
            assert_eq!(ComputeMode::from_str(mode.as_str(), false), Ok(mode));
        }
        let modes = ComputeModes {
            before: ComputeMode::ExclusiveThread,
            now: ComputeMode::ExclusiveProcess,
        };
        assert_eq!(
            serde_json::to_string(&modes).unwrap(),
            r#"{"before":"exclusive_thread","now":"exclusive_process"}"#
        );
        assert!(ComputeMode::from_str("exclusive_thread", false).is_err());
    }
}
