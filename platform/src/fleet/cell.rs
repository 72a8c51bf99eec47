//! The platform's end of one cell's control channel.
//!
//! Everything an MSA says is tenant's word: it is read no faster than `MESSAGES_PER_SECOND`, its log lines are fewer still, and
//! nothing that it does can make the platform wait.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    time::Duration,
};

use rustix::{io::ioctl_fionbio, net::SocketAddrUnix};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use warren_control::{FromMsa, Level, LineReader, Outcome, Settings, ToMsa, send};
use warren_daemon::Pace;
use warren_launcher_api::{CellId, TenantName};

/// Messages that are read of one MSA in a second; the rest waits in its socket.
const MESSAGES_PER_SECOND: u32 = 100;
/// Log lines of one MSA that are written in a second; the rest is counted.
const LOG_LINES_PER_SECOND: u32 = 20;
/// The longest log text that is written.
const LOG_TEXT: usize = 1000;
/// How long an MSA may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a cell's task tells.
#[derive(Debug)]
pub enum CellEvent {
    /// The settings were handed over: clients may come.
    Ready(CellId),
    /// The MSA said something of interest.
    Said(CellId, FromMsa),
    /// The control channel ended.
    Lost(CellId),
    /// The container's first process ended.
    Ended(CellId),
}

/// A cell's descriptors and what its MSA must know.
#[derive(Debug)]
pub struct Control {
    /// Which cell.
    pub cell: CellId,
    /// Whose.
    pub tenant: TenantName,
    /// An unconnected unix stream socket made in the cell.
    pub socket: OwnedFd,
    /// Of the container's first process.
    pub pidfd: OwnedFd,
    /// The abstract name to connect to.
    pub name: String,
    /// What to say first.
    pub settings: Settings,
}

/// What is to be said to an MSA.
#[derive(Debug)]
pub enum CellOrder {
    /// This.
    Tell(ToMsa),
    /// To run a program, and who wants to know how it went.
    Exec(Vec<String>, oneshot::Sender<Outcome>),
}

/// Programs that an MSA may be running for operators at a time.
const PROGRAMS: usize = 8;

/// Speaks with the MSA until its process ends. `orders` are passed on to it.
pub async fn keep(control: Control, mut orders: mpsc::Receiver<CellOrder>, events: mpsc::Sender<CellEvent>) {
    let Control { cell, tenant, socket, pidfd, name, settings } = control;
    let Ok(ended) = watch(pidfd) else {
        let _ = events.send(CellEvent::Lost(cell)).await;
        return;
    };
    let speak = async {
        let spoken = speak(cell, &tenant, socket, &name, settings, &mut orders, &events).await;
        if let Err(error) = spoken {
            tracing::warn!(%tenant, %cell, %error, "the control channel broke");
        }
        if events.send(CellEvent::Lost(cell)).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = ended.readable() => drop(events.send(CellEvent::Ended(cell)).await),
        () = speak => {}
    }
}

async fn speak(
    cell: CellId,
    tenant: &TenantName,
    socket: OwnedFd,
    name: &str,
    settings: Settings,
    orders: &mut mpsc::Receiver<CellOrder>,
    events: &mpsc::Sender<CellEvent>,
) -> Result<(), warren_control::LineError> {
    let (reader, mut writer) = connect(socket, name)?.into_split();
    tell(&mut writer, &ToMsa::Settings(settings)).await?;
    if events.send(CellEvent::Ready(cell)).await.is_err() {
        return Ok(());
    }
    let mut reader = LineReader::new(reader);
    let mut reading = Reading::new();
    let (mut programs, mut next_program) = (HashMap::new(), 0);
    loop {
        tokio::select! {
            message = reader.recv::<FromMsa>() => match message? {
                None => return Ok(()),
                Some(message) => {
                    reading.turn().await;
                    match message {
                        FromMsa::Log { level, text } => reading.log(tenant, level, &text),
                        FromMsa::Executed { id, outcome } => {
                            // Who asked may have gone.
                            let asked: Option<oneshot::Sender<Outcome>> = programs.remove(&id);
                            drop(asked.map(|asked| asked.send(outcome.bounded())));
                        }
                        message => if events.send(CellEvent::Said(cell, message)).await.is_err() {
                            return Ok(());
                        },
                    }
                }
            },
            order = orders.recv() => match order {
                Some(CellOrder::Tell(order)) => tell(&mut writer, &order).await?,
                Some(CellOrder::Exec(args, reply)) => {
                    programs.retain(|_, reply: &mut oneshot::Sender<Outcome>| !reply.is_closed());
                    if programs.len() >= PROGRAMS {
                        let _ = reply.send(Outcome::failed("too many programs run in this container already"));
                        continue;
                    }
                    next_program += 1;
                    programs.insert(next_program, reply);
                    tell(&mut writer, &ToMsa::Exec { id: next_program, args }).await?;
                }
                None => return Ok(()),
            },
        }
    }
}

#[expect(deprecated, reason = "sound for a type that owns its descriptor; the replacement needs unsafe")]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

fn connect(socket: OwnedFd, name: &str) -> io::Result<UnixStream> {
    // The listener was there before the MSA, and its backlog is ours alone: there is nothing to wait for.
    ioctl_fionbio(&socket, true)?;
    rustix::net::connect(socket.as_fd(), &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    UnixStream::from_std(StdUnixStream::from(socket))
}

async fn tell(writer: &mut OwnedWriteHalf, message: &ToMsa) -> Result<(), warren_control::LineError> {
    timeout(PATIENCE, send(writer, message)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// How much is read of an MSA.
struct Reading {
    pace: Pace,
    pause: Option<Instant>,
    /// Since when `lines` are counted.
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl Reading {
    fn new() -> Reading {
        let since = Instant::now();
        let pace = Pace::new(MESSAGES_PER_SECOND, since.into_std());
        Reading { pace, pause: None, since, lines: 0, dropped: 0 }
    }

    /// Counts a message, when it may be heard.
    async fn turn(&mut self) {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep_until(pause).await;
        }
        let now = Instant::now();
        self.pause = self.pace.took(now.into_std()).map(Instant::from_std);
        if now - self.since >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
    }

    fn log(&mut self, tenant: &TenantName, level: Level, text: &str) {
        if self.lines >= LOG_LINES_PER_SECOND {
            self.dropped += 1;
            return;
        }
        self.lines += 1;
        let text: String = text.chars().take(LOG_TEXT).collect();
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            tracing::warn!(target: "msa", %tenant, dropped, "it logs too much");
        }
        match level {
            Level::Debug => tracing::debug!(target: "msa", %tenant, "{text}"),
            Level::Info => tracing::info!(target: "msa", %tenant, "{text}"),
            Level::Warn => tracing::warn!(target: "msa", %tenant, "{text}"),
            Level::Error => tracing::error!(target: "msa", %tenant, "{text}"),
        }
    }
}
