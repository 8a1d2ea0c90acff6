use super::*;
use crate::identity::facts::FaultKind;

const SECOND: Duration = Duration::from_secs(1);

fn wishes(dimensions: &[Dimension]) -> Wishes {
    Wishes {
        configured: Identity::default(),
        dimensions: dimensions.to_vec(),
        region: true,
        service: Service::Standard,
    }
}

/// Those of the default configuration.
fn default_wishes() -> Wishes {
    use Dimension::{AutoScalingGroupName, ImageId, InstanceId, InstanceType};
    wishes(&[InstanceId, ImageId, InstanceType, AutoScalingGroupName])
}

fn document() -> Document {
    Document {
        instance_id: "i-1".into(),
        image_id: Some("ami-1".into()),
        instance_type: Some("g5.xlarge".into()),
        region: Some("eu-west-1".into()),
    }
}

fn cached() -> Identity {
    Identity {
        instance_id: Some("i-1".into()),
        image_id: Some("ami-1".into()),
        instance_type: Some("g4dn.xlarge".into()),
        region: Some("eu-west-1".into()),
        auto_scaling_group: Some("gpu".into()),
        ..Identity::default()
    }
}

fn on_ec2(seconds: u32) -> Observed {
    Observed {
        elapsed: SECOND * seconds,
        machine: Machine::Instance("i-1".into()),
        ..Observed::default()
    }
}

fn decided(wishes: &Wishes, observed: &Observed) -> Decision {
    decide(wishes, observed, &Waits::default())
}

fn overdue(decision: &Decision, observed: &Observed) -> bool {
    decision.is_overdue(observed, &Waits::default())
}

#[test]
fn what_is_configured_wins_value_by_value() {
    let mut wishes = default_wishes();
    wishes.configured.instance_type = Some("mine".into());
    let observed = Observed {
        document: Some(document()),
        tag: Tag::Known("gpu".into()),
        cache: Some(cached()),
        ..on_ec2(1)
    };
    let decision = decided(&wishes, &observed);
    assert_eq!(decision.identity.instance_type.as_deref(), Some("mine"));
    assert_eq!(decision.identity.image_id.as_deref(), Some("ami-1"));
    assert_eq!(
        decision.found.instance_type.as_deref(),
        Some("g5.xlarge"),
        "an override is not kept"
    );
    assert!(decision.waiting.is_empty() && decision.given_up.is_empty());
}

#[test]
fn nothing_is_waited_for_that_nobody_wants() {
    let mut wishes = wishes(&[Dimension::InstanceId]);
    wishes.region = false;
    wishes.configured.instance_id = Some("mine".into());
    assert!(!wishes.document() && !wishes.tag() && !wishes.kubelet());
    assert!(decided(&wishes, &Observed::default()).waiting.is_empty());
}

#[test]
fn c11_on_ec2_a_silent_service_is_waited_for_without_limit() {
    let observed = Observed {
        fault: Some(Fault {
            kind: FaultKind::Silent,
            detail: "no answer".into(),
        }),
        ..on_ec2(1_000_000)
    };
    let decision = decided(&default_wishes(), &observed);
    assert_eq!(
        decision.identity.instance_id.as_deref(),
        Some("i-1"),
        "the firmware says so"
    );
    assert_eq!(
        decision.waiting_for(observed.fault.as_ref()).unwrap(),
        "ImageId, InstanceType, the region from the instance metadata service (no answer); \
         AutoScalingGroupName from the instance tags in the metadata service"
    );
    let xen = Observed {
        machine: Machine::Ec2,
        ..observed
    };
    assert!(!decided(&default_wishes(), &xen).waiting.is_empty());
}

