//! What is wrong, and how to mend it: the part of the status that somebody is paged for. Pure.

mod mps;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Snapshot;
use crate::config::Target;
use crate::gpu::{DriverState, KernelLog};
use crate::identity;
use crate::metrics::window::{DropReason, MAX_REFUSED_NAMES};
use crate::publish::report::CLOCK_SKEW_SECONDS;

/// A window is open for one interval and is then published at once; after another something is in the way.
const MAX_PENDING_INTERVALS: f64 = 2.0;

/// What a clock has stamped that is weeks behind is too old at once.
const MEND_CLOCK: &str = "set the clock: chronyc tracking";

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

fn problem(what: impl Into<String>, mend: impl Into<String>) -> Problem {
    Problem {
        what: what.into(),
        mend: mend.into(),
    }
}

/// Everything that is wrong, most urgent first.
#[must_use]
pub fn find(snapshot: &Snapshot) -> Vec<Problem> {
    let mut problems = Vec::new();
    interruption(snapshot, &mut problems);
    configuration(snapshot, &mut problems);
    driver(snapshot, &mut problems);
    gpus(snapshot, &mut problems);
    mps::find(snapshot, &mut problems);
    node(snapshot, &mut problems);
    publishing(snapshot, &mut problems);
    spool(snapshot, &mut problems);
    data(snapshot, &mut problems);
    host(snapshot, &mut problems);
    problems
}

fn interruption(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    let announced = &snapshot.interruption;
    if let Some(notice) = &announced.notice {
        problems.push(problem(
            format!(
                "EC2 takes this spot instance away: {}{}",
                notice.action,
                when(snapshot)
            ),
            "move what runs here: kubectl drain; the agent sends everything as fast as CloudWatch takes it",
        ));
    } else if let Some(at) = announced.rebalance {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        problems.push(problem(
            format!(
                "EC2 recommends to replace this spot instance since {}: it may soon be interrupted",
                humantime::format_rfc3339_seconds(at)
            ),
            "let another node take over: kubectl drain",
        ));
    }
}

fn configuration(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    if let Some(refusal) = &snapshot.configuration.refused {
        let lines: Vec<&str> = refusal.why.lines().map(str::trim).collect();
        problems.push(problem(
            format!(
                "the configuration was changed and is not used: {}",
                lines.join(" ")
            ),
            &refusal.mend,
        ));
    }
}

/// When the instance is gone, by the clock and in seconds from now.
fn when(snapshot: &Snapshot) -> String {
    let Some(at) = snapshot.interruption.notice.as_ref().and_then(|notice| notice.at) else {
        return String::new();
    };
    let skew = snapshot.publish.done.clock_skew_seconds.unwrap_or_default();
    let left = at as f64 - skew - snapshot.agent.taken_at;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    format!(
        " at {}, in {:.0} s",
        humantime::format_rfc3339_seconds(at),
        left.max(0.0)
    )
}

fn driver(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    match &snapshot.gpu.driver {
        DriverState::Unavailable { fault } => problems.push(problem(fault.to_string(), fault.mend())),
        DriverState::Stuck => problems.push(problem(
            "the NVIDIA driver does not answer",
            "look at: dmesg | grep -i nvrm; if it stays so, drain the node and replace it",
        )),
        DriverState::Ready { unreadable, .. } => {
            if *unreadable > 0 {
                problems.push(problem(
                    format!("{unreadable} GPU(s) that the driver counts cannot be opened"),
                    "look at: dmesg | grep -i nvrm; drain the node and replace it",
                ));
            }
            if snapshot.gpu.gpus.is_empty() && *unreadable == 0 {
                problems.push(problem(
                    "the driver sees no GPU",
                    "look at: lspci | grep -i nvidia; set gpu.enabled = false on a node without GPUs",
                ));
            }
        }
        DriverState::Off | DriverState::Starting => {}
    }
    if snapshot.gpu.child.abandoned > 0 {
        problems.push(problem(
            format!(
                "{} NVML process(es) cannot be killed: stuck in the driver",
                snapshot.gpu.child.abandoned
            ),
            "drain the node and replace it",
        ));
    }
    if let KernelLog::Unreadable { reason } = &snapshot.gpu.kernel_log {
        problems.push(problem(
            format!("XIDs cannot be seen: {reason}"),
            "give the agent CAP_SYSLOG, or point gpu.kmsg at a log it may read",
        ));
    }
}

