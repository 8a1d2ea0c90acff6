//! Histories in which the model has found the spool wrong, one a bug. Those that need a certain bit of the file have
//! their tests with `files` and `totals`.

use std::io::ErrorKind;

use super::flaky::Fault;
use super::op::{Call, Mix, Op, Start};
use super::world::World;
use crate::metrics::window::DropReason;

const WORK: Op = Op::Work {
    tries: true,
    fault: None,
    slow: false,
    meanwhile: Vec::new(),
};

fn push() -> Op {
    Op::Call(Call::Push(1, false))
}

fn restart(reboots: bool) -> Op {
    let start = Start {
        node: 0,
        reboots,
        is_named: false,
    };
    Op::Restart {
        start,
        in_order: false,
    }
}

/// The records that named the node and its first boot were sent first; after the next boot the others were nobody's.
#[test]
fn c02_a_backlog_from_before_the_name_was_known_outlasts_the_records_that_told_whose_it_was() {
    let mut world = World::new(Mix::default(), false);
    let mut history = vec![
        restart(false),
        WORK,
        push(),
        WORK,
        Op::Call(Call::Claim),
        push(),
        WORK,
    ];
    history.extend([restart(true), WORK, Op::Call(Call::Claim)]);
    // The newest, the one with the name, is sent; then its removal is written.
    history.extend([Op::Call(Call::Newest), WORK, Op::Call(Call::Newest)]);
    history.extend([Op::Call(Call::Finish(0, DropReason::Refused)), WORK]);
    history.extend([restart(true), WORK]);
    world.play(&history);
}

/// The record stayed on the disk when its window was sent from memory, and the next run sent it again.
#[test]
fn c14_a_window_of_a_transaction_in_doubt_does_not_come_back() {
    let mix = Mix {
        faults: true,
        harm: false,
    };
    let in_doubt = Op::Work {
        tries: true,
        fault: Some(Fault::Doubtful(ErrorKind::StorageFull)),
        slow: false,
        meanwhile: Vec::new(),
    };
    let mut world = World::new(mix, false);
    let mut history = vec![WORK, Op::Call(Call::Claim), push(), in_doubt];
    history.extend([
        Op::Call(Call::Newest),
        Op::Call(Call::Finish(0, DropReason::Refused)),
    ]);
    history.extend([push(), WORK, Op::Idle]);
    world.play(&history);
}
