//! Whose turn it is to have a password checked. Pure.
//!
//! ```text
//!   places ◀── of the tenants that wait, the one with fewest checks under way; among equals in turn
//!                └─ of its clients' networks, in turn
//!                     └─ who came first
//! ```
//! One tenant's logins, or guesses at them, so do not queue in front of everybody's: whoever comes with its tenant's only login waits for those that
//! are under way, and for one of each other tenant at most. All who name no tenant of this node are one.

use std::{collections::VecDeque, net::IpAddr};

use warren_control::TenantName;

/// For whom a check is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Whose domain the login names, if anybody's.
    pub tenant: Option<TenantName>,
    /// Where the client is (`throttle::network`).
    pub network: IpAddr,
}

/// What becomes of who comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered<T> {
    /// It has a place.
    Now,
    /// It waits; with too many waiting, instead of this one of the tenant that has most.
    Waits {
        /// Who is turned away.
        instead_of: Option<T>,
    },
    /// Too many wait, and no other tenant has more of them.
    Full,
}

/// Those who wait, and who has places. `T` tells one who waits from the other.
#[derive(Debug)]
pub struct Turns<T> {
    free: usize,
    most: usize,
    /// Tenants with those who wait, in turn. No queue is empty.
    rings: VecDeque<Ring<T>>,
    /// Tenants with checks under way, as many as have places at most.
    under_way: Vec<(Option<TenantName>, usize)>,
}

#[derive(Debug)]
struct Ring<T> {
    tenant: Option<TenantName>,
    networks: VecDeque<(IpAddr, VecDeque<T>)>,
}

impl<T: PartialEq> Turns<T> {
    /// So many places, and so many may wait.
    pub fn new(places: usize, most: usize) -> Turns<T> {
        Turns { free: places, most, rings: VecDeque::new(), under_way: Vec::new() }
    }

    /// Somebody comes.
    pub fn enter(&mut self, party: &Party, who: T) -> Entered<T> {
        if self.free > 0 {
            self.free -= 1;
            self.begins(&party.tenant);
            return Entered::Now;
        }
        let mut instead_of = None;
        if self.waiting() >= self.most {
            let own = self.rings.iter().find(|ring| ring.tenant == party.tenant).map_or(0, Ring::len);
            let longest = self.rings.iter_mut().max_by_key(|ring| ring.len());
            let Some(longest) = longest.filter(|ring| ring.len() > own + 1) else { return Entered::Full };
            // It had more than one, so it is not empty now.
            instead_of = longest.newest_of_the_busiest();
        }
        self.ring(&party.tenant).enter(party.network, who);
        Entered::Waits { instead_of }
    }

    /// A check of this tenant is done; whose turn it is now, with its tenant.
    pub fn leave(&mut self, tenant: &Option<TenantName>) -> Option<(Option<TenantName>, T)> {
        if let Some(at) = self.under_way.iter().position(|(known, _)| known == tenant) {
            self.under_way[at].1 -= 1;
            if self.under_way[at].1 == 0 {
                self.under_way.swap_remove(at);
            }
        }
        let next = self.next();
        match &next {
            Some((tenant, _)) => self.begins(tenant),
            None => self.free += 1,
        }
        next
    }

    /// Somebody waits no more, if he did.
    pub fn give_up(&mut self, party: &Party, who: &T) {
        for ring in self.rings.iter_mut().filter(|ring| ring.tenant == party.tenant) {
            for (_, queue) in &mut ring.networks {
                queue.retain(|waiting| waiting != who);
            }
            ring.networks.retain(|(_, queue)| !queue.is_empty());
        }
        self.rings.retain(|ring| !ring.networks.is_empty());
    }

    fn waiting(&self) -> usize {
        self.rings.iter().map(Ring::len).sum()
    }

    fn ring(&mut self, tenant: &Option<TenantName>) -> &mut Ring<T> {
        let at = self.rings.iter().position(|ring| ring.tenant == *tenant).unwrap_or_else(|| {
            self.rings.push_back(Ring { tenant: tenant.clone(), networks: VecDeque::new() });
            self.rings.len() - 1
        });
        &mut self.rings[at]
    }

    fn begins(&mut self, tenant: &Option<TenantName>) {
        match self.under_way.iter_mut().find(|(known, _)| known == tenant) {
            Some((_, count)) => *count += 1,
            None => self.under_way.push((tenant.clone(), 1)),
        }
    }

    fn next(&mut self) -> Option<(Option<TenantName>, T)> {
        let busy = |ring: &Ring<T>| self.under_way.iter().find(|(tenant, _)| *tenant == ring.tenant).map_or(0, |u| u.1);
        // The first of several.
        let (at, _) = self.rings.iter().enumerate().min_by_key(|(_, ring)| busy(ring))?;
        let mut ring = self.rings.remove(at)?;
        let (network, mut queue) = ring.networks.pop_front()?;
        let who = queue.pop_front()?;
        if !queue.is_empty() {
            ring.networks.push_back((network, queue));
        }
        let tenant = ring.tenant.clone();
        if !ring.networks.is_empty() {
            self.rings.push_back(ring);
        }
        Some((tenant, who))
    }
}

impl<T> Ring<T> {
    fn len(&self) -> usize {
        self.networks.iter().map(|(_, queue)| queue.len()).sum()
    }

    fn enter(&mut self, network: IpAddr, who: T) {
        match self.networks.iter_mut().find(|(known, _)| *known == network) {
            Some((_, queue)) => queue.push_back(who),
            None => self.networks.push_back((network, VecDeque::from([who]))),
        }
    }

