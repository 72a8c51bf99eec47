//! Whether a connection is what a requirement asks for.

use rustls_pki_types::{ServerName, UnixTime};
use warren_smtp::Reply;
use warren_tlsrpt::ResultType;
use warren_wire::client::{Chain, Kind, Objection};

use super::dane::authenticate;
use super::requirement::{Demand, Requirement, Source};
use super::sts::StsFailure;

/// A connection to an MX, as far as trust is concerned.
#[derive(Debug, Clone, Copy)]
pub enum Channel<'a> {
    /// Encrypted, with these certificates.
    Tls(&'a Chain),
    /// In the clear, because STARTTLS was not offered, or refused.
    NotOffered,
    /// In the clear, because the handshake failed; why.
    Failed(&'a str),
    /// In the clear, because that is how it was configured.
    NotTried,
}

/// Why a connection is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// In words. May quote the MX.
    pub reason: String,
    /// The kind of failure, as reports count it; none where no report knows it.
    pub result: Option<ResultType>,
    /// Whether the recipient must be refused; otherwise it is only reported.
    pub binding: bool,
    /// Who asked.
    pub source: Source,
}

impl Unmet {
    /// What the MSA hears for the recipient: another MX, or another time.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self.source {
            Source::RequireTls => Reply::new(451, (4, 7, 30), words("REQUIRETLS", &self.reason)),
            Source::Rule | Source::Default => Reply::new(451, (4, 7, 5), words("TLS policy here", &self.reason)),
            Source::Dane | Source::MtaSts => {
                Reply::new(451, (4, 7, 5), words("TLS policy of the recipient's domain", &self.reason))
            }
        }
    }
}

/// One printable line of bounded length: reasons may quote the MX.
fn words(who: &str, reason: &str) -> String {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    format!("{who}: {}", reason.chars().take(200).map(plain).collect::<String>())
}

/// Holds a connection against a requirement at `now`. An error whose `binding` is false is for the report only.
pub fn judge(requirement: &Requirement, channel: Channel<'_>, now: UnixTime) -> Result<(), Unmet> {
    let unmet = |binding| {
        move |(result, reason): (Option<ResultType>, String)| Unmet {
            reason,
            result,
            binding,
            source: requirement.source,
        }
    };
    demand(&requirement.demand, requirement, channel, now).map_err(unmet(!requirement.allows_clear()))?;
    if let Some(tested) = &requirement.tested {
        demand(tested, requirement, channel, now).map_err(unmet(false))?;
    }
    requirement.sts_failure.map_or(Ok(()), |failure| Err(unmet(false)(announced(failure))))
}

type Failure = (Option<ResultType>, String);

fn demand(demand: &Demand, requirement: &Requirement, channel: Channel<'_>, now: UnixTime) -> Result<(), Failure> {
    match demand {
        Demand::Off => return Ok(()),
        Demand::Later => return Err((Some(ResultType::DnssecInvalid), "its TLSA records cannot be looked up".into())),
        Demand::OtherMx => {
            let mx = requirement.mx.as_deref().unwrap_or("an MX of unknown name");
            let reason = format!("its MTA-STS policy does not name {mx}");
            return Err((Some(ResultType::ValidationFailure), reason));
        }
        Demand::AuthenticMx => return Err((None, "neither DNSSEC nor MTA-STS authenticates the MX".into())),
        Demand::Opportunistic | Demand::Encrypted | Demand::Verified | Demand::Dane(_) => {}
    }
    let chain = match channel {
        Channel::Tls(chain) => chain,
        Channel::NotOffered => {
            return Err((Some(ResultType::StarttlsNotSupported), "the MX does not offer STARTTLS".into()));
        }
        Channel::Failed(reason) => {
            return Err((Some(ResultType::ValidationFailure), format!("no TLS with the MX: {reason}")));
        }
        Channel::NotTried => return Err((None, "TLS was not tried".into())),
    };
    let authenticated = match demand {
        Demand::Verified => verified(chain, requirement.mx.as_deref()),
        Demand::Dane(records) => {
            let names: Vec<&str> = requirement.mx.as_deref().into_iter().chain([requirement.domain.as_str()]).collect();
            authenticate(records, chain, &names, now)
        }
        _ => Ok(()),
    };
    authenticated.map_err(|objection| (Some(result(objection.kind)), objection.text))
}

fn verified(chain: &Chain, mx: Option<&str>) -> Result<(), Objection> {
    let name = mx.and_then(|mx| ServerName::try_from(mx).ok());
    let Some(name @ ServerName::DnsName(_)) = name else {
        return Err(Objection { kind: Kind::WrongName, text: "the MX's name is not known".into() });
    };
    chain.verify(&name)
}

fn result(kind: Kind) -> ResultType {
    match kind {
        Kind::Expired => ResultType::CertificateExpired,
        Kind::WrongName => ResultType::CertificateHostMismatch,
        Kind::NotTrusted => ResultType::CertificateNotTrusted,
    }
}

fn announced(failure: StsFailure) -> Failure {
    let (result, reason) = match failure {
        StsFailure::Fetch => (ResultType::StsPolicyFetchError, "its MTA-STS policy cannot be fetched"),
        StsFailure::Invalid => (ResultType::StsPolicyInvalid, "its MTA-STS policy is none"),
        StsFailure::WebPki => (ResultType::StsWebpkiInvalid, "the certificate of its MTA-STS policy host"),
    };
    (Some(result), reason.into())
}