fn gpus(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    // Without a driver every GPU is unhealthy, and the driver's own line above says why.
    if !snapshot.gpu.driver.is_ready() {
        return;
    }
    for gpu in snapshot.gpu.gpus.iter().filter(|gpu| !gpu.is_healthy()) {
        let reasons: Vec<String> = gpu.health.reasons.iter().map(ToString::to_string).collect();
        problems.push(problem(
            format!("GPU {} ({}): {}", gpu.number, gpu.info.uuid, reasons.join("; ")),
            "drain the node; reset the GPU or replace the node",
        ));
    }
}

fn spool(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    let Some(spool) = &snapshot.publish.spool else {
        return;
    };
    if let (Some(what), Some(mend)) = (&spool.what, &spool.mend) {
        let what = format!(
            "the spool {}, windows wait in memory and are lost if the agent ends: {what}",
            spool.state.as_str()
        );
        problems.push(problem(what, mend.clone()));
    }
    if let Some(aside) = &spool.set_aside {
        problems.push(problem(
            format!(
                "the spool's file was set aside as {} ({} windows were saved from it): {}",
                aside.path.display(),
                aside.saved_windows,
                aside.why
            ),
            "look at it if you need to know more, then remove it; this line goes with the next start",
        ));
    }
}

fn data(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    let publish = &snapshot.publish;
    if publish.groups.is_empty() {
        problems.push(problem(
            "publish.groups is empty: nothing is published",
            "name the groups to publish, such as publish.groups = [\"host\", \"gpu\"]",
        ));
    }
    behind(snapshot, problems);
    dropped(snapshot, problems);
}

/// Data that waits although nothing that is known is in its way.
fn behind(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    let publish = &snapshot.publish;
    let is_explained = publish.done.failing_since.is_some() || snapshot.node_waiting_for.is_some();
    let age = |start: u64| snapshot.agent.taken_at - start as f64;
    let Some(age) = publish.oldest_pending.map(age).filter(|_| !is_explained) else {
        return;
    };
    if age <= MAX_PENDING_INTERVALS * publish.interval_seconds as f64 {
        return;
    }
    problems.push(if publish.target == Target::Stdout.as_str() {
        problem(
            format!("publishing is stuck: a window that began {age:.0} s ago still waits"),
            "look at what takes the data: does the reader of standard output still read?",
        )
    } else {
        problem(
            format!(
                "publishing is behind: {} windows wait, the oldest began {age:.0} s ago",
                publish.pending_windows
            ),
            "none needed while they get fewer: after an outage the backlog follows one request a second",
        )
    });
}

/// What was given up. The counts never fall: these stay until the agent starts anew, and say so.
fn dropped(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    let ledger = &snapshot.sampler.ledger;
    if let Some(first) = ledger.refused_series.first() {
        let refused = ledger.refused_series.len();
        let at_least = if refused < MAX_REFUSED_NAMES {
            ""
        } else {
            "at least "
        };
        problems.push(problem(
            format!(
                "more than {} series: {at_least}{refused} refused since the start, the first {first}",
                snapshot.publish.max_series,
            ),
            "raise publish.max_series, or exclude what makes so many (host.exclude_mounts)",
        ));
    }
    // What the cap refused is in the line above.
    for (reason, samples) in &ledger.dropped {
        let earlier = snapshot.publish.earlier.dropped.get(reason).copied().unwrap_or(0);
        let samples = samples - earlier.min(*samples);
        if samples == 0 || *reason == DropReason::SeriesLimit {
            continue;
        }
        let what = format!("{samples} samples lost since the start: {}", reason.as_str());
        let what = match &snapshot.publish.done.last_refusal {
            Some(said) if *reason == DropReason::Refused => format!("{what}: {said}"),
            _ => what,
        };
        let mend = match reason {
            DropReason::TooOld if is_skewed(snapshot) => MEND_CLOCK,
            _ => mend_of(*reason),
        };
        problems.push(problem(what, mend));
    }
}

