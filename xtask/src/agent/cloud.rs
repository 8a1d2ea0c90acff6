//! The AWS that an agent plays against: fake services in this process, on 127.0.0.1.
//!
//! Invariants: nothing that the agent sends leaves this machine, and nothing of the caller's AWS setup (credentials,
//! profile, region, proxy) reaches it: all it knows of AWS comes from the fakes.

use std::collections::BTreeMap;

use anyhow::Context;
use fake_cloudwatch::FakeCloudWatch;
use fake_imds::FakeImds;

/// The only tag that becomes a dimension.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// A CloudWatch and an instance metadata service; both end when dropped.
pub(crate) struct Cloud {
    pub(crate) cloudwatch: FakeCloudWatch,
    imds: FakeImds,
}

impl Cloud {
    /// An instance of this type in an Auto Scaling group, whose tags are in the metadata.
    pub(crate) fn start(instance_type: &str) -> anyhow::Result<Self> {
        let cloudwatch = FakeCloudWatch::start().context("start the simulated CloudWatch")?;
        let imds = FakeImds::start().context("start the simulated instance metadata service")?;
        imds.change(|node| {
            instance_type.clone_into(&mut node.instance_type);
            node.tags = Some(BTreeMap::from([(GROUP_TAG.to_owned(), "gpu-nodes".to_owned())]));
        });
        Ok(Self { cloudwatch, imds })
    }

    /// What `publish.endpoint_url` is set to.
    pub(crate) fn endpoint_url(&self) -> String {
        self.cloudwatch.url()
    }

    /// The environment variables by which the SDK finds the metadata service, and no files of the caller's.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.imds.url()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ]
    }
}
