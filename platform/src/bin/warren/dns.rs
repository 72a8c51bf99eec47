//! What the DNS says of names and addresses, asked of the node's own nameservers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_config::Node;

/// How long one nameserver has for one question.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long a question may take in all: somebody waits at a terminal.
const DEADLINE: Duration = Duration::from_secs(5);
/// MX hosts that are looked at: the first few tell where mail goes.
const MXS: usize = 8;

/// The node's nameservers, or those of `/etc/resolv.conf`.
#[derive(Clone)]
pub struct Dns(TokioResolver);

/// An MX host and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mx {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// What the DNS says of one of our own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub address: IpAddr,
    /// What it calls itself.
    pub name: String,
    /// Where that name leads, and what the address's reverse DNS names; or why that is not known.
    pub said: Result<(Vec<IpAddr>, Vec<String>), String>,
}

impl Dns {
    pub fn of(node: &Node) -> anyhow::Result<Self> {
        let mut builder = if node.resolver.nameservers.is_empty() {
            TokioResolver::builder_tokio().context("the nameservers of /etc/resolv.conf")?
        } else {
            let servers = node.resolver.nameservers.iter().map(|address| server(*address)).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = ATTEMPT;
        options.attempts = 1;
        // What the world is told counts, not what this host tells itself.
        options.use_hosts_file = ResolveHosts::Never;
        Ok(Self(builder.build().context("the nameservers")?))
    }

    /// Where mail for `destination` goes: its MX hosts, the most preferred first; a name without any is a host itself (RFC 5321,
    /// section 5.1).
    pub async fn mail_hosts(&self, destination: &str) -> anyhow::Result<Vec<Mx>> {
        let name = absolute(destination).with_context(|| format!("{destination:?} is not a name"))?;
        let mut hosts: Vec<(u16, String)> = match asked(self.0.mx_lookup(name)).await {
            Ok(found) => found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::MX(mx) => Some((mx.preference, text(&mx.exchange))),
                    _ => None,
                })
                .collect(),
            Err(Failed::Nothing) => vec![(0, destination.to_ascii_lowercase())],
            Err(Failed::Unknown(reason)) => bail!("looking up the MX hosts of {destination}: {reason}"),
        };
        if hosts.iter().all(|(_, host)| host.is_empty()) {
            bail!("{destination} takes no mail: it says so in the DNS (RFC 7505)");
        }
        hosts.sort();
        let mut found = Vec::new();
        for (_, name) in hosts.into_iter().take(MXS) {
            match self.addresses(&name).await {
                Ok(addresses) if addresses.is_empty() => {}
                Ok(addresses) => found.push(Mx { name, addresses }),
                Err(reason) => bail!("looking up the addresses of {name}: {reason}"),
            }
        }
        if found.is_empty() {
            bail!("{destination} has neither MX hosts nor an address");
        }
        Ok(found)
    }

    /// The TXT records at a name, the strings of each put together (RFC 7208, section 3.3); none if there are none.
    pub async fn texts(&self, at: &str) -> anyhow::Result<Vec<String>> {
        let name = absolute(at).with_context(|| format!("{at:?} is not a name"))?;
        match asked(self.0.txt_lookup(name)).await {
            Ok(found) => Ok(found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
                    _ => None,
                })
                .collect()),
            Err(Failed::Nothing) => Ok(Vec::new()),
            Err(Failed::Unknown(reason)) => bail!("looking up the TXT records of {at}: {reason}"),
        }
    }

    /// The addresses of a host; none if there are none.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let Some(name) = absolute(host) else { return Ok(Vec::new()) };
        match asked(self.0.lookup_ip(name)).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(Failed::Nothing) => Ok(Vec::new()),
            Err(Failed::Unknown(reason)) => Err(reason),
        }
    }

    /// The names that reverse DNS has for an address.
    async fn names(&self, address: IpAddr) -> Result<Vec<String>, String> {
        match asked(self.0.reverse_lookup(address)).await {
            Ok(found) => Ok(found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::PTR(name) => Some(text(&name.0)),
                    _ => None,
                })
                .collect()),
            Err(Failed::Nothing) => Ok(Vec::new()),
            Err(Failed::Unknown(reason)) => Err(reason),
        }
    }

    /// What is known of the addresses and the names that they give themselves; all at once, in their order.
    pub async fn own(&self, names: Vec<(IpAddr, String)>) -> Vec<Own> {
        let mut asking = JoinSet::new();
        for (index, (address, name)) in names.into_iter().enumerate() {
            let dns = self.clone();
            asking.spawn(async move {
                let said = match (dns.addresses(&name).await, dns.names(address).await) {
                    (Ok(addresses), Ok(names)) => Ok((addresses, names)),
                    (Err(reason), _) | (_, Err(reason)) => Err(reason),
                };
                (index, Own { address, name, said })
            });
        }
        let all: BTreeMap<usize, Own> = asking.join_all().await.into_iter().collect();
        all.into_values().collect()
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connection = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(
        address.ip(),
        true,
        vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())],
    )
}

/// Why there is no answer.
enum Failed {
    /// There is no such thing.
    Nothing,
    /// Nobody knows now.
    Unknown(String),
}

async fn asked<T>(question: impl Future<Output = Result<T, NetError>>) -> Result<T, Failed> {
    match timeout(DEADLINE, question).await {
        Ok(Ok(found)) => Ok(found),
        // Only a nameserver's word that there is nothing counts as that.
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(nothing))))
            if matches!(nothing.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            Err(Failed::Nothing)
        }
        Ok(Err(error)) => Err(Failed::Unknown(error.to_string())),
        Err(_) => Err(Failed::Unknown(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// A name as people write it.
fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}
