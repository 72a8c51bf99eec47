//! What is remembered of servers: tickets to resume sessions with, and the judgement of their certificates.
//!
//! Kept by server name **and address**: hosts behind one name rarely share ticket keys, and a ticket that the host cannot read costs the resumption.
//! Tenants share it. A ticket vouches for nothing but this proxy's earlier handshake, and a resumed session is judged by the same
//! certificates as that one, so no tenant gains or loses trust by another's; what a server learns from a ticket, that two sessions come from the same
//! node, its egress address tells already. Bounded in servers, in tickets of one server and of all, and in what a ticket may hold on to.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::{CertificateDer, ServerName};

use super::chain::Chain;
use super::facts::CertificateFacts;

/// Most servers remembered.
const MAX_SERVERS: usize = 2_048;
/// Most TLS 1.3 tickets of one server: each is good for one session, and many may begin before the next ticket comes.
pub(super) const MAX_TICKETS: usize = 64;
/// The same, once [`MANY_TICKETS`] are kept in all.
const FEW_TICKETS: usize = 1;
/// How long one is cannot be seen, only that a handshake message has at most 64 KiB; those of the world have a few hundred bytes.
const MANY_TICKETS: usize = 2_048;
/// Most tickets kept of one connection. Servers send one or two.
pub(super) const MAX_SENT: usize = 4;
/// A ticket keeps the chain of its first handshake in memory. That of a server whose chain is longer is not kept.
const MAX_CHAIN_BYTES: usize = 16 * 1024;
/// How long a judgement of certificates holds. Within it the same chain is not judged again.
const JUDGED_FOR: Duration = Duration::from_secs(60);

/// A server: the name it is asked for, and its address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) name: ServerName<'static>,
    pub(super) address: IpAddr,
}

/// A chain, judged, and what its first certificate says.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) chain: Arc<Chain>,
    pub(super) certificate: Option<CertificateFacts>,
    pub(super) sha256: Vec<String>,
}

#[derive(Debug, Default)]
struct Known {
    used: u64,
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
    judged: Option<(Instant, Judged)>,
}

/// All servers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    known: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    servers: HashMap<Server, Known>,
    /// Counts uses: the least lately used makes room.
    clock: u64,
    /// TLS 1.3 tickets of all servers.
    tickets: usize,
}

impl Book {
    fn of(&mut self, server: &Server) -> &mut Known {
        if self.servers.len() >= MAX_SERVERS && !self.servers.contains_key(server) {
            let oldest = self.servers.iter().min_by_key(|(_, known)| known.used).map(|(server, _)| server.clone());
            if let Some(oldest) = oldest.and_then(|oldest| self.servers.remove(&oldest)) {
                self.tickets -= oldest.tls13.len();
            }
        }
        self.clock += 1;
        let known = self.servers.entry(server.clone()).or_default();
        known.used = self.clock;
        known
    }

    fn keep(&mut self, server: &Server, ticket: Tls13ClientSessionValue) {
        let most = most(self.tickets);
        let known = self.of(server);
        known.tls13.push_back(ticket);
        let gone = known.tls13.len().saturating_sub(most);
        known.tls13.drain(..gone);
        self.tickets = self.tickets + 1 - gone;
    }

    fn take(&mut self, server: &Server) -> Option<Tls13ClientSessionValue> {
        let ticket = self.servers.get_mut(server)?.tls13.pop_back()?;
        self.tickets -= 1;
        Some(ticket)
    }

    /// None of this server is kept.
    fn drop_tickets(&mut self, server: &Server) {
        let known = self.of(server);
        known.tls12 = None;
        let gone = std::mem::take(&mut known.tls13).len();
        self.tickets -= gone;
    }
}

/// How many tickets one server may have while there are so many of all. So there are never more than these and one for each of [`MAX_SERVERS`].
fn most(all: usize) -> usize {
    if all < MANY_TICKETS { MAX_TICKETS } else { FEW_TICKETS }
}