    fn newest_of_the_busiest(&mut self) -> Option<T> {
        let (at, _) = self.networks.iter().enumerate().max_by_key(|(_, (_, queue))| queue.len())?;
        let newest = self.networks[at].1.pop_back();
        self.networks.retain(|(_, queue)| !queue.is_empty());
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(tenant: &str, host: u8) -> Party {
        Party { tenant: TenantName::new(tenant).ok(), network: IpAddr::from([192, 0, 2, host]) }
    }

    fn waits<T>() -> Entered<T> {
        Entered::Waits { instead_of: None }
    }

    /// Those who get a place when each of these tenants' checks is done.
    fn served(turns: &mut Turns<u32>, done: &[&str]) -> Vec<u32> {
        done.iter().filter_map(|tenant| turns.leave(&of(tenant, 1).tenant)).map(|(_, who)| who).collect()
    }

    #[test]
    fn the_only_login_of_a_tenant_goes_before_anothers_crowd() {
        let mut turns = Turns::new(2, 200);
        assert_eq!((turns.enter(&of("crowd", 1), 0), turns.enter(&of("crowd", 1), 1)), (Entered::Now, Entered::Now));
        for who in 2..10 {
            assert_eq!(turns.enter(&of("crowd", 1), who), waits());
        }
        assert_eq!(turns.enter(&of("acme", 9), 100), waits());
        assert_eq!(turns.enter(&of("globex", 9), 101), waits());
        // Whenever the crowd has one under way, whoever has none goes before it.
        assert_eq!(served(&mut turns, &["crowd", "crowd", "acme", "globex"]), [100, 2, 101, 3]);
    }

    #[test]
    fn equals_are_served_in_turn_and_so_are_the_networks_of_one() {
        let mut turns = Turns::new(1, 200);
        assert_eq!(turns.enter(&of("first", 1), 0), Entered::Now);
        for (party, who) in [(of("a", 1), 1), (of("a", 1), 2), (of("a", 2), 3), (of("b", 1), 4), (of("b", 1), 5)] {
            assert_eq!(turns.enter(&party, who), waits());
        }
        assert_eq!(served(&mut turns, &["first", "a", "b", "a", "b"]), [1, 4, 3, 5, 2]);
        assert!(served(&mut turns, &["a"]).is_empty());
        assert_eq!(turns.enter(&of("a", 1), 6), Entered::Now, "the place was given back");
    }

    #[test]
    fn a_crowd_is_turned_away_for_those_who_have_less() {
        let mut turns = Turns::new(1, 4);
        assert_eq!(turns.enter(&of("crowd", 1), 0), Entered::Now);
        for (host, who) in [(1, 1), (2, 2), (2, 3), (2, 4)] {
            assert_eq!(turns.enter(&of("crowd", host), who), waits());
        }
        assert_eq!(turns.enter(&of("crowd", 1), 5), Entered::Full);
        assert_eq!(turns.enter(&of("acme", 1), 6), Entered::Waits { instead_of: Some(4) }, "the newest of its busiest");
        assert_eq!(turns.enter(&of("acme", 1), 7), Entered::Waits { instead_of: Some(3) });
        // As many as the other has.
        assert_eq!(turns.enter(&of("acme", 1), 8), Entered::Full);
        assert_eq!(turns.enter(&of("globex", 1), 9), Entered::Waits { instead_of: Some(7) });
    }

    #[test]
    fn who_gives_up_is_not_called() {
        let mut turns = Turns::new(1, 4);
        assert_eq!(turns.enter(&of("a", 1), 0), Entered::Now);
        for who in 1..4 {
            assert_eq!(turns.enter(&of("a", 1), who), waits());
        }
        turns.give_up(&of("a", 1), &1);
        turns.give_up(&of("a", 1), &3);
        turns.give_up(&of("b", 1), &2);
        assert_eq!(served(&mut turns, &["a", "a"]), [2]);
        assert!(turns.rings.is_empty() && turns.under_way.is_empty() && turns.free == 1);
    }

    proptest! {
        /// Whatever comes and goes: no place is lost or given twice, and nobody who waits is forgotten.
        #[test]
        fn every_place_and_everybody_is_accounted_for(steps in prop::collection::vec((0_u8..4, 0_u8..3, any::<bool>()), 1..200)) {
            const PLACES: usize = 2;
            let mut turns = Turns::new(PLACES, 8);
            let (mut inside, mut outside) = (Vec::new(), Vec::new());
            for (n, (tenant, host, goes)) in (0_u32..).zip(steps) {
                let party = of(["a", "b", "c", "not a name"][usize::from(tenant)], host);
                if goes && !inside.is_empty() {
                    let tenant: Option<TenantName> = inside.remove(0);
                    if let Some((tenant, who)) = turns.leave(&tenant) {
                        let before = outside.len();
                        outside.retain(|waiting| *waiting != who);
                        prop_assert_eq!(outside.len() + 1, before);
                        inside.push(tenant);
                    }
                } else {
                    match turns.enter(&party, n) {
                        Entered::Now => inside.push(party.tenant),
                        Entered::Waits { instead_of } => {
                            outside.retain(|waiting| Some(*waiting) != instead_of);
                            outside.push(n);
                        }
                        Entered::Full => prop_assert_eq!(outside.len(), 8),
                    }
                }
                prop_assert_eq!(turns.free + inside.len(), PLACES);
                prop_assert_eq!(turns.waiting(), outside.len());
                prop_assert!(outside.is_empty() || turns.free == 0);
                prop_assert_eq!(turns.under_way.iter().map(|(_, n)| n).sum::<usize>(), inside.len());
            }
        }
    }
}
