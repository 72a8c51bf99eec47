//! Notices tarpits, throttles, listings and greylisting, and which of our addresses is served later than others.
//!
//! ```text
//!   record ──connected, heard, replied, settle──▶ Watch ──▶ Noticed ──▶ record (event), log, counts
//!                                                   │ └── Slow ──▶ the egress policy
//!                                                   ▼
//!                                   Detector: what is usual, for all sessions
//! ```
//!
//! What is decided, and when, stands in [`warren_session::detect`]; this is the part that sessions share and speak through.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_session::detect::{self, Answer, Baseline, Clock, EventKind, Finding, Senses, Shared, Thresholds};

use crate::counts::{Counter, Counts};

/// What all sessions have noticed.
#[derive(Debug, Default)]
pub struct Detector {
    senses: Shared,
    counts: Arc<Counts>,
}

/// One of our addresses is served later than the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// Which.
    pub egress: IpAddr,
    /// By whose MX hosts.
    pub operator: String,
    /// What was measured, in words.
    pub evidence: String,
}

/// What a session noticed just now.
#[derive(Debug, Default, PartialEq)]
pub struct Noticed {
    /// For the record.
    pub findings: Vec<Finding>,
    /// For the egress policy.
    pub slow: Vec<Slow>,
}

/// One session, watched.
#[derive(Debug)]
pub struct Watch {
    detector: Arc<Detector>,
    watch: detect::Watch,
    counter: Counter,
}

impl Detector {
    /// A detector that knows nothing yet.
    pub fn new(thresholds: Thresholds) -> Arc<Self> {
        Arc::new(Self { senses: Shared::new(Senses::new(thresholds)), ..Self::default() })
    }

    /// Watches a session with an MX of `operator`.
    pub fn watch(self: &Arc<Self>, operator: Arc<str>) -> Watch {
        let counter = self.counts.counter(&operator);
        Watch { detector: Arc::clone(self), watch: detect::Watch::new(operator), counter }
    }

    /// What is usual, to be kept.
    pub fn baselines(&self) -> Vec<Baseline> {
        self.senses.lock().baselines(Clock::current())
    }

    /// Takes over what was kept; says how much of it makes no sense.
    pub fn remember(&self, baselines: Vec<Baseline>) -> usize {
        self.senses.lock().remember(baselines, Clock::current())
    }

    /// What sessions came to since the start.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }
}

impl Watch {
    /// Whose MX it is.
    pub fn operator(&self) -> &str {
        self.watch.operator()
    }

    /// Counts what becomes of it.
    pub fn counter(&self) -> &Counter {
        &self.counter
    }

    /// A connection from `egress` stands; it took so long to make. Another one before it is settled.
    pub fn connected(&mut self, egress: IpAddr, took: Duration, now: Instant) -> Noticed {
        self.counter.connected();
        let findings = self.watch.connected(&self.detector.senses, egress, took, now);
        self.noticed(findings)
    }

    /// The connection of another session goes on, from `egress`; it took so long to make.
    pub fn taken_over(&mut self, egress: IpAddr, took: Option<Duration>) {
        self.counter.taken_over();
        self.watch.taken_over(egress, took);
    }

    /// How long the present connection took to make, if that says anything.
    pub fn rtt(&self) -> Option<Duration> {
        self.watch.rtt()
    }

    /// The connection that was tried is of no use, and the session goes on on the one before, from `egress`.
    pub fn back(&mut self, egress: IpAddr, now: Instant) -> Noticed {
        let findings = self.watch.back(&self.detector.senses, egress, now);
        self.noticed(findings)
    }

    /// The MX sent so many bytes.
    pub fn heard(&mut self, at: Instant, bytes: usize) {
        self.watch.heard(at, bytes);
    }

    /// A reply of the MX.
    pub fn replied(&mut self, answer: &Answer<'_>, now: Instant) -> Noticed {
        let findings = self.watch.replied(&self.detector.senses, answer, now);
        self.noticed(findings)
    }

    /// The session is over.
    pub fn settle(&mut self, now: Instant) -> Noticed {
        let findings = self.watch.settle(&self.detector.senses, now);
        self.noticed(findings)
    }

    fn noticed(&self, findings: Vec<Finding>) -> Noticed {
        for Finding { kind, egress, verb, evidence, .. } in &findings {
            self.counter.event(*kind);
            tracing::info!(%kind, operator = self.operator(), %egress, verb, %evidence, "noticed");
        }
        let slow = findings.iter().filter(|finding| finding.kind == EventKind::SlowAddress).map(|finding| Slow {
            egress: finding.egress,
            operator: self.operator().to_owned(),
            evidence: format!("{} times slower: {}", finding.evidence["times"], finding.evidence),
        });
        Noticed { slow: slow.collect(), findings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three sessions from each address; the second is answered `took_ms` after RCPT.
    fn sessions(took_ms: u64) -> (Arc<Detector>, Vec<Noticed>) {
        let (detector, now) = (Detector::new(Thresholds::default()), Instant::now());
        let mut noticed = Vec::new();
        for _ in 0..3 {
            for (n, took_ms) in [(10, 30), (11, took_ms)] {
                let mut watch = detector.watch("acme.example".into());
                watch.connected([203, 0, 113, n].into(), Duration::from_millis(10), now);
                let took = Duration::from_millis(took_ms);
                watch.replied(&Answer { verb: "RCPT", code: 250, text: "2.1.5 Ok", verdict: None, took }, now);
                noticed.push(watch.settle(now));
            }
        }
        (detector, noticed)
    }

    #[test]
    fn sessions_share_what_they_learn_and_a_slow_address_is_a_lesson() {
        let (detector, noticed) = sessions(3_000);
        let last = noticed.last().unwrap();
        assert_eq!(last.slow[0].egress, IpAddr::from([203, 0, 113, 11]));
        assert_eq!(last.slow[0].operator, "acme.example");
        assert!(last.slow[0].evidence.contains("here_us"), "{}", last.slow[0].evidence);
        assert_eq!(noticed.iter().filter(|noticed| **noticed != Noticed::default()).count(), 1);
        assert!(detector.counts().events().contains(&(EventKind::SlowAddress, 1)));
    }

    #[test]
    fn equal_addresses_teach_nothing() {
        let (detector, noticed) = sessions(30);
        assert!(noticed.iter().all(|noticed| *noticed == Noticed::default()));
        assert!(detector.counts().events().iter().all(|(_, count)| *count == 0));
    }
}
