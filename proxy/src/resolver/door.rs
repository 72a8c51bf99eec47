//! One cell's door: a UDP socket and a TCP listener in the cell, served outside. All that a tenant can take is bounded: questions at a
//! time, connections, time.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::timeout,
};
use warren_daemon::Accepting;
use warren_launcher_api::CellId;

use crate::pace::Pace;
use crate::places::Room;

use super::{
    Notes, Upstream,
    answer::{Asked, Found, Question, Transport, answer, bounded, read, refused},
    memory::{Link, Memory},
    sts::{Policies, Share},
    thrift::{Thrift, Verdict},
    tlsa,
};
use crate::{
    names::{NameNote, Note, StsNote, TlsaNote},
    tls::{StsFound, TlsaFound},
};

/// Questions by UDP that one cell may have open; further ones are dropped, and asked again by their asker.
pub const MAX_QUESTIONS: usize = 64;
/// Datagrams of one cell that are read in a second: a hundred messages' lookups. More are lost in its socket, and asked again.
const DATAGRAMS_PER_SECOND: u32 = 500;
/// Notes for the proxy of one cell in a second: hundreds of messages' addresses. More wait, and the answers with them: who floods the proxy with notes would keep it
/// from hearing those of others.
pub const NOTES_PER_SECOND: u32 = 2_000;
/// Connections of one cell.
pub const MAX_CONNECTIONS: usize = 8;
/// Questions of all cells. Each takes some kilobytes and perhaps a socket towards a nameserver.
const MAX_QUESTIONS_OF_ALL: usize = 4096;
/// Questions on one connection.
const MAX_PER_CONNECTION: usize = 100;
/// How long a connection may be silent, or leave an answer unread (RFC 7766 asks for a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// A question takes 512 bytes at most, EDNS options aside.
const LONGEST_QUESTION: usize = 4096;
/// How long an answer is held back for the TLSA records of a host. Without them its mail waits, so they are worth waiting for; an MSA asks again
/// after five seconds.
const TLSA_PATIENCE: Duration = Duration::from_secs(3);
/// How long it is held back for a domain's MTA-STS policy; a later one is told later.
const STS_PATIENCE: Duration = Duration::from_secs(1);
/// What one cell may have being looked into for the proxy.
const MAX_INQUIRIES: usize = 64;
/// What all cells may have being looked up in advance.
const MAX_PREFETCHES: usize = 256;
/// MX hosts whose TLSA records are looked up in advance: those that are tried first.
const PREFETCHED_HOSTS: usize = 4;
/// A cell's two sockets.
const DESCRIPTORS_OF_A_DOOR: usize = 2;
/// What the process has open besides: the cache of policies, log, polls, connections to the launcher and the proxy, policies being fetched.
const OWN_DESCRIPTORS: usize = 512;
/// Pause after a socket error that may come again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// What all doors share.
pub struct Shared {
    pub(super) upstream: ArcSwap<Upstream>,
    pub(super) notes: Notes,
    pub(super) policies: Arc<Policies>,
    /// Whether what a cell says by asking is bounded.
    thrifty: bool,
    questions: Semaphore,
    prefetches: Arc<Semaphore>,
    /// Descriptors for doors and connections.
    pub(super) room: Arc<Room>,
    accepting: Accepting,
}

impl Shared {
    /// Doors that ask `upstream` and `policies`, and tell `notes`.
    #[must_use]
    pub fn new(upstream: Upstream, policies: Arc<Policies>, notes: Notes) -> Self {
        Self {
            upstream: ArcSwap::from_pointee(upstream),
            notes,
            policies,
            thrifty: true,
            questions: Semaphore::new(MAX_QUESTIONS_OF_ALL),
            prefetches: Arc::new(Semaphore::new(MAX_PREFETCHES)),
            room: Arc::new(Room::new(left_for_cells(warren_daemon::descriptors()), 1)),
            accepting: Accepting::default(),
        }
    }

    /// The same, and whoever asks may ask for any number of names.
    #[must_use]
    pub fn without_thrift(self) -> Self {
        Self { thrifty: false, ..self }
    }
}

/// What doors and connections may have of so many descriptors: what questions of all cells and the rest of the process leave, and half of few.
fn left_for_cells(descriptors: usize) -> usize {
    descriptors - (MAX_QUESTIONS_OF_ALL + OWN_DESCRIPTORS).min(descriptors / 2)
}

