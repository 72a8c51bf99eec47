//! Who runs an MX: the name under which budgets, health and baselines are kept.
//!
//! The registrable domain of the MX host's name: `mx1.example.co.uk` and `mx2.example.co.uk` are one operator. A table joins the names of the
//! big providers, who receive for millions of domains under a few names. An MX without a name is taken for its network.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An operator of MX hosts: a domain in lower case, or a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Operator(Arc<str>);

/// Domains of MX names, and whose they are.
const PROVIDERS: &[(&str, &str)] = &[
    ("googlemail.com", "google.com"),
    ("gmail.com", "google.com"),
    ("smtp.goog", "google.com"),
    ("hotmail.com", "outlook.com"),
    ("live.com", "outlook.com"),
    ("microsoft.com", "outlook.com"),
    // Exchange Online with DNSSEC: names below mx.microsoft.
    ("mx.microsoft", "outlook.com"),
    ("office365.us", "outlook.com"),
    ("yahoodns.net", "yahoo.com"),
    ("aol.com", "yahoo.com"),
    ("me.com", "icloud.com"),
    ("mac.com", "icloud.com"),
    ("apple.com", "icloud.com"),
    ("pphosted.com", "proofpoint.com"),
    ("ppe-hosted.com", "proofpoint.com"),
    ("ppops.net", "proofpoint.com"),
    ("mimecast.co.za", "mimecast.com"),
    ("mimecast-offshore.com", "mimecast.com"),
    ("barracuda.com", "barracudanetworks.com"),
    ("cudamail.com", "barracudanetworks.com"),
    ("iphmx.com", "cisco.com"),
    ("messagelabs.com", "broadcom.com"),
    ("protonmail.ch", "proton.me"),
    ("messagingengine.com", "fastmail.com"),
    ("zoho.eu", "zoho.com"),
    ("zoho.in", "zoho.com"),
    ("zohomail.com", "zoho.com"),
    ("gmx.net", "gmx.com"),
    ("web.de", "gmx.com"),
    ("mail.com", "gmx.com"),
    ("1and1.com", "ionos.com"),
    ("amazonses.com", "amazon.com"),
    ("ezweb.ne.jp", "au.com"),
    ("qq.com", "tencent.com"),
    ("exmail.qq.com", "tencent.com"),
    ("163.com", "netease.com"),
    ("126.com", "netease.com"),
    ("yeah.net", "netease.com"),
    ("yandex.net", "yandex.ru"),
    ("yandex.com", "yandex.ru"),
];

/// Domains in which hosts of strangers have names: whoever rents one must not speak for the others, so a host there is its network.
const RENTED: &[&str] = &[
    "amazonaws.com",
    "azure.com",
    "cloudapp.net",
    "cloudatcost.com",
    "colocrossing.com",
    "contabo.host",
    "contaboserver.net",
    "ddns.net",
    "digitalocean.com",
    "duckdns.org",
    "dyndns.org",
    "dynu.net",
    "fly.dev",
    "freeddns.org",
    "googleusercontent.com",
    "hinet.net",
    "hopto.org",
    "hostwindsdns.com",
    "kasserver.com",
    "leaseweb.net",
    "linode.com",
    "linodeusercontent.com",
    "no-ip.org",
    "ovh.ca",
    "ovh.net",
    "ovh.us",
    "poneytelecom.eu",
    "rackspace.com",
    "scaleway.com",
    "secureserver.net",
    "serverprofi24.com",
    "strato.net",
    "vultrusercontent.com",
    "your-server.de",
    "zapto.org",
];

/// Second labels that registries of two-letter domains sell names under, as in `co.uk`, `ne.jp`, `com.br`.
const SHARED_SECOND: &[&str] = &[
    "ac", "ad", "asn", "co", "com", "ed", "edu", "gen", "go", "gob", "gov", "gouv", "govt", "gr", "gv", "id", "idf",
    "info", "lg", "ltd", "me", "mil", "muni", "ne", "net", "nhs", "nic", "nom", "or", "org", "plc", "police", "sch",
    "web",
];

