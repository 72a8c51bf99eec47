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
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use warren_launcher_api::CellId;

use crate::pace::Pace;

use super::{
    Notes, Upstream,
    answer::{Asked, Found, Question, Transport, answer, bounded, read},
    memory::{Link, Memory},
};

/// Questions by UDP that one cell may have open; further ones are dropped, and asked again by their asker.
pub const MAX_QUESTIONS: usize = 64;
/// Datagrams of one cell that are read in a second: a hundred messages' lookups. More are lost in its socket, and asked again.
const DATAGRAMS_PER_SECOND: u32 = 500;
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
/// Pause after a socket error that may come again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// What all doors share.
pub struct Shared {
    pub(super) upstream: ArcSwap<Upstream>,
    pub(super) notes: Notes,
    questions: Semaphore,
}

impl Shared {
    /// Doors that ask `upstream` and tell `notes`.
    #[must_use]
    pub fn new(upstream: Upstream, notes: Notes) -> Self {
        Self { upstream: ArcSwap::from_pointee(upstream), notes, questions: Semaphore::new(MAX_QUESTIONS_OF_ALL) }
    }
}

/// Serves the door of `cell` until dropped. Owns both sockets: once this future is gone, they are closed.
pub async fn serve(cell: CellId, udp: UdpSocket, tcp: TcpListener, shared: Arc<Shared>) {
    let asker = Arc::new(Asker { cell, memory: Mutex::default(), shared });
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
    loop {
        tokio::select! {
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = tcp.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let asker = Arc::clone(asker);
                    open.spawn(async move {
                        // However it ends, it concerns only its client.
                        let _ = converse(stream, &asker).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(cell = %asker.cell, %error, "cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
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
    shared: Arc<Shared>,
}

impl Asker {
    async fn respond(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match read(bytes, transport) {
            Asked::Lookup(question) => question,
            Asked::Answer(answer) => return Some(answer),
            Asked::Nothing => return None,
        };
        let Ok(_place) = self.shared.questions.try_acquire() else { return Some(answer(&question, &Found::Failed)) };
        let upstream = self.shared.upstream.load_full();
        let kind = question.query.query_type;
        let found = match upstream.find(&question.query.name, kind).await {
            Found::Records(records) => Found::Records(bounded(records, kind)),
            nothing => nothing,
        };
        let links = self.remember(&question, &found);
        self.shared.notes.send(self.cell, links).await;
        Some(answer(&question, &found))
    }

    fn remember(&self, question: &Question, found: &Found) -> Vec<Link> {
        let name = plain(&question.query.name);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        match (question.query.query_type, found) {
            (RecordType::MX, Found::Records(records)) => {
                let hosts: Vec<String> = records.iter().filter_map(exchanger).collect();
                // "MX 0 ." says that there is no mail (RFC 7505): not even an implicit MX.
                if hosts.is_empty() { Vec::new() } else { memory.exchangers(&name, &hosts, Instant::now()) }
            }
            (RecordType::MX, Found::NoData(_)) => memory.exchangers(&name, &[], Instant::now()),
            (RecordType::A | RecordType::AAAA, Found::Records(records)) => {
                let addresses: Vec<_> = records.iter().filter_map(address).collect();
                memory.addresses(&name, &addresses, Instant::now())
            }
            _ => Vec::new(),
        }
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
