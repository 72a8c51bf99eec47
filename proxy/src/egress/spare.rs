//! What of a budget nobody uses: room for connections that are idle.

use super::health::{Condition, Healths, Mark};
use super::policy::Policy;
use super::room::RoomKey;
use super::{Ask, EgressAddr};

impl Policy {
    /// Sessions that an address could have at the operator of `ask` beyond those that it has. None while somebody waits for it, or while the address rests:
    /// nothing is kept of it then.
    pub fn spare(&self, ask: &Ask<'_>, address: EgressAddr) -> u32 {
        if self.addresses.get(&address).is_none_or(|member| member.by_hand.is_some()) {
            return 0;
        }
        let room = RoomKey::of(ask);
        let full = self.rules.budget(&room.operator);
        let budget = match Healths::mark(self.healths.at(&room.operator), address) {
            Some(Mark { condition: Condition::Rested(_), .. }) => return 0,
            Some(mark) => mark.budget(full),
            None => full,
        };
        let Some(room) = self.rooms.get(&room) else { return budget.sessions };
        if room.heads().next().is_some() {
            return 0;
        }
        let sessions = room.gauge(address).map_or(0, |gauge| gauge.sessions());
        budget.sessions.saturating_sub(sessions)
    }
}
