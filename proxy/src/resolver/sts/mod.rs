//! MTA-STS (RFC 8461): what recipient domains demand of TLS, for all cells together.
//!
//! ```text
//!   MX question ─▶ Policies::of(share, domain) ─▶ TXT _mta-sts.domain ─▶ Book::next ─┬─▶ known ──────────────────────────▶ StsFound
//!              (few of one cell, one per domain)                              └─▶ Fetcher ─▶ parse ─▶ Book::fetched ─┘
//!                                                  mta-sts.json ◀── every few seconds, if changed
//! ```
//!
//! A fetch goes on when nobody waits for it any more: the answer to the MSA is held back for a moment only, and what comes late is told then. What was fetched
//! survives this process, because the protection of MTA-STS is in what was learnt before the attack; and what is known holds at once, whoever holds up DNS or the
//! policy host ([`Policies::known`]).
//!
//! - [`record`]: the TXT record; pure. - [`book`]: what was fetched, and what to do next; pure. - [`fetch`]: HTTPS. The policy's own text is read by
//!   [`StsPolicy::parse`].

pub mod book;
pub mod fetch;
pub mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use self::{
    book::{Book, Entry, Next},
    fetch::Fetcher,
    record::Announced,
};
use super::{Upstream, answer::Found};
use crate::tls::{StsFound, StsPolicy, sts::StsFailure};

/// File of the policies, within the resolver's state.
pub const FILE: &str = "mta-sts.json";
/// Largest file taken up.
const MAX_FILE: u64 = 64 << 20;
/// Domains looked into at once. Beyond, a domain is taken for one without a policy unless one is known.
const MAX_AT_ONCE: usize = 1_024;
/// Domains looked into at once for one cell; more of it wait. Slow policy hosts that a tenant asks for hold up only its own.
pub const MAX_OF_ONE_CELL: usize = 8;
/// Fetches at once.
const MAX_FETCHES: usize = 64;
/// Fetches at once below one registrable domain: slow hosts of one owner hold up only his own.
const MAX_FETCHES_BELOW_ONE: usize = 4;
/// How often what changed is written.
const WRITE: Duration = Duration::from_secs(5);
/// How often policies are looked through for those that want refreshing.
const REFRESH: Duration = Duration::from_secs(600);
/// Most refreshed in one go.
const REFRESH_AT_ONCE: usize = 200;
/// Of which so many at a time: hosts that stall, each for as long as a fetch may take, do not keep the others from their turn.
const REFRESHED_TOGETHER: usize = 16;

/// Where what comes of a domain is told.
type Told = watch::Receiver<Option<StsFound>>;

/// One cell's places.
#[derive(Debug)]
pub struct Share(Arc<Semaphore>);

impl Default for Share {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_OF_ONE_CELL)))
    }
}

/// The policies, and the way to them. Shared by all cells.
pub struct Policies {
    book: Mutex<Book>,
    fetcher: ArcSwap<Fetcher>,
    fetches: Semaphore,
    under_way: Mutex<HashMap<String, Told>>,
    fetching: Mutex<HashMap<crate::egress::Operator, usize>>,
    file: Option<PathBuf>,
}

impl Policies {
    /// Takes up what is kept in `directory`, if there is one; a file that cannot be read is said and begun anew.
    #[must_use]
    pub fn new(fetcher: Fetcher, directory: Option<&Path>) -> Self {
        let file = directory.map(|directory| directory.join(FILE));
        let kept = file.as_deref().map(load).unwrap_or_default();
        Self {
            book: Mutex::new(Book::restore(kept, now_s())),
            fetcher: ArcSwap::from_pointee(fetcher),
            fetches: Semaphore::new(MAX_FETCHES),
            under_way: Mutex::default(),
            fetching: Mutex::default(),
            file,
        }
    }

    /// From now on, fetch with this.
    pub fn replace(&self, fetcher: Fetcher) {
        self.fetcher.store(Arc::new(fetcher));
    }

    /// The policy of `domain`, as it is or as soon as it is known; asked for by whose `share` it is. Who stops waiting stops nothing.
    pub async fn of(self: &Arc<Self>, share: &Share, upstream: &Upstream, domain: &str) -> StsFound {
        let mut told = match self.joined(domain) {
            Some(told) => told,
            None => {
                // Nobody else waits for this place: who asks for the same domain meanwhile has one of its own.
                let Ok(place) = Arc::clone(&share.0).acquire_owned().await else { return self.known(domain) };
                match self.begin(place, upstream, domain) {
                    Some(told) => told,
                    None => return self.known(domain),
                }
            }
        };
        let found = told.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        // Only if its task was ended with the process.
        found.unwrap_or_default()
    }

    /// What is being looked into already.
    fn joined(&self, domain: &str) -> Option<Told> {
        self.under_way().get(domain).cloned()
    }

