//! What survives a restart: health, ramps, suspicion. Sessions do not, so neither do tickets and places.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clock::Now;
use super::health::StoredMark;
use super::policy::Policy;
use super::ramp::StoredRamp;
use super::sender::StoredSender;
use super::{EgressAddr, Evidence, Moment};

/// Opaque to who stores it: take it from [`Policy::state`](super::Policy::state), store it as JSON, give it to
/// [`Policy::new`](super::Policy::new). Times in it are calendar times; the time that passed in between counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Addresses that rest by hand towards all.
    by_hand: BTreeMap<EgressAddr, Evidence>,
    marks: BTreeMap<String, StoredMark>,
    ramps: BTreeMap<String, StoredRamp>,
    senders: BTreeMap<String, StoredSender>,
}

impl Policy {
    /// What to store.
    pub fn state(&self, now: Moment) -> State {
        let now = self.clock.now(now);
        let by_hand =
            |(address, member): (&EgressAddr, &super::policy::Member)| Some((*address, member.by_hand.clone()?));
        State {
            by_hand: self.addresses.iter().filter_map(by_hand).collect(),
            marks: self.healths.stored(now),
            ramps: self.ramps.stored(now.tick),
            senders: self.senders.stored(now),
        }
    }

    pub(super) fn restore_state(&mut self, state: State, now: Now) {
        for (address, evidence) in state.by_hand {
            if let Some(member) = self.addresses.get_mut(&address) {
                member.by_hand = Some(evidence);
            }
        }
        self.healths.restore(state.marks, self.rules.rest, now);
        let addresses: Vec<EgressAddr> = self.addresses.keys().copied().collect();
        self.healths.keep(&addresses);
        self.ramps.restore(state.ramps);
        self.senders.restore(state.senders, now);
    }
}
