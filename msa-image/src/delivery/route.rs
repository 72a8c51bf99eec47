//! Where mail for a domain goes: its MXs in order, each with its addresses (RFC 5321 §5.1, RFC 7505).
//!
//! Addresses are asked for only when their turn comes: most mail is taken by the first MX. Everything is bounded, whatever a
//! hostile zone says: [`MAX_EXCHANGES`] names, [`MAX_ADDRESSES`] addresses of each.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use warren_smtp::Host;

/// MXs that are tried.
pub const MAX_EXCHANGES: usize = 20;
/// Addresses of one MX that are tried.
pub const MAX_ADDRESSES: usize = 5;

/// A boxed future, so that resolvers and dialers can be trait objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Lower is tried first.
    pub preference: u16,
    /// The host, without a trailing dot; empty is the root (a null MX).
    pub name: String,
}

/// Why DNS gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist.
    #[error("no such domain")]
    NoDomain,
    /// The name exists, such records do not.
    #[error("no such records")]
    NoRecords,
    /// Nobody knows at present.
    #[error("DNS: {0}")]
    Temporary(String),
}

/// Who is asked. Production asks the resolver door, tests answer themselves.
pub trait Resolve: Send + Sync {
    /// The MX records of a domain.
    fn exchanges<'a>(&'a self, domain: &'a str) -> Pending<'a, Result<Vec<Exchange>, LookupError>>;
    /// The addresses of a host, IPv4 and IPv6.
    fn addresses<'a>(&'a self, host: &'a str) -> Pending<'a, Result<Vec<IpAddr>, LookupError>>;
}

/// Why a domain cannot be routed: an enhanced status code and what to say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {text}")]
pub struct RouteError {
    /// Will trying again not help?
    pub permanent: bool,
    /// Enhanced status code.
    pub status: &'static str,
    /// For the sender.
    pub text: String,
}

impl RouteError {
    fn permanent(status: &'static str, text: String) -> Self {
        Self { permanent: true, status, text }
    }

    fn temporary(status: &'static str, text: String) -> Self {
        Self { permanent: false, status, text }
    }
}

/// A host to try, and how its addresses are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hop {
    /// By name.
    Name(String),
    /// An address literal.
    Address(IpAddr),
}

/// The hosts to try for a destination, in order.
///
/// # Errors
/// When there are none, now or ever.
pub async fn hops(resolver: &dyn Resolve, destination: &Host, random: u64) -> Result<Vec<Hop>, RouteError> {
    let domain = match destination {
        Host::Literal(address) => return Ok(vec![Hop::Address(*address)]),
        Host::Domain(domain) => domain.as_str(),
    };
    match resolver.exchanges(domain).await {
        Ok(exchanges) => order(domain, exchanges, random),
        // RFC 5321 §5.1: without MX records the domain is its own exchange.
        Err(LookupError::NoRecords) => Ok(vec![Hop::Name(domain.to_owned())]),
        Err(LookupError::NoDomain) => {
            Err(RouteError::permanent("5.1.2", format!("the domain {domain} does not exist")))
        }
        Err(LookupError::Temporary(why)) => {
            Err(RouteError::temporary("4.4.3", format!("the MX of {domain} cannot be looked up: {why}")))
        }
    }
}

/// Sorts by preference, equals by chance.
fn order(domain: &str, exchanges: Vec<Exchange>, mut random: u64) -> Result<Vec<Hop>, RouteError> {
    let had_any = !exchanges.is_empty();
    let mut keyed: Vec<(u16, u64, String)> = exchanges
        .into_iter()
        .filter(|exchange| !exchange.name.is_empty())
        .map(|exchange| {
            // xorshift: fairness among equals needs no more than this.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (exchange.preference, random, exchange.name)
        })
        .collect();
    keyed.sort();
    keyed.truncate(MAX_EXCHANGES);
    match (keyed.is_empty(), had_any) {
        (true, true) => {
            Err(RouteError::permanent("5.1.10", format!("the domain {domain} does not accept mail (null MX)")))
        }
        (true, false) => Ok(vec![Hop::Name(domain.to_owned())]),
        _ => Ok(keyed.into_iter().map(|(_, _, name)| Hop::Name(name)).collect()),
    }
}

