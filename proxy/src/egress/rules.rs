//! What the configuration says about egress: pools, rules, budgets, ramps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
pub use warren_config::egress::{Rest, Thresholds};
use warren_launcher_api::TenantName;

use super::{Ask, EgressAddr, MailClass, Operator, Suspicion};

/// Everything that the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Pools by name. One of them is [`default_pool`](Self::default_pool).
    pub pools: Vec<Pool>,
    /// The pool of what no rule sends elsewhere.
    pub default_pool: Arc<str>,
    /// First match wins.
    pub rules: Vec<Rule>,
    /// What one address does to one destination.
    pub budgets: Budgets,
    /// Addresses that are new to the world. Without an entry an address is established.
    pub warm_up: BTreeMap<EgressAddr, WarmUp>,
    /// How long a listed address rests.
    pub rest: Rest,
    /// From when on senders are suspect.
    pub suspicion: Thresholds,
    /// Sessions at once of the whole proxy, and of one tenant.
    pub limits: Limits,
}

/// A named set of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// Its addresses, in the order of the configuration; of both families.
    pub addresses: Vec<EgressAddr>,
}

/// Sends what has all that is asked for to a pool. Whatever is empty asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Where to.
    pub pool: Arc<str>,
    /// Of one of these tenants.
    pub tenants: Vec<TenantName>,
    /// From one of these reverse-paths, in lower case. Not fulfilled before MAIL.
    pub accounts: Vec<String>,
    /// To one of these operators.
    pub destinations: Vec<Operator>,
    /// Of this kind. [`MailClass::Forwarded`] is not fulfilled before MAIL.
    pub class: Option<MailClass>,
    /// Of a sender at least this suspect. A quarantine is a pool with such a rule, put first.
    pub suspicion: Option<Suspicion>,
}

/// What one address does to one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    /// Towards every operator that has none of its own.
    pub every: Budget,
    /// By operator.
    pub destinations: BTreeMap<Operator, Budget>,
}

/// How much one address does to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Sessions at once; at least 1.
    pub sessions: u32,
    /// Sessions begun in any minute; at least 1.
    pub sessions_per_minute: u32,
}

/// The ramp of a new address: what lies beyond it leaves from established addresses of the same pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmUp {
    /// When its first day began.
    pub since: SystemTime,
    /// Messages on each day, towards one operator. Behind its end the address is established.
    pub daily: Arc<[u32]>,
}

/// What a score means.
pub(super) fn level(thresholds: &Thresholds, score: u32) -> Suspicion {
    match score {
        _ if score >= thresholds.severe => Suspicion::Severe,
        _ if score >= thresholds.high => Suspicion::High,
        _ if score >= thresholds.raised => Suspicion::Raised,
        _ => Suspicion::Low,
    }
}

/// Sessions at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of the whole proxy; at least 1.
    pub sessions: u32,
    /// Of one tenant; at least 1.
    pub per_tenant: u32,
}

impl Rules {
    /// One pool of these addresses, named `default`, and nothing else.
    pub fn plain(addresses: impl IntoIterator<Item = EgressAddr>, budget: Budget, limits: Limits) -> Self {
        let name: Arc<str> = "default".into();
        Self {
            pools: vec![Pool { name: Arc::clone(&name), addresses: addresses.into_iter().collect() }],
            default_pool: name,
            rules: Vec::new(),
            budgets: Budgets { every: budget, destinations: BTreeMap::new() },
            warm_up: BTreeMap::new(),
            rest: Rest::default(),
            suspicion: Thresholds::default(),
            limits,
        }
    }

    /// The budget towards an operator.
    pub fn budget(&self, operator: &Operator) -> Budget {
        let budget = self.budgets.destinations.get(operator).copied().unwrap_or(self.budgets.every);
        Budget { sessions: budget.sessions.max(1), sessions_per_minute: budget.sessions_per_minute.max(1) }
    }

    /// The pool of a session, and the place of the rule that chose it, from 0. A rule with a pool that does not exist is passed over.
    pub(super) fn choose(&self, ask: &Ask<'_>, suspicion: Suspicion) -> (usize, Option<u32>) {
        let pool = |name: &str| self.pools.iter().position(|pool| *pool.name == *name);
        for (place, rule) in (0..).zip(&self.rules) {
            if rule.fits(ask, suspicion)
                && let Some(found) = pool(&rule.pool)
            {
                return (found, Some(place));
            }
        }
        (pool(&self.default_pool).unwrap_or_default(), None)
    }

    /// Every address of every pool, once.
    pub fn addresses(&self) -> impl Iterator<Item = EgressAddr> {
        let all: std::collections::BTreeSet<_> = self.pools.iter().flat_map(|pool| &pool.addresses).copied().collect();
        all.into_iter()
    }
}

impl Rule {
    /// Whether a session has all that is asked for.
    pub fn fits(&self, ask: &Ask<'_>, suspicion: Suspicion) -> bool {
        let account = |wanted: &String| ask.account.is_some_and(|account| account.eq_ignore_ascii_case(wanted));
        (self.tenants.is_empty() || self.tenants.contains(ask.tenant))
            && (self.accounts.is_empty() || self.accounts.iter().any(account))
            && (self.destinations.is_empty() || self.destinations.contains(ask.operator))
            && self.class.is_none_or(|class| class == ask.class)
            && self.suspicion.is_none_or(|least| suspicion >= least)
    }
}
