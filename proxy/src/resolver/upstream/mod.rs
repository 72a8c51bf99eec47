//! Asking the world: hickory-dns asks and validates by DNSSEC wherever nameservers let it; what comes of that, and one cache for all cells, is here.
//!
//! ```text
//!   Upstream::find ─▶ cache ─▶ nameservers::Asking (hickory: UDP, TCP, validation of records) ─▶ response (pure): what there is of a name
//!        ▲                            ▲                                        │                     ├─ expansion (pure): wildcards
//!        │                            └─ trust: DS records, from the root down ─ cuts (pure) ◀───────┘  unsigned, as it is claimed?
//!        └──────────── and of what an alias leads to ──────────────────────────┘
//! ```
//!
//! A look-up says whether what it found was validated: every record on the way from the name asked for, aliases included. What does not validate, though
//! its zone is signed, fails (SERVFAIL to the MSA), and so does what nobody can tell, or what would take too many hashes to tell (`work`).

mod cache;
#[cfg(test)]
mod cut_properties;
mod cuts;
mod expansion;
mod failures;
mod hashed;
mod nameservers;
mod response;
#[cfg(test)]
mod samples;
mod trust;
mod work;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_proto::{
    dnssec::TrustAnchors,
    rr::{Name, RData, RecordType},
    serialize::txt::ParseError,
};
use hickory_resolver::{config::NameServerConfig, net::NetError};
use tokio::{sync::watch, time::timeout};
use warren_config::{Dnssec, Resolver};

use self::{
    cache::Cache,
    failures::Failures,
    nameservers::{Asking, address, look_at, say, server},
    response::{Bogus, Here, Response},
    work::Work,
};
use super::{
    answer::Found,
    counts::{Counts, LookedUp},
    watch::Watch,
};
use crate::dial::is_lack;

/// How long a question may take in all: MSAs ask again after five seconds and give up after ten or more.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long the first questions wait until it is known what the nameservers are good for.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Aliases followed.
const MAX_ALIASES: usize = 8;
/// Labels of a name that is looked up: the reverse name of an IPv6 address has 34. Each is a question, and may be hashed hundreds of times.
const MAX_LABELS: usize = 40;
/// What does not validate is said so often: a hostile domain must not fill the log.
const SAY_BOGUS: Duration = Duration::from_secs(60);
/// Top-level names that are never asked for (RFC 6761, RFC 7686): who runs a nameserver would learn of them, and could answer.
const NOBODYS: [&[u8]; 3] = [b"localhost", b"invalid", b"onion"];

/// The nameservers, and what they said lately. Clones are the same.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    sources: Sources,
    asking: ArcSwap<Asking>,
    /// Whether the nameservers have been looked at.
    looked: watch::Sender<bool>,
    /// Whether they ever passed signatures on.
    passed: AtomicBool,
    cache: Mutex<Cache>,
    failures: Mutex<Failures>,
    counts: Arc<Counts>,
    bogus: Mutex<(Option<Instant>, u64)>,
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

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Failed(#[from] NetError),
    #[error("it does not validate")]
    Bogus,
    #[error("an alias of an alias, and so on")]
    Aliases,
    #[error("it has too many labels")]
    Labels,
    #[error("it would take too many hashes to validate")]
    Hashes,
    #[error("it took too long")]
    Late,
}

impl Unanswered {
    /// It says nothing of the question: this program or this machine lacks something at the moment.
    fn is_ours(&self) -> bool {
        use std::io::ErrorKind::{AddrInUse, AddrNotAvailable};
        match self {
            Self::Failed(NetError::Busy) => true,
            Self::Failed(NetError::Io(error)) => is_lack(error) || matches!(error.kind(), AddrInUse | AddrNotAvailable),
            _ => false,
        }
    }
}

impl From<Bogus> for Unanswered {
    fn from(_: Bogus) -> Self {
        Self::Bogus
    }
}

/// What `[resolver]` comes to.
struct Sources {
    dnssec: Dnssec,
    /// The nameservers are the system's.
    system: bool,
    servers: Vec<NameServerConfig>,
    anchors: Arc<TrustAnchors>,
    /// What the anchors were read from.
    keys: Option<String>,
}

