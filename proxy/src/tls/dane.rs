//! TLSA records (RFC 6698, RFC 7671) as SMTP uses them (RFC 7672 §3), and certificates held against them.

use std::fmt;
use std::str::FromStr;

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, Der, ServerName, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};
use warren_wire::client::{Chain, Kind, Objection, anchored};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Most bytes of one record's data: a certificate of usual size, in full.
const MAX_DATA: usize = 4096;

/// One TLSA record, validated by DNSSEC. In text and in notes: `3 1 1 ab12…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tlsa {
    /// Certificate usage: 0 PKIX-TA, 1 PKIX-EE, 2 DANE-TA, 3 DANE-EE.
    pub usage: u8,
    /// Selector: 0 the whole certificate, 1 its public key.
    pub selector: u8,
    /// Matching type: 0 in full, 1 SHA-256, 2 SHA-512.
    pub matching: u8,
    /// The data.
    pub data: Vec<u8>,
}

/// What DNS said of `_25._tcp.` and the MX name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsaFound {
    /// There are none, or the zone is not signed: DANE does not apply.
    #[default]
    None,
    /// The zone may be signed, and there is no telling: bogus, SERVFAIL, no answer. Mail waits (RFC 7672 §2.1.2).
    Failed,
    /// These, validated. Unusable ones among them count, too.
    Records(Vec<Tlsa>),
}

impl Tlsa {
    /// Whether an SMTP client can use it: DANE-TA or DANE-EE, of a selector and matching type that it knows, and well-formed (RFC 7672 §3.1).
    #[must_use]
    pub fn usable(&self) -> bool {
        let formed = match self.matching {
            0 if self.selector == 0 => X509Certificate::from_der(&self.data).is_ok_and(|(rest, _)| rest.is_empty()),
            0 => sequence(&self.data).is_some(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && matches!(self.selector, 0 | 1) && formed
    }

    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed;
        let selected: &[u8] = if self.selector == 0 {
            certificate
        } else {
            parsed = X509Certificate::from_der(certificate);
            match &parsed {
                Ok((_, parsed)) => parsed.tbs_certificate.subject_pki.raw,
                Err(_) => return false,
            }
        };
        match self.matching {
            0 => self.data == selected,
            1 => self.data == Sha256::digest(selected).as_slice(),
            _ => self.data == Sha512::digest(selected).as_slice(),
        }
    }
}

/// The records that count: usable ones, and of each usage and selector only those of the strongest digest (RFC 7671 §9).
#[must_use]
pub fn effective(records: &[Tlsa]) -> Vec<Tlsa> {
    let usable: Vec<&Tlsa> = records.iter().filter(|record| record.usable()).collect();
    let stronger = |record: &Tlsa| {
        record.matching == 1
            && usable
                .iter()
                .any(|other| other.matching == 2 && other.usage == record.usage && other.selector == record.selector)
    };
    usable.iter().filter(|record| !stronger(record)).map(|record| (*record).clone()).collect()
}

/// Holds a chain against records as [`effective`] left them. `names` are the MX name and the recipient domain: DANE-TA asks that the certificate be for
/// one of them (RFC 7672 §3.2.3), DANE-EE does not look at names nor dates (§3.1.1).
pub fn authenticate(records: &[Tlsa], chain: &Chain, names: &[&str], now: UnixTime) -> Result<(), Objection> {
    let Some((own, above)) = chain.certificates().split_first() else {
        return Err(Objection { kind: Kind::NotTrusted, text: "no certificate".into() });
    };
    if records.iter().any(|record| record.usage == 3 && record.matches(own)) {
        return Ok(());
    }
    let anchors = anchors(records, chain.certificates(), above);
    if anchors.is_empty() {
        return Err(Objection { kind: Kind::NotTrusted, text: "no certificate matches a TLSA record".into() });
    }
    anchored(chain.certificates(), &anchors, now)?;
    named(own, names)
}

/// What DANE-TA records make trustworthy: certificates above the server's own that match, and what records hold in full.
fn anchors(records: &[Tlsa], all: &[CertificateDer<'static>], above: &[CertificateDer<'static>]) -> RootCertStore {
    let mut anchors = RootCertStore::empty();
    for record in records.iter().filter(|record| record.usage == 2) {
        for certificate in above.iter().filter(|certificate| record.matches(certificate)) {
            // One that cannot be parsed anchors nothing.
            let _ = anchors.add(certificate.clone());
        }
        match (record.matching, record.selector) {
            (0, 0) => {
                let _ = anchors.add(CertificateDer::from(record.data.clone()));
            }
            // A bare key is that of whoever issued a certificate of the chain.
            (0, 1) => anchors.roots.extend(all.iter().filter_map(|issued| issuer_with_key(issued, &record.data))),
            _ => {}
        }
    }
    anchors
}

fn issuer_with_key(issued: &CertificateDer<'_>, key: &[u8]) -> Option<TrustAnchor<'static>> {
    let (_, issued) = X509Certificate::from_der(issued).ok()?;
    Some(TrustAnchor {
        subject: Der::from(sequence(issued.issuer().as_raw())?.to_vec()),
        subject_public_key_info: Der::from(sequence(key)?.to_vec()),
        name_constraints: None,
    })
}

/// The content of a DER SEQUENCE that is all of `der`.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, content) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
        _ => return None,
    };
    (tag == 0x30 && content.len() == length).then_some(content)
}

/// Whether the certificate is for one of `names`. Its common name counts only where it has no DNS names (RFC 7672 §3.2.2).
fn named(own: &CertificateDer<'_>, names: &[&str]) -> Result<(), Objection> {
    let wrong = |text: String| Objection { kind: Kind::WrongName, text };
    let (_, parsed) =
        X509Certificate::from_der(own).map_err(|error| wrong(format!("the certificate cannot be read: {error}")))?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let mut presented: Vec<&str> = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    if presented.is_empty() {
        presented.extend(parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()));
    }
    let fits = |name: &&str| {
        let valid = ServerName::try_from(*name).is_ok();
        valid && presented.iter().any(|presented| super::sts::covers(presented, name))
    };
    if names.iter().any(fits) {
        Ok(())
    } else {
        Err(wrong(format!("the certificate is not for {}", names.join(" or "))))
    }
}

/// Not a TLSA record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a TLSA record: expected usage, selector, matching type and hexadecimal data")]
pub struct NotTlsa;

impl FromStr for Tlsa {
    type Err = NotTlsa;

    fn from_str(text: &str) -> Result<Self, NotTlsa> {
        let mut words = text.split_ascii_whitespace();
        let mut number = || words.next().and_then(|word| word.parse().ok()).ok_or(NotTlsa);
        let (usage, selector, matching) = (number()?, number()?, number()?);
        let hex: Vec<u8> = words.flat_map(str::bytes).collect();
        if !hex.len().is_multiple_of(2) || hex.len() > 2 * MAX_DATA {
            return Err(NotTlsa);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(NotTlsa);
        let data = hex.chunks_exact(2).map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?));
        Ok(Self { usage, selector, matching, data: data.collect::<Result<_, NotTlsa>>()? })
    }
}

impl fmt::Display for Tlsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TryFrom<String> for Tlsa {
    type Error = NotTlsa;

    fn try_from(text: String) -> Result<Self, NotTlsa> {
        text.parse()
    }
}

impl From<Tlsa> for String {
    fn from(record: Tlsa) -> Self {
        record.to_string()
    }
}
