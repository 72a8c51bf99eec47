//! Asking the world: hickory-resolver with one cache for all cells, validating by DNSSEC wherever nameservers let it.
//!
//! A look-up says whether what it found was validated: every record on the way from the name asked for, aliases included. What does not validate, though
//! its zone is signed, fails (SERVFAIL to the MSA), and so does what nobody can tell.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_proto::{
    dnssec::{Proof, TrustAnchors},
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use warren_config::{Dnssec, Resolver};

use super::{
    answer::Found,
    watch::{Seen, Stance, Watch, look},
};

/// How long one nameserver has for one question.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Tries beyond the first.
const RETRIES: usize = 1;
/// How long a question may take in all: MSAs ask again after five seconds and give up after ten or more.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long the first questions wait until it is known what the nameservers are good for.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Answers kept, for all cells together: some 30 MB.
const CACHE: u64 = 32_768;
/// Longest time an answer is kept, whatever its TTL says.
const POSITIVE_TTL: Duration = Duration::from_secs(86_400);
/// Longest time that something is held not to exist (RFC 2308 suggests one to three hours at most; mail is retried sooner).
const NEGATIVE_TTL: Duration = Duration::from_secs(900);
/// Absences kept: hickory-resolver keeps none that it validated.
const ABSENCES: usize = 8_192;
/// Aliases followed where the library left them out.
const MAX_ALIASES: usize = 8;
/// Levels above a name at which a wildcard is looked for.
const MAX_WILDCARDS: usize = 3;
/// What does not validate is said so often: a hostile domain must not fill the log.
const SAY_BOGUS: Duration = Duration::from_secs(60);

/// The nameservers, and what they said lately. Clones are the same.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Vec<NameServerConfig>,
    anchors: Arc<TrustAnchors>,
    asking: ArcSwap<Asking>,
    /// Whether the nameservers have been looked at.
    looked: watch::Sender<bool>,
    absences: Mutex<HashMap<(Name, RecordType), (Answer, Instant)>>,
    bogus: Mutex<(Option<Instant>, u64)>,
}

struct Asking {
    resolver: TokioResolver,
    validates: bool,
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Records, or that there are none.
    pub found: Found,
    /// All of it was validated by DNSSEC.
    pub secure: bool,
}

/// The nameservers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// There are none to ask.
    #[error("cannot use the nameservers{}: {source}", if *.system { " of /etc/resolv.conf" } else { "" })]
    Nameservers {
        /// They are the system's.
        system: bool,
        /// Why not.
        source: NetError,
    },
    /// The keys to trust cannot be read.
    #[error("[resolver] trust_anchors: cannot read DNSKEY records of the root from {}: {reason}", file.display())]
    Anchors {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Upstream {
    /// Asks the configured nameservers, or those of `/etc/resolv.conf` if there are none, and looks from now on what they are good for. Needs a runtime.
    pub fn new(config: &Resolver) -> Result<Self, UpstreamError> {
        let anchors = match &config.trust_anchors {
            None => TrustAnchors::default(),
            Some(file) => {
                let unusable = |reason| UpstreamError::Anchors { file: file.clone(), reason };
                let anchors = TrustAnchors::from_file(file).map_err(|error| unusable(error.to_string()))?;
                if anchors.is_empty() {
                    return Err(unusable("there is none in it".into()));
                }
                anchors
            }
        };
        let system = config.nameservers.is_empty();
        let failed = |source| UpstreamError::Nameservers { system, source };
        let servers = if system {
            let (config, _) = hickory_resolver::system_conf::read_system_conf().map_err(failed)?;
            config.name_servers().to_vec()
        } else {
            config.nameservers.iter().map(|address| server(*address)).collect()
        };
        let watch = Watch::new(config.dnssec, servers.len());
        let anchors = Arc::new(anchors);
        let asking = asking(&servers, &anchors, watch.stance()).map_err(failed)?;
        let inner = Arc::new(Inner {
            servers,
            anchors,
            asking: ArcSwap::from_pointee(asking),
            looked: watch::Sender::new(config.dnssec == Dnssec::Off),
            absences: Mutex::default(),
            bogus: Mutex::default(),
        });
        if config.dnssec != Dnssec::Off {
            tokio::spawn(keep_looking(Arc::downgrade(&inner), watch));
        }
        Ok(Self { inner })
    }

    /// What there is of `kind` at `name`, which is fully qualified.
    pub async fn find(&self, name: &Name, kind: RecordType) -> Answer {
        let mut name = name.to_lowercase();
        name.set_fqdn(true);
        let mut looked = self.inner.looked.subscribe();
        let _ = timeout(FIRST_LOOK, looked.wait_for(|looked| *looked)).await;
        let key = (name, kind);
        if let Some(absent) = self.inner.absent(&key) {
            return absent;
        }
        let asking = self.inner.asking.load_full();
        let find = async {
            match asking.find(&key.0, kind).await {
                Err(error) if bogus(&error) => asking.wildcard(&key.0, kind).await.ok_or(error),
                found => found,
            }
        };
        let answer = match timeout(DEADLINE, find).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => self.inner.failure(&key.0, kind, error),
            Err(_) => self.inner.failure(&key.0, kind, NetError::Timeout),
        };
        self.inner.keep_absence(key, &answer);
        answer
    }
}

