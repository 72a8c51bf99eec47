//! One cell's door: a UDP socket and a TCP listener in the cell, served outside. All that a tenant can take is bounded: questions at a
//! time, connections, time.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustix::net::sockopt::socket_cookie;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use warren_daemon::{Accepting, Pace};
use warren_launcher_api::CellId;

use crate::next::Taker;
use crate::places::Room;

use super::{
    Notes, Upstream,
    answer::Transport,
    asker::Asker,
    counts::{Counts, Outcome},
    shares::Questions,
    sts::Policies,
};

/// Questions by UDP that one cell may have open; further ones are dropped, and asked again by their asker.
pub const MAX_QUESTIONS: usize = 64;
/// Datagrams of one cell that are read in a second: a hundred messages' lookups. More are lost in its socket, and asked again.
const DATAGRAMS_PER_SECOND: u32 = 500;
/// Connections of one cell.
pub const MAX_CONNECTIONS: usize = 8;
/// Questions of all cells, who share them fairly. Each takes some kilobytes and perhaps a socket towards a nameserver.
const MAX_QUESTIONS_OF_ALL: usize = 4096;
/// Questions on one connection.
const MAX_PER_CONNECTION: usize = 100;
/// How long a connection may be silent, or leave an answer unread (RFC 7766 asks for a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// A question takes 512 bytes at most, EDNS options aside.
const LONGEST_QUESTION: usize = 4096;
/// What all cells may have being looked up in advance.
const MAX_PREFETCHES: usize = 256;
/// A cell's two sockets.
const DESCRIPTORS_OF_A_DOOR: usize = 2;
/// What the process has open besides: the cache of policies, log, polls, connections to the launcher and the proxy, policies being fetched.
const OWN_DESCRIPTORS: usize = 512;
/// Datagrams that are read from a socket when it is replaced: more than wait in one.
const MAX_LEFT: usize = 256;
/// Pause after a socket error that may come again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// What all doors share.
pub struct Shared {
    pub(super) upstream: ArcSwap<Upstream>,
    pub(super) notes: Notes,
    pub(super) policies: Arc<Policies>,
    pub(super) counts: Arc<Counts>,
    /// Whether what a cell says by asking is bounded.
    pub(super) thrifty: bool,
    pub(super) questions: Questions,
    pub(super) prefetches: Arc<Semaphore>,
    /// Descriptors for doors and connections.
    pub(super) room: Arc<Room>,
    accepting: Accepting,
}

impl Shared {
    /// Doors that ask `upstream` and `policies`, and tell `notes`.
    #[must_use]
    pub fn new(upstream: Upstream, policies: Arc<Policies>, notes: Notes) -> Self {
        Self {
            counts: Arc::clone(upstream.counts()),
            upstream: ArcSwap::from_pointee(upstream),
            notes,
            policies,
            thrifty: true,
            questions: Questions::new(MAX_QUESTIONS_OF_ALL),
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

/// Serves the door of `cell` until dropped, from the next sockets on whenever there are any. Owns those that it has: once this future is gone, they are closed.
pub(crate) async fn serve(
    cell: CellId,
    udp: (UdpSocket, Taker<UdpSocket>),
    tcp: (TcpListener, Taker<TcpListener>),
    shared: Arc<Shared>,
) {
    let _open = shared.counts.door();
    let asker = Arc::new(Asker::new(cell, shared, Instant::now()));
    tokio::join!(datagrams(udp, &asker), streams(tcp, &asker));
}

async fn datagrams((mut udp, mut next): (UdpSocket, Taker<UdpSocket>), asker: &Arc<Asker>) {
    let mut buffer = vec![0; LONGEST_QUESTION];
    let mut open: JoinSet<Option<(Vec<u8>, SocketAddr)>> = JoinSet::new();
    let ask = |open: &mut JoinSet<_>, bytes: &[u8], from: SocketAddr| {
        if open.len() >= MAX_QUESTIONS {
            return asker.shared.counts.question(None, Outcome::Dropped);
        }
        let (bytes, asker) = (bytes.to_vec(), Arc::clone(asker));
        open.spawn(async move { Some((asker.respond(&bytes, Transport::Udp).await?, from)) });
    };
    let mut pace = Pace::new(DATAGRAMS_PER_SECOND, Instant::now());
    let mut pause: Option<Instant> = None;
    loop {
        let over = async { tokio::time::sleep_until(pause.unwrap_or_else(Instant::now).into()).await };
        tokio::select! {
            given = next.take() => {
                // Answers are given only to a socket that the runtime knows to take them.
                let _ = given.writable().await;
                let before = std::mem::replace(&mut udp, given);
                left_in(before, &udp, &mut buffer, |bytes, from| ask(&mut open, bytes, from));
            }
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
                    ask(&mut open, &buffer[..length], from);
                }
                Err(error) => {
                    tracing::debug!(cell = %asker.cell, %error, "cannot receive");
                    pause = Some(Instant::now() + PAUSE);
                }
            }
        }
    }
}

/// Reads what waits in a socket that the `next` one replaces, and closes it.
fn left_in(before: UdpSocket, next: &UdpSocket, buffer: &mut [u8], mut ask: impl FnMut(&[u8], SocketAddr)) {
    if matches!((socket_cookie(&before), socket_cookie(next)), (Ok(before), Ok(next)) if before == next) {
        return; // The same one, by another descriptor: the launcher was away for a moment and has it still.
    }
    let Ok(before) = before.into_std() else { return };
    // Connected, with itself, it gets no more: what comes goes to the next one.
    let _ = before.local_addr().and_then(|own| before.connect(own));
    for _ in 0..MAX_LEFT {
        let Ok((length, from)) = before.recv_from(buffer) else { return };
        ask(&buffer[..length], from);
    }
}

async fn streams((mut tcp, mut next): (TcpListener, Taker<TcpListener>), asker: &Arc<Asker>) {
    let mut open = JoinSet::new();
    let share = asker.shared.room.share(DESCRIPTORS_OF_A_DOOR);
    loop {
        tokio::select! {
            // Who waits in the one before waits in this one when that is closed.
            given = next.take() => tcp = given,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            stream = accept(&tcp, asker), if open.len() < MAX_CONNECTIONS => {
                // Closed: its asker tries again.
                let Some(seat) = share.seat(open.len()) else { continue };
                let asker = Arc::clone(asker);
                open.spawn(async move {
                    // However it ends, it concerns only its client.
                    let _ = converse(stream, &asker).await;
                    drop(seat);
                });
            }
        }
    }
}

/// Dropped early, nobody was taken in.
async fn accept(tcp: &TcpListener, asker: &Asker) -> TcpStream {
    loop {
        match tcp.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => asker.shared.accepting.failed(&error, "resolver").await,
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
