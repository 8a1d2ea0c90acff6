//! Who this node is, from everything that is known so far, and whether it is worth waiting for more. Pure.
//!
//! Rules:
//! * What the configuration says wins, value by value. Then what was found now, then what was cached.
//! * On EC2 the metadata service is waited for without limit: samples are kept meanwhile, and a series without its
//!   `InstanceId` would be another series, billed for itself. With a cached identity the wait is short. One that says
//!   that it is switched off is waited for only as long as nothing else says which instance this is.
//! * Everything else is waited for within a limit, and what is unknown then is left out: instance tags are off on
//!   most nodes, a self-managed node has no node group, and a laptop has no metadata service at all.
//! * Settled is settled: what turns up later counts from the next start, because a dimension more makes every
//!   series a new one.

use std::time::Duration;

use super::Identity;
use super::document::Document;
use super::facts::{Fact, Fault, Machine, Service, Tag};
use super::source::{Field, Source, Why, source_of};
use super::waits::Waits;
use crate::config::Dimension;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The overrides of the configuration.
    pub configured: Identity,
    /// `publish.dimensions`.
    pub dimensions: Vec<Dimension>,
    /// Whether the region is needed to publish.
    pub region: bool,
    /// What the environment says about the metadata service.
    pub service: Service,
}

/// What is known so far.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Since the start of the agent.
    pub elapsed: Duration,
    /// The firmware.
    pub machine: Machine,
    /// What an earlier start found out about the same instance.
    pub cache: Option<Identity>,
    /// What the metadata service says.
    pub document: Option<Document>,
    /// [`Observed::elapsed`] when it said so.
    pub document_at: Duration,
    /// The Auto Scaling group's tag.
    pub tag: Tag,
    /// From the kubelet's files.
    pub cluster: Fact,
    /// From the kubelet's files.
    pub nodegroup: Fact,
    /// [`Observed::elapsed`] when the first of those files was there.
    pub files_at: Option<Duration>,
    /// Why the metadata service does not say more.
    pub fault: Option<Fault>,
    /// [`Observed::elapsed`] when the metadata service began to say nothing but that it is switched off.
    pub disabled_at: Option<Duration>,
    /// The agent stops: nothing will be added to this.
    pub is_final: bool,
}

/// What to make of what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The node's identity so far.
    pub identity: Identity,
    /// The same without the configuration: what is worth keeping.
    pub found: Identity,
    /// What is still waited for; empty = the identity is settled.
    pub waiting: Vec<(Field, Source)>,
    /// What is wanted and will not be known.
    pub given_up: Vec<(Field, Why)>,
}

enum Verdict {
    Known,
    Wait(Source),
    GiveUp(Why),
}

impl Wishes {
    /// Everything that is to be known, in the order in which it is named.
    fn fields(&self) -> impl Iterator<Item = Field> {
        let dimensions = self.dimensions.iter().copied().map(Field::Dimension);
        dimensions.chain(self.region.then_some(Field::Region))
    }

    fn wanted(&self, source: Source) -> bool {
        self.fields()
            .any(|field| source_of(field) == source && self.configured.get(field).is_none())
    }

    /// Whether the identity document is of use.
    #[must_use]
    pub fn document(&self) -> bool {
        self.service != Service::Off && self.wanted(Source::Document)
    }

    /// Whether the Auto Scaling group's tag is of use.
    #[must_use]
    pub fn tag(&self) -> bool {
        self.service != Service::Off && self.wanted(Source::Tags)
    }

    /// Whether the kubelet's files are of use.
    #[must_use]
    pub fn kubelet(&self) -> bool {
        self.wanted(Source::Kubelet)
    }
}

