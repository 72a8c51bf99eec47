//! DNS through the resolver door of the cell: 127.0.0.53, nothing else, and nothing of the system's configuration.

use super::route::{Exchange, LookupError, Pending, Resolve};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::DnsError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver, TokioResolver};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::time::Duration;

/// The resolver door.
pub const DOOR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// One query; the door's resolver needs time to ask the world.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The production resolver; made when the first delivery needs it.
#[derive(Default)]
pub struct Door {
    resolver: OnceLock<TokioResolver>,
}

impl Door {
    fn resolver(&self) -> Result<&TokioResolver, LookupError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver);
        }
        let config = ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp(DOOR)]);
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
            (true, Err(LookupError::Temporary(why)), _) | (true, _, Err(LookupError::Temporary(why))) => Err(LookupError::Temporary(why)),
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
