//! Asks on behalf of one cell, and has the proxy told what it was answered.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::timeout,
};
use warren_daemon::Pace;
use warren_launcher_api::CellId;

use super::{
    Upstream,
    answer::{Asked, Found, Question, Transport, answer, bounded, read, refused},
    counts::Outcome,
    door::Shared,
    memory::{Link, Memory},
    sts::Share,
    thrift::{Thrift, Verdict},
    tlsa,
};
use crate::{
    names::{NameNote, Note, StsNote, TlsaNote},
    tls::{StsFound, TlsaFound},
};

/// Notes for the proxy of one cell in a second: hundreds of messages' addresses. More wait, and the answers with them: who floods the proxy with notes would keep it
/// from hearing those of others.
const NOTES_PER_SECOND: u32 = 2_000;
/// How long an answer is held back for the TLSA records of a host. Without them its mail waits, so they are worth waiting for; an MSA asks again
/// after five seconds.
const TLSA_PATIENCE: Duration = Duration::from_secs(3);
/// How long it is held back for a domain's MTA-STS policy; a later one is told later.
const STS_PATIENCE: Duration = Duration::from_secs(1);
/// What one cell may have being looked into for the proxy.
const MAX_INQUIRIES: usize = 64;
/// MX hosts whose TLSA records are looked up in advance: those that are tried first.
const PREFETCHED_HOSTS: usize = 4;

/// Asks on behalf of one cell.
pub(super) struct Asker {
    pub(super) cell: CellId,
    memory: Mutex<Memory>,
    thrift: Mutex<Thrift>,
    inquiries: Arc<Semaphore>,
    share: Arc<Share>,
    pace: tokio::sync::Mutex<Pace>,
    pub(super) shared: Arc<Shared>,
}

impl Asker {
    pub(super) fn new(cell: CellId, shared: Arc<Shared>, now: Instant) -> Self {
        Self {
            cell,
            memory: Mutex::default(),
            thrift: Mutex::new(Thrift::new(now)),
            inquiries: Arc::new(Semaphore::new(MAX_INQUIRIES)),
            share: Arc::default(),
            pace: tokio::sync::Mutex::new(Pace::new(NOTES_PER_SECOND, now)),
            shared,
        }
    }

    /// The answer to a message, if it deserves one.
    pub(super) async fn respond(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match read(bytes, transport) {
            Asked::Lookup(question) => question,
            Asked::Answer(answer) => {
                self.shared.counts.question(None, Outcome::Unserved);
                return Some(answer);
            }
            Asked::Nothing => return None,
        };
        let (answer, outcome) = self.answer(&question).await;
        self.shared.counts.question(Some(question.query.query_type), outcome);
        Some(answer)
    }

    async fn answer(&self, question: &Question) -> (Vec<u8>, Outcome) {
        if !self.affords(&plain(&question.query.name)) {
            return (refused(question), Outcome::Refused);
        }
        let dropped = || (answer(question, &Found::Failed), Outcome::Dropped);
        let Some(mut place) = self.shared.questions.place(self.cell) else { return dropped() };
        tokio::select! {
            answered = self.look_up(question) => answered,
            () = place.lost() => dropped(),
        }
    }

    async fn look_up(&self, question: &Question) -> (Vec<u8>, Outcome) {
        let upstream = self.shared.upstream.load_full();
        let kind = question.query.query_type;
        let looked_up = upstream.find(&question.query.name, kind).await;
        let found = match looked_up.found {
            Found::Records(records) => Found::Records(bounded(records, kind)),
            nothing => nothing,
        };
        let links = self.remember(question, &found, looked_up.secure);
        let notes = self.notes(&upstream, question, &found, looked_up.secure, links).await;
        let insists = notes.iter().any(insists);
        if !self.tell(notes).await && insists {
            // Dialled without them, the MX could be anybody. The MSA asks again.
            return (answer(question, &Found::Failed), Outcome::Failed);
        }
        let outcome = match &found {
            Found::Records(_) => Outcome::Records,
            Found::NoData(_) | Found::NoName(_) => Outcome::Nothing,
            Found::Failed => Outcome::Failed,
        };
        (answer(question, &found), outcome)
    }

