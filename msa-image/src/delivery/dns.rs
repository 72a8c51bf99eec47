//! DNS through the resolver door of the cell: 127.0.0.53, nothing else, and nothing of the system's configuration.

use super::route::{Exchange, LookupError, Pending, Resolve};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::DnsError;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver, TokioResolver};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

/// The resolver door.
pub const DOOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);
/// One query; the door's resolver needs time to ask the world.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The production resolver; made when the first delivery needs it.
pub struct Door {
    server: SocketAddr,
    resolver: OnceLock<TokioResolver>,
}

impl Default for Door {
    fn default() -> Self {
        Self::at(DOOR)
    }
}

impl Door {
    /// A door elsewhere; tests have one of their own.
    #[must_use]
    pub fn at(server: SocketAddr) -> Self {
        Self { server, resolver: OnceLock::new() }
    }

    fn resolver(&self) -> Result<&TokioResolver, LookupError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver);
        }
        let mut server = NameServerConfig::udp_and_tcp(self.server.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = self.server.port());
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = 1;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 256;
        // The node's resolver caches; what it notes for the proxy should stay fresh.
        options.positive_max_ttl = Some(Duration::from_secs(60));
        options.negative_max_ttl = Some(Duration::from_secs(10));
        let resolver = builder.build().map_err(|error| temporary(&error))?;
        Ok(self.resolver.get_or_init(|| resolver))
    }

    async fn mx(&self, domain: &str) -> Result<Vec<Exchange>, LookupError> {
        let answer = self.resolver()?.mx_lookup(name(domain)?).await.map_err(sort)?;
        let exchanges = answer.answers().iter().filter_map(|record| match &record.data {
            RData::MX(mx) => {
                let exchange = mx.exchange.to_ascii();
                Some(Exchange { preference: mx.preference, name: exchange.trim_end_matches('.').to_owned() })
            }
            _ => None,
        });
        Ok(exchanges.collect())
    }

    async fn ip(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let (resolver, name) = (self.resolver()?, name(host)?);
        let (four, six) = tokio::join!(resolver.ipv4_lookup(name.clone()), resolver.ipv6_lookup(name));
        let (four, six) = (four.map_err(sort), six.map_err(sort));
        let both = [&four, &six].into_iter().flatten().flat_map(|answer| answer.answers());
        let found: Vec<IpAddr> = both.filter_map(|record| record.data.ip_addr()).collect();
        match (found.is_empty(), four, six) {
            (false, _, _) => Ok(found),
            // One family may be there tomorrow.
            (true, Err(LookupError::Temporary(why)), _) | (true, _, Err(LookupError::Temporary(why))) => {
                Err(LookupError::Temporary(why))
            }
            (true, Err(error), _) | (true, _, Err(error)) => Err(error),
            (true, Ok(_), Ok(_)) => Err(LookupError::NoRecords),
        }
    }
}

impl Resolve for Door {
    fn exchanges<'a>(&'a self, domain: &'a str) -> Pending<'a, Result<Vec<Exchange>, LookupError>> {
        Box::pin(self.mx(domain))
    }

    fn addresses<'a>(&'a self, host: &'a str) -> Pending<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(self.ip(host))
    }
}

/// Absolute, so that no search list applies. What DNS cannot say does not exist.
fn name(text: &str) -> Result<Name, LookupError> {
    let mut name = Name::from_utf8(text).map_err(|_| LookupError::NoDomain)?;
    name.set_fqdn(true);
    Ok(name)
}

fn sort(error: NetError) -> LookupError {
    match &error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => LookupError::NoDomain,
            ResponseCode::NoError => LookupError::NoRecords,
            _ => temporary(&error),
        },
        _ => temporary(&error),
    }
}

fn temporary(error: &NetError) -> LookupError {
    LookupError::Temporary(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    const MX: u16 = 15;

    /// A resolver that knows five names, in the bytes of RFC 1035.
    async fn door() -> Door {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let _ = socket.send_to(&answer(&query[..length]), client).await;
            }
        });
        Door::at(address)
    }

    fn answer(query: &[u8]) -> Vec<u8> {
        let (mut at, mut name) = (12, String::new());
        while query[at] != 0 {
            let length = usize::from(query[at]);
            name.push_str(&String::from_utf8_lossy(&query[at + 1..=at + length]));
            name.push('.');
            at += length + 1;
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let mx = |preference: u8, name: &[u8]| (MX, [&[0, preference], name].concat());
        let (code, records): (u8, Vec<(u16, Vec<u8>)>) = match (name.as_str(), kind) {
            ("x.example.", MX) => (0, vec![mx(20, b"\x01b\xc0\x0c"), mx(10, b"\x01a\xc0\x0c")]),
            ("null.example.", MX) => (0, vec![mx(0, b"\0")]),
            ("a.x.example.", 1) => (0, vec![(1, vec![192, 0, 2, 1]), (1, vec![192, 0, 2, 2])]),
            ("a.x.example.", _) | ("empty.example.", _) => (0, vec![]),
            ("broken.example.", _) => (2, vec![]),
            _ => (3, vec![]),
        };
        let mut out = [
            &query[..2],
            &[0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0],
            &query[12..at + 5],
        ]
        .concat();
        for (kind, data) in records {
            out.extend([
                0xc0,
                12,
                0,
                u8::try_from(kind).unwrap(),
                0,
                1,
                0,
                0,
                0,
                60,
                0,
                u8::try_from(data.len()).unwrap(),
            ]);
            out.extend(data);
        }
        out
    }

    #[tokio::test]
    async fn every_kind_of_answer() {
        let door = door().await;
        let names = |found: Vec<Exchange>| found.into_iter().map(|mx| (mx.preference, mx.name)).collect::<Vec<_>>();
        let mut found = names(door.mx("x.example").await.unwrap());
        found.sort();
        assert_eq!(found, [(10, "a.x.example".to_owned()), (20, "b.x.example".to_owned())]);
        assert_eq!(names(door.mx("null.example").await.unwrap()), [(0, String::new())]);
        assert_eq!(door.mx("empty.example").await, Err(LookupError::NoRecords));
        assert_eq!(door.mx("missing.example").await, Err(LookupError::NoDomain));
        assert!(matches!(door.mx("broken.example").await, Err(LookupError::Temporary(_))));
        assert_eq!(
            door.ip("a.x.example").await.unwrap(),
            ["192.0.2.1".parse::<IpAddr>().unwrap(), "192.0.2.2".parse().unwrap()]
        );
        assert_eq!(door.ip("empty.example").await, Err(LookupError::NoRecords));
        assert_eq!(door.ip("missing.example").await, Err(LookupError::NoDomain));
        assert!(matches!(door.ip("broken.example").await, Err(LookupError::Temporary(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_behind_the_door() {
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(Door::at(gone).mx("x.example").await, Err(LookupError::Temporary(_))));
    }
}