fn mend_of(reason: DropReason) -> &'static str {
    match reason {
        DropReason::SeriesLimit => "raise publish.max_series",
        DropReason::InvalidValue => "look at the driver: it reports values out of range",
        DropReason::QueueFull => "look at why publishing fails, and at the spool's disk",
        DropReason::SpoolFull => "look at why publishing fails; raise spool.max_bytes for longer outages",
        DropReason::SpoolDamaged => "look at the disk below spool.dir: the kernel's log may say more",
        DropReason::UnknownMetric => "nothing: another version of gpushare left them in the spool",
        DropReason::TooOld => "look at why publishing is slow",
        DropReason::DimensionEmpty
        | DropReason::DimensionNotAscii
        | DropReason::DimensionControl
        | DropReason::DimensionTooLong => {
            "rename the mount point or device, or add it to host.exclude_mounts"
        }
        DropReason::TooManyDimensions => "take some out of publish.dimensions",
        DropReason::Refused => "please report it: the agent should have seen this coming",
    }
}

/// The way to the target: what fails, what it waits for, what is left out.
fn publishing(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    let status = &snapshot.publish.done;
    if let (Some(error), Some(since)) = (&status.last_error, status.failing_since) {
        let lasting = Duration::try_from_secs_f64(snapshot.agent.taken_at - since).unwrap_or_default();
        let what = format!(
            "publishing has failed for {} ({}, {} in a row; {} samples wait): {}",
            humantime::format_duration(Duration::from_secs(lasting.as_secs())),
            error.class.as_str(),
            error.in_a_row,
            snapshot.publish.pending_samples,
            error.what
        );
        problems.push(problem(what, &error.mend));
    }
    for dimension in &status.left_out {
        problems.push(problem(
            format!("a dimension is left out of every datum: {dimension}"),
            "set it in [node], or take it out of publish.dimensions",
        ));
    }
    if is_skewed(snapshot) {
        let skew = status.clock_skew_seconds.unwrap_or_default();
        let side = if skew > 0.0 { "behind" } else { "ahead" };
        problems.push(problem(
            format!(
                "the clock of this node is {:.0} s {side}: its data stands at the wrong time",
                skew.abs()
            ),
            MEND_CLOCK,
        ));
    }
}

fn is_skewed(snapshot: &Snapshot) -> bool {
    let skew = snapshot.publish.done.clock_skew_seconds;
    skew.is_some_and(|skew| skew.abs() >= CLOCK_SKEW_SECONDS)
}

fn host(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    let host = &snapshot.sampler.host;
    for part in host.iter().flat_map(|host| &host.failing) {
        problems.push(problem(
            format!("a part of the host cannot be read: {part}"),
            "the agent's log says why; host.root_dir must be where the host's root is mounted",
        ));
    }
    for mount in host.iter().flat_map(|host| &host.stuck_mounts) {
        problems.push(problem(
            format!("the file system at {} does not answer", mount.display()),
            "mend the mount, or add it to host.exclude_mounts",
        ));
    }
}

fn node(snapshot: &Snapshot, problems: &mut Vec<Problem>) {
    match &snapshot.node_waiting_for {
        Some(waiting_for) => problems.extend(snapshot.node_mend.as_ref().map(|mend| {
            problem(
                format!("nothing is published until the node knows who it is; waiting for {waiting_for}"),
                mend,
            )
        })),
        None if snapshot.node.instance_id.is_none() => problems.push(problem(
            "the instance is not known: series carry no InstanceId",
            identity::MEND,
        )),
        None => {}
    }
}

