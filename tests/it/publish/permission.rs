//! Credentials and permissions.

use std::time::{Duration, UNIX_EPOCH};

use fake_cloudwatch::{Attempt, FakeCloudWatch, Fate, Rule};
use fake_imds::FakeImds;
use gpushare::publish::fate::Class;
use gpushare::publish::retry::Pace;

use super::scene::{
    assert_nothing_lost, instance_whose, node, node_with_role, status_text, stopped, wait_failure, wait_well,
};
use crate::harness::PATIENCE;
use crate::life::scene::assert_adds_up;

#[test]
fn c13_a_missing_permission_is_named_waited_for_and_mended_without_a_restart() {
    let fake = FakeCloudWatch::start().unwrap();
    fake.play([Rule::always(Fate::AccessDenied)]);
    // Slow retries: the first pause is a random part of half a minute, here one that a test can wait for, and that
    // outlasts the two windows and the status below on a loaded machine too.
    let pause = Duration::from_secs(8)..Duration::from_secs(10);
    let instance = instance_whose(|pauses| pause.contains(&pauses.pause(Pace::Slow)));
    let node = node(&fake).with("node.instance_id", &format!("{instance:?}"));
    let agent = node.start();
    let denied = wait_failure(&agent, Class::Denied);
    assert_adds_up(&denied);
    let text = status_text(&node);
    for said in [
        "publishing has failed for ",
        " (access denied, 1 in a row",
        "permission cloudwatch:PutMetricData is missing: HTTP 403 AccessDenied",
        "mend: allow cloudwatch:PutMetricData for arn:aws:sts::123456789012:assumed-role/node/i-0123456789abcdef0",
        "(access denied); next attempt ",
    ] {
        assert!(text.contains(said), "not said: {said}\n{text}");
    }
    let piled = agent.wait("two windows wait", |status| status.publish.pending_windows >= 2);
    assert_eq!(
        fake.attempts().len(),
        1,
        "newer windows are no reason to ask again"
    );
    fake.play([]);
    let well = wait_well(&agent, piled.publish.pending_windows as u64);
    assert_adds_up(&well);
    assert_eq!(well.agent.pid, denied.agent.pid);
    stopped(agent);
    for status in [&denied, &piled, &well] {
        assert_nothing_lost(&fake, status);
    }
    let second = fake.attempts()[1]
        .at
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let due = denied.publish.done.next_attempt.unwrap();
    assert!(
        (due - 0.1..due + 2.0).contains(&second),
        "{second} instead of {due}"
    );
}

#[test]
fn c13_credentials_that_were_replaced_are_taken_up_without_a_restart() {
    let rows = [
        (Fate::AccessDenied, Class::Denied),
        (Fate::InvalidClientToken, Class::CredentialsRejected),
        (Fate::ExpiredToken, Class::CredentialsExpired),
    ];
    std::thread::scope(|scope| {
        for (fate, class) in rows {
            scope.spawn(move || takes_up_new_credentials(fate, class));
        }
    });
}

/// The role's credentials are refused; it gets others, which are good once the new ones were seen.
fn takes_up_new_credentials(trouble: Fate, class: Class) {
    let (fake, imds) = (FakeCloudWatch::start().unwrap(), FakeImds::start().unwrap());
    imds.change(|node| node.credentials.access_key_id = "ASIAOLD".into());
    fake.play([Rule::always(trouble)]);
    // Time enough to make everything well again before a slow pause is longer than a test can wait for.
    let pause = Duration::from_secs(1)..Duration::from_secs(3);
    let instance = instance_whose(|pauses| (0..3).all(|_| pause.contains(&pauses.pause(Pace::Slow))));
    let node = node_with_role(&fake, &imds).with("node.instance_id", &format!("{instance:?}"));
    let agent = node.start();
    assert!(fake.wait_for(PATIENCE, |_, attempts| !attempts.is_empty()));
    imds.change(|node| node.credentials.access_key_id = "ASIANEW".into());
    let failed = wait_failure(&agent, class);
    assert_adds_up(&failed);
    let taken_up = fake.wait_for(PATIENCE, |_, attempts| attempts.iter().any(is_with_new_key));
    assert!(taken_up, "{class:?}: {:?}", fake.attempts());
    fake.play([]);
    let well = wait_well(&agent, 2);
    stopped(agent);
    assert_nothing_lost(&fake, &failed);
    assert_nothing_lost(&fake, &well);
    let attempts = fake.attempts();
    assert!(!is_with_new_key(&attempts[0]), "{class:?}: {attempts:?}");
    assert!(
        attempts.iter().map(is_with_new_key).is_sorted(),
        "the old key came back, {class:?}: {attempts:?}"
    );
}

fn is_with_new_key(attempt: &Attempt) -> bool {
    let credential = attempt.credential.as_deref().unwrap();
    assert!(credential.starts_with("ASIA"), "{credential}");
    credential.starts_with("ASIANEW/")
}
