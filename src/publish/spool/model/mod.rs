//! The spool against a naive model of it: random histories of calls, crashes at any write, starts and ill disks.
//!
//! What is driven is the spool's own code, the thread apart: a step of it is a call here. `truth` is the model: a list
//! of windows and what became of them. `run` compares it with one run of the agent, `world` with the disk over all
//! runs. `op` draws histories, `flaky` is a disk that fails, `image` what a crash leaves of the files.
//!
//! `PROPTEST_CASES` says how many histories are drawn. One that fails is shrunk and kept in `model/mod.regressions`,
//! which is played first from then on; each bug that was found so has a test with a name in `regressions`.

mod flaky;
mod image;
mod op;
mod regressions;
mod run;
mod truth;
mod world;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use op::{Mix, history};
use world::World;

/// As many histories as CI has time for; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let config = ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: 20_000,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases: 100, ..config },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn c02_a_crash_at_any_write_loses_nothing_that_was_answered(
        history in history(Mix::default()), is_small in proptest::bool::weighted(0.2),
    ) {
        World::new(Mix::default(), is_small).play(&history);
    }

    #[test]
    fn c14_a_disk_that_fails_at_random_loses_nothing_and_catches_up(
        history in history(Mix { faults: true, harm: false }), is_small in proptest::bool::weighted(0.2),
    ) {
        World::new(Mix { faults: true, harm: false }, is_small).play(&history);
    }

    #[test]
    fn c15_whatever_happens_to_the_files_only_what_was_pushed_is_handed_out(
        history in history(Mix { faults: false, harm: true }), is_small in proptest::bool::weighted(0.2),
    ) {
        World::new(Mix { faults: false, harm: true }, is_small).play(&history);
    }
}
