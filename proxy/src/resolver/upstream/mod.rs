//! Asking the world: hickory-dns asks and validates by DNSSEC wherever nameservers let it; what comes of that, and one cache for all cells, is here.
//!
//! ```text
//!   Upstream::find ─▶ cache ─▶ nameservers::Asking (hickory: UDP, TCP, validation of records) ─▶ response (pure): what there is of a name
//!        ▲                                                                     │                     └─ expansion (pure): wildcards
//!        └──────────── and of what an alias leads to ──────────────────────────┘
//! ```
//!
//! A look-up says whether what it found was validated: every record on the way from the name asked for, aliases included. What does not validate, though
//! its zone is signed, fails (SERVFAIL to the MSA), and so does what nobody can tell.

mod cache;
mod expansion;
mod nameservers;
mod response;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_proto::{
    dnssec::TrustAnchors,
    rr::{Name, RData, RecordType},
};
use hickory_resolver::{config::NameServerConfig, net::NetError};
use tokio::{sync::watch, time::timeout};
use warren_config::{Dnssec, Resolver};

use self::{
    cache::Cache,
    nameservers::{Asking, look_at, say, server},
    response::{Bogus, Here},
};
use super::{answer::Found, watch::Watch};

/// How long a question may take in all: MSAs ask again after five seconds and give up after ten or more.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long the first questions wait until it is known what the nameservers are good for.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Aliases followed.
const MAX_ALIASES: usize = 8;
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
    servers: Vec<NameServerConfig>,
    anchors: Arc<TrustAnchors>,
    asking: ArcSwap<Asking>,
    /// Whether the nameservers have been looked at.
    looked: watch::Sender<bool>,
    cache: Mutex<Cache>,
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
    #[error("it took too long")]
    Late,
}

impl From<Bogus> for Unanswered {
    fn from(_: Bogus) -> Self {
        Self::Bogus
    }
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
        let asking = Asking::new(&servers, &anchors, watch.stance()).map_err(failed)?;
        let inner = Arc::new(Inner {
            servers,
            anchors,
            asking: ArcSwap::from_pointee(asking),
            looked: watch::Sender::new(config.dnssec == Dnssec::Off),
            cache: Mutex::default(),
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
        if name.iter().next_back().is_some_and(|label| NOBODYS.contains(&label)) {
            return Answer { found: Found::NoName(None), secure: false };
        }
        let mut looked = self.inner.looked.subscribe();
        let _ = timeout(FIRST_LOOK, looked.wait_for(|looked| *looked)).await;
        let key = (name, kind);
        if let Some(known) = self.inner.cache().get(&key, Instant::now()) {
            return known;
        }
        let asking = self.inner.asking.load_full();
        let found = timeout(DEADLINE, asking.find(&key.0, kind)).await.unwrap_or(Err(Unanswered::Late));
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
            cache.keep(key, &answer, Instant::now());
        }
        answer
    }
}

impl Asking {
    async fn find(&self, name: &Name, kind: RecordType) -> Result<Answer, Unanswered> {
        let mut response = self.ask(name, kind).await?;
        let (mut here, mut secure) = response.first(kind)?;
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
                    response = self.ask(&target, kind).await?;
                    response.first(kind)?
                }
            };
            (here, secure) = (next.0, secure && next.1);
        }
        Err(Unanswered::Aliases)
    }
}

impl Inner {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
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
        let seen = look_at(&strong.servers).await;
        let before = watch.stance().clone();
        let next = watch.take(&seen);
        let stance = watch.stance();
        if *stance != before {
            match Asking::new(&strong.servers, &strong.anchors, stance) {
                Ok(asking) => {
                    strong.asking.store(Arc::new(asking));
                    strong.cache().clear();
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
