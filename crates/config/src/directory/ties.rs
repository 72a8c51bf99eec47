//! What ties tenants to each other: a domain belongs to one of them, and forwards among them must lead out of the node.
//!
//! Only tenants that a change can concern are looked at. What is wrong is told of the place in the file where it stands, which is looked up
//! then, not remembered.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::{Directory, FEW};
use crate::forwards::Forward;
use crate::places;
use crate::problem::Problems;
use crate::tenant::Tenant;

impl Directory {
    /// Tells of domains that several tenants have. `fresh` are the seats that were taken just now.
    pub(super) fn check_domains(&self, fresh: &[u32], folder: &Path, problems: &mut Problems) {
        let mut late: BTreeSet<usize> = BTreeSet::new();
        let same = |a: usize, b: usize| match (self.by_domain.get(a), self.by_domain.get(b)) {
            (Some(a), Some(b)) => self.domain_at(*a) == self.domain_at(*b),
            _ => false,
        };
        if fresh.len() > FEW {
            late.extend((1..self.by_domain.len()).filter(|at| same(at - 1, *at)));
        } else {
            for key in fresh.iter().flat_map(|seat| self.domain_keys(*seat)) {
                let first = self.by_domain.partition_point(|known| self.domain_at(*known) < self.domain_at(key));
                late.extend((first + 1..).take_while(|at| same(first, *at)));
            }
        }
        for at in late {
            let domain = self.domain_at(self.by_domain[at]);
            let first = self.by_domain.partition_point(|known| self.domain_at(*known) < domain);
            let (owner, tenant) = (self.tenant_at(self.by_domain[first].0), self.tenant_at(self.by_domain[at].0));
            let message = format!(
                "{domain} is a domain of tenant {} already, expected each domain in one tenant only",
                owner.name
            );
            problems.push(places::of_domain(folder, &tenant.name, domain, message));
        }
    }

    /// Tells of forwards to an address of this node that never lead out of it. Beside the fresh ones, those can be concerned that
    /// forward inward already, and those whose targets have come to be addresses of this node.
    pub(super) fn check_forwards(&mut self, old: &Self, fresh: Vec<u32>, folder: &Path, problems: &mut Problems) {
        let mut concerned: BTreeSet<u32> = self.inward.iter().copied().collect();
        let domains = fresh.iter().flat_map(|seat| &self.tenant_at(*seat).domains).map(String::as_str);
        let gained: HashSet<&str> = domains.filter(|domain| old.by_domain(domain).is_none()).collect();
        // With all of them fresh, as at the start, nobody else is left to look at.
        if !gained.is_empty() && fresh.len() < self.by_name.len() {
            let gains = |tenant: &Tenant| targets(tenant).filter_map(domain).any(|domain| gained.contains(domain));
            concerned.extend(self.by_name.iter().filter(|seat| gains(self.tenant_at(**seat))));
        }
        concerned.extend(fresh);
        self.inward = Vec::new();
        for seat in concerned {
            let tenant = self.tenant_at(seat);
            if targets(tenant).any(|to| domain(to).is_some_and(|domain| self.by_domain(domain).is_some())) {
                self.check_forwards_of(tenant, folder, problems);
                self.inward.push(seat);
            }
        }
    }

    fn check_forwards_of(&self, tenant: &Tenant, folder: &Path, problems: &mut Problems) {
        for forward in tenant.forwards.iter() {
            let holds = |own: &&String| forward.domain.as_deref().is_none_or(|only| only == own.as_str());
            let sources: Vec<String> =
                tenant.domains.iter().filter(holds).map(|domain| format!("{}@{domain}", forward.local)).collect();
            for (place, target) in forward.to.iter().enumerate() {
                if let Some(wrong) = self.dead_end(&sources, target) {
                    problems.push(places::of_target(folder, tenant, forward, place, wrong));
                }
            }
        }
    }

    /// Why mail to `target` would come back to one of `sources`, or be refused by this node.
    fn dead_end(&self, sources: &[String], target: &str) -> Option<String> {
        let mut seen = HashSet::new();
        let mut open = vec![target.to_ascii_lowercase()];
        while let Some(address) = open.pop() {
            if sources.contains(&address) {
                return Some(format!(
                    "mail for {address} would be forwarded to itself, expected a forward that leads elsewhere"
                ));
            }
            match self.follow(&address) {
                Some(Some(forward)) if seen.insert(address.clone()) => {
                    open.extend(forward.to.iter().map(|to| to.to_ascii_lowercase()))
                }
                // Further away it is told of where it stands.
                Some(None) if seen.is_empty() => {
                    return Some(format!(
                        "{address} has no forward (this node keeps no mailboxes), expected one that has, or one elsewhere"
                    ));
                }
                _ => {}
            }
        }
        None
    }

    /// The forward of an address of this node; `None` if it is elsewhere.
    fn follow(&self, address: &str) -> Option<Option<&Forward>> {
        let (local, domain) = address.rsplit_once('@')?;
        let tenant = self.by_domain(domain)?;
        Some(tenant.forwards.find(local, domain))
    }
}

fn targets(tenant: &Tenant) -> impl Iterator<Item = &str> {
    tenant.forwards.iter().flat_map(|forward| &forward.to).map(String::as_str)
}

/// The domain of an address, in lower case as all that was read.
fn domain(address: &str) -> Option<&str> {
    address.rsplit_once('@').map(|(_, domain)| domain)
}