/// Serves the door of `cell` until dropped. Owns both sockets: once this future is gone, they are closed.
pub async fn serve(cell: CellId, udp: UdpSocket, tcp: TcpListener, shared: Arc<Shared>) {
    let inquiries = Arc::new(Semaphore::new(MAX_INQUIRIES));
    let thrift = Mutex::new(Thrift::new(Instant::now()));
    let pace = tokio::sync::Mutex::new(Pace::new(NOTES_PER_SECOND, Instant::now()));
    let asker = Asker { cell, memory: Mutex::default(), thrift, inquiries, share: Arc::default(), pace, shared };
    let asker = Arc::new(asker);
    tokio::join!(datagrams(&udp, &asker), streams(&tcp, &asker));
}

async fn datagrams(udp: &UdpSocket, asker: &Arc<Asker>) {
    let mut buffer = vec![0; LONGEST_QUESTION];
    let mut open: JoinSet<Option<(Vec<u8>, SocketAddr)>> = JoinSet::new();
    let mut pace = Pace::new(DATAGRAMS_PER_SECOND, Instant::now());
    let mut pause: Option<Instant> = None;
    loop {
        let over = async { tokio::time::sleep_until(pause.unwrap_or_else(Instant::now).into()).await };
        tokio::select! {
            () = over, if pause.is_some() => pause = None,
            Some(done) = open.join_next(), if !open.is_empty() => {
                if let Ok(Some((bytes, to))) = done
                    && let Err(error) = udp.try_send_to(&bytes, to)
                {
                    // Lost like any datagram: the asker asks again.
                    tracing::debug!(cell = %asker.cell, %error, "answer not sent");
                }
            }
            received = udp.recv_from(&mut buffer), if pause.is_none() => match received {
                Ok((length, from)) => {
                    pause = pace.took(Instant::now());
                    if open.len() >= MAX_QUESTIONS {
                        continue;
                    }
                    let (bytes, asker) = (buffer[..length].to_vec(), Arc::clone(asker));
                    open.spawn(async move { Some((asker.respond(&bytes, Transport::Udp).await?, from)) });
                }
                Err(error) => {
                    tracing::debug!(cell = %asker.cell, %error, "cannot receive");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn streams(tcp: &TcpListener, asker: &Arc<Asker>) {
    let mut open = JoinSet::new();
    let share = asker.shared.room.share(DESCRIPTORS_OF_A_DOOR);
    loop {
        tokio::select! {
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = tcp.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    // Closed: its asker tries again.
                    let Some(seat) = share.seat(open.len()) else { continue };
                    let asker = Arc::clone(asker);
                    open.spawn(async move {
                        // However it ends, it concerns only its client.
                        let _ = converse(stream, &asker).await;
                        drop(seat);
                    });
                }
                Err(error) => asker.shared.accepting.failed(&error, "resolver").await,
            }
        }
    }
}

async fn converse(mut stream: TcpStream, asker: &Asker) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let mut bytes = Vec::new();
    for _ in 0..MAX_PER_CONNECTION {
        timeout(IDLE, async {
            let length = usize::from(stream.read_u16().await?);
            if length > LONGEST_QUESTION {
                return Err(io::ErrorKind::InvalidData.into());
            }
            bytes.resize(length, 0);
            stream.read_exact(&mut bytes).await
        })
        .await
        .map_err(late)??;
        let Some(answer) = asker.respond(&bytes, Transport::Tcp).await else { break };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, stream.write_all(&framed)).await.map_err(late)??;
    }
    Ok(())
}

/// Asks on behalf of one cell.
struct Asker {
    cell: CellId,
    memory: Mutex<Memory>,
    thrift: Mutex<Thrift>,
    inquiries: Arc<Semaphore>,
    share: Arc<Share>,
    pace: tokio::sync::Mutex<Pace>,
    shared: Arc<Shared>,
}

impl Asker {
    async fn respond(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match read(bytes, transport) {
            Asked::Lookup(question) => question,
            Asked::Answer(answer) => return Some(answer),
            Asked::Nothing => return None,
        };
        if !self.affords(&plain(&question.query.name)) {
            return Some(refused(&question));
        }
        let Ok(_place) = self.shared.questions.try_acquire() else { return Some(answer(&question, &Found::Failed)) };
        let upstream = self.shared.upstream.load_full();
        let kind = question.query.query_type;
        let looked_up = upstream.find(&question.query.name, kind).await;
        let found = match looked_up.found {
            Found::Records(records) => Found::Records(bounded(records, kind)),
            nothing => nothing,
        };
        let links = self.remember(&question, &found, looked_up.secure);
        let notes = self.notes(&upstream, &question, &found, looked_up.secure, links).await;
        let insists = notes.iter().any(insists);
        if !self.tell(notes).await && insists {
            // Dialled without them, the MX could be anybody. The MSA asks again.
            return Some(answer(&question, &Found::Failed));
        }
        Some(answer(&question, &found))
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
        self.shared.notes.send(notes).await
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