/// The state in one line, for `systemctl status`.
#[must_use]
pub fn summary(snapshot: &Snapshot) -> String {
    let gpus = &snapshot.gpu.gpus;
    let interruption = match &snapshot.interruption.notice {
        Some(notice) => format!("spot instance: {}{}; ", notice.action, when(snapshot)),
        None => String::new(),
    };
    let healthy = gpus.iter().filter(|gpu| gpu.is_healthy()).count();
    let gpus = match &snapshot.gpu.driver {
        DriverState::Off => "GPUs off".to_owned(),
        DriverState::Starting => "waiting for NVML".to_owned(),
        DriverState::Ready { driver_version, .. } => {
            format!("{healthy}/{} GPUs healthy, driver {driver_version}", gpus.len())
        }
        DriverState::Unavailable { fault } => format!("no GPUs: {fault}"),
        DriverState::Stuck => "the NVIDIA driver does not answer".to_owned(),
    };
    let gpus = gpus + &mps::summary(snapshot);
    let published = match snapshot.publish.done.last_window {
        Some(start) => {
            let end = start + snapshot.publish.interval_seconds;
            let age = snapshot.agent.taken_at - end as f64;
            format!("last window {:.0} s ago, {}", age.max(0.0), backlog(snapshot))
        }
        None => format!("no window yet, {}", backlog(snapshot)),
    };
    let done = &snapshot.publish.done;
    let spool = match &snapshot.publish.spool {
        Some(spool) if !spool.state.is_well() => format!("; spool {}", spool.state.as_str()),
        _ => String::new(),
    };
    let failing = match (&done.last_error, done.failing_since) {
        (Some(error), Some(_)) => format!("{}, ", error.class.as_str()),
        _ => String::new(),
    };
    let in_open = snapshot.sampler.open_window.map_or(0, |(_, samples)| samples);
    let ledger = format!(
        "samples: {} collected = {} published + {} pending + {} dropped",
        snapshot.sampler.ledger.collected,
        done.samples,
        snapshot.publish.pending_samples + in_open,
        snapshot.sampler.ledger.dropped_total()
    );
    let problems = match snapshot.problems.len() {
        0 => String::new(),
        1 => "; 1 problem: gpushare status".to_owned(),
        n => format!("; {n} problems: gpushare status"),
    };
    format!(
        "{interruption}{gpus}; {}: {failing}{published}{spool}; {ledger}{problems}",
        snapshot.publish.target
    )
}

