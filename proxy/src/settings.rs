//! What the configuration means for sessions. Exchanged whole at a reload; a session keeps what it began with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use warren_config::{Node, Reuse, egress as written};
use warren_smtp::mediator::Deadlines;

use crate::egress::{self, Budget, EgressAddr, Operator};
use crate::reach::Reach;
use crate::tls::Rules;

/// What every session needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name to give in EHLO; see [`Settings::name_of`]. Reverse DNS of egress addresses names it.
    pub ehlo_name: String,
    /// Names of addresses that have one of their own.
    pub names: BTreeMap<EgressAddr, String>,
    /// What may be dialled.
    pub reach: Reach,
    /// How long a session waits for its turn, its greeting withheld.
    pub max_wait: Duration,
    /// How long dialling may take.
    pub connect_timeout: Duration,
    /// How long MXs and MSAs are waited for.
    pub deadlines: Arc<Deadlines>,
    /// Which connections wait for their next session.
    pub reuse: Reuse,
    /// What is asked of an MX's TLS, by recipient domain.
    pub tls_rules: Rules,
}

impl Settings {
    /// The name to give in EHLO from this address.
    pub fn name_of(&self, egress: EgressAddr) -> &str {
        self.names.get(&egress).unwrap_or(&self.ehlo_name)
    }

    /// From the node's configuration.
    pub fn of(node: &Node) -> Self {
        let listeners = node.proxy.standalone.iter().flat_map(|standalone| &standalone.listen);
        Self {
            ehlo_name: node.hostname.clone(),
            names: node.egress.names.iter().map(|(address, name)| (EgressAddr(*address), name.clone())).collect(),
            reach: Reach {
                allow: node.egress.allow_networks.clone(),
                receiver: node.receiver_addresses().into_iter().collect(),
                listeners: listeners.copied().collect(),
            },
            max_wait: node.egress.max_wait,
            connect_timeout: node.proxy.connect_timeout,
            deadlines: Arc::new(node.proxy.timeouts),
            reuse: node.proxy.reuse,
            tls_rules: Rules::of(node),
        }
    }
}

/// What the configuration says about egress.
pub fn egress_rules(node: &Node) -> egress::Rules {
    let wanted = &node.egress;
    let budget = |written: &written::Budget| Budget {
        sessions: written.sessions,
        sessions_per_minute: written.sessions_per_minute,
    };
    let daily: Arc<[u32]> = wanted.warm_up.daily.as_slice().into();
    let ramp = |since| egress::WarmUp { since, daily: Arc::clone(&daily) };
    egress::Rules {
        pools: wanted
            .pools
            .iter()
            .map(|(name, addresses)| egress::Pool {
                name: name.as_str().into(),
                addresses: addresses.iter().copied().map(EgressAddr).collect(),
            })
            .collect(),
        default_pool: written::DEFAULT_POOL.into(),
        rules: wanted.rules.iter().map(rule).collect(),
        budgets: egress::Budgets {
            every: budget(&wanted.budgets.every),
            destinations: wanted
                .budgets
                .destinations
                .iter()
                .map(|(name, written)| (Operator::named(name), budget(written)))
                .collect(),
        },
        warm_up: wanted.warm_up.since.iter().map(|(address, since)| (EgressAddr(*address), ramp(*since))).collect(),
        rest: wanted.rest,
        suspicion: wanted.suspicion,
        limits: egress::Limits { sessions: wanted.max_sessions, per_tenant: wanted.max_sessions_per_tenant },
    }
}

fn rule(written: &written::EgressRule) -> egress::Rule {
    egress::Rule {
        pool: written.pool.as_str().into(),
        tenants: written.tenants.clone(),
        accounts: written.accounts.clone(),
        destinations: written.destinations.iter().map(|name| Operator::named(name)).collect(),
        class: written.class.map(|class| match class {
            written::MailClass::Submitted => egress::MailClass::Submitted,
            written::MailClass::Forwarded => egress::MailClass::Forwarded,
        }),
        suspicion: written.suspicion.map(|level| match level {
            written::SuspicionLevel::Raised => egress::Suspicion::Raised,
            written::SuspicionLevel::High => egress::Suspicion::High,
            written::SuspicionLevel::Severe => egress::Suspicion::Severe,
        }),
    }
}
