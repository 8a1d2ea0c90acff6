//! What each of the places says where a node may find out who it is: the types between the adapters and the plan.
//!
//! Nothing here decides anything.

use std::fmt;

/// What the machine's firmware says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// This EC2 instance.
    Instance(String),
    /// An EC2 instance, but not which.
    Ec2,
    /// Some other machine.
    Elsewhere,
    /// Nothing.
    #[default]
    Unknown,
}

/// What the environment says about the metadata service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// It must not be asked.
    Off,
    /// It is where the environment says, on whatever machine this is.
    Expected,
    /// Nothing: it is there on EC2.
    #[default]
    Standard,
}

/// What is known about the tag `aws:autoscaling:groupName`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// No answer yet.
    #[default]
    Unanswered,
    /// The Auto Scaling group.
    Known(String),
    /// Tags are not in the metadata of this instance.
    TagsOff,
    /// Tags are, but not this one.
    NoGroup,
}

/// What a file of the node says. Nothing but a value is final: the file may be half written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fact {
    /// There is no such file (yet).
    #[default]
    NoFile,
    /// There is one, and it cannot be read.
    Unreadable,
    /// The file does not say.
    NotInFile,
    /// This.
    Known(String),
}

impl Fact {
    /// This, or what is cached while no file can be read. One that does not say takes nothing from the cache: a
    /// node that has left its group would stay in it for ever.
    pub(super) fn or(&self, cached: Option<String>) -> Option<String> {
        match self {
            Self::Known(value) => Some(value.clone()),
            Self::NotInFile => None,
            Self::NoFile | Self::Unreadable => cached,
        }
    }
}

/// How the metadata service failed, which tells one state from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Status 403: switched off for this instance.
    Disabled,
    /// Status 404.
    Absent,
    /// Another status that is no success.
    Status(u16),
    /// An answer that is not EC2's.
    Nonsense,
    /// No connection, no answer in time, or no HTTP.
    Silent,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("is refused with status 403: the service is off for this instance"),
            Self::Absent => f.write_str("is not there (status 404)"),
            Self::Status(status) => write!(f, "is answered with status {status}"),
            Self::Nonsense => f.write_str("has an answer that is not EC2's"),
            Self::Silent => f.write_str("cannot be read"),
        }
    }
}

/// The last failure of the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// The whole story, in one line.
    pub detail: String,
}