impl Operator {
    /// Who runs the MX of this name at this address.
    pub fn of(mx_name: Option<&str>, mx: IpAddr) -> Self {
        match mx_name.and_then(registrable).filter(|domain| !RENTED.contains(&&**domain)) {
            Some(domain) => {
                let joined = PROVIDERS.iter().find(|(alias, _)| *alias == domain).map(|(_, whose)| *whose);
                Self(joined.unwrap_or(&domain).into())
            }
            None => Self(network(mx).into()),
        }
    }

    /// The operator that people write as `name` in a configuration or on a command line: any of its domains, or a network as it is shown.
    pub fn named(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let joined = PROVIDERS.iter().find(|(alias, _)| *alias == name).map(|(_, whose)| *whose);
        Self(joined.unwrap_or(&name).into())
    }

    /// The big providers, each once.
    pub fn big_providers() -> BTreeSet<&'static str> {
        PROVIDERS.iter().map(|(_, whose)| *whose).collect()
    }

    /// Whether it is one of the big providers, whose domains nobody else can make a name in.
    pub fn is_big_provider(&self) -> bool {
        PROVIDERS.iter().any(|(_, whose)| *whose == self.as_str())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, for whoever keeps it as long as this.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<String> for Operator {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Operator> for String {
    fn from(operator: Operator) -> Self {
        operator.0.to_string()
    }
}

/// The part of a host's name that somebody registered, in lower case. None for what is no name of a host.
fn registrable(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let labels: Vec<&str> = name.split('.').collect();
    let [.., second, top] = labels[..] else { return Some(name) };
    let shared = top.len() == 2 && SHARED_SECOND.contains(&second);
    let kept = if shared { 3 } else { 2 };
    Some(labels[labels.len().saturating_sub(kept)..].join("."))
}

/// The network of an address: what one operator usually has in one piece.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            format!("{}/48", std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> String {
        Operator::of(Some(name), [192, 0, 2, 77].into()).to_string()
    }

    #[test]
    fn an_operator_is_a_registrable_domain() {
        assert_eq!(of("mx1.Example.COM."), "example.com");
        assert_eq!(of("a.b.c.example.com"), "example.com");
        assert_eq!(of("mx.example.co.uk"), "example.co.uk");
        assert_eq!(of("example.co.uk"), "example.co.uk");
        assert_eq!(of("mx.example.ne.jp"), "example.ne.jp");
        assert_eq!(of("mx.com.example.org"), "example.org");
        assert_eq!(of("localhost"), "localhost");
    }

    #[test]
    fn the_names_of_a_big_provider_are_one() {
        for name in ["aspmx.l.google.com", "alt1.gmail-smtp-in.l.google.com", "aspmx2.googlemail.com", "smtp.goog"] {
            assert_eq!(of(name), "google.com", "{name}");
        }
        assert_eq!(of("acme-example.mail.protection.outlook.com"), "outlook.com");
        assert_eq!(of("acme.a-v1.mx.microsoft"), "outlook.com");
        assert_eq!(of("mta5.am0.yahoodns.net"), "yahoo.com");
        assert_eq!(Operator::named("Gmail.com").as_str(), "google.com");
    }

    #[test]
    fn what_has_no_name_is_its_network() {
        let nameless = |address: &str| Operator::of(None, address.parse().unwrap()).to_string();
        assert_eq!(nameless("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(nameless("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(nameless("2001:db8:1:2::3"), "2001:db8:1::/48");
        for name in ["", "a..b", "192.0.2.77", "spa ce.example", "ümlaut.example"] {
            assert_eq!(of(name), "192.0.2.0/24", "{name:?}");
        }
        assert_eq!(of(&"a.".repeat(200)), "192.0.2.0/24");
        assert_eq!(of("ec2-192-0-2-77.compute-1.amazonaws.com"), "192.0.2.0/24", "a host of a stranger");
    }

    #[test]
    fn a_provider_is_not_an_alias_of_another() {
        for (alias, whose) in PROVIDERS {
            assert!(PROVIDERS.iter().all(|(other, _)| other != whose), "{alias} → {whose} → …");
        }
    }
}