impl Asking {
    async fn find(&self, name: &Name, kind: RecordType) -> Result<Answer, NetError> {
        let found = self.look_up(name, kind).await?;
        let mut way = Vec::new();
        let mut at = name.clone();
        // Only what the name asked for leads to counts. When the target of a CNAME is in its cache, hickory-resolver leaves out the CNAME that led there.
        let target = found.iter().find(|record| record.record_type() == kind).map(|record| record.name.clone());
        while kind != RecordType::CNAME
            && target.as_ref().is_some_and(|target| *target != at)
            && way.len() < MAX_ALIASES
        {
            let mut alias = found.iter().find(|record| record.name == at && alias(record).is_some()).cloned();
            if alias.is_none() {
                alias = self.look_up(&at, RecordType::CNAME).await?.into_iter().find(|record| record.name == at);
            }
            let Some((next, alias)) = alias.and_then(|record| Some((self::alias(&record)?.clone(), record))) else {
                break;
            };
            at = next;
            way.push(alias);
        }
        way.extend(found.into_iter().filter(|record| record.record_type() == kind && record.name == at));
        if !way.iter().any(|record| record.record_type() == kind) {
            return Ok(Answer { found: Found::NoData(None), secure: false });
        }
        if self.validates && way.iter().any(|record| matches!(record.proof, Proof::Bogus | Proof::Indeterminate)) {
            return Err(DnsError::DnssecBogus.into());
        }
        let secure = self.validates && way.iter().all(|record| record.proof == Proof::Secure);
        Ok(Answer { found: Found::Records(way), secure })
    }

    /// What a wildcard says of a name that seemed bogus. hickory-resolver 0.26 takes answers made from a wildcard in a zone with NSEC for bogus
    /// (hickory-dns pull request 3812), but validates the wildcard itself. Its records are the zone's own, so mail flows; that nothing closer to the name
    /// exists is not proven that way, so they are not secure.
    async fn wildcard(&self, name: &Name, kind: RecordType) -> Option<Answer> {
        let mut parent = name.base_name();
        for _ in 0..MAX_WILDCARDS {
            if parent.num_labels() < 2 {
                return None;
            }
            let wildcard = parent.prepend_label("*").ok()?;
            if let Ok(Answer { found: Found::Records(records), secure: true }) = self.find(&wildcard, kind).await {
                let named = records.into_iter().map(|mut record| {
                    if record.name == wildcard {
                        record.name = name.clone();
                    }
                    record
                });
                return Some(Answer { found: Found::Records(named.collect()), secure: false });
            }
            parent = parent.base_name();
        }
        None
    }

    /// Records of `kind` and aliases, with the TTLs that are left.
    async fn look_up(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, NetError> {
        let lookup = self.resolver.lookup(name.clone(), kind).await?;
        // What comes out of the cache still has the TTL it came with.
        let left = lookup.valid_until().saturating_duration_since(Instant::now()).as_secs();
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let wanted = |record: &&Record| record.record_type() == kind || alias(record).is_some();
        let fresh = |record: &Record| {
            let mut record = record.clone();
            record.ttl = record.ttl.min(left);
            record
        };
        Ok(lookup.answers().iter().filter(wanted).map(fresh).collect())
    }
}

fn bogus(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::DnssecBogus | DnsError::Nsec { proof: Proof::Bogus, .. }))
}

fn alias(record: &Record) -> Option<&Name> {
    match &record.data {
        RData::CNAME(target) => Some(&target.0),
        _ => None,
    }
}

