//! The judgements of one connection: each recipient domain once.
//!
//! ```text
//!   handshake, or none ─▶ LegTls::new(how) ── rcpt(requirement) for each recipient ─▶ Ok, or Unmet::reply
//!                              └─ at the end ─▶ judged: PolicyFacts of the record;  findings: the TLS report
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::UnixTime;
use warren_tlsrpt::{Failure, Finding, Policy, ResultType};
use warren_wire::client::{Chain, PolicyFacts};

use super::judge::{Channel, Unmet, judge};
use super::requirement::{Demand, Requirement, Source};

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
    /// In the order of their domains. Most sessions have one, and keep it as long as they wait: no more room is made than that.
    judged: Vec<Judged>,
}

/// Between whom a connection was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// The egress address.
    pub egress: IpAddr,
    /// The MX, where its name is known.
    pub mx: Option<String>,
    /// Its address.
    pub mx_address: IpAddr,
    /// The name that it gave itself.
    pub helo: Option<String>,
}

/// What a connection was worth to one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    requirement: Requirement,
    unmet: Option<Box<Unmet>>,
    tried: bool,
}

impl Judged {
    /// For the session's record.
    #[must_use]
    pub fn facts(&self) -> PolicyFacts {
        PolicyFacts {
            domain: self.requirement.domain.clone(),
            policy: self.requirement.words().to_owned(),
            satisfied: self.unmet.is_none(),
            reason: self.unmet.as_ref().map(|unmet| unmet.reason.clone()),
        }
    }

    /// For the TLS report: the policy, and the failure if it was one, in a word and in words. None where TLS was not wanted, or failed at something that
    /// reports do not know.
    #[must_use]
    pub fn report(&self) -> Option<(Policy, Option<(ResultType, &str)>)> {
        let policy = || self.requirement.policy();
        match &self.unmet {
            Some(unmet) => unmet.result.map(|result| (policy(), Some((result, unmet.reason.as_str())))),
            None => self.tried.then(|| (policy(), None)),
        }
    }
}

impl LegTls {
    /// A connection that came about like this.
    #[must_use]
    pub fn new(how: How) -> Self {
        Self { how, judged: Vec::new() }
    }

    /// How it came about.
    #[must_use]
    pub fn how(&self) -> &How {
        &self.how
    }

    /// The same, for another session on the connection: what this one judged is over.
    #[must_use]
    pub fn into_how(self) -> How {
        self.how
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self.how, How::Tls(_))
    }

    /// Judges the connection for a recipient, whose domain's requirement is this: an error refuses it. A domain that asks for the same again is not
    /// judged again.
    pub fn rcpt(&mut self, requirement: &Requirement, now: UnixTime) -> Result<(), Unmet> {
        let unmet = match self.place_of(&requirement.domain) {
            Ok(place) if self.judged[place].requirement == *requirement => self.judged[place].unmet.as_deref().cloned(),
            place => self.judge(requirement, place, now),
        };
        unmet.filter(|unmet| unmet.binding).map_or(Ok(()), Err)
    }

    /// Where a domain stands, or is to stand.
    fn place_of(&self, domain: &str) -> Result<usize, usize> {
        self.judged.binary_search_by(|judged| judged.requirement.domain.as_str().cmp(domain))
    }

    fn judge(&mut self, requirement: &Requirement, place: Result<usize, usize>, now: UnixTime) -> Option<Unmet> {
        let channel = match &self.how {
            How::Tls(chain) => Channel::Tls(chain),
            How::NotOffered => Channel::NotOffered,
            How::Failed(reason) => Channel::Failed(reason),
            How::NotTried => Channel::NotTried,
        };
        let unmet = judge(requirement, channel, now).err();
        // What one message's sender asked for says nothing about the domain.
        if requirement.source == Source::RequireTls {
            return unmet;
        }
        let tried = requirement.demand != Demand::Off && !matches!(self.how, How::NotTried);
        let judged = || Judged { requirement: requirement.clone(), unmet: unmet.clone().map(Box::new), tried };
        match place {
            Ok(place) => self.judged[place] = judged(),
            Err(place) if self.judged.len() < MAX_DOMAINS => {
                if self.judged.is_empty() {
                    self.judged.reserve_exact(1);
                }
                self.judged.insert(place, judged());
            }
            Err(_) => {}
        }
        unmet
    }

    /// What there is to report when the connection is over.
    pub fn findings<'a>(&'a self, via: &'a Via) -> impl Iterator<Item = Finding> + 'a {
        self.judged().filter_map(|judged| {
            let (policy, failure) = judged.report()?;
            Some(Finding {
                domain: judged.requirement.domain.clone(),
                policy,
                egress: via.egress,
                mx: via.mx.clone(),
                mx_address: via.mx_address,
                helo: via.helo.clone(),
                failure: failure.map(|(result, reason)| Failure { result, reason: reason.to_owned() }),
            })
        })
    }

    /// What was found, by domain.
    pub fn judged(&self) -> impl Iterator<Item = &Judged> {
        self.judged.iter()
    }
}
