//! What differs between the drivers.

use serde::Deserialize;

/// A driver branch that can be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "u16")]
pub(crate) struct Version(u16);

impl Version {
    /// Every branch that can be played, oldest first.
    const ALL: [u16; 5] = [535, 550, 580, 595, 615];

    /// The number in `Display Driver version:`.
    pub(crate) fn driver(self) -> u16 {
        self.0
    }

    /// What `-v` names; none where there is no `-v`. 13030 is seen in a log of a later driver, not measured.
    pub(crate) fn binary(self) -> Option<u32> {
        match self.0 {
            580 => Some(13_000),
            595 => Some(13_020),
            615 => Some(13_030),
            _ => None,
        }
    }

    pub(crate) fn has_pid_file(self) -> bool {
        self.0 >= 550
    }

    pub(crate) fn has_server_status(self) -> bool {
        self.0 >= 550
    }

    /// `-multiuser-server`, `-M`, `device_query`.
    pub(crate) fn is_cuda_13(self) -> bool {
        self.0 >= 580
    }

    /// `sm_partition`, `lspart`, commands as arguments, `ATTRIBUTES` in `ps`.
    pub(crate) fn has_partitions(self) -> bool {
        self.0 >= 595
    }

    /// Whether version 3 of the protocol can be asked for.
    pub(crate) fn has_protocol_3(self) -> bool {
        self.0 >= 615
    }
}

impl Default for Version {
    /// The default driver of the AMI that the product is made for.
    fn default() -> Self {
        Self(580)
    }
}

impl TryFrom<u16> for Version {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, String> {
        if Self::ALL.contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!(
                "version {number} is not played; choose one of {:?}",
                Self::ALL
            ))
        }
    }
}