#[test]
fn c11_a_service_that_is_switched_off_is_waited_for_only_while_the_instance_is_unknown() {
    use Dimension::{AutoScalingGroupName, ImageId, InstanceType};
    let known = Machine::Instance("i-1".into());
    let configured = Some("mine".to_owned());
    // The firmware, what is configured, the environment, since when, now, whether that is the end of the wait.
    for (machine, configured, service, since, now, is_settled) in [
        (&known, &None, Service::Standard, Some(100), 159, false),
        (&known, &None, Service::Standard, Some(100), 160, true),
        (&known, &None, Service::Expected, Some(100), 160, true),
        (&known, &None, Service::Standard, None, 1_000_000, false),
        (&Machine::Ec2, &None, Service::Standard, Some(0), 1_000_000, false),
        (&Machine::Ec2, &configured, Service::Standard, Some(0), 60, true),
        (
            &Machine::Unknown,
            &None,
            Service::Expected,
            Some(0),
            1_000_000,
            false,
        ),
    ] {
        let mut wishes = default_wishes();
        wishes.configured.instance_id.clone_from(configured);
        wishes.service = service;
        let observed = Observed {
            machine: machine.clone(),
            disabled_at: since.map(|since| SECOND * since),
            ..on_ec2(now)
        };
        let decision = decided(&wishes, &observed);
        assert_eq!(decision.waiting.is_empty(), is_settled, "{observed:?}");
        if is_settled {
            let left_out = [ImageId, InstanceType, AutoScalingGroupName].map(Field::Dimension);
            let left_out = left_out.into_iter().chain([Field::Region]);
            let left_out: Vec<_> = left_out.map(|field| (field, Why::Disabled)).collect();
            assert_eq!(decision.given_up, left_out);
            assert!(decision.identity.instance_id.is_some());
        }
    }
}

#[test]
fn c11_a_cached_identity_counts_when_the_service_had_its_moment() {
    let observed = |seconds| Observed {
        cache: Some(cached()),
        ..on_ec2(seconds)
    };
    assert!(!decided(&default_wishes(), &observed(4)).waiting.is_empty());
    let decision = decided(&default_wishes(), &observed(5));
    assert!(decision.waiting.is_empty(), "{decision:?}");
    assert_eq!(decision.identity, cached());
}

#[test]
fn c11_at_the_end_the_cache_counts_before_its_time() {
    let observed = |is_final| Observed {
        cache: Some(cached()),
        is_final,
        ..on_ec2(1)
    };
    let early = decided(&default_wishes(), &observed(false));
    assert_eq!(early.identity.image_id, None);
    let last = decided(&default_wishes(), &observed(true));
    assert_eq!((last.identity, last.waiting), (cached(), vec![]));
}

#[test]
fn c11_the_service_knows_better_than_the_cache() {
    let observed = Observed {
        cache: Some(cached()),
        document: Some(document()),
        tag: Tag::NoGroup,
        ..on_ec2(60)
    };
    let identity = decided(&default_wishes(), &observed).identity;
    assert_eq!(identity.instance_type.as_deref(), Some("g5.xlarge"));
    assert_eq!(identity.auto_scaling_group, None, "it has left the group");
}

#[test]
fn c12_without_the_tag_the_group_is_left_out_as_soon_as_that_is_definite() {
    for (tag, why, limit) in [
        (Tag::TagsOff, Why::TagsOff, 0_u32),
        (Tag::NoGroup, Why::NoGroup, 5),
        (Tag::Unanswered, Why::TagsSilent, 30),
    ] {
        let observed = |seconds| Observed {
            document: Some(document()),
            document_at: SECOND * 100,
            tag: tag.clone(),
            ..on_ec2(100 + seconds)
        };
        let group = Field::Dimension(Dimension::AutoScalingGroupName);
        for seconds in 0..limit {
            let early = decided(&default_wishes(), &observed(seconds));
            assert_eq!(early.waiting, [(group, Source::Tags)], "{tag:?}");
            assert!(!overdue(&early, &observed(seconds)), "{tag:?}");
        }
        let late = decided(&default_wishes(), &observed(limit));
        assert_eq!((late.waiting, late.given_up), (vec![], vec![(group, why)]));
    }
}

