//! Whose windows they are. Pure.
//!
//! An image of a running node holds that node's spool. What is found there must not be published by the machine that
//! was started from the image, so every record says where it was written: the instance, as far as it was known then,
//! the boot, and the machine.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Where a record was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The id of the instance, if it was known.
    pub instance: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`: another one after every boot.
    pub boot: String,
    /// `/etc/machine-id`; an image of a machine may carry it along.
    pub machine: String,
}

/// Who this node is, for the question whose a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    here: Origin,
    /// Boots of this instance: this one, those of records that name both, those that its ledger names.
    boots: BTreeSet<String>,
    /// Those in which it wrote records without a name.
    nameless: BTreeSet<String>,
}

impl Owner {
    /// This node.
    pub(super) fn new(here: Origin) -> Self {
        let boots = BTreeSet::from([here.boot.clone()]);
        Self {
            here,
            boots,
            nameless: BTreeSet::new(),
        }
    }

    /// Records of this boot may lack the name.
    pub(super) fn was_nameless(&mut self) {
        self.nameless.insert(self.here.boot.clone());
    }

    /// The boots whose records without a name are this instance's. The ledger keeps them: what taught them may be sent
    /// and gone after the next boot, when the records themselves are still there.
    pub(super) fn nameless(&self) -> &BTreeSet<String> {
        &self.nameless
    }

    /// The ledger of this instance names boots of it.
    pub(super) fn learn_boots(&mut self, boots: &BTreeSet<String>) {
        self.boots.extend(boots.iter().cloned());
    }

    /// A record without a name turned out to be this instance's.
    pub(super) fn took_over(&mut self, origin: &Origin) {
        if self.here.instance.is_some() && origin.instance.is_none() {
            self.nameless.insert(origin.boot.clone());
        }
    }

    /// A record was found: where it names this instance, its boot was one of this instance.
    pub(super) fn learn(&mut self, origin: &Origin) {
        if self.here.instance.is_some() && origin.instance == self.here.instance {
            self.boots.insert(origin.boot.clone());
        }
    }

    /// Whether a record is this node's. One that does not name its instance is, if it was written in a boot of this
    /// instance; on a machine that is no instance, if it was written by this machine.
    pub(super) fn owns(&self, origin: &Origin) -> bool {
        match (&self.here.instance, &origin.instance) {
            (Some(here), Some(there)) => here == there,
            (Some(_), None) => self.boots.contains(&origin.boot),
            (None, Some(_)) => false,
            (None, None) => self.here.boot == origin.boot || self.same_machine(origin),
        }
    }

    fn same_machine(&self, origin: &Origin) -> bool {
        !self.here.machine.is_empty() && self.here.machine == origin.machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(instance: Option<&str>, boot: &str, machine: &str) -> Origin {
        Origin {
            instance: instance.map(Into::into),
            boot: boot.into(),
            machine: machine.into(),
        }
    }

    #[test]
    fn c15_a_cloned_image_owns_nothing_of_the_node_it_was_made_from() {
        let clone = Owner::new(origin(Some("i-b"), "boot-b", "m"));
        assert!(!clone.owns(&origin(Some("i-a"), "boot-a", "m")));
        assert!(!clone.owns(&origin(None, "boot-a", "m")), "it may be i-a's");
        let nameless = Owner::new(origin(None, "boot-b", "m2"));
        assert!(!nameless.owns(&origin(Some("i-a"), "boot-a", "m")));
        assert!(!nameless.owns(&origin(None, "boot-a", "m")));
        assert!(!Owner::new(origin(None, "b", "")).owns(&origin(None, "a", "")));
    }

    #[test]
    fn a_node_owns_what_it_wrote_before_and_after_it_knew_its_name() {
        let mut node = Owner::new(origin(Some("i-a"), "boot-2", "m"));
        assert!(node.owns(&origin(Some("i-a"), "boot-1", "m")));
        assert!(node.owns(&origin(None, "boot-2", "m")));
        assert!(!node.owns(&origin(None, "boot-1", "m")));
        node.learn(&origin(Some("i-b"), "boot-0", "m"));
        node.learn(&origin(Some("i-a"), "boot-1", "m"));
        assert!(
            node.owns(&origin(None, "boot-1", "m")),
            "i-a wrote in that boot too"
        );
        assert!(!node.owns(&origin(None, "boot-0", "m")));
        let machine = Owner::new(origin(None, "boot-2", "m"));
        assert!(
            machine.owns(&origin(None, "boot-1", "m")),
            "no instance, the same machine"
        );
    }
}
