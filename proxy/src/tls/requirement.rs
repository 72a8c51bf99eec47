//! Which policy counts for a recipient domain.

use hickory_proto::rr::Name;
use warren_config::TlsPolicy;
use warren_smtp::mediator;
use warren_tlsrpt::{Policy, PolicyType};

use super::dane::{Tlsa, TlsaFound, effective};
use super::rules::Rules;
use super::sts::{StsFailure, StsFound, StsMode};

/// What is known of a recipient domain and the MX that is being spoken to, when it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The recipient domain.
    pub domain: &'a str,
    /// The MX name that the session's address stands for as one of this domain's; none if nobody told.
    pub mx: Option<&'a str>,
    /// Whether the MX records and the address were validated by DNSSEC. DANE applies only then (RFC 7672 §2.2.1).
    pub secure: bool,
    /// The TLSA records of that MX.
    pub tlsa: &'a TlsaFound,
    /// The MTA-STS policy of the domain.
    pub sts: &'a StsFound,
}

/// What a connection must be for the mail of one domain to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The recipient domain, in lower case.
    pub domain: String,
    /// The MX name to hold certificates against.
    pub mx: Option<String>,
    /// Who asks.
    pub source: Source,
    /// For what.
    pub demand: Demand,
    /// Asked for by an MTA-STS policy in mode `testing`: nothing depends on it, but it is reported.
    pub tested: Option<Demand>,
    /// MTA-STS is announced, and cannot be had: reported.
    pub sts_failure: Option<StsFailure>,
    /// The policy that was published for the domain, as reports name it; none: nobody published any. Of few domains: a session that waits keeps this.
    pub published: Option<Box<Policy>>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The message's sender (RFC 8689).
    RequireTls,
    /// TLSA records.
    Dane,
    /// An MTA-STS policy in mode `enforce`.
    MtaSts,
    /// A rule of the configuration.
    Rule,
    /// The configuration's default.
    Default,
}

/// What is asked for, from little to much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// No TLS.
    Off,
    /// TLS if it is to be had.
    Opportunistic,
    /// TLS with whatever certificate.
    Encrypted,
    /// A certificate of the MX that leads to a trusted root.
    Verified,
    /// A certificate that these records speak for; they are usable.
    Dane(Vec<Tlsa>),
    /// Another MX: the domain's MTA-STS policy does not name this one.
    OtherMx,
    /// A later time: nobody knows what TLSA records there are.
    Later,
    /// An MX whose name is authenticated, by DNSSEC or MTA-STS (RFC 8689 §4.2.1).
    AuthenticMx,
}

impl Requirement {
    /// What counts for a recipient. `require_tls`: its message came with REQUIRETLS.
    #[must_use]
    pub fn of(known: &Known<'_>, rules: &Rules, require_tls: bool) -> Self {
        let domain = canonical(known.domain);
        let (configured, by_rule) = rules.for_domain(&domain);
        let source = if by_rule { Source::Rule } else { Source::Default };
        let mut requirement = Self {
            domain,
            mx: known.mx.map(|mx| mx.trim_end_matches('.').to_ascii_lowercase()),
            source,
            demand: Demand::of(configured),
            tested: None,
            sts_failure: None,
            published: None,
        };
        requirement.sts(known);
        requirement.dane(known);
        if require_tls {
            requirement.require_tls(known);
        }
        requirement
    }

    fn sts(&mut self, known: &Known<'_>) {
        let policy = match known.sts {
            StsFound::None => return,
            StsFound::Failed(failure) => {
                self.sts_failure = Some(*failure);
                self.published(PolicyType::Sts, Vec::new(), Vec::new());
                return;
            }
            StsFound::Policy(policy) => policy,
        };
        if policy.mode == StsMode::None {
            return;
        }
        self.published(PolicyType::Sts, policy.lines(), policy.mx.clone());
        // An MX of unknown name cannot be the one that is named.
        let listed = self.mx.as_deref().is_some_and(|mx| policy.allows(mx));
        let demand = if listed { Demand::Verified } else { Demand::OtherMx };
        if policy.mode == StsMode::Enforce {
            (self.source, self.demand) = (Source::MtaSts, demand);
        } else {
            self.tested = Some(demand);
        }
    }

    fn dane(&mut self, known: &Known<'_>) {
        let (true, Some(mx)) = (known.secure, self.mx.clone()) else { return };
        let records = match known.tlsa {
            TlsaFound::None => return,
            TlsaFound::Failed => {
                (self.source, self.demand, self.tested) = (Source::Dane, Demand::Later, None);
                self.reported_as_dane(mx, &[]);
                return;
            }
            TlsaFound::Records(records) => records,
        };
        let usable = effective(records);
        if !usable.is_empty() {
            (self.source, self.demand, self.tested) = (Source::Dane, Demand::Dane(usable), None);
            self.reported_as_dane(mx, records);
        } else if !records.is_empty() && matches!(self.demand, Demand::Off | Demand::Opportunistic | Demand::Encrypted)
        {
            // RFC 7672 §2.2. What asks for more than this goes on asking for it.
            (self.source, self.demand) = (Source::Dane, Demand::Encrypted);
            if self.tested.is_none() {
                self.reported_as_dane(mx, records);
            }
        }
    }