/// What waits, how old and how large it is.
fn backlog(snapshot: &Snapshot) -> String {
    let publish = &snapshot.publish;
    let Some(age) = publish.backlog_seconds(snapshot.agent.taken_at) else {
        return "0 pending".to_owned();
    };
    format!(
        "{} pending ({} behind, {})",
        publish.pending_windows,
        humantime::format_duration(Duration::from_secs_f64(age.round())),
        bytesize::ByteSize(publish.pending_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostSample;
    use crate::interruption::Notice;

    /// A snapshot with nothing wrong in it, 1000 s after the epoch and with an interval of 60 s.
    fn well() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.node.instance_id = Some("i-0test".into());
        snapshot.publish.target = "stdout".into();
        snapshot.publish.groups = vec!["host".into()];
        snapshot.publish.interval_seconds = 60;
        snapshot.agent.taken_at = 1000.0;
        snapshot
    }

    fn whats(snapshot: &Snapshot) -> Vec<String> {
        find(snapshot).into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn c17_an_interruption_comes_before_everything_else() {
        let mut snapshot = Snapshot::default();
        snapshot.agent.taken_at = 1000.0;
        snapshot.publish.done.clock_skew_seconds = Some(5.0);
        snapshot.interruption.rebalance = Some(900);
        let told = find(&snapshot);
        assert!(
            told[0].what.contains("since 1970-01-01T00:15:00Z"),
            "{}",
            told[0].what
        );
        snapshot.interruption.notice = Some(Notice {
            action: "terminate".into(),
            at: Some(1120),
        });
        let line = summary(&snapshot);
        assert!(
            line.starts_with("spot instance: terminate at 1970-01-01T00:18:40Z, in 115 s; "),
            "{line}"
        );
        let told = find(&snapshot);
        assert!(
            told[0]
                .what
                .contains("terminate at 1970-01-01T00:18:40Z, in 115 s")
        );
        assert!(!told.iter().any(|problem| problem.what.contains("recommends")));
    }

    #[test]
    fn a_window_that_waits_for_two_intervals_is_a_problem() {
        let mut snapshot = well();
        assert_eq!(whats(&snapshot), [""; 0]);
        snapshot.publish.oldest_pending = Some(880);
        assert_eq!(whats(&snapshot), [""; 0]);
        snapshot.publish.oldest_pending = Some(840);
        assert_eq!(
            whats(&snapshot),
            ["publishing is stuck: a window that began 160 s ago still waits"]
        );
        snapshot.publish.target = "cloudwatch".into();
        snapshot.publish.pending_windows = 3;
        assert_eq!(
            whats(&snapshot),
            ["publishing is behind: 3 windows wait, the oldest began 160 s ago"]
        );
        snapshot.publish.done.failing_since = Some(900.0);
        assert_eq!(whats(&snapshot), [""; 0], "the failure itself is the problem");
    }

    #[test]
    fn parts_of_the_host_that_fail_and_no_groups_are_problems() {
        let mut snapshot = well();
        snapshot.publish.groups.clear();
        snapshot.sampler.host = Some(HostSample {
            failing: vec!["cpu".into()],
            ..HostSample::default()
        });
        assert_eq!(
            whats(&snapshot),
            [
                "publish.groups is empty: nothing is published",
                "a part of the host cannot be read: cpu"
            ]
        );
    }

    #[test]
    fn a_full_list_of_refused_series_does_not_pass_for_all_of_them() {
        let mut snapshot = well();
        snapshot.publish.max_series = 500;
        snapshot.sampler.ledger.refused_series = vec!["x".into(); MAX_REFUSED_NAMES];
        assert_eq!(
            whats(&snapshot),
            ["more than 500 series: at least 32 refused since the start, the first x"]
        );
    }

    fn node_problem(
        waiting_for: Option<&str>,
        mend: Option<&str>,
        instance_id: Option<&str>,
    ) -> Option<Problem> {
        let mut snapshot = well();
        snapshot.node_waiting_for = waiting_for.map(Into::into);
        snapshot.node_mend = mend.map(Into::into);
        snapshot.node.instance_id = instance_id.map(Into::into);
        let mut found = find(&snapshot).into_iter();
        let first = found.next();
        assert_eq!(found.next(), None);
        first
    }

    #[test]
    fn c11_a_node_that_waits_to_know_itself_is_a_problem_only_where_there_is_something_to_mend() {
        assert_eq!(node_problem(Some("ImageId"), None, None), None);
        let problem = node_problem(Some("ImageId from afar"), Some("go there"), Some("i-1")).unwrap();
        assert!(
            problem.what.ends_with("waiting for ImageId from afar"),
            "{problem:?}"
        );
        assert_eq!(problem.mend, "go there");
    }

    #[test]
    fn c12_a_settled_node_without_a_group_is_no_problem_and_one_without_an_id_is() {
        assert_eq!(node_problem(None, None, Some("i-1")), None);
        assert!(
            node_problem(None, None, None)
                .unwrap()
                .what
                .contains("InstanceId")
        );
    }
}
