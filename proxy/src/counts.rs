//! What sessions came to, counted since the start, for metrics.
//!
//! By operator where that tells something: the big providers by name, all others together, so that whoever writes to a thousand domains makes no
//! thousand series. Counting takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use warren_metrics::{Page, Tally};
use warren_session::detect::EventKind;
use warren_session::{Class, Outcome};
use warren_tlsrpt::PolicyType;

use crate::egress::Operator;

/// Whatever is no big provider.
pub const OTHERS: &str = "other";

/// Versions of TLS.
const TLS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];
/// Kinds of TLS policies, and whether they were satisfied.
const POLICIES: [(PolicyType, bool); 6] = [
    (PolicyType::Tlsa, true),
    (PolicyType::Tlsa, false),
    (PolicyType::Sts, true),
    (PolicyType::Sts, false),
    (PolicyType::NoPolicyFound, true),
    (PolicyType::NoPolicyFound, false),
];

/// What all sessions came to.
#[derive(Debug)]
pub struct Counts {
    /// All others first, then the big providers by name.
    operators: Vec<(&'static str, OfOperator)>,
    connections: AtomicU64,
    taken_over: AtomicU64,
    handshakes: Tally<&'static str>,
    policies: Tally<(PolicyType, bool)>,
}

#[derive(Debug)]
struct OfOperator {
    sessions: Tally<Outcome>,
    messages: Tally<Class>,
    recipients: Tally<Class>,
    events: Tally<EventKind>,
}

/// Counts for one session.
#[derive(Debug, Clone)]
pub struct Counter {
    counts: Arc<Counts>,
    operator: usize,
}

impl Default for Counts {
    fn default() -> Self {
        let names = std::iter::once(OTHERS).chain(Operator::big_providers());
        let fresh = || OfOperator {
            sessions: Tally::new(&Outcome::ALL),
            messages: Tally::new(&Class::ALL),
            recipients: Tally::new(&Class::ALL),
            events: Tally::new(&EventKind::ALL),
        };
        Self {
            operators: names.map(|name| (name, fresh())).collect(),
            connections: AtomicU64::new(0),
            taken_over: AtomicU64::new(0),
            handshakes: Tally::new(&TLS),
            policies: Tally::new(&POLICIES),
        }
    }
}

/// What an operator is called in metrics.
pub fn label(operator: &Operator) -> &str {
    if operator.is_big_provider() { operator.as_str() } else { OTHERS }
}

impl Counts {
    /// Counts for a session with an MX of `operator`.
    pub fn counter(self: &Arc<Self>, operator: &str) -> Counter {
        let operator = self.operators.iter().position(|(name, _)| *name == operator).unwrap_or_default();
        Counter { counts: Arc::clone(self), operator }
    }

    /// How many events of each kind there have been, of all operators.
    pub fn events(&self) -> [(EventKind, u64); EventKind::ALL.len()] {
        EventKind::ALL.map(|kind| {
            let of = |(_, of): &(_, OfOperator)| of.events.iter().find(|(known, _)| *known == kind).map(|(_, n)| n);
            (kind, self.operators.iter().filter_map(of).sum())
        })
    }

    /// The policy of a recipient domain was or was not satisfied by a connection.
    pub fn tls_policy(&self, policy: PolicyType, satisfied: bool) {
        self.policies.count((policy, satisfied));
    }