impl Sources {
    fn read(config: &Resolver) -> Result<Self, UpstreamError> {
        let (mut anchors, mut keys) = (TrustAnchors::default(), None);
        if let Some(file) = &config.trust_anchors {
            let unusable = |reason| UpstreamError::Anchors { file: file.clone(), reason };
            let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
            anchors = text.parse().map_err(|error: ParseError| unusable(error.to_string()))?;
            if anchors.is_empty() {
                return Err(unusable("there is none in it".into()));
            }
            keys = Some(text);
        }
        let system = config.nameservers.is_empty();
        let servers = if system {
            let read = hickory_resolver::system_conf::read_system_conf();
            let (config, _) = read.map_err(|source| UpstreamError::Nameservers { system, source })?;
            config.name_servers().to_vec()
        } else {
            config.nameservers.iter().map(|address| server(*address)).collect()
        };
        Ok(Self { dnssec: config.dnssec, system, servers, anchors: Arc::new(anchors), keys })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(address).collect()
    }
}

impl Upstream {
    /// Asks the configured nameservers, or those of `/etc/resolv.conf` if there are none, and looks from now on what they are good for. Needs a runtime.
    pub fn new(config: &Resolver) -> Result<Self, UpstreamError> {
        Self::of(Sources::read(config)?, false, Arc::default())
    }

    /// The same as configured now: these, with all that is known of them, if nothing has changed.
    pub fn reloaded(&self, config: &Resolver) -> Result<Self, UpstreamError> {
        let (now, old) = (Sources::read(config)?, &self.inner.sources);
        let same = now.addresses() == old.addresses() && now.system == old.system;
        if same && now.dnssec == old.dnssec && now.keys == old.keys {
            return Ok(self.clone());
        }
        Self::of(now, same && self.inner.passed.load(Ordering::Relaxed), Arc::clone(&self.inner.counts))
    }

    /// What was asked, and what came of it, reloads included.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.inner.counts
    }

    /// Whether answers are validated at present.
    #[must_use]
    pub fn validates(&self) -> bool {
        self.inner.asking.load().validates()
    }

    /// `passed`: these nameservers did pass signatures on.
    fn of(sources: Sources, passed: bool, counts: Arc<Counts>) -> Result<Self, UpstreamError> {
        let watch = Watch::new(sources.dnssec, sources.servers.len(), passed);
        let failed = |source| UpstreamError::Nameservers { system: sources.system, source };
        let asking = Asking::new(&sources.servers, &sources.anchors, watch.stance()).map_err(failed)?;
        let off = sources.dnssec == Dnssec::Off;
        let inner = Arc::new(Inner {
            sources,
            asking: ArcSwap::from_pointee(asking),
            looked: watch::Sender::new(off),
            passed: AtomicBool::new(passed),
            cache: Mutex::default(),
            failures: Mutex::default(),
            counts,
            bogus: Mutex::default(),
        });
        if !off {
            tokio::spawn(keep_looking(Arc::downgrade(&inner), watch));
        }
        Ok(Self { inner })
    }

    /// What there is of `kind` at `name`, which is fully qualified.
    pub async fn find(&self, name: &Name, kind: RecordType) -> Answer {
        let mut name = name.to_lowercase();
        name.set_fqdn(true);
        if name.iter().next_back().is_some_and(|label| NOBODYS.contains(&label)) {
            return Answer { found: Found::NoName(None), secure: false };
        }
        let mut looked = self.inner.looked.subscribe();
        let _ = timeout(FIRST_LOOK, looked.wait_for(|looked| *looked)).await;
        let key = (name, kind);
        if let Some(known) = self.inner.cache().get(&key, Instant::now()) {
            self.inner.counts.lookup(LookedUp::Cached);
            return known;
        }
        let began = Instant::now();
        if self.inner.failures().rests(&key, began) {
            self.inner.counts.lookup(LookedUp::Resting);
            return Answer { found: Found::Failed, secure: false };
        }
        let asking = self.inner.asking.load_full();
        let found = timeout(DEADLINE, asking.find(&key.0, kind)).await.unwrap_or(Err(Unanswered::Late));
        let lacking = found.as_ref().is_err_and(Unanswered::is_ours);
        self.inner.counts.lookup(match &found {
            Ok(_) => LookedUp::Answered,
            Err(Unanswered::Bogus) => LookedUp::Bogus,
            Err(_) => LookedUp::Failed,
        });
        let answer = found.unwrap_or_else(|why| {
            if matches!(why, Unanswered::Bogus) {
                self.inner.say_bogus(&key.0, kind);
            }
            tracing::debug!(name = %key.0, %kind, %why, "no answer");
            Answer { found: Found::Failed, secure: false }
        });
        let mut cache = self.inner.cache();
        // What was found in another stance has no place here: the cache is cleared behind the change.
        if Arc::ptr_eq(&asking, &self.inner.asking.load()) {
            match answer.found {
                Found::Failed if lacking => {}
                Found::Failed => self.inner.failures().failed(key, began, Instant::now()),
                _ => {
                    self.inner.failures().answered(&key);
                    cache.keep(key, &answer, Instant::now());
                }
            }
        }
        answer
    }
}

