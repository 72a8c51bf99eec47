//! A server's certificates, and what a verifying client would say of them.

use std::fmt;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::facts::bounded;

/// Most certificates kept and judged of one server: chains of the world have two to five. What comes behind is cut.
pub const MAX_CERTIFICATES: usize = 10;

/// A server's certificates as it sent them, its own first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    anchored: Result<(), Objection>,
}

/// Why a certificate is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The kind, which is what reports count.
    pub kind: Kind,
    /// In words; may quote the peer.
    pub text: String,
}

/// Kinds of objections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Past its time, or before it.
    Expired,
    /// It names somebody else.
    WrongName,
    /// No trusted root vouches for it; or it is no certificate for servers.
    NotTrusted,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Objection {
    fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    fn of(error: &Error) -> Self {
        let kind = match error {
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Kind::Expired,
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Kind::WrongName,
            _ => Kind::NotTrusted,
        };
        Self::new(kind, bounded(&error.to_string()))
    }
}

impl Chain {
    /// The certificates that a server sent, judged at `now` by `roots`.
    pub fn judged(sent: &[CertificateDer<'_>], roots: &RootCertStore, now: UnixTime) -> Self {
        let certificates: Vec<_> =
            sent.iter().take(MAX_CERTIFICATES).map(|certificate| certificate.clone().into_owned()).collect();
        let anchored = anchored(&certificates, roots, now);
        Self { certificates, anchored }
    }

    /// The certificates, the server's own first; at most [`MAX_CERTIFICATES`].
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether the chain led to a trusted root when the handshake was done, whomever it names.
    pub fn anchored(&self) -> Result<(), &Objection> {
        self.anchored.as_ref().copied()
    }

    /// Whether the chain led to a trusted root, and the certificate is for the host `name` (RFC 6125, RFC 8461 §4.1): subject alternative names
    /// only, a wildcard as the whole leftmost label only.
    pub fn verify(&self, name: &ServerName<'_>) -> Result<(), Objection> {
        self.anchored.clone()?;
        self.names(name)
    }

    /// Whether the server's own certificate is for the host `name`.
    pub fn names(&self, name: &ServerName<'_>) -> Result<(), Objection> {
        let own = self.certificates.first().ok_or_else(no_certificate)?;
        let own = ParsedCertificate::try_from(own).map_err(|error| Objection::of(&error))?;
        verify_server_name(&own, name).map_err(|error| Objection::of(&error))
    }
}

/// Whether `certificates`, the server's own first, lead to one of `roots` at `now`.
pub fn anchored(certificates: &[CertificateDer<'_>], roots: &RootCertStore, now: UnixTime) -> Result<(), Objection> {
    let (own, intermediates) = certificates.split_first().ok_or_else(no_certificate)?;
    if roots.is_empty() {
        return Err(Objection::new(Kind::NotTrusted, "no trusted roots"));
    }
    let own = ParsedCertificate::try_from(own).map_err(|error| Objection::of(&error))?;
    let algorithms = default_provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&own, roots, intermediates, now, algorithms.all)
        .map_err(|error| Objection::of(&error))
}

fn no_certificate() -> Objection {
    Objection::new(Kind::NotTrusted, "no certificate")
}