#[test]
fn c11_only_a_document_that_does_not_come_is_somebodys_business() {
    use Dimension::{AutoScalingGroupName, ClusterName, ImageId};
    // What is wanted, when, and whether that is overdue.
    for (dimension, seconds, expected) in [
        (ImageId, 9, false),
        (ImageId, 10, true),
        (AutoScalingGroupName, 29, false),
        (ClusterName, 119, false),
    ] {
        let mut wishes = wishes(&[dimension]);
        wishes.region = false;
        let observed = on_ec2(seconds);
        let decision = decided(&wishes, &observed);
        assert_eq!(decision.waiting.len(), 1, "{dimension}");
        assert_eq!(overdue(&decision, &observed), expected, "{dimension} {seconds}");
    }
}

#[test]
fn every_source_has_its_own_mend_and_each_is_named_once() {
    let mut dimensions = default_wishes().dimensions;
    dimensions.extend([Dimension::ClusterName, Dimension::NodegroupName]);
    let mend = decided(&wishes(&dimensions), &on_ec2(0)).mend();
    let mends: Vec<&str> = mend.split("; the node").collect();
    assert!(
        mends[0].starts_with("enable the instance metadata service"),
        "{mend}"
    );
    assert!(mends[1].starts_with(" has not joined its cluster yet"), "{mend}");
    assert_eq!(mends.len(), 2);
    let kubelet = decided(
        &wishes(&[Dimension::ClusterName]),
        &Observed {
            document: Some(document()),
            ..on_ec2(0)
        },
    );
    assert!(kubelet.mend().starts_with("the node has not joined"));
}

#[test]
fn c12_a_cache_without_a_group_does_not_wait_for_ever() {
    let cache = Identity {
        auto_scaling_group: None,
        ..cached()
    };
    let observed = |seconds| Observed {
        cache: Some(cache.clone()),
        ..on_ec2(seconds)
    };
    assert!(!decided(&default_wishes(), &observed(29)).waiting.is_empty());
    assert!(decided(&default_wishes(), &observed(30)).waiting.is_empty());
}

#[test]
fn c12_tags_that_were_switched_off_leave_the_cached_group() {
    let observed = Observed {
        cache: Some(cached()),
        document: Some(document()),
        tag: Tag::TagsOff,
        ..on_ec2(1)
    };
    let decision = decided(&default_wishes(), &observed);
    assert_eq!(decision.identity.auto_scaling_group.as_deref(), Some("gpu"));
    assert!(decision.waiting.is_empty());
}

#[test]
fn a_laptop_waits_a_moment_and_an_unknown_machine_a_minute() {
    for (machine, limit) in [(Machine::Elsewhere, 5), (Machine::Unknown, 60)] {
        let observed = |seconds| Observed {
            machine: machine.clone(),
            ..on_ec2(seconds)
        };
        assert!(
            !decided(&default_wishes(), &observed(limit - 1))
                .waiting
                .is_empty()
        );
        let decision = decided(&default_wishes(), &observed(limit));
        assert!(decision.waiting.is_empty());
        assert_eq!(decision.given_up.len(), 5);
        assert_eq!(decision.identity, Identity::default());
    }
}

#[test]
fn the_environment_may_forbid_the_service_or_promise_it() {
    let mut wishes = default_wishes();
    wishes.service = Service::Off;
    let elsewhere = Observed {
        machine: Machine::Elsewhere,
        ..on_ec2(1_000)
    };
    let now = Observed {
        elapsed: Duration::ZERO,
        ..elsewhere.clone()
    };
    assert!(decided(&wishes, &now).waiting.is_empty());
    wishes.service = Service::Expected;
    assert!(!decided(&wishes, &elsewhere).waiting.is_empty());
}

