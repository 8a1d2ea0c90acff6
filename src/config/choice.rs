//! The settings that are one word out of a few.
//!
//! Every enum here is closed: its words are the only ones that the configuration takes, and an error lists them.
//! An enum does not know which key it belongs to.

use std::fmt;

/// A closed set of words, so that one routine reads all of them.
pub(super) trait Choice: Copy + 'static {
    /// Every value, in the order in which an error lists them.
    const ALL: &'static [Self];

    /// The word in the configuration.
    fn word(self) -> &'static str;
}

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
        pub enum $name {
            $($(#[$about])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// The word as the configuration spells it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl Choice for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

choices! {
    /// Where closed windows go (`publish.target`).
    Target {
        /// Amazon CloudWatch, through `PutMetricData`.
        Cloudwatch = "cloudwatch",
        /// One JSON line per batch on standard output, in the shape of a `PutMetricData` request.
        Stdout = "stdout",
    }
}

choices! {
    /// A group of metrics that is switched on or off as a whole (`publish.groups`).
    Group {
        /// CPU, memory, swap and disks of the node.
        Host = "host",
        /// Utilisation, memory, power, temperature and readiness of every GPU.
        Gpu = "gpu",
        /// Clocks, throttling, faults and errors of every GPU.
        Health = "health",
        /// Clients, restarts and memory overhead of MPS.
        Mps = "mps",
        /// How many slices of a GPU are handed out, free and unhealthy.
        Slices = "slices",
        /// What each pod uses of its GPU.
        Pods = "pods",
        /// The agent's own backlog and drops.
        Agent = "agent",
    }
}

choices! {
    /// A base dimension, put on every series of scope "node" (`publish.dimensions`).
    Dimension {
        /// EC2 instance id, such as `i-0123456789abcdef0`.
        InstanceId = "InstanceId",
        /// Id of the AMI from which the instance was started.
        ImageId = "ImageId",
        /// EC2 instance type, such as `g5.12xlarge`.
        InstanceType = "InstanceType",
        /// Auto Scaling group of the node.
        AutoScalingGroupName = "AutoScalingGroupName",
        /// EKS cluster.
        ClusterName = "ClusterName",
        /// EKS managed node group.
        NodegroupName = "NodegroupName",
    }
}

choices! {
    /// Who keeps the MPS daemons running (`mps.backend`).
    MpsBackend {
        /// One systemd unit per GPU.
        Systemd = "systemd",
        /// Plain child processes, for hosts without systemd.
        Process = "process",
    }
}

choices! {
    /// What a pod sees of the MPS directory (`mps.client_view`).
    ClientView {
        /// Hard links of the two files that a client needs.
        Links = "links",
        /// The daemon's whole directory.
        Directory = "directory",
    }
}

choices! {
    /// Which GPU a new pod's slices are preferred from (`slices.policy`).
    SlicePolicy {
        /// The fullest GPU on which the request fits.
        Pack = "pack",
        /// The emptiest GPU.
        Spread = "spread",
    }
}

choices! {
    /// How a container gets its share (`slices.injection`).
    Injection {
        /// Container Device Interface files.
        Cdi = "cdi",
        /// Plain environment and mounts in the answer to the kubelet.
        Env = "env",
    }
}

choices! {
    /// Whether a resource of the GPU is limited to the container's slices (`slices.threads`, `slices.memory`).
    Limit {
        /// k of N parts for k of N slices.
        Share = "share",
        /// The whole GPU, shared with the others.
        Unlimited = "unlimited",
    }
}

choices! {
    /// What to do when another device plugin hands out the same GPUs (`slices.conflict`).
    Conflict {
        /// Carry on and say so.
        Warn = "warn",
        /// Do not register with the kubelet.
        Refuse = "refuse",
        /// Register, and offer only GPUs that nobody else offers.
        Yield = "yield",
    }
}

choices! {
    /// What the `PodName` dimension names (`pods.identity`).
    PodIdentity {
        /// The workload (Deployment, `DaemonSet`, Job), which survives its pods.
        Workload = "workload",
        /// The single pod, with `FullPodName` beside it.
        Pod = "pod",
    }
}