    /// Looks into a domain, if there is room.
    fn begin(self: &Arc<Self>, place: OwnedSemaphorePermit, upstream: &Upstream, domain: &str) -> Option<Told> {
        let mut under_way = self.under_way();
        if let Some(told) = under_way.get(domain) {
            return Some(told.clone());
        }
        if under_way.len() >= MAX_AT_ONCE {
            return None;
        }
        let (tell, told) = watch::channel(None);
        under_way.insert(domain.to_owned(), told.clone());
        let (this, upstream, domain) = (Arc::clone(self), upstream.clone(), domain.to_owned());
        tokio::spawn(async move {
            let over = Over { policies: &this, domain: &domain };
            let found = this.find(&upstream, &domain).await;
            drop(over);
            drop(place);
            tell.send_replace(Some(found));
        });
        Some(told)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, Told>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known without asking anybody: a policy that was fetched holds for its time (RFC 8461 §3.3).
    #[must_use]
    pub fn known(&self, domain: &str) -> StsFound {
        match self.book().next(domain, &Announced::Unknown, now_s()) {
            Next::Have(found) => found,
            Next::Fetch(_) => StsFound::None,
        }
    }

    async fn find(&self, upstream: &Upstream, domain: &str) -> StsFound {
        let announced = announced(upstream, domain).await;
        let next = self.book().next(domain, &announced, now_s());
        match next {
            Next::Have(found) => found,
            Next::Fetch(id) => self.fetch(upstream, domain, &id).await,
        }
    }

    async fn fetch(&self, upstream: &Upstream, domain: &str, id: &str) -> StsFound {
        let Some(_turn) = Turn::take(self, domain) else { return self.known(domain) };
        let Ok(_place) = self.fetches.acquire().await else { return self.known(domain) };
        let fetcher = self.fetcher.load_full();
        let got = match fetcher.fetch(upstream, domain).await {
            Ok(text) => StsPolicy::parse(&text, id).map_err(|error| {
                tracing::info!(domain, %error, "the domain's MTA-STS policy is invalid");
                StsFailure::Invalid
            }),
            Err(error) => {
                tracing::info!(domain, %error, "the domain's MTA-STS policy cannot be fetched");
                Err(error.failure)
            }
        };
        upstream.counts().fetch(got.is_ok());
        self.book().fetched(domain, id, got, now_s())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.book().entries().len()
    }

    /// Writes what changes and refreshes what grows old, for ever. `upstream` gives the nameservers of the moment.
    pub async fn keep(self: Arc<Self>, upstream: impl Fn() -> Upstream) {
        let mut written = 0;
        let mut ticks = tokio::time::interval(WRITE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut refreshed = tokio::time::Instant::now();
        loop {
            ticks.tick().await;
            written = self.write(written).await;
            if refreshed.elapsed() >= REFRESH {
                self.refresh(&upstream()).await;
                refreshed = tokio::time::Instant::now();
            }
        }
    }

    /// Fetches again what is in use and grows old.
    pub async fn refresh(self: &Arc<Self>, upstream: &Upstream) {
        let due = self.book().due(REFRESH_AT_ONCE, now_s());
        let mut together = JoinSet::new();
        for (domain, id) in due {
            if together.len() >= REFRESHED_TOGETHER {
                together.join_next().await;
            }
            let (this, upstream) = (Arc::clone(self), upstream.clone());
            together.spawn(async move {
                // A changed id is a changed policy.
                let id = match announced(&upstream, &domain).await {
                    Announced::Id(new) => new,
                    Announced::Nothing | Announced::Unknown => id,
                };
                this.fetch(&upstream, &domain, &id).await;
            });
        }
        while together.join_next().await.is_some() {}
    }

    /// Writes the policies if they changed since `written`; the change that is written now.
    pub async fn write(&self, written: u64) -> u64 {
        let Some(file) = self.file.clone() else { return written };
        let (changes, kept) = {
            let book = self.book();
            if book.changes() == written {
                return written;
            }
            (book.changes(), book.entries().clone())
        };
        let done = tokio::task::spawn_blocking(move || store(&file, &kept)).await;
        match done.map_err(io::Error::other).and_then(|done| done) {
            Ok(()) => changes,
            Err(error) => {
                tracing::warn!(%error, "MTA-STS policies are not kept on disk");
                // Tried again with the next change.
                changes
            }
        }
    }
}

/// Takes a domain off the list of those under way, however its task ends.
struct Over<'a> {
    policies: &'a Policies,
    domain: &'a str,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.policies.under_way().remove(self.domain);
    }
}

/// One of the few fetches below a registrable domain.
struct Turn<'a> {
    policies: &'a Policies,
    whose: crate::egress::Operator,
}

impl<'a> Turn<'a> {
    fn take(policies: &'a Policies, domain: &str) -> Option<Self> {
        let whose = book::whose(domain);
        let mut fetching = policies.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let count = fetching.entry(whose.clone()).or_default();
        if *count >= MAX_FETCHES_BELOW_ONE {
            return None;
        }
        *count += 1;
        Some(Self { policies, whose })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut fetching = self.policies.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        match fetching.get_mut(&self.whose) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = fetching.remove(&self.whose),
        }
    }
}

async fn announced(upstream: &Upstream, domain: &str) -> Announced {
    let Ok(name) = Name::from_ascii(record::owner(domain)) else { return Announced::Nothing };
    match upstream.find(&name, RecordType::TXT).await.found {
        Found::Records(records) => {
            let texts: Vec<Vec<u8>> = records
                .iter()
                .filter_map(|record| match &record.data {
                    RData::TXT(text) => Some(text.txt_data.concat()),
                    _ => None,
                })
                .collect();
            record::announced(texts.iter().map(Vec::as_slice))
        }
        Found::NoData(_) | Found::NoName(_) => Announced::Nothing,
        Found::Failed => Announced::Unknown,
    }
}

fn load(file: &Path) -> BTreeMap<String, Entry> {
    let read = || -> io::Result<BTreeMap<String, Entry>> {
        if fs::metadata(file)?.len() > MAX_FILE {
            return Err(io::Error::other("it is too large"));
        }
        serde_json::from_slice(&fs::read(file)?).map_err(io::Error::other)
    };
    match read() {
        Ok(kept) => kept,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "the MTA-STS policies of before are lost");
            }
            BTreeMap::new()
        }
    }
}

/// As a whole or not at all: a policy that is lost is a protection that is lost.
fn store(file: &Path, kept: &BTreeMap<String, Entry>) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut out = fs::File::create(&new)?;
    io::Write::write_all(&mut out, &serde_json::to_vec(kept)?)?;
    out.sync_all()?;
    fs::rename(&new, file)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
