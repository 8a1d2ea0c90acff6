//! Where the agent's tasks say how they are.

use tokio::sync::watch;

use crate::gpu::GpuStatus;
use crate::identity::IdentityStatus;
use crate::interruption::InterruptionStatus;
use crate::metrics::task::SamplerStatus;
use crate::mps::MpsStatus;
use crate::publish::report::PublishStatus;
use crate::reload::ConfigurationStatus;
use crate::status::Watches;

/// The other ends of [`Watches`].
pub(super) struct Says {
    pub(super) node: watch::Sender<IdentityStatus>,
    pub(super) interruption: watch::Sender<InterruptionStatus>,
    pub(super) gpu: watch::Sender<GpuStatus>,
    pub(super) mps: watch::Sender<MpsStatus>,
    pub(super) sampler: watch::Sender<SamplerStatus>,
    pub(super) published: watch::Sender<PublishStatus>,
}

/// A channel for the status of every task.
pub(super) fn channels(configuration: watch::Receiver<ConfigurationStatus>) -> (Says, Watches) {
    let (say_node, node) = watch::channel(IdentityStatus::default());
    let (say_interruption, interruption) = watch::channel(InterruptionStatus::default());
    let (say_gpu, gpu) = watch::channel(GpuStatus::default());
    let (say_mps, mps) = watch::channel(MpsStatus::default());
    let (say_sampler, sampler) = watch::channel(SamplerStatus::default());
    let (say_published, published) = watch::channel(PublishStatus::default());
    let says = Says {
        node: say_node,
        interruption: say_interruption,
        gpu: say_gpu,
        mps: say_mps,
        sampler: say_sampler,
        published: say_published,
    };
    let watches = Watches {
        configuration,
        node,
        interruption,
        gpu,
        mps,
        sampler,
        published,
    };
    (says, watches)
}