    /// Sends notes, not too many at a time; whether the proxy has them.
    async fn tell(&self, notes: Vec<Note>) -> bool {
        {
            let mut pace = self.pace.lock().await;
            for _ in &notes {
                if let Some(next) = pace.took(Instant::now()) {
                    tokio::time::sleep_until(next.into()).await;
                }
            }
        }
        if notes.is_empty() {
            return true;
        }
        let told = self.shared.notes.send(notes).await;
        self.shared.counts.notes(told);
        told
    }

    /// Whether the cell may ask for this name, too.
    fn affords(&self, name: &str) -> bool {
        if !self.shared.thrifty || self.memory.lock().unwrap_or_else(PoisonError::into_inner).named(name) {
            return true;
        }
        let verdict = self.thrift.lock().unwrap_or_else(PoisonError::into_inner).ask(name, Instant::now());
        if let Verdict::RefuseFirst(domain) = &verdict {
            tracing::warn!(cell = %self.cell, domain, "a cell asks for more names than mail does; refused for a minute");
        }
        verdict == Verdict::Ask
    }

    fn remember(&self, question: &Question, found: &Found, secure: bool) -> Vec<Link> {
        let name = plain(&question.query.name);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        match (question.query.query_type, found) {
            (RecordType::MX, Found::Records(records)) => {
                let hosts: Vec<String> = records.iter().filter_map(exchanger).collect();
                // "MX 0 ." says that there is no mail (RFC 7505): not even an implicit MX.
                if hosts.is_empty() { Vec::new() } else { memory.exchangers(&name, &hosts, secure, Instant::now()) }
            }
            (RecordType::MX, Found::NoData(_)) => memory.exchangers(&name, &[], secure, Instant::now()),
            (RecordType::A | RecordType::AAAA, Found::Records(records)) => {
                let addresses: Vec<_> = records.iter().filter_map(address).collect();
                memory.addresses(&name, &addresses, secure, Instant::now())
            }
            _ => Vec::new(),
        }
    }

    /// What the proxy is to know before the MSA has its answer: first what is known of hosts and domains, then which addresses they are.
    async fn notes(
        &self,
        upstream: &Arc<Upstream>,
        question: &Question,
        found: &Found,
        secure: bool,
        links: Vec<Link>,
    ) -> Vec<Note> {
        let cell = self.cell;
        let mut inquiries = JoinSet::new();
        let mut hosts: Vec<String> = Vec::new();
        match (question.query.query_type, found) {
            (RecordType::MX, Found::Records(records)) => {
                let named = records.iter().filter_map(exchanger).collect::<Vec<_>>();
                if !named.is_empty() {
                    inquiries.spawn(self.inquire_policy(upstream, plain(&question.query.name)));
                }
                if secure {
                    self.prefetch(upstream, &named);
                }
            }
            (RecordType::MX, Found::NoData(_)) => {
                inquiries.spawn(self.inquire_policy(upstream, plain(&question.query.name)));
            }
            // Also where the domain's MX records are not signed: another's may be.
            (RecordType::A | RecordType::AAAA, Found::Records(_)) if secure => hosts.push(plain(&question.query.name)),
            _ => {}
        }
        let mut secure_hosts =
            links.iter().filter(|link| link.secure).map(|link| link.host.clone()).collect::<Vec<_>>();
        hosts.append(&mut secure_hosts);
        hosts.sort();
        hosts.dedup();
        hosts.into_iter().for_each(|host| _ = inquiries.spawn(self.inquire_tlsa(upstream, host)));
        let mut notes: Vec<Note> = inquiries.join_all().await.into_iter().flatten().collect();
        notes.extend(links.into_iter().map(|Link { domain, host, address, ttl_s, secure }| {
            Note::Name(NameNote { cell, domain, mx: host, address, secure, ttl_s })
        }));
        notes
    }

