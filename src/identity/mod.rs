//! Who this node is: the values of the dimensions that every series of the node carries, and its region.
//!
//! * [`plan`]: what to make of what is known, and whether to wait for more; [`waits`]: how long. Pure.
//! * [`facts`], [`document`], [`source`]: what there may be to know, and where. Pure.
//! * [`imds`]: the EC2 instance metadata service, version 2; the only adapter to it.
//! * [`machine`], [`kubelet`], [`cache`]: what the node's own files say.
//! * [`task`]: asks them all, and publishes an [`IdentityStatus`].
//!
//! Invariants: what the configuration says wins. Nothing is published before the identity is settled, and what was
//! settled never changes while the agent runs, because other dimensions are other series. A value that is not known
//! is left out, never made up. It must not hold anything up: samples are taken and kept meanwhile.

pub mod cache;
pub mod document;
pub mod facts;
mod file;
pub mod imds;
pub mod kubelet;
pub mod machine;
pub mod plan;
pub mod source;
pub mod task;
pub mod waits;

use serde::{Deserialize, Serialize};

use crate::config::{Dimension as NodeDimension, Node};
use crate::publish::Dimension;
use source::Field;

/// How to mend a node to which the metadata service does not say who it is.
pub const MEND: &str = "enable the instance metadata service with tokens (IMDSv2; hop limit 2 if the agent runs in a \
                        container), or set what is missing in [node]";

/// What is known about the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `i-0123456789abcdef0`.
    pub instance_id: Option<String>,
    /// `ami-0123456789abcdef0`.
    pub image_id: Option<String>,
    /// `g5.12xlarge`.
    pub instance_type: Option<String>,
    /// `eu-west-1`.
    pub region: Option<String>,
    /// The Auto Scaling group.
    pub auto_scaling_group: Option<String>,
    /// The EKS cluster.
    pub cluster: Option<String>,
    /// The EKS node group.
    pub nodegroup: Option<String>,
}

/// The identity as far as it is known, for whoever publishes and for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// What is known. Does not change any more once it is settled.
    pub identity: Identity,
    /// Whether everything that is wanted is known, or known to be unobtainable: nothing is published before.
    pub settled: bool,
    /// What is waited for and why it does not come, in words; absent once the identity is settled.
    pub waiting_for: Option<String>,
    /// How to get that; absent as long as the wait is one that ends by itself, or that every start may have.
    pub mend: Option<String>,
}

impl Identity {
    /// What the configuration says.
    #[must_use]
    pub fn configured(node: &Node) -> Self {
        Self {
            instance_id: node.instance_id.clone(),
            image_id: node.image_id.clone(),
            instance_type: node.instance_type.clone(),
            region: node.region.clone(),
            auto_scaling_group: node.auto_scaling_group.clone(),
            cluster: node.cluster.clone(),
            nodegroup: node.nodegroup.clone(),
        }
    }

    /// The dimensions among `wanted` that are known, in that order.
    #[must_use]
    pub fn dimensions(&self, wanted: &[NodeDimension]) -> Vec<Dimension> {
        wanted
            .iter()
            .filter_map(|dimension| {
                let value = self.get(Field::Dimension(*dimension))?.clone();
                Some(Dimension {
                    name: dimension.as_str().to_owned(),
                    value,
                })
            })
            .collect()
    }

    /// One value.
    #[must_use]
    pub fn get(&self, field: Field) -> Option<&String> {
        let value = match field {
            Field::Region => &self.region,
            Field::Dimension(NodeDimension::InstanceId) => &self.instance_id,
            Field::Dimension(NodeDimension::ImageId) => &self.image_id,
            Field::Dimension(NodeDimension::InstanceType) => &self.instance_type,
            Field::Dimension(NodeDimension::AutoScalingGroupName) => &self.auto_scaling_group,
            Field::Dimension(NodeDimension::ClusterName) => &self.cluster,
            Field::Dimension(NodeDimension::NodegroupName) => &self.nodegroup,
        };
        value.as_ref()
    }

    /// These values, and those of `other` where there are none.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            instance_id: self.instance_id.or_else(|| other.instance_id.clone()),
            image_id: self.image_id.or_else(|| other.image_id.clone()),
            instance_type: self.instance_type.or_else(|| other.instance_type.clone()),
            region: self.region.or_else(|| other.region.clone()),
            auto_scaling_group: self
                .auto_scaling_group
                .or_else(|| other.auto_scaling_group.clone()),
            cluster: self.cluster.or_else(|| other.cluster.clone()),
            nodegroup: self.nodegroup.or_else(|| other.nodegroup.clone()),
        }
    }
}
