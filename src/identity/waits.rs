//! How long the identity waits for whom. Pure.

use std::time::Duration;

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// For the metadata service, when a cached identity is at hand.
    pub cached: Duration,
    /// For a metadata service on a machine that is no EC2 instance.
    pub elsewhere: Duration,
    /// For one on a machine of which nothing is known.
    pub unknown: Duration,
    /// For a metadata service to be switched on that says that it is off.
    pub disabled: Duration,
    /// For tags that do not answer, once everything else is known.
    pub tags: Duration,
    /// For the Auto Scaling group's tag where there are tags but not this one, once everything else is known: EC2
    /// may put it on a moment after it has launched the instance.
    pub no_group: Duration,
    /// For the kubelet's files: at the first boot they are written after this agent has started.
    pub kubelet: Duration,
    /// For what they do not say, from when they are there: somebody may be writing them.
    pub half_written: Duration,
    /// Before the second question to a metadata service that did not say all; doubles with every question.
    pub first_retry: Duration,
    /// The longest such time.
    pub longest_retry: Duration,
    /// Between two questions for a tag that is not there, once the identity is settled.
    pub late: Duration,
    /// Between two looks at files and at the time, before that.
    pub beat: Duration,
    /// Before it is a problem that the document does not come. Every start waits for a moment, and the network may
    /// come up after the agent.
    pub patience: Duration,
}

impl Waits {
    /// The usual times, where windows of a minute or longer are published. With shorter ones the tags get half an
    /// interval, so that the first window is published in time, and are looked at again every ten intervals.
    #[must_use]
    pub fn within(publish_interval: Duration) -> Self {
        let usual = Self::default();
        Self {
            tags: usual.tags.min(publish_interval / 2),
            late: usual.late.min(publish_interval * 10),
            ..usual
        }
    }
}

impl Default for Waits {
    /// All but `unknown`, `disabled`, `late` and `kubelet` end within the first window of 60 s, so that it is published in
    /// time.
    fn default() -> Self {
        Self {
            cached: Duration::from_secs(5),
            elsewhere: Duration::from_secs(5),
            unknown: Duration::from_mins(1),
            disabled: Duration::from_mins(1),
            tags: Duration::from_secs(30),
            no_group: Duration::from_secs(5),
            kubelet: Duration::from_mins(2),
            half_written: Duration::from_secs(5),
            first_retry: Duration::from_millis(250),
            longest_retry: Duration::from_secs(10),
            late: Duration::from_mins(10),
            beat: Duration::from_millis(500),
            patience: Duration::from_secs(10),
        }
    }
}
