//! What is recorded of a server's TLS: one type, from the handshake to the session store.

use std::fmt::Write as _;
use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Most names kept of one certificate.
const MAX_NAMES: usize = 100;
/// Longest subject, issuer or name kept, in characters.
const MAX_TEXT: usize = 300;

/// What was negotiated with an MX.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// The protocol, as in `TLSv1.3`.
    pub version: String,
    /// The cipher suite by its IANA name.
    pub cipher: String,
    /// The key exchange group.
    pub group: Option<String>,
    /// The server name that was asked for.
    pub sni: Option<String>,
    /// Whether an earlier session was resumed. The certificates are then those of its first handshake.
    pub resumed: bool,
    /// How long the handshake took, in microseconds.
    pub handshake_us: u64,
    /// Whether the chain leads to a trusted root and the certificate names the MX (PKIX), whatever was asked of it.
    pub trusted: bool,
    /// What stands in the way of trust.
    pub objection: Option<String>,
    /// The MX's own certificate.
    pub certificate: Option<CertificateFacts>,
    /// SHA-256 of every certificate of the chain as sent, in hexadecimal, the MX's own first.
    #[serde(default)]
    pub chain_sha256: Vec<String>,
    /// What was asked of this connection for each recipient domain, as far as recipients were tried.
    #[serde(default)]
    pub policies: Vec<PolicyFacts>,
}

/// What a certificate says. All of it is the peer's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// The DNS names and addresses it is for.
    pub names: Vec<String>,
    /// Valid from, in seconds of Unix time.
    pub not_before: i64,
    /// Valid until, in seconds of Unix time.
    pub not_after: i64,
    /// SHA-256 of the certificate, in hexadecimal.
    pub sha256: String,
}

/// The policy that applied to a recipient domain, and what it said to this connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFacts {
    /// The recipient domain.
    pub domain: String,
    /// Where the policy came from, in a word or two: `dane`, `mta-sts enforce`, `configured verify` …
    pub policy: String,
    /// Whether the connection satisfied it.
    pub satisfied: bool,
    /// Why not.
    pub reason: Option<String>,
}

impl CertificateFacts {
    /// What `der` says; none if it is no X.509 certificate.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        Some(Self {
            subject: bounded(&parsed.subject().to_string()),
            issuer: bounded(&parsed.issuer().to_string()),
            names: names.filter_map(name).take(MAX_NAMES).collect(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            sha256: sha256(der),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(bounded(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// A peer's text, cut.
pub(super) fn bounded(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
