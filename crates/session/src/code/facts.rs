//! TLS as it was found, there and back.

use super::Pen;
use super::reading::Eye;
use crate::{CertificateFacts, PolicyFacts, TlsFacts};

impl Pen<'_> {
    pub(super) fn tls(&mut self, facts: &TlsFacts) {
        let TlsFacts { version, cipher, group, sni, resumed, handshake_us, trusted, .. } = facts;
        let TlsFacts { objection, certificate, chain_sha256, policies, .. } = facts;
        self.field(version);
        self.field(cipher);
        self.option(group.as_deref(), Self::field);
        self.option(sni.as_deref(), Self::field);
        self.flag(*resumed);
        self.number(*handshake_us);
        self.flag(*trusted);
        self.option(objection.as_deref(), Self::field);
        self.option(certificate.as_ref(), Self::certificate);
        self.list(chain_sha256, |pen, hash| pen.field(hash));
        self.list(policies, Self::policy);
    }

    fn certificate(&mut self, certificate: &CertificateFacts) {
        let CertificateFacts { subject, issuer, names, not_before, not_after, sha256 } = certificate;
        self.field(subject);
        self.field(issuer);
        self.list(names, |pen, name| pen.field(name));
        self.signed(*not_before);
        self.signed(*not_after);
        self.field(sha256);
    }

    pub(super) fn policy(&mut self, policy: &PolicyFacts) {
        let PolicyFacts { domain, policy, satisfied, reason } = policy;
        self.field(domain);
        self.field(policy);
        self.flag(*satisfied);
        self.option(reason.as_deref(), Self::field);
    }
}

impl Eye<'_> {
    pub(super) fn tls(&mut self) -> Option<TlsFacts> {
        Some(TlsFacts {
            version: self.owned()?,
            cipher: self.owned()?,
            group: self.option(Self::owned)?,
            sni: self.option(Self::owned)?,
            resumed: self.flag()?,
            handshake_us: self.number()?,
            trusted: self.flag()?,
            objection: self.option(Self::owned)?,
            certificate: self.option(Self::certificate)?,
            chain_sha256: self.list(Self::owned)?,
            policies: self.list(Self::policy)?,
        })
    }

    fn certificate(&mut self) -> Option<CertificateFacts> {
        Some(CertificateFacts {
            subject: self.owned()?,
            issuer: self.owned()?,
            names: self.list(Self::owned)?,
            not_before: self.signed()?,
            not_after: self.signed()?,
            sha256: self.owned()?,
        })
    }

    pub(super) fn policy(&mut self) -> Option<PolicyFacts> {
        Some(PolicyFacts {
            domain: self.owned()?,
            policy: self.owned()?,
            satisfied: self.flag()?,
            reason: self.option(Self::owned)?,
        })
    }
}