impl Decision {
    /// What is waited for, in words.
    #[must_use]
    pub fn waiting_for(&self, fault: Option<&Fault>) -> Option<String> {
        // Told once: the tags are asked for after the document, and share its fate.
        let mut fault = fault;
        let parts: Vec<String> = [Source::Document, Source::Tags, Source::Kubelet]
            .into_iter()
            .filter_map(|source| {
                let fields: Vec<String> = self
                    .waiting
                    .iter()
                    .filter(|(_, awaited)| *awaited == source)
                    .map(|(field, _)| field.to_string())
                    .collect();
                if fields.is_empty() {
                    return None;
                }
                let why = match source {
                    Source::Document | Source::Tags => fault.take(),
                    Source::Kubelet => None,
                };
                let why = why
                    .map(|fault| format!(" ({})", fault.detail))
                    .unwrap_or_default();
                Some(format!("{} from {source}{why}", fields.join(", ")))
            })
            .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// How to get what is waited for, each advice once; empty while nothing is.
    #[must_use]
    pub fn mend(&self) -> String {
        let mut mends: Vec<&str> = Vec::new();
        for (_, source) in &self.waiting {
            if !mends.contains(&source.mend()) {
                mends.push(source.mend());
            }
        }
        mends.join("; ")
    }

    /// Whether somebody should look: the document does not come. The waits for tags and for files end by themselves,
    /// and on most nodes they are for something that is not there.
    #[must_use]
    pub fn is_overdue(&self, observed: &Observed, waits: &Waits) -> bool {
        let awaits_document = self.waiting.iter().any(|(_, source)| *source == Source::Document);
        awaits_document && observed.elapsed >= waits.patience
    }
}

/// Decides.
#[must_use]
pub fn decide(wishes: &Wishes, observed: &Observed, waits: &Waits) -> Decision {
    let found = found(wishes, observed, waits);
    let identity = wishes.configured.clone().or(&found);
    let mut decision = Decision {
        identity,
        found,
        waiting: Vec::new(),
        given_up: Vec::new(),
    };
    for field in wishes.fields() {
        match verdict(field, &decision.identity, wishes, observed, waits) {
            Verdict::Known => {}
            Verdict::Wait(source) => decision.waiting.push((field, source)),
            Verdict::GiveUp(why) => decision.given_up.push((field, why)),
        }
    }
    decision
}

/// Why the metadata service is not waited for, if it is not.
#[must_use]
pub fn no_service(wishes: &Wishes, observed: &Observed, waits: &Waits) -> Option<Why> {
    let limit = match (wishes.service, &observed.machine) {
        (Service::Off, _) => return Some(Why::ServiceOff),
        (Service::Expected, _) | (Service::Standard, Machine::Instance(_) | Machine::Ec2) => {
            return is_disabled(wishes, observed, waits).then_some(Why::Disabled);
        }
        (Service::Standard, Machine::Elsewhere) => waits.elsewhere,
        (Service::Standard, Machine::Unknown) => waits.unknown,
    };
    (observed.document.is_none() && observed.elapsed >= limit).then_some(Why::Elsewhere)
}

/// Whether the service is switched off, and that is bearable: the series of nodes without an instance id would be one.
fn is_disabled(wishes: &Wishes, observed: &Observed, waits: &Waits) -> bool {
    let is_known =
        wishes.configured.instance_id.is_some() || matches!(observed.machine, Machine::Instance(_));
    let is_lasting = |since| observed.elapsed.saturating_sub(since) >= waits.disabled;
    is_known && observed.disabled_at.is_some_and(is_lasting)
}

/// Time before the next question after so many in vain: doubled each time up to the longest, and then cut by up
/// to a half. `random` is in 0..=1.
#[must_use]
pub fn retry_delay(in_vain: u32, random: f64, waits: &Waits) -> Duration {
    let doubled = waits
        .first_retry
        .saturating_mul(1 << in_vain.saturating_sub(1).min(16));
    doubled
        .min(waits.longest_retry)
        .mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

/// What is known without the configuration.
fn found(wishes: &Wishes, observed: &Observed, waits: &Waits) -> Identity {
    // The service may know better than the cache (an instance changes its type while it is stopped), so it gets a
    // moment to say so. At the end of an agent that ran for less, the cache says what the next start will find.
    let cache_counts = observed.document.is_some()
        || wishes.service == Service::Off
        || observed.elapsed >= waits.cached
        || observed.is_final;
    let cache = observed
        .cache
        .clone()
        .filter(|_| cache_counts)
        .unwrap_or_default();
    let instance = match &observed.machine {
        Machine::Instance(id) => Some(id.clone()),
        Machine::Ec2 | Machine::Elsewhere | Machine::Unknown => None,
    };
    let document = observed.document.clone();
    let (instance_id, image_id, instance_type, region) = match document {
        Some(document) => (
            Some(document.instance_id),
            document.image_id,
            document.instance_type,
            document.region,
        ),
        None => (
            instance.or(cache.instance_id),
            cache.image_id,
            cache.instance_type,
            cache.region,
        ),
    };
    Identity {
        instance_id,
        image_id,
        instance_type,
        region,
        auto_scaling_group: match &observed.tag {
            Tag::Known(name) => Some(name.clone()),
            Tag::NoGroup => None,
            // Tags that were switched off do not take the instance out of its group.
            Tag::Unanswered | Tag::TagsOff => cache.auto_scaling_group,
        },
        cluster: observed.cluster.or(cache.cluster),
        nodegroup: observed.nodegroup.or(cache.nodegroup),
    }
}

fn verdict(
    field: Field,
    identity: &Identity,
    wishes: &Wishes,
    observed: &Observed,
    waits: &Waits,
) -> Verdict {
    if identity.get(field).is_some() {
        return Verdict::Known;
    }
    match source_of(field) {
        Source::Document if observed.document.is_some() => Verdict::GiveUp(Why::NotInDocument),
        Source::Document => match no_service(wishes, observed, waits) {
            Some(why) => Verdict::GiveUp(why),
            None => Verdict::Wait(Source::Document),
        },
        Source::Tags => tag_verdict(identity, wishes, observed, waits),
        Source::Kubelet => kubelet_verdict(field, observed, waits),
    }
}

fn tag_verdict(identity: &Identity, wishes: &Wishes, observed: &Observed, waits: &Waits) -> Verdict {
    if let Some(why) = no_service(wishes, observed, waits) {
        return Verdict::GiveUp(why);
    }
    let awaits_document = observed.document.is_none()
        && wishes
            .fields()
            .any(|field| source_of(field) == Source::Document && identity.get(field).is_none());
    let (why, limit) = match observed.tag {
        // A setting of the instance, from its launch. Whoever changes it later restarts the agent, and is told to.
        Tag::TagsOff => (Why::TagsOff, Duration::ZERO),
        Tag::NoGroup => (Why::NoGroup, waits.no_group),
        Tag::Unanswered | Tag::Known(_) => (Why::TagsSilent, waits.tags),
    };
    let waited = observed.elapsed.saturating_sub(observed.document_at);
    if awaits_document || waited < limit {
        return Verdict::Wait(Source::Tags);
    }
    Verdict::GiveUp(why)
}

fn kubelet_verdict(field: Field, observed: &Observed, waits: &Waits) -> Verdict {
    let fact = match field {
        Field::Dimension(Dimension::ClusterName) => &observed.cluster,
        Field::Dimension(_) | Field::Region => &observed.nodegroup,
    };
    let limit = match observed.machine {
        Machine::Elsewhere => waits.elsewhere,
        Machine::Instance(_) | Machine::Ec2 | Machine::Unknown => waits.kubelet,
    };
    let mute_until = observed.files_at.map(|at| at + waits.half_written);
    let limit = match (fact, mute_until) {
        (Fact::NotInFile, Some(until)) => until.min(limit),
        _ => limit,
    };
    if observed.elapsed < limit {
        return Verdict::Wait(Source::Kubelet);
    }
    Verdict::GiveUp(match fact {
        Fact::NoFile | Fact::Known(_) => Why::NoFile,
        Fact::Unreadable => Why::Unreadable,
        Fact::NotInFile => Why::NotInFile,
    })
}

#[cfg(test)]
mod tests;