    /// Adds what was counted.
    pub fn tell(&self, page: &mut Page) {
        let help = "Sessions with MX hosts that ended, by what they came to.";
        self.by_operator(page, "warren_proxy_sessions_total", help, "outcome", |of| &of.sessions, Outcome::name);
        let help = "Messages that MX hosts answered for, or that broke off, by verdict.";
        self.by_operator(page, "warren_proxy_messages_total", help, "verdict", |of| &of.messages, Class::name);
        let help = "Recipients, by verdict.";
        self.by_operator(page, "warren_proxy_recipients_total", help, "verdict", |of| &of.recipients, Class::name);
        let help = "Tarpits, throttles, listings, greylisting and slow service that were noticed.";
        self.by_operator(page, "warren_proxy_events_total", help, "kind", |of| &of.events, EventKind::name);
        let connections = self.connections.load(Ordering::Relaxed);
        page.counter("warren_proxy_connections_total", "Connections made to MX hosts.").add(&[], connections);
        let help = "Sessions that went on on the connection of one before.";
        let taken_over = self.taken_over.load(Ordering::Relaxed);
        page.counter("warren_proxy_connections_taken_over_total", help).add(&[], taken_over);
        let handshakes =
            page.counter("warren_proxy_tls_handshakes_total", "TLS handshakes with MX hosts that succeeded.");
        for (version, count) in self.handshakes.iter() {
            handshakes.add(&[("version", version)], count);
        }
        let policies =
            page.counter("warren_proxy_tls_policies_total", "What connections were worth to recipient domains.");
        for ((policy, satisfied), count) in self.policies.iter() {
            let result = if satisfied { "success" } else { "failure" };
            policies.add(&[("policy", policy_name(policy)), ("result", result)], count);
        }
    }

    /// Everything of the others, and of the big providers what happened at all.
    fn by_operator<T: Copy + PartialEq + 'static>(
        &self,
        page: &mut Page,
        name: &str,
        help: &str,
        label: &str,
        tally: impl Fn(&OfOperator) -> &Tally<T>,
        word: impl Fn(T) -> &'static str,
    ) {
        let family = page.counter(name, help);
        for (operator, of) in &self.operators {
            for (what, count) in tally(of).iter().filter(|(_, count)| *count > 0 || *operator == OTHERS) {
                family.add(&[("operator", operator), (label, word(what))], count);
            }
        }
    }
}

impl Counter {
    fn of(&self) -> &OfOperator {
        &self.counts.operators[self.operator].1
    }

    /// A connection to the MX stands.
    pub fn connected(&self) {
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection of a session before goes on.
    pub fn taken_over(&self) {
        self.counts.taken_over.fetch_add(1, Ordering::Relaxed);
    }

    /// TLS of this version is established on it.
    pub fn secured(&self, version: &str) {
        if let Some(known) = TLS.into_iter().find(|known| *known == version) {
            self.counts.handshakes.count(known);
        }
    }

    /// A message is through with, or broke off.
    pub fn message(&self, verdict: Class) {
        self.of().messages.count(verdict);
    }

    /// A recipient is through with.
    pub fn recipient(&self, verdict: Class) {
        self.of().recipients.count(verdict);
    }

    /// Something was noticed.
    pub fn event(&self, kind: EventKind) {
        self.of().events.count(kind);
    }

    /// The session is over.
    pub fn session(&self, outcome: Outcome) {
        self.of().sessions.count(outcome);
    }
}

/// As RFC 8460 says it.
fn policy_name(policy: PolicyType) -> &'static str {
    match policy {
        PolicyType::Tlsa => "tlsa",
        PolicyType::Sts => "sts",
        PolicyType::NoPolicyFound => "no-policy-found",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_no_big_provider_is_another() {
        let counts = Arc::new(Counts::default());
        for operator in ["google.com", "acme.example", "192.0.2.0/24", OTHERS, ""] {
            counts.counter(operator).message(Class::Delivered);
        }
        for n in 0..5_000 {
            counts.counter(&format!("{n}.example")).event(EventKind::Tarpit);
        }
        let mut page = Page::default();
        counts.tell(&mut page);
        let messages =
            |operator| page.value("warren_proxy_messages_total", &[("operator", operator), ("verdict", "delivered")]);
        assert_eq!((messages("google.com"), messages(OTHERS), messages("yahoo.com")), (Some(1.0), Some(4.0), None));
        assert!(counts.events().contains(&(EventKind::Tarpit, 5_000)));
        let numbers: usize = page.families().iter().map(|family| family.samples.len()).sum();
        assert!(numbers < 100, "{numbers}");
        assert_eq!(label(&Operator::named("gmail.com")), "google.com");
        assert_eq!(label(&Operator::named("acme.example")), OTHERS);
    }
}