#[test]
fn a_document_without_a_value_ends_the_wait_for_it() {
    let observed = Observed {
        document: Some(Document {
            image_id: None,
            ..document()
        }),
        tag: Tag::Known("gpu".into()),
        ..on_ec2(1)
    };
    let decision = decided(&default_wishes(), &observed);
    let image = Field::Dimension(Dimension::ImageId);
    assert_eq!(decision.given_up, [(image, Why::NotInDocument)]);
    assert!(decision.waiting.is_empty());
}

#[test]
fn the_kubelets_files_are_waited_for_at_the_first_boot() {
    let mut wishes = wishes(&[Dimension::ClusterName, Dimension::NodegroupName]);
    wishes.region = false;
    let observed = |seconds, cluster, nodegroup| Observed {
        cluster,
        nodegroup,
        ..on_ec2(seconds)
    };
    let boot = decided(&wishes, &observed(119, Fact::NoFile, Fact::NoFile));
    assert_eq!(
        boot.waiting_for(None).unwrap(),
        "ClusterName, NodegroupName from the kubelet's files, which the bootstrap of the node writes"
    );
    for (fact, why, limit) in [
        (Fact::NoFile, Why::NoFile, 120),
        (Fact::Unreadable, Why::Unreadable, 120),
        (Fact::NotInFile, Why::NotInFile, 35),
    ] {
        let nodegroup = Field::Dimension(Dimension::NodegroupName);
        let joined = |seconds| Observed {
            files_at: Some(Duration::from_secs(30)),
            ..observed(seconds, Fact::Known("prod".into()), fact.clone())
        };
        let early = decided(&wishes, &joined(limit - 1));
        assert_eq!(early.waiting, [(nodegroup, Source::Kubelet)], "{why}");
        let late = decided(&wishes, &joined(limit));
        assert_eq!(
            (late.waiting, late.given_up),
            (vec![], vec![(nodegroup, why)]),
            "{why}"
        );
        assert_eq!(late.identity.cluster.as_deref(), Some("prod"));
    }
}

#[test]
fn a_file_that_says_something_else_than_the_cache_is_believed() {
    let mut wishes = wishes(&[Dimension::ClusterName]);
    wishes.region = false;
    for (fact, cluster) in [
        (Fact::NoFile, Some("cached")),
        (Fact::Unreadable, Some("cached")),
        (Fact::NotInFile, None),
        (Fact::Known("prod".into()), Some("prod")),
    ] {
        let observed = Observed {
            cache: Some(Identity {
                cluster: Some("cached".into()),
                ..cached()
            }),
            cluster: fact,
            ..on_ec2(5)
        };
        let decision = decided(&wishes, &observed);
        assert_eq!(decision.identity.cluster.as_deref(), cluster, "{observed:?}");
        assert_eq!(decision.waiting.is_empty(), cluster.is_some());
    }
}

#[test]
fn c12_the_tags_are_not_waited_for_beyond_the_first_window() {
    assert_eq!(Waits::within(Duration::from_mins(1)), Waits::default());
    assert_eq!(Waits::within(Duration::from_hours(1)), Waits::default());
    let short = Waits::within(Duration::from_secs(10));
    assert_eq!(
        (short.tags, short.late),
        (Duration::from_secs(5), Duration::from_secs(100))
    );
    assert_eq!(short.cached, Waits::default().cached);
}

#[test]
fn retries_double_up_to_a_cap_and_are_spread() {
    let waits = Waits::default();
    let delay = |in_vain, random| retry_delay(in_vain, random, &waits).as_millis();
    assert_eq!(
        [delay(0, 0.0), delay(1, 0.0), delay(2, 0.0), delay(3, 0.0)],
        [250, 250, 500, 1000]
    );
    assert_eq!(delay(1, 1.0), 125);
    assert_eq!([delay(8, 0.0), delay(40, 0.0), delay(u32::MAX, 0.0)], [10_000; 3]);
}