#[cfg(test)]
impl Upstream {
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(super) fn passed(&self) -> bool {
        self.inner.passed.load(Ordering::Relaxed)
    }
}

impl Asking {
    async fn find(&self, name: &Name, kind: RecordType) -> Result<Answer, Unanswered> {
        let mut work = Work::default();
        let mut response = self.asked(name, kind, &mut work).await?;
        let (mut here, trust) = response.first(kind)?;
        let mut secure = self.is_secure(name, trust, &mut work).await?;
        let mut way = Vec::new();
        for _ in 0..=MAX_ALIASES {
            let alias = match here {
                Here::Records(records) => {
                    way.extend(records);
                    return Ok(Answer { found: Found::Records(way), secure });
                }
                Here::NoData(soa) => return Ok(Answer { found: Found::NoData(soa), secure }),
                Here::NoName(soa) => return Ok(Answer { found: Found::NoName(soa), secure }),
                Here::Alias(alias) => alias,
            };
            let RData::CNAME(target) = &alias.data else { return Err(Unanswered::Aliases) };
            let target = target.0.to_lowercase();
            way.push(*alias);
            let next = match response.further(&target, kind) {
                Some(next) => next,
                None => {
                    response = self.asked(&target, kind, &mut work).await?;
                    response.first(kind)?
                }
            };
            here = next.0;
            secure &= self.is_secure(&target, next.1, &mut work).await?;
        }
        Err(Unanswered::Aliases)
    }

    /// One question of a look-up, and what judging the answer costs.
    async fn asked(&self, name: &Name, kind: RecordType, work: &mut Work) -> Result<Response, Unanswered> {
        if name.iter().count() > MAX_LABELS {
            return Err(Unanswered::Labels);
        }
        let response = self.ask(name, kind).await?;
        work.judging(&response)?;
        Ok(response)
    }
}

impl Inner {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
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
}

/// Looks at the nameservers now and then, for as long as somebody asks them.
async fn keep_looking(inner: Weak<Inner>, mut watch: Watch) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let seen = look_at(&strong.sources.servers).await;
        let before = watch.stance().clone();
        let next = watch.take(&seen);
        strong.passed.store(watch.ever_passed(), Ordering::Relaxed);
        let stance = watch.stance();
        if *stance != before {
            match Asking::new(&strong.sources.servers, &strong.sources.anchors, stance) {
                Ok(asking) => {
                    strong.asking.store(Arc::new(asking));
                    strong.cache().clear();
                    strong.failures().clear();
                }
                Err(error) => tracing::error!(%error, "the nameservers are asked as before"),
            }
        }
        say(&strong.sources.servers, &seen, &before, stance, *strong.looked.borrow());
        strong.looked.send_replace(true);
        drop(strong);
        let Some(next) = next else { return };
        tokio::time::sleep(next).await;
    }
}