impl Memory {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The judgement of `sent`, if this server sent the same lately.
    pub(super) fn judged(&self, server: &Server, sent: &[CertificateDer<'_>], now: Instant) -> Option<Judged> {
        let mut book = self.book();
        let (at, judged) = book.servers.get_mut(server)?.judged.as_ref()?;
        let same = judged.chain.certificates() == sent;
        (same && now.saturating_duration_since(*at) < JUDGED_FOR).then(|| judged.clone())
    }

    /// TLS 1.3 tickets of all servers.
    #[cfg(test)]
    pub(super) fn tickets(&self) -> usize {
        let book = self.book();
        assert_eq!(book.tickets, book.servers.values().map(|known| known.tls13.len()).sum::<usize>());
        book.tickets
    }

    /// Remembers a judgement.
    pub(super) fn judge(&self, server: &Server, judged: &Judged, now: Instant) {
        if size(judged.chain.certificates()) <= MAX_CHAIN_BYTES {
            self.book().of(server).judged = Some((now, judged.clone()));
        }
    }
}

fn size(certificates: &[CertificateDer<'_>]) -> usize {
    certificates.iter().map(|certificate| certificate.len()).sum()
}

/// The tickets of one server, as one connection uses them.
#[derive(Debug)]
pub(super) struct Tickets {
    memory: Arc<Memory>,
    server: Server,
    /// So many more are kept.
    room: AtomicUsize,
}

impl Tickets {
    pub(super) fn new(memory: Arc<Memory>, server: Server) -> Arc<Self> {
        Arc::new(Self { memory, server, room: AtomicUsize::new(MAX_SENT) })
    }

    /// After the handshake: tickets that would hold on to a chain that is too large are not kept, neither those that came nor those that come.
    pub(super) fn weigh(&self, sent: &[CertificateDer<'_>]) {
        if size(sent) > MAX_CHAIN_BYTES {
            self.room.store(0, Ordering::Relaxed);
            self.memory.book().drop_tickets(&self.server);
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(self.memory.book().of(&self.server))
    }

    /// Whether one more is kept.
    fn keeps(&self) -> bool {
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok()
    }
}

// The names that rustls passes are all that of the one server.
impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|known| known.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.memory.book().servers.get(&self.server)?.group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        if self.keeps() {
            self.with(|known| known.tls12 = Some(session));
        }
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.memory.book().servers.get(&self.server)?.tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.with(|known| known.tls12 = None);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if self.keeps() {
            self.memory.book().keep(&self.server, ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.memory.book().take(&self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(memory: &Arc<Memory>, n: usize) -> Arc<Tickets> {
        let name = ServerName::try_from(format!("mx{n}.example")).unwrap();
        Tickets::new(Arc::clone(memory), Server { name, address: IpAddr::from([192, 0, 2, 1]) })
    }

    #[test]
    fn where_there_are_many_each_server_keeps_few() {
        assert_eq!([0, MANY_TICKETS - 1].map(most), [MAX_TICKETS; 2]);
        assert_eq!(most(MANY_TICKETS), FEW_TICKETS);
    }

    #[test]
    fn the_server_least_lately_used_makes_room() {
        let memory = Arc::new(Memory::default());
        let name = || ServerName::try_from("any.example").unwrap();
        for n in 0..MAX_SERVERS {
            tickets(&memory, n).set_kx_hint(name(), NamedGroup::X25519);
        }
        tickets(&memory, 0).set_kx_hint(name(), NamedGroup::secp256r1);
        tickets(&memory, MAX_SERVERS).set_kx_hint(name(), NamedGroup::X25519);
        assert_eq!(memory.book().servers.len(), MAX_SERVERS);
        assert_eq!(tickets(&memory, 0).kx_hint(&name()), Some(NamedGroup::secp256r1));
        assert_eq!(tickets(&memory, 1).kx_hint(&name()), None, "the oldest");
    }
}