    fn reported_as_dane(&mut self, mx: String, records: &[Tlsa]) {
        self.sts_failure = None;
        self.published(PolicyType::Tlsa, records.iter().map(ToString::to_string).collect(), vec![mx]);
    }

    fn published(&mut self, policy_type: PolicyType, policy_string: Vec<String>, mx_host: Vec<String>) {
        let policy_domain = self.domain.clone();
        self.published = Some(Box::new(Policy { policy_type, policy_string, policy_domain, mx_host }));
    }

    /// The policy as reports name it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.published.as_deref().cloned().unwrap_or_else(|| Policy {
            policy_type: PolicyType::NoPolicyFound,
            policy_string: Vec::new(),
            policy_domain: self.domain.clone(),
            mx_host: Vec::new(),
        })
    }

    /// REQUIRETLS wants a certificate verified, by PKIX or DANE, of an MX whose name nobody could have forged (RFC 8689 §4.2.1).
    fn require_tls(&mut self, known: &Known<'_>) {
        let named_by_sts = matches!(known.sts, StsFound::Policy(policy)
            if policy.mode != StsMode::None && self.mx.as_deref().is_some_and(|mx| policy.allows(mx)));
        match self.demand {
            Demand::Later | Demand::OtherMx => {}
            _ if !known.secure && !named_by_sts => {
                (self.source, self.demand) = (Source::RequireTls, Demand::AuthenticMx);
            }
            Demand::Dane(_) | Demand::Verified => {}
            _ => (self.source, self.demand) = (Source::RequireTls, Demand::Verified),
        }
    }

    /// Whether mail for the domain may go in the clear.
    #[must_use]
    pub fn allows_clear(&self) -> bool {
        matches!(self.demand, Demand::Off | Demand::Opportunistic)
    }

    /// What a session is to do about STARTTLS, whose address stands for the MXs of these domains: `Off` only if all want it off; `Require`, so that the MSA
    /// tries its next MX rather than hears a refusal for each recipient, only if none may go in the clear. Certificates are judged at RCPT. Where no domain
    /// is known, the configured default counts.
    #[must_use]
    pub fn handshake(all: &[Self], rules: &Rules) -> mediator::TlsPolicy {
        match all {
            [] => match rules.default {
                TlsPolicy::Off => mediator::TlsPolicy::Off,
                TlsPolicy::Opportunistic => mediator::TlsPolicy::Opportunistic,
                TlsPolicy::Require => mediator::TlsPolicy::Require,
                TlsPolicy::Verify => mediator::TlsPolicy::Verify,
            },
            _ if all.iter().all(|one| one.demand == Demand::Off) => mediator::TlsPolicy::Off,
            _ if all.iter().any(Self::allows_clear) => mediator::TlsPolicy::Opportunistic,
            _ => mediator::TlsPolicy::Require,
        }
    }

    /// The policy in a word or two, for records.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match (self.source, &self.demand) {
            (Source::RequireTls, _) => "requiretls",
            (Source::Dane, Demand::Encrypted) => "dane, no usable record",
            (Source::Dane, _) => "dane",
            (Source::MtaSts, _) => "mta-sts enforce",
            _ if self.tested.is_some() => "mta-sts testing",
            (_, Demand::Off) => "configured off",
            (_, Demand::Encrypted) => "configured require",
            (_, Demand::Verified) => "configured verify",
            _ => "opportunistic",
        }
    }
}

/// A domain as DNS has it: in lower case, without a dot at its end, internationalised ones as `xn--…`. Policies must not be escaped by
/// writing `EXAMPLE.org`.
#[must_use]
pub fn canonical(domain: &str) -> String {
    let domain = domain.trim_end_matches('.');
    if domain.is_ascii() {
        return domain.to_ascii_lowercase();
    }
    match Name::from_utf8(domain) {
        Ok(name) => name.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
        // No name that anybody could have looked up.
        Err(_) => domain.to_lowercase(),
    }
}

impl Demand {
    fn of(configured: TlsPolicy) -> Self {
        match configured {
            TlsPolicy::Off => Self::Off,
            TlsPolicy::Opportunistic => Self::Opportunistic,
            TlsPolicy::Require => Self::Encrypted,
            TlsPolicy::Verify => Self::Verified,
        }
    }
}