impl Inner {
    /// What a failed look-up means to the MSA: only a nameserver's word that there is nothing counts as that.
    fn failure(&self, name: &Name, kind: RecordType, error: NetError) -> Answer {
        let absent = |code, soa: Option<Record>| match code {
            ResponseCode::NoError => Found::NoData(soa),
            ResponseCode::NXDomain => Found::NoName(soa),
            _ => Found::Failed,
        };
        match error {
            NetError::Dns(DnsError::NoRecordsFound(nothing)) => {
                let soa = nothing.soa.map(|soa| soa.into_record_of_rdata());
                // The library has refused what is signed and has no proof of absence.
                let proven = |records: &[Record]| {
                    let mut records = records.iter().filter(|record| !record.record_type().is_rrsig()).peekable();
                    records.peek().is_some() && records.all(|record| record.proof == Proof::Secure)
                };
                let secure = self.asking.load().validates && nothing.authorities.as_deref().is_some_and(proven);
                Answer { found: absent(nothing.response_code, soa), secure }
            }
            // Absent in a signed zone, and not proven: by NSEC3 with opt-out, or more iterations than are counted.
            NetError::Dns(DnsError::Nsec { response, proof: Proof::Insecure, .. }) => {
                let soa = response.authorities.iter().find(|record| record.record_type() == RecordType::SOA).cloned();
                Answer { found: absent(response.response_code, soa), secure: false }
            }
            error => {
                if matches!(error, NetError::Dns(DnsError::DnssecBogus | DnsError::Nsec { .. })) {
                    self.say_bogus(name, kind);
                }
                tracing::debug!(%name, %kind, %error, "no answer");
                Answer { found: Found::Failed, secure: false }
            }
        }
    }

    fn say_bogus(&self, name: &Name, kind: RecordType) {
        let mut bogus = self.bogus.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, count) = &mut *bogus;
        *count += 1;
        if said.is_none_or(|said| said.elapsed() >= SAY_BOGUS) {
            tracing::warn!(%name, %kind, count, "answers do not validate; if they are of many domains, look at the clock and at trust_anchors");
            (*said, *count) = (Some(Instant::now()), 0);
        }
    }

    fn absent(&self, key: &(Name, RecordType)) -> Option<Answer> {
        let absences = self.absences.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, until) = absences.get(key)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    fn keep_absence(&self, key: (Name, RecordType), answer: &Answer) {
        let (Found::NoData(Some(soa)) | Found::NoName(Some(soa))) = &answer.found else { return };
        let RData::SOA(data) = &soa.data else { return };
        let keep = Duration::from_secs(soa.ttl.min(data.minimum).into()).min(NEGATIVE_TTL);
        let now = Instant::now();
        let mut absences = self.absences.lock().unwrap_or_else(PoisonError::into_inner);
        if absences.len() >= ABSENCES {
            absences.retain(|_, (_, until)| *until > now);
            if absences.len() >= ABSENCES {
                absences.clear();
            }
        }
        absences.insert(key, (answer.clone(), now + keep));
    }
}

/// Looks at the nameservers now and then, for as long as somebody asks them.
async fn keep_looking(inner: Weak<Inner>, mut watch: Watch) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let seen = look_at(&strong.servers).await;
        let before = watch.stance().clone();
        let next = watch.take(&seen);
        let stance = watch.stance();
        if *stance != before {
            match asking(&strong.servers, &strong.anchors, stance) {
                Ok(asking) => {
                    strong.asking.store(Arc::new(asking));
                    strong.absences.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                Err(error) => tracing::error!(%error, "the nameservers are asked as before"),
            }
        }
        say(&strong.servers, &seen, &before, stance, *strong.looked.borrow());
        strong.looked.send_replace(true);
        drop(strong);
        let Some(next) = next else { return };
        tokio::time::sleep(next).await;
    }
}

async fn look_at(servers: &[NameServerConfig]) -> Vec<Seen> {
    let mut looks = JoinSet::new();
    for (n, server) in servers.iter().enumerate() {
        let port = server.connections.first().map_or(53, |connection| connection.port);
        let address = SocketAddr::new(server.ip, port);
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

fn say(servers: &[NameServerConfig], seen: &[Seen], before: &Stance, now: &Stance, again: bool) {
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

fn asking(servers: &[NameServerConfig], anchors: &Arc<TrustAnchors>, stance: &Stance) -> Result<Asking, NetError> {
    let servers = stance.servers.iter().filter_map(|n| servers.get(*n)).cloned().collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
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
    if stance.validate {
        // To name an anchor is to ask for validation.
        builder = builder.with_trust_anchor(Arc::clone(anchors));
    }
    let resolver = builder.build()?;
    Ok(Asking { resolver, validates: stance.validate })
}

fn server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(address.ip(), true, vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())])
}