/// The addresses of a hop, at most [`MAX_ADDRESSES`], both families among them if both exist.
///
/// # Errors
/// When it has none, now or ever.
pub async fn addresses(resolver: &dyn Resolve, hop: &Hop) -> Result<Vec<IpAddr>, RouteError> {
    let name = match hop {
        Hop::Address(address) => return Ok(vec![*address]),
        Hop::Name(name) => name,
    };
    match resolver.addresses(name).await {
        Ok(found) if !found.is_empty() => Ok(interleave(&found)),
        Ok(_) | Err(LookupError::NoRecords | LookupError::NoDomain) => {
            Err(RouteError::permanent("5.4.4", format!("the mail host {name} has no address")))
        }
        Err(LookupError::Temporary(why)) => {
            Err(RouteError::temporary("4.4.3", format!("the address of {name} cannot be looked up: {why}")))
        }
    }
}

/// Families by turns, IPv6 first, so that one that does not work is not tried to the end.
fn interleave(found: &[IpAddr]) -> Vec<IpAddr> {
    let (mut six, mut four): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(|address| address.is_ipv6());
    let mut out = Vec::new();
    six.reverse();
    four.reverse();
    while out.len() < MAX_ADDRESSES {
        let before = out.len();
        out.extend(six.pop());
        out.extend(four.pop());
        if out.len() == before {
            break;
        }
    }
    out.truncate(MAX_ADDRESSES);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zone(Result<Vec<Exchange>, LookupError>, Result<Vec<IpAddr>, LookupError>);

    impl Resolve for Zone {
        fn exchanges<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<Exchange>, LookupError>> {
            Box::pin(async { self.0.clone() })
        }
        fn addresses<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Vec<IpAddr>, LookupError>> {
            Box::pin(async { self.1.clone() })
        }
    }

    fn mx(preference: u16, name: &str) -> Exchange {
        Exchange { preference, name: name.into() }
    }

    async fn names(answer: Result<Vec<Exchange>, LookupError>, random: u64) -> Result<Vec<String>, RouteError> {
        let zone = Zone(answer, Ok(vec![]));
        let hops = hops(&zone, &"x.example".parse().unwrap(), random).await?;
        Ok(hops
            .into_iter()
            .map(|hop| match hop {
                Hop::Name(name) => name,
                Hop::Address(address) => address.to_string(),
            })
            .collect())
    }

    #[tokio::test]
    async fn in_order_of_preference_equals_shuffled() {
        let answer = Ok(vec![mx(20, "c"), mx(10, "a"), mx(10, "b")]);
        let mut seen = std::collections::BTreeSet::new();
        for random in 1..100 {
            let names = names(answer.clone(), random * 7919).await.unwrap();
            assert_eq!(names[2], "c");
            seen.insert(names[0].clone());
        }
        assert_eq!(seen.len(), 2, "both equals come first now and then");
    }

    #[tokio::test]
    async fn every_kind_of_no() {
        let status = |error: RouteError| (error.permanent, error.status);
        assert_eq!(names(Ok(vec![mx(0, "")]), 1).await.map_err(status), Err((true, "5.1.10")));
        assert_eq!(names(Err(LookupError::NoDomain), 1).await.map_err(status), Err((true, "5.1.2")));
        assert_eq!(
            names(Err(LookupError::Temporary("SERVFAIL".into())), 1).await.map_err(status),
            Err((false, "4.4.3"))
        );
        assert_eq!(names(Err(LookupError::NoRecords), 1).await.unwrap(), ["x.example"]);
        assert_eq!(names(Ok(vec![mx(0, ""), mx(5, "a")]), 1).await.unwrap(), ["a"]);
    }

    #[tokio::test]
    async fn a_hostile_zone_is_bounded() {
        let many = (0..1_500).map(|n| mx(n, &format!("mx{n}"))).collect();
        assert_eq!(names(Ok(many), 1).await.unwrap().len(), MAX_EXCHANGES);
        let zone = Zone(Ok(vec![]), Ok((0..200).map(|n| IpAddr::from([192, 0, 2, n])).collect()));
        assert_eq!(addresses(&zone, &Hop::Name("a".into())).await.unwrap().len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn literals_need_no_dns_and_families_take_turns() {
        let zone = Zone(
            Err(LookupError::NoDomain),
            Ok(["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|a| a.parse().unwrap()).to_vec()),
        );
        let hop = hops(&zone, &"[192.0.2.9]".parse().unwrap(), 1).await.unwrap();
        assert_eq!(hop, [Hop::Address("192.0.2.9".parse().unwrap())]);
        let found = addresses(&zone, &Hop::Name("a".into())).await.unwrap();
        assert_eq!(found, ["2001:db8::1", "192.0.2.1", "192.0.2.2"].map(|a| a.parse::<IpAddr>().unwrap()));
    }
}
