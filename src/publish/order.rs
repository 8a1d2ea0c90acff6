//! Which waiting window has its turn: a window that fails for a reason of its own holds up no other. Pure.
//!
//! Whether a failure is the window's or the endpoint's shows only afterwards, when another window is accepted. Until
//! then the window that failed steps back once; one that has failed twice while others were accepted lets all of
//! them pass.

use std::collections::{BTreeMap, BTreeSet};

use super::store::WindowId;

/// So many failures that were the window's own make it wait for all others.
const OWN_FAILURES: u32 = 2;

/// The windows that stepped back.
#[derive(Clone, Debug, Default)]
pub struct Order {
    back: BTreeSet<WindowId>,
    own_failures: BTreeMap<WindowId, u32>,
}

impl Order {
    /// The windows that are not to be tried while there are others.
    #[must_use]
    pub fn back(&self) -> &BTreeSet<WindowId> {
        &self.back
    }

    /// A window failed, perhaps for a reason of its own.
    pub fn failed(&mut self, id: WindowId) {
        self.back.insert(id);
    }

    /// A request was accepted: the endpoint works, and what stepped back for its sake has its turn again.
    pub fn accepted(&mut self) {
        let own_failures = &mut self.own_failures;
        self.back.retain(|id| {
            let failures = own_failures.entry(*id).or_default();
            *failures += 1;
            *failures >= OWN_FAILURES
        });
    }

    /// Every window that waits has stepped back.
    pub fn start_over(&mut self) {
        self.back.clear();
    }

    /// Windows below `oldest` are gone.
    pub fn forget_before(&mut self, oldest: WindowId) {
        self.back = self.back.split_off(&oldest);
        self.own_failures = self.own_failures.split_off(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_failed_with_the_endpoint_has_its_turn_as_soon_as_the_endpoint_works() {
        let mut order = Order::default();
        order.failed(WindowId(1));
        order.failed(WindowId(2));
        order.accepted();
        assert!(order.back().is_empty());
    }

    #[test]
    fn a_window_that_fails_alone_lets_all_others_pass() {
        let mut order = Order::default();
        for _ in 0..2 {
            order.failed(WindowId(7));
            order.accepted();
        }
        order.accepted();
        assert_eq!(order.back().len(), 1);
        order.start_over();
        assert!(order.back().is_empty(), "it is tried again when it is alone");
        order.forget_before(WindowId(8));
        assert!(order.own_failures.is_empty());
    }
}
