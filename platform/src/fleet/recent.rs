//! What is remembered of tenants that were awake lately: since when they are not, and how they were started last.
//!
//! Bounded: of a tenant that has slept for long nothing is known here, and it costs nothing.

use std::collections::{BTreeMap, HashMap};

use warren_control::api::Started;
use warren_launcher_api::TenantName;

/// Tenants remembered. Some hundred bytes each.
const KEPT: usize = 2048;

/// How a tenant came to be where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    /// When it fell asleep or failed, in unix milliseconds.
    pub since_unix_ms: u64,
    /// Its last start.
    pub started: Option<Started>,
}

/// The last few tenants that were awake.
#[derive(Debug, Default)]
pub(super) struct Recent {
    next: u64,
    of: HashMap<TenantName, (u64, Past)>,
    order: BTreeMap<u64, TenantName>,
}

impl Recent {
    /// The tenant is no longer awake; without a start to tell, the one before is kept.
    pub fn left(&mut self, tenant: TenantName, since_unix_ms: u64, started: Option<Started>) {
        self.next += 1;
        let before = self.of.get(&tenant).copied();
        if let Some((number, _)) = before {
            self.order.remove(&number);
        }
        let started = started.or(before.and_then(|(_, past)| past.started));
        self.order.insert(self.next, tenant.clone());
        self.of.insert(tenant, (self.next, Past { since_unix_ms, started }));
        if self.of.len() > KEPT
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.of.remove(&oldest);
        }
    }

    /// Who left last, the latest first.
    pub fn latest(&self) -> impl Iterator<Item = &TenantName> {
        self.order.values().rev()
    }

    /// What is remembered of it.
    pub fn of(&self, tenant: &TenantName) -> Option<Past> {
        self.of.get(tenant).map(|(_, past)| *past)
    }
}

#[cfg(test)]
mod tests {
    use warren_control::api::StartReason;

    use super::*;

    #[test]
    fn the_last_few_are_remembered() {
        let name = |n: usize| TenantName::new(&format!("t{n}")).unwrap();
        let started = Some(Started { at_unix_ms: 1, took_us: None, reason: StartReason::Due });
        let mut recent = Recent::default();
        recent.left(name(0), 2, started);
        recent.left(name(0), 3, None);
        assert_eq!(recent.of(&name(0)), Some(Past { since_unix_ms: 3, started }));
        for n in 1..=KEPT {
            recent.left(name(n), 4, None);
        }
        assert_eq!(recent.latest().next(), Some(&name(KEPT)));
        assert_eq!((recent.of(&name(0)), recent.of.len(), recent.order.len()), (None, KEPT, KEPT));
    }
}
