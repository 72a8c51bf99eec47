//! `[proxy.standalone]`: the proxy beside an MTA that is there already, without a platform.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde_spanned::Spanned;
use warren_launcher_api::CellId;

use crate::TenantName;
use crate::checker::{Checker, Text};
use crate::node::{CertificateFiles, TlsPolicy};
use crate::node_file::{List, Value};
use crate::values::{parse_ip, parse_path, parse_socket};

/// `[proxy.standalone]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standalone {
    /// Where redirected connections arrive.
    pub listen: Vec<SocketAddr>,
    /// How the destination is learnt.
    pub mode: RedirectMode,
    /// Tenants by the address that their MTA dials from.
    pub tenants: BTreeMap<IpAddr, TenantName>,
    /// TLS with the MTAs: what STARTTLS is offered with.
    pub tls: Option<StandaloneTls>,
    /// Where `warren-resolver` answers, and whose questions come there; each tenant once. Only it tells the proxy the names of MXs, and what DNSSEC and MTA-STS say.
    pub resolver: BTreeMap<SocketAddr, TenantName>,
}

/// `[proxy.standalone]` `certificate`, `key`, `require_tls`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandaloneTls {
    /// Whose certificate.
    pub files: CertificateFiles,
    /// Whether mail is refused until STARTTLS.
    pub required: bool,
}

impl Standalone {
    /// Under which number resolver and proxy speak of a tenant, as they do of cells on a node; none if no resolver answers it.
    #[must_use]
    pub fn cell(&self, tenant: &TenantName) -> Option<CellId> {
        let answered: BTreeSet<&TenantName> = self.resolver.values().collect();
        let place = answered.into_iter().position(|answered| answered == tenant)?;
        u64::try_from(place).ok().map(CellId)
    }

    /// Whether the listeners are others; the certificate needs no restart.
    pub(crate) fn listens_elsewhere(&self, new: &Self) -> bool {
        (&self.listen, self.mode, &self.tenants, &self.resolver) != (&new.listen, new.mode, &new.tenants, &new.resolver)
    }
}

/// `[proxy.standalone] mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectMode {
    /// nftables `redirect`: the destination is SO_ORIGINAL_DST.
    Redirect,
    /// nftables `tproxy`: the destination is the socket's own address.
    Tproxy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StandaloneFile {
    listen: Spanned<List>,
    mode: RedirectMode,
    tenants: BTreeMap<Spanned<Text>, Spanned<Text>>,
    certificate: Value,
    key: Value,
    require_tls: Option<Spanned<bool>>,
    #[serde(default)]
    resolver: BTreeMap<Spanned<Text>, Spanned<Text>>,
}

impl StandaloneFile {
    /// Checks what is written, beside whom the resolver asks, and what is asked of MXs' TLS.
    pub(crate) fn check<'a>(
        &self,
        check: &mut Checker,
        nameservers: &List,
        policies: impl Iterator<Item = &'a Spanned<TlsPolicy>>,
    ) -> Standalone {
        if self.listen.get_ref().is_empty() {
            let none = "no address to listen on, expected at least one such as \"127.0.0.1:10025\"";
            check.problem(self.listen.span(), none);
        }
        let mut tenants = BTreeMap::new();
        for (address, name) in &self.tenants {
            let address = check.value(address, parse_ip);
            let name = check.value(name, TenantName::new);
            tenants.extend(address.zip(name));
        }
        let resolver = self.resolver(check, &tenants, nameservers);
        let unanswered = tenants.values().find(|tenant| !resolver.values().any(|answered| answered == *tenant));
        if let Some(tenant) = unanswered {
            for policy in policies.filter(|policy| *policy.get_ref() == TlsPolicy::Verify) {
                let why = format!(
                    "a certificate is verified for a name, and nobody tells the proxy those of the MXs of {tenant}: its mail would wait for ever; expected \
                     resolver = {{ \"127.0.0.1:53\" = \"{tenant}\" }} in [proxy.standalone], or policy \"require\""
                );
                check.problem(policy.span(), why);
            }
        }
        let tls = tls(check, self);
        Standalone { listen: check.list(self.listen.get_ref(), parse_socket), mode: self.mode, tenants, tls, resolver }
    }

    fn resolver(
        &self,
        check: &mut Checker,
        tenants: &BTreeMap<IpAddr, TenantName>,
        nameservers: &List,
    ) -> BTreeMap<SocketAddr, TenantName> {
        let mut resolver: BTreeMap<SocketAddr, TenantName> = BTreeMap::new();
        for (address, name) in &self.resolver {
            let at = check.value(address, parse_socket);
            let tenant = check.value(name, TenantName::new);
            let Some((at, tenant)) = at.zip(tenant) else { continue };
            if !tenants.values().any(|known| *known == tenant) {
                check.problem(name.span(), format!("{tenant} is none of tenants, expected one of them"));
            }
            if resolver.values().any(|known| *known == tenant) {
                check.problem(name.span(), format!("{tenant} has a resolver already, expected one address for each"));
            }
            resolver.insert(at, tenant);
        }
        if let Some((first, _)) = self.resolver.first_key_value().filter(|_| nameservers.is_empty()) {
            // Those of /etc/resolv.conf would be this one.
            let whom = "the resolver has nobody to ask, expected nameservers = [\"…\"] in [resolver]";
            check.problem(first.span(), whom);
        }
        resolver
    }
}

fn tls(check: &mut Checker, raw: &StandaloneFile) -> Option<StandaloneTls> {
    let required = raw.require_tls.as_ref().is_some_and(|required| *required.get_ref());
    let (certificate, key) = match (&raw.certificate, &raw.key) {
        (Some(certificate), Some(key)) => (check.value(certificate, parse_path), check.value(key, parse_path)),
        (Some(alone), None) => {
            check.problem(alone.span(), "a certificate without its key, expected key = \"…\" beside it");
            return None;
        }
        (None, Some(alone)) => {
            check.problem(alone.span(), "a key without its certificate, expected certificate = \"…\" beside it");
            return None;
        }
        (None, None) => {
            if let Some(raw) = raw.require_tls.as_ref().filter(|_| required) {
                check.problem(raw.span(), "TLS is required and there is none, expected certificate and key");
            }
            return None;
        }
    };
    Some(StandaloneTls { files: CertificateFiles { certificate: certificate?, key: key? }, required })
}
