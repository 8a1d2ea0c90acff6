//! Who this node is: the values of the dimensions that every series of the node carries.
//!
//! So far they come from the `[node]` section of the configuration; what is not said there is not known, and an
//! unknown dimension is left out.

use serde::{Deserialize, Serialize};

use crate::config::{Dimension as NodeDimension, Node};
use crate::publish::Dimension;

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

/// What is known so far, and whether there is more to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// What is known.
    pub identity: Identity,
    /// Whether publishing may begin: nothing that is wanted is still being looked for.
    pub settled: bool,
    /// What is being looked for.
    pub waiting_for: Option<String>,
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
                let value = self.value(*dimension)?.clone();
                Some(Dimension {
                    name: dimension.as_str().to_owned(),
                    value,
                })
            })
            .collect()
    }

    fn value(&self, dimension: NodeDimension) -> Option<&String> {
        match dimension {
            NodeDimension::InstanceId => self.instance_id.as_ref(),
            NodeDimension::ImageId => self.image_id.as_ref(),
            NodeDimension::InstanceType => self.instance_type.as_ref(),
            NodeDimension::AutoScalingGroupName => self.auto_scaling_group.as_ref(),
            NodeDimension::ClusterName => self.cluster.as_ref(),
            NodeDimension::NodegroupName => self.nodegroup.as_ref(),
        }
    }
}