    /// The policy of a domain. One that is known holds, even if nobody can tell now whether there is a new one: who delays DNS does not get rid of it.
    fn inquire_policy(
        &self,
        upstream: &Arc<Upstream>,
        domain: String,
    ) -> impl Future<Output = Option<Note>> + Send + 'static {
        let (cell, policies, upstream) = (self.cell, Arc::clone(&self.shared.policies), Arc::clone(upstream));
        let (share, asked) = (Arc::clone(&self.share), domain.clone());
        let inquiry = self.now_or_later(STS_PATIENCE, {
            let policies = Arc::clone(&policies);
            async move {
                let found = policies.of(&share, &upstream, &asked).await;
                Note::Sts(StsNote { cell, domain: asked, found })
            }
        });
        async move {
            if let Some(note) = inquiry.await {
                return Some(note);
            }
            let found = policies.known(&domain);
            matches!(found, StsFound::Policy(_)).then_some(Note::Sts(StsNote { cell, domain, found }))
        }
    }

    fn inquire_tlsa(
        &self,
        upstream: &Arc<Upstream>,
        host: String,
    ) -> impl Future<Output = Option<Note>> + Send + 'static {
        let (cell, upstream) = (self.cell, Arc::clone(upstream));
        self.now_or_later(TLSA_PATIENCE, async move {
            let (found, ttl_s) = match Name::from_ascii(&host) {
                Ok(name) => tlsa::tlsa(&upstream, &name).await,
                Err(_) => (TlsaFound::Failed, 0),
            };
            Note::Tlsa(TlsaNote { cell, mx: host, found, ttl_s })
        })
    }

    /// What `inquiry` comes to, if it does so in time; otherwise it is told to the proxy when it does. Nothing comes of it if the cell has too many open.
    fn now_or_later(
        &self,
        patience: Duration,
        inquiry: impl Future<Output = Note> + Send + 'static,
    ) -> impl Future<Output = Option<Note>> + Send + 'static {
        let place = Arc::clone(&self.inquiries).try_acquire_owned();
        let shared = Arc::clone(&self.shared);
        async move {
            let place = place.ok()?;
            let (tell, told) = oneshot::channel();
            tokio::spawn(async move {
                let note = inquiry.await;
                drop(place);
                if let Err(late) = tell.send(note) {
                    // Not told, it is asked for again with the next question.
                    let _ = shared.notes.send(vec![late]).await;
                }
            });
            timeout(patience, told).await.ok()?.ok()
        }
    }

    /// Begins to look for TLSA records while the MSA asks for addresses: what is found is in the cache then.
    fn prefetch(&self, upstream: &Arc<Upstream>, hosts: &[String]) {
        for host in hosts.iter().take(PREFETCHED_HOSTS) {
            let Ok(place) = Arc::clone(&self.shared.prefetches).try_acquire_owned() else { return };
            let Some(name) = Name::from_ascii(host).ok().and_then(|name| tlsa::owner(&name)) else { continue };
            let upstream = Arc::clone(upstream);
            tokio::spawn(async move {
                upstream.find(&name, RecordType::TLSA).await;
                drop(place);
            });
        }
    }
}

/// Whether something is asked of TLS that the proxy would not know without this note.
fn insists(note: &Note) -> bool {
    match note {
        Note::Name(note) => note.secure,
        Note::Tlsa(note) => note.found != TlsaFound::None,
        Note::Sts(note) => matches!(note.found, StsFound::Policy(_)),
    }
}

/// A name as configuration and certificates write it.
fn plain(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

fn exchanger(record: &Record) -> Option<String> {
    match &record.data {
        RData::MX(mx) if !mx.exchange.is_root() => Some(plain(&mx.exchange)),
        _ => None,
    }
}

fn address(record: &Record) -> Option<(IpAddr, u32)> {
    record.data.ip_addr().map(|address| (address, record.ttl))
}
