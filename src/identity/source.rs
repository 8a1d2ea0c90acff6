//! The values that may be wanted, where each is to come from, and why one will not be known: names and words.
//!
//! Pure. What is decided with them is in [`plan`](super::plan).

use std::fmt;

use super::MEND;
use crate::config::Dimension;

/// A value of an [`Identity`](super::Identity).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A dimension.
    Dimension(Dimension),
    /// The region.
    Region,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dimension(dimension) => dimension.fmt(f),
            Self::Region => f.write_str("the region"),
        }
    }
}

/// Where a value is to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The instance identity document of the metadata service.
    Document,
    /// The instance tags of the metadata service.
    Tags,
    /// The kubelet's files.
    Kubelet,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Document => "the instance metadata service",
            Self::Tags => "the instance tags in the metadata service",
            Self::Kubelet => "the kubelet's files, which the bootstrap of the node writes",
        })
    }
}

impl Source {
    /// How to get what is to come from there.
    #[must_use]
    pub fn mend(self) -> &'static str {
        match self {
            Self::Document | Self::Tags => MEND,
            Self::Kubelet => {
                "the node has not joined its cluster yet: look at its bootstrap (nodeadm, cloud-init), or set \
                 node.cluster and node.nodegroup"
            }
        }
    }
}

/// Why a value will not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The environment forbids to ask.
    #[error("AWS_EC2_METADATA_DISABLED is set")]
    ServiceOff,
    /// The instance's settings forbid to answer.
    #[error("the instance metadata service is switched off for this instance (status 403)")]
    Disabled,
    /// Not EC2.
    #[error("no metadata service answers, and the firmware does not say that this is an EC2 instance")]
    Elsewhere,
    /// The document leaves it out.
    #[error("the instance identity document does not say")]
    NotInDocument,
    /// The usual case on EKS.
    #[error("instance tags are not in the metadata (InstanceMetadataTags is disabled)")]
    TagsOff,
    /// The instance stands for itself.
    #[error("the instance has no tag aws:autoscaling:groupName")]
    NoGroup,
    /// The tags did not answer in time.
    #[error("the instance tags could not be read in time")]
    TagsSilent,
    /// There are no such files.
    #[error("this node has no files of an EKS kubelet")]
    NoFile,
    /// There are, and they cannot be read.
    #[error("the kubelet's files cannot be read")]
    Unreadable,
    /// They do not say.
    #[error("the kubelet's files do not say")]
    NotInFile,
}

/// Where a value that the configuration does not give comes from.
#[must_use]
pub fn source_of(field: Field) -> Source {
    use Dimension::{AutoScalingGroupName, ClusterName, ImageId, InstanceId, InstanceType, NodegroupName};
    match field {
        Field::Region | Field::Dimension(InstanceId | ImageId | InstanceType) => Source::Document,
        Field::Dimension(AutoScalingGroupName) => Source::Tags,
        Field::Dimension(ClusterName | NodegroupName) => Source::Kubelet,
    }
}
