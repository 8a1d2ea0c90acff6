//! The kinds of failure, and what each asks for. Pure.

use serde::{Deserialize, Serialize};

use super::super::retry::Pace;

/// Why a batch did not arrive, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub class: Class,
    /// What happened.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The account's quota of requests is used up.
    Throttled,
    /// CloudWatch has trouble of its own (5xx).
    ServerError,
    /// No connection.
    Unreachable,
    /// A connection and no answer.
    TimedOut,
    /// The region is not known.
    NoRegion,
    /// There are no credentials.
    NoCredentials,
    /// The credentials have expired and were not renewed.
    CredentialsExpired,
    /// The credentials are not valid.
    CredentialsRejected,
    /// A permission is missing.
    Denied,
    /// The clock is so wrong that signatures are refused.
    ClockSkewed,
    /// Something else answers in CloudWatch's place.
    NotCloudWatch,
    /// The request cannot be made, or is refused whatever is in it.
    Misconfigured,
    /// CloudWatch refuses for a reason that this version does not know.
    Unknown,
}

impl Class {
    /// How patiently to try again.
    #[must_use]
    pub const fn pace(self) -> Pace {
        match self {
            Self::Throttled
            | Self::ServerError
            | Self::Unreachable
            | Self::TimedOut
            | Self::NoRegion
            | Self::NoCredentials
            | Self::CredentialsExpired
            | Self::ClockSkewed => Pace::Fast,
            Self::CredentialsRejected
            | Self::Denied
            | Self::NotCloudWatch
            | Self::Misconfigured
            | Self::Unknown => Pace::Slow,
        }
    }

    /// Whether another attempt within seconds makes sense: while stopping, nobody comes to mend anything.
    #[must_use]
    pub const fn may_pass_at_once(self) -> bool {
        matches!(
            self,
            Self::Throttled | Self::ServerError | Self::Unreachable | Self::TimedOut | Self::ClockSkewed
        )
    }

    /// Whether one window may fail so while others arrive: it must not hold those up.
    #[must_use]
    pub const fn may_be_of_one_window(self) -> bool {
        matches!(
            self,
            Self::ServerError | Self::TimedOut | Self::NotCloudWatch | Self::ClockSkewed | Self::Unknown
        )
    }

    /// The kind in a word or two, for a status line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::ServerError => "server error",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::NoRegion => "no region",
            Self::NoCredentials => "no credentials",
            Self::CredentialsExpired => "credentials expired",
            Self::CredentialsRejected => "credentials rejected",
            Self::Denied => "access denied",
            Self::ClockSkewed => "clock skewed",
            Self::NotCloudWatch => "not CloudWatch",
            Self::Misconfigured => "misconfigured",
            Self::Unknown => "refused",
        }
    }
}
