//! Asking the world: hickory-resolver with one cache for all cells.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use tokio::time::timeout;

use super::answer::Found;

/// How long one nameserver has for one question.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Tries beyond the first.
const RETRIES: usize = 1;
/// How long a question may take in all: MSAs ask again after five seconds and give up after ten or more.
const DEADLINE: Duration = Duration::from_secs(8);
/// Answers kept, for all cells together: some 30 MB.
const CACHE: u64 = 32_768;
/// Longest time an answer is kept, whatever its TTL says.
const POSITIVE_TTL: Duration = Duration::from_secs(86_400);
/// Longest time that something is held not to exist (RFC 2308 suggests one to three hours at most; mail is retried sooner).
const NEGATIVE_TTL: Duration = Duration::from_secs(900);

/// The nameservers, and what they said lately.
#[derive(Clone)]
pub struct Upstream {
    resolver: TokioResolver,
}

/// The nameservers cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the nameservers{}: {source}", if *.system { " of /etc/resolv.conf" } else { "" })]
pub struct UpstreamError {
    system: bool,
    source: NetError,
}

impl Upstream {
    /// Asks `nameservers`, or those of `/etc/resolv.conf` if there are none.
    pub fn new(nameservers: &[SocketAddr]) -> Result<Self, UpstreamError> {
        let system = nameservers.is_empty();
        let failed = |source| UpstreamError { system, source };
        let provider = TokioRuntimeProvider::default();
        let mut builder = if system {
            TokioResolver::builder_tokio().map_err(failed)?
        } else {
            let servers = nameservers.iter().map(|address| server(*address)).collect();
            TokioResolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), servers), provider)
        };
        let options = builder.options_mut();
        options.timeout = ATTEMPT;
        options.attempts = RETRIES;
        options.edns0 = true;
        options.cache_size = CACHE;
        options.positive_max_ttl = Some(POSITIVE_TTL);
        options.negative_max_ttl = Some(NEGATIVE_TTL);
        options.preserve_intermediates = true;
        // The host's own names are none of the tenants' business.
        options.use_hosts_file = ResolveHosts::Never;
        Ok(Self { resolver: builder.build().map_err(failed)? })
    }

    /// What there is of `kind` at `name`, which is fully qualified.
    pub async fn find(&self, name: &Name, kind: RecordType) -> Found {
        let mut name = name.clone();
        name.set_fqdn(true);
        let lookup = match timeout(DEADLINE, self.resolver.lookup(name.clone(), kind)).await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(error)) => return failure(&name, kind, error),
            Err(_) => return failure(&name, kind, NetError::Timeout),
        };
        // What comes out of the cache still has the TTL it came with.
        let left = lookup.valid_until().saturating_duration_since(Instant::now()).as_secs();
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let fresh = |record: &Record| {
            let mut record = record.clone();
            record.ttl = record.ttl.min(left);
            record
        };
        let records: Vec<Record> = lookup.answers().iter().map(fresh).collect();
        if records.iter().any(|record| record.record_type() == kind) {
            Found::Records(joined(&name, kind, records))
        } else {
            Found::NoData(None)
        }
    }
}

/// `records` with a way from `name` to them: when the target of a CNAME is in its cache, hickory-resolver leaves out the CNAME
/// that led there, and clients rightly ignore records of names that they did not ask for.
fn joined(name: &Name, kind: RecordType, mut records: Vec<Record>) -> Vec<Record> {
    if records.iter().any(|record| record.name == *name) {
        return records;
    }
    if let Some(target) = records.iter().find(|record| record.record_type() == kind) {
        let alias = RData::CNAME(CNAME(target.name.clone()));
        let alias = Record::from_rdata(name.clone(), target.ttl, alias);
        records.retain(|record| record.record_type() == kind);
        records.insert(0, alias);
    }
    records
}

fn server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(address.ip(), true, vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())])
}

/// What a failed look-up means to the MSA: only a nameserver's word that there is nothing counts as that.
fn failure(name: &Name, kind: RecordType, error: NetError) -> Found {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => {
            let soa = nothing.soa.map(|soa| soa.into_record_of_rdata());
            match nothing.response_code {
                ResponseCode::NoError => Found::NoData(soa),
                ResponseCode::NXDomain => Found::NoName(soa),
                _ => Found::Failed,
            }
        }
        error => {
            tracing::debug!(%name, %kind, %error, "no answer");
            Found::Failed
        }
    }
}
