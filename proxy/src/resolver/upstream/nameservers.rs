//! The nameservers: how they are asked, and what they are good for.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    dnssec::TrustAnchors,
    op::{DnsRequestOptions, DnsResponse, Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError, NoRecords, RetryDnsHandle,
        dnssec::DnssecDnsHandle,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer},
    },
};
use tokio::task::JoinSet;

use super::{
    cuts::Cuts,
    expansion::MOST_ITERATIONS,
    response::{Denial, Response},
};
use crate::resolver::watch::{Seen, Stance, look};

/// How long one nameserver has for one question.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Tries beyond the first.
const RETRIES: usize = 1;
/// Sets of records whose validation is remembered, for all cells together: some 10 MB. The library's own bound is a million.
const VALIDATIONS: usize = 16_384;
/// Longest time for which it is: the TTL that the first answer had is nobody's signed word.
const VALIDATED: Duration = Duration::from_secs(3_600);

type Servers = RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>;

/// A way to ask them.
pub(super) struct Asking {
    servers: Servers,
    /// The same, validating; none if nothing is validated.
    validating: Option<DnssecDnsHandle<Servers>>,
    /// Where trust ends, and where it does not.
    pub(super) cuts: Mutex<Cuts>,
}

impl Asking {
    /// Asks those of `servers` that `stance` names, as it says.
    pub(super) fn new(
        servers: &[NameServerConfig],
        anchors: &Arc<TrustAnchors>,
        stance: &Stance,
    ) -> Result<Self, NetError> {
        let mut options = ResolverOpts::default();
        options.timeout = ATTEMPT;
        options.attempts = RETRIES;
        options.edns0 = true;
        options.validate = stance.validate;
        let context = Arc::new(PoolContext::new(options, TlsConfig::new()?));
        let named = stance.servers.iter().filter_map(|n| servers.get(*n)).cloned();
        let pool = NameServerPool::from_config(named, context, TokioRuntimeProvider::default());
        let servers = RetryDnsHandle::new(pool, RETRIES);
        let validating = stance.validate.then(|| {
            DnssecDnsHandle::with_trust_anchor(servers.clone(), Arc::clone(anchors))
                .validation_cache_size(VALIDATIONS)
                .positive_validation_ttl(Duration::ZERO..=VALIDATED)
                // Between two different limits it takes anybody's word unseen for insecure. So it looks, and whether many count as secure is for `response` to say.
                .nsec3_iteration_limits(Some(MOST_ITERATIONS), Some(MOST_ITERATIONS))
        });
        Ok(Self { servers, validating, cuts: Mutex::default() })
    }

    /// Whether answers are validated.
    pub(super) fn validates(&self) -> bool {
        self.validating.is_some()
    }

    /// One question. Where trust is known to end above the name nothing can be validated, and nobody tries: the library would ask for the end of trust once more,
    /// label by label. (DS records are the word of the zone above.)
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Response, NetError> {
        let query = Query::query(name.clone(), kind);
        let mut options = DnsRequestOptions::default();
        let validating = self.validating.as_ref().filter(|_| kind == RecordType::DS || !self.trust_is_over(name));
        options.edns_set_dnssec_ok = validating.is_some();
        let answered = match validating {
            Some(validating) => validating.lookup(query, options).first_answer().await,
            None => self.servers.lookup(query, options).first_answer().await,
        };
        let denial = match (validating, self.validates()) {
            (Some(_), _) => Denial::Accepted,
            (None, true) => Denial::Unsigned,
            (None, false) => Denial::NotJudged,
        };
        read(name, denial, answered)
    }

    fn trust_is_over(&self, name: &Name) -> bool {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).is_over(name, Instant::now())
    }
}

/// What the library made of an answer.
fn read(asked: &Name, denial: Denial, answered: Result<DnsResponse, NetError>) -> Result<Response, NetError> {
    let validated = denial == Denial::Accepted;
    let of = |message: Message, denial| Response {
        asked: asked.clone(),
        code: message.metadata.response_code,
        answers: message.answers,
        authorities: message.authorities,
        denial,
    };
    let response = match answered {
        Ok(response) => of(response.into_message(), denial),
        Err(NetError::Dns(DnsError::Nsec { response, .. })) => of(response.into_message(), Denial::Unproven),
        // Validated, it comes as a response.
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { soa, response_code, .. }))) if !validated => Response {
            asked: asked.clone(),
            code: response_code,
            answers: Vec::new(),
            authorities: soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
            denial,
        },
        Err(error) => return Err(error),
    };
    match response.code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(response),
        code => Err(DnsError::ResponseCode(code).into()),
    }
}

/// A nameserver that is asked by UDP, and by TCP where that does not do.
pub(super) fn server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(address.ip(), true, vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())])
}

/// Where it is.
pub(super) fn address(server: &NameServerConfig) -> SocketAddr {
    SocketAddr::new(server.ip, server.connections.first().map_or(53, |connection| connection.port))
}

/// Looks at all of them.
pub(super) async fn look_at(servers: &[NameServerConfig]) -> Vec<Seen> {
    let mut looks = JoinSet::new();
    for (n, server) in servers.iter().enumerate() {
        let address = address(server);
        looks.spawn(async move { (n, look(address).await) });
    }
    let mut seen = vec![Seen::Silent; servers.len()];
    while let Some(done) = looks.join_next().await {
        if let Ok((n, what)) = done {
            seen[n] = what;
        }
    }
    seen
}

/// Says what has changed.
pub(super) fn say(servers: &[NameServerConfig], seen: &[Seen], before: &Stance, now: &Stance, again: bool) {
    if *now == *before && again {
        return;
    }
    let named = |what: Seen| {
        let with = servers.iter().zip(seen).filter(|(_, seen)| **seen == what);
        with.map(|(server, _)| server.ip.to_string()).collect::<Vec<_>>().join(", ")
    };
    let (strip, pass) = (named(Seen::Strips), named(Seen::Passes));
    match (now.validate, strip.is_empty(), pass.is_empty()) {
        (false, ..) => tracing::warn!(
            nameservers = strip,
            "no nameserver passes DNSSEC records on: nothing is validated, and DANE protects no mail"
        ),
        (true, false, true) => tracing::error!(
            nameservers = strip,
            "no nameserver passes DNSSEC records on: signed domains do not resolve"
        ),
        (true, false, false) => {
            tracing::warn!(left_out = strip, asked = pass, "some nameservers do not pass DNSSEC records on")
        }
        (true, true, false) => tracing::info!(nameservers = pass, "answers are validated by DNSSEC"),
        (true, true, true) => tracing::warn!("no nameserver answers"),
    }
}
