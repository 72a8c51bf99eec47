//! The judgements of one connection: each recipient domain once.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls_pki_types::UnixTime;
use warren_tlsrpt::Policy;
use warren_wire::client::{Chain, PolicyFacts};

use super::judge::{Channel, Unmet, judge};
use super::requirement::Requirement;

/// Most domains remembered of one connection; beyond, they are judged again each time, and not reported.
const MAX_DOMAINS: usize = 1_000;

/// How a connection came by its TLS, or why it has none.
#[derive(Debug, Clone, Default)]
pub enum How {
    /// Encrypted.
    Tls(Arc<Chain>),
    /// STARTTLS was not offered, or refused.
    #[default]
    NotOffered,
    /// The handshake failed; why.
    Failed(String),
    /// It was not to be.
    NotTried,
}

/// One connection's TLS, and what it was worth to each recipient domain.
#[derive(Debug, Default)]
pub struct LegTls {
    how: How,
    judged: BTreeMap<String, Judged>,
}

/// What a connection was worth to one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The policy, for the record.
    pub facts: PolicyFacts,
    /// The policy, for the report.
    pub policy: Policy,
    /// What it lacked.
    pub unmet: Option<Unmet>,
}

impl LegTls {
    /// A connection that came about like this.
    #[must_use]
    pub fn new(how: How) -> Self {
        Self { how, judged: BTreeMap::new() }
    }

    /// Judges the connection for a recipient, whose domain's requirement is this: an error refuses it.
    pub fn rcpt(&mut self, requirement: &Requirement, now: UnixTime) -> Result<(), Unmet> {
        let channel = match &self.how {
            How::Tls(chain) => Channel::Tls(chain),
            How::NotOffered => Channel::NotOffered,
            How::Failed(reason) => Channel::Failed(reason),
            How::NotTried => Channel::NotTried,
        };
        let unmet = judge(requirement, channel, now).err();
        if self.judged.len() < MAX_DOMAINS && !self.judged.contains_key(&requirement.domain) {
            let facts = PolicyFacts {
                domain: requirement.domain.clone(),
                policy: requirement.words().to_owned(),
                satisfied: unmet.is_none(),
                reason: unmet.as_ref().map(|unmet| unmet.reason.clone()),
            };
            let judged = Judged { facts, policy: requirement.policy.clone(), unmet: unmet.clone() };
            self.judged.insert(requirement.domain.clone(), judged);
        }
        unmet.filter(|unmet| unmet.binding).map_or(Ok(()), Err)
    }

    /// What was found, by domain: for the record, and for the report when the connection is over.
    pub fn judged(&self) -> impl Iterator<Item = &Judged> {
        self.judged.values()
    }
}
