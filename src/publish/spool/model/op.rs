//! What happens to a spool, at random.

use std::io::ErrorKind;

use proptest::prelude::*;

use super::flaky::Fault;
use super::image::{Cut, Harm, Rest};
use crate::metrics::window::DropReason;

/// What the sampler and the publisher do.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// A window with so many distinct values; `true`: the clock was set back.
    Push(u16, bool),
    /// The publisher takes a window that it does not have yet.
    Newest,
    Oldest,
    /// Samples of one that it has arrived.
    Accept(u8, u8),
    GiveUp(u8, DropReason, u8),
    Finish(u8, DropReason),
    /// It lets go of one without having dealt with it.
    Release(u8),
    Claim,
    /// So many of the oldest windows are too old.
    Expire(u8),
    /// Samples were refused before they came into a window.
    Refuse(u8),
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Call(Call),
    /// The disk does what it has to do next; these calls come meanwhile, `slow` if they come when nobody waits any more.
    Work {
        tries: bool,
        fault: Option<Fault>,
        slow: bool,
        meanwhile: Vec<Call>,
    },
    /// The disk does all that it has to do.
    Idle,
    /// The file system is full, or is not any more.
    Full(bool),
    /// The disk cannot be opened, or can.
    Away(bool),
    /// Somebody removes the file.
    Remove,
    /// The agent ends, in order or not, and starts again on this node, in the same boot or another one.
    Restart {
        start: Start,
        in_order: bool,
    },
    /// It is killed while it writes.
    Crash {
        start: Start,
        cut: Cut,
    },
    /// It ends, the files are harmed (`true`: the log), and it starts again.
    Harmed {
        start: Start,
        in_order: bool,
        harms: Vec<(bool, Harm)>,
    },
}

/// A start of the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// Which machine has the disk.
    pub(super) node: usize,
    pub(super) reboots: bool,
    /// Whether it knows its name from the first moment.
    pub(super) is_named: bool,
}

/// Which of all that may happen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mix {
    pub(super) faults: bool,
    pub(super) harm: bool,
}

fn reason() -> impl Strategy<Value = DropReason> {
    prop_oneof![Just(DropReason::Refused), Just(DropReason::DimensionEmpty)]
}

fn call() -> impl Strategy<Value = Call> {
    let size = prop_oneof![6 => 1_u16..20, 2 => 20_u16..300, 1 => 300_u16..1500];
    prop_oneof![
        8 => (size, proptest::bool::weighted(0.1)).prop_map(|(size, back)| Call::Push(size, back)),
        4 => Just(Call::Newest),
        3 => Just(Call::Oldest),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(which, samples)| Call::Accept(which, samples)),
        1 => (any::<u8>(), reason(), any::<u8>())
            .prop_map(|(which, reason, samples)| Call::GiveUp(which, reason, samples)),
        4 => (any::<u8>(), reason()).prop_map(|(which, reason)| Call::Finish(which, reason)),
        1 => any::<u8>().prop_map(Call::Release),
        3 => Just(Call::Claim),
        1 => (0_u8..4).prop_map(Call::Expire),
        1 => any::<u8>().prop_map(Call::Refuse),
    ]
}

fn start() -> impl Strategy<Value = Start> {
    let node = prop_oneof![6 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    (node, proptest::bool::weighted(0.3), proptest::bool::weighted(0.7)).prop_map(
        |(node, reboots, is_named)| Start {
            node,
            reboots,
            is_named,
        },
    )
}

fn cut() -> impl Strategy<Value = Cut> {
    let rest = prop_oneof![
        2 => Just(Rest::Old),
        3 => Just(Rest::Short),
        1 => Just(Rest::Zeros),
        1 => any::<u64>().prop_map(Rest::Noise),
        2 => any::<u64>().prop_map(Rest::Sectors),
    ];
    prop_oneof![
        4 => (any::<u16>(), rest).prop_map(|(at, rest)| Cut::Writing(at, rest)),
        2 => any::<u64>().prop_map(Cut::Copying),
        1 => Just(Cut::Answered),
    ]
}

fn harm() -> impl Strategy<Value = Harm> {
    // A third of it at the beginning, where one page holds all others together.
    let at = || prop_oneof![2 => any::<u16>(), 1 => 0_u16..4000];
    prop_oneof![
        8 => (at(), any::<u8>()).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        2 => any::<u16>().prop_map(Harm::Number),
        3 => (at(), any::<u64>()).prop_map(|(at, seed)| Harm::Noise(at, seed)),
        2 => at().prop_map(Harm::ZeroPage),
        2 => at().prop_map(Harm::Short),
        1 => Just(Harm::Foreign),
        1 => Just(Harm::Newer),
    ]
}

fn fault(mix: Mix) -> BoxedStrategy<Option<Fault>> {
    if !mix.faults {
        return Just(None).boxed();
    }
    let kind = || {
        prop_oneof![
            Just(ErrorKind::StorageFull),
            Just(ErrorKind::ReadOnlyFilesystem),
            Just(ErrorKind::Other)
        ]
    };
    prop_oneof![
        6 => Just(None),
        2 => kind().prop_map(|kind| Some(Fault::Refused(kind))),
        2 => kind().prop_map(|kind| Some(Fault::Doubtful(kind))),
        1 => Just(Some(Fault::Silent)),
        1 => Just(Some(Fault::Unreadable)),
    ]
    .boxed()
}

fn work(mix: Mix) -> impl Strategy<Value = Op> {
    let meanwhile = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec(call(), 1..4),
    ];
    (any::<bool>(), fault(mix), any::<bool>(), meanwhile).prop_map(|(tries, fault, slow, meanwhile)| {
        Op::Work {
            tries,
            fault,
            slow,
            meanwhile,
        }
    })
}

fn op(mix: Mix) -> impl Strategy<Value = Op> {
    let ill = u32::from(mix.faults);
    let harmed = u32::from(mix.harm);
    let harms = proptest::collection::vec((proptest::bool::weighted(0.3), harm()), 1..3);
    prop_oneof![
        24 => call().prop_map(Op::Call),
        10 => work(mix),
        3 => Just(Op::Idle),
        2 => (start(), any::<bool>()).prop_map(|(start, in_order)| Op::Restart { start, in_order }),
        3 => (start(), cut()).prop_map(|(start, cut)| Op::Crash { start, cut }),
        2 * ill => any::<bool>().prop_map(Op::Full),
        2 * ill => any::<bool>().prop_map(Op::Away),
        harmed => Just(Op::Remove),
        5 * harmed => (start(), proptest::bool::weighted(0.7), harms).prop_map(|(start, in_order, harms)| {
            Op::Harmed { start, in_order, harms }
        }),
    ]
}

/// A history.
pub(super) fn history(mix: Mix) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(mix), 1..60)
}
