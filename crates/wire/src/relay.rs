//! Drives a [`Mediator`] over connections.
//!
//! ```text
//!   client ◀──▶ relay ◀──▶ server        bytes, when the mediator wants them
//!                │  └────▶ Upstream       dials, handshakes, and hears every event
//!                └───────▶ Mediator       decides
//! ```
//!
//! A session that waits holds no buffer: bytes are read into one that its thread shares, inside the call that reads them. Writing comes
//! before reading, so what waits to be written is bounded by what one read can make of it.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::Sleep;
use warren_smtp::Reply;
use warren_smtp::mediator::{Action, Ending, Host, Kept, MAX_HELD, MAX_READ, Mediator, Outgoing};

pub use crate::stream::Connection;

/// How long last words may take to be written, and the last in the clear.
const FAREWELL: Duration = Duration::from_secs(10);
/// The same, while a client waits for another server.
const BRIEF_FAREWELL: Duration = Duration::from_millis(500);
/// How long, and how many bytes, a client may go on sending after its last reply before the connection is reset under it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_READ]);
}

/// The server's side of a client that comes over a `C`: how to get there. It also hears what happens, and decides what the mediator cannot know.
pub trait Upstream<C: Connection>: Host + Send {
    /// A connection to the server.
    type Stream: Connection;

    /// Connects, within its own deadline. The reply of a failure is for the client.
    fn dial(&mut self) -> impl Future<Output = Result<Self::Stream, Reply>> + Send;

    /// The connection of a session before, to be used in place of a new one; asked before each dial. Only the session's first may be one.
    fn take_over(&mut self) -> Option<(Self::Stream, Kept)> {
        None
    }

    /// The session is over, and its connection whole: it may be kept for the next, or gets a [`farewell`].
    fn put_by(&mut self, stream: Self::Stream, kept: Kept) {
        drop((stream, kept));
    }

    /// Does a TLS handshake, within its own deadline: the secured connection, and whether the server's certificate is trusted. `None` if it failed.
    fn secure(&mut self, stream: Self::Stream) -> impl Future<Output = Option<(Self::Stream, bool)>> + Send {
        drop(stream);
        async { None }
    }

    /// Does a TLS handshake with the client, which has its 220, within its own deadline. `None` if it failed, and from whoever never offers TLS.
    fn secure_client(&mut self, client: C) -> impl Future<Output = Option<C>> + Send {
        drop(client);
        async { None }
    }
}

/// Runs a session to its end. `drain` resolves when the program is going down: the session then ends behind its open transaction. It is `Unpin` so that its
/// place is the caller's.
pub fn relay<'a, C, U, D>(
    mediator: &'a mut Mediator,
    client: C,
    upstream: &'a mut U,
    mut drain: D,
) -> impl Future<Output = ()> + Send + use<'a, C, U, D>
where
    C: Connection,
    U: Upstream<C>,
    D: Future<Output = ()> + Send + Unpin,
{
    // Made here: an argument of a future keeps its place there, whatever becomes of it.
    let mut relay = Relay {
        mediator,
        client: Side::open(client),
        server: Side::none(),
        aside: None,
        upstream,
        alarm: Alarm::default(),
        drained: false,
        leaving: None,
    };
    async move {
        loop {
            match relay.mediator.next_action() {
                Some(Action::Dial) if relay.took_over() => {}
                // Boxed, like all that is over soon: it would make room for itself in a session that goes on for hours.
                Some(Action::Dial) => Box::pin(relay.dial()).await,
                Some(Action::Handshake) => Box::pin(relay.handshake()).await,
                Some(Action::DropServer) => relay.server = Side::none(),
                Some(Action::SetAside) => {
                    relay.aside = Some(Box::new(std::mem::replace(&mut relay.server, Side::none())))
                }
                Some(Action::TakeBack) => relay.server = relay.aside.take().map_or_else(Side::none, |side| *side),
                Some(Action::LeaveAside { quit }) => Box::pin(relay.leave_aside(quit)).await,
                Some(Action::CloseServer) => relay.close_server(),
                Some(Action::KeepServer) => relay.keep_server(),
                Some(Action::SecureClient) => Box::pin(relay.secure_client()).await,
                Some(Action::CloseClient) => break,
                None => poll_fn(|cx| relay.step(cx, Pin::new(&mut drain))).await,
            }
        }
        Box::pin(relay.part()).await;
    }
}

/// Last words. Closing says the rest, unless TLS has a farewell of its own.
async fn part<S: Connection>(mut stream: S, last: &[u8]) -> io::Result<()> {
    stream.write_all(last).await?;
    stream.flush().await?;
    if stream.closing_is_enough() { Ok(()) } else { stream.shutdown().await }
}

/// Leaves a server that was kept and is wanted no more.
pub async fn farewell<S: Connection>(server: S) {
    // One that takes no farewell gets none.
    let _ = tokio::time::timeout(FAREWELL, part(server, b"QUIT\r\n")).await;
}

/// Last words, and some patience with whoever has not said QUIT: closing while bytes are unread would reset the connection and could take the reply
/// with it.
async fn part_from_client<S: Connection>(mut client: S, last: &[u8], patient: bool) {
    let said = async {
        // One segment fewer. It is shut down first, for closing with something unread would take them back.
        let sent = client.send_with_the_end(last);
        client.write_all(&last[sent..]).await?;
        client.flush().await?;
        client.shutdown().await
    };
    if !matches!(tokio::time::timeout(FAREWELL, said).await, Ok(Ok(()))) || !patient {
        return;
    }
    let listen = async {
        let mut left = LINGER_BYTES;
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = client.read(&mut buffer).await {
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, listen).await;
}

/// One connection, as far as it is still of use.
struct Side<S> {
    stream: Option<S>,
    /// Written, but perhaps not yet under way (TLS).
    unflushed: bool,
    /// Writing failed; there may still be something to read.
    deaf: bool,
}

impl<S: Connection> Side<S> {
    fn open(stream: S) -> Self {
        Self { stream: Some(stream), unflushed: false, deaf: false }
    }

    fn none() -> Self {
        Self { stream: None, unflushed: false, deaf: false }
    }

    /// Writes what it can, and says how much that is. What nobody will ever take counts as written.
    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            let Some(stream) = self.stream.as_mut().filter(|_| !self.deaf) else { return bytes.len() };
            match Pin::new(stream).poll_write(cx, &bytes[sent..]) {
                Poll::Ready(Ok(count @ 1..)) => {
                    sent += count;
                    self.unflushed = true;
                }
                Poll::Ready(_) => self.deaf = true,
                Poll::Pending => break,
            }
        }
        sent
    }

    /// Writes what waits, as far as it goes; true if something went.
    fn write(&mut self, cx: &mut Context<'_>, out: &mut Outgoing) -> bool {
        let sent = self.send(cx, out.bytes());
        out.wrote(sent);
        let wrote = sent > 0;
        if let Some(stream) = self.stream.as_mut().filter(|_| self.unflushed && !self.deaf) {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => self.deaf = true,
                Poll::Pending => {}
            }
        }
        wrote
    }

    /// Reads into `buffer`: how many bytes, none at the end or after an error.
    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let mut buffer = ReadBuf::new(buffer);
        let result = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
        Poll::Ready(if result.is_ok() { buffer.filled().len() } else { 0 })
    }
}

/// Rings at the deadline. What is said moves the deadline away, mostly: the timer stays where it is then, and is set anew when it fires.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn wait(&mut self, cx: &mut Context<'_>, deadline: tokio::time::Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                // Whoever asks again asks for another deadline, or for this one at once.
                self.0 = None;
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

struct Relay<'a, C: Connection, U: Upstream<C>> {
    mediator: &'a mut Mediator,
    client: Side<C>,
    server: Side<U::Stream>,
    /// A server that may be gone back to: not read, not written.
    aside: Option<Box<Side<U::Stream>>>,
    upstream: &'a mut U,
    alarm: Alarm,
    drained: bool,
    /// A server that gets last words, and those.
    leaving: Option<Box<(U::Stream, Vec<u8>)>>,
}

impl<C, U> Relay<'_, C, U>
where
    C: Connection,
    U: Upstream<C>,
{
    async fn dial(&mut self) {
        match self.upstream.dial().await {
            Ok(stream) => {
                self.server = Side::open(stream);
                self.mediator.connected(Instant::now(), self.upstream);
            }
            Err(reply) => self.mediator.not_connected(Instant::now(), reply, self.upstream),
        }
    }

    /// The connection of a session before, where there is one.
    fn took_over(&mut self) -> bool {
        let Some((stream, kept)) = self.upstream.take_over() else { return false };
        self.server = Side::open(stream);
        self.mediator.taken_over(Instant::now(), kept, self.upstream);
        true
    }

    fn keep_server(&mut self) {
        let Side { stream: Some(stream), unflushed: false, deaf: false } =
            std::mem::replace(&mut self.server, Side::none())
        else {
            return;
        };
        if let Some(kept) = self.mediator.kept() {
            self.upstream.put_by(stream, kept);
        }
    }

    async fn handshake(&mut self) {
        let secured = match self.server.stream.take() {
            Some(stream) => self.upstream.secure(stream).await,
            None => None,
        };
        let now = Instant::now();
        match secured {
            Some((stream, trusted)) => {
                self.server = Side::open(stream);
                self.mediator.handshake_done(now, trusted, self.upstream);
            }
            None => self.mediator.handshake_failed(now, self.upstream),
        }
    }

    async fn secure_client(&mut self) {
        let secured = match self.client.stream.take() {
            Some(mut stream) => {
                let last = self.mediator.to_client().take();
                let said = async {
                    stream.write_all(&last).await?;
                    stream.flush().await
                };
                match tokio::time::timeout(FAREWELL, said).await {
                    Ok(Ok(())) => self.upstream.secure_client(stream).await,
                    _ => None,
                }
            }
            None => None,
        };
        let now = Instant::now();
        match secured {
            Some(stream) => {
                self.client = Side::open(stream);
                self.mediator.client_secured(now, self.upstream);
            }
            None => self.mediator.client_not_secured(now, self.upstream),
        }
    }

    fn close_server(&mut self) {
        let last = self.mediator.to_server().take();
        self.leaving = self.server.stream.take().map(|stream| Box::new((stream, last)));
    }

    /// Last words to both. The client first, which waits; the server need not stay for a client that is listened to a little longer.
    fn part(self) -> impl Future<Output = ()> + Send + use<C, U> {
        let last = self.mediator.to_client().take();
        let patient = self.mediator.ending() != Some(Ending::Quit);
        let (client, leaving) = (self.client.stream, self.leaving);
        async move {
            let to_client = async {
                if let Some(client) = client {
                    part_from_client(client, &last, patient).await;
                }
            };
            let to_server = async {
                if let Some(leaving) = leaving {
                    let (server, last) = *leaving;
                    // A server that takes no farewell gets none.
                    let _ = tokio::time::timeout(FAREWELL, part(server, &last)).await;
                }
            };
            tokio::join!(to_client, to_server);
        }
    }

    async fn leave_aside(&mut self, quit: bool) {
        let Some(stream) = self.aside.take().and_then(|side| side.stream) else { return };
        let farewell: &[u8] = if quit { b"QUIT\r\n" } else { b"" };
        // A session goes on meanwhile; a server that takes no farewell at once gets none.
        let _ = tokio::time::timeout(BRIEF_FAREWELL, part(stream, farewell)).await;
    }

    /// Moves what can be moved. Ready when the mediator may have something to do.
    fn step(&mut self, cx: &mut Context<'_>, drain: Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
        let mut moved = false;
        if self.client.write(cx, self.mediator.to_client()) {
            moved = true;
        }
        if self.server.write(cx, self.mediator.to_server()) {
            moved = true;
        }
        if moved {
            self.mediator.wrote(Instant::now(), self.upstream);
        }
        if self.client.deaf && self.client.stream.take().is_some() {
            self.mediator.client_closed(Instant::now(), self.upstream);
            moved = true;
        }
        moved |= BUFFER.with_borrow_mut(|buffer| self.read(cx, buffer));
        if !self.drained && drain.poll(cx).is_ready() {
            self.drained = true;
            self.mediator.drain(Instant::now(), self.upstream);
            moved = true;
        }
        if moved {
            return Poll::Ready(());
        }
        let Some(deadline) = self.mediator.deadline() else { return Poll::Pending };
        self.alarm.wait(cx, deadline.into()).map(|()| self.mediator.tick(Instant::now(), self.upstream))
    }

    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> bool {
        let mut moved = false;
        if self.mediator.wants_server()
            && let Poll::Ready(count) = self.server.read(cx, &mut buffer[..MAX_HELD])
        {
            let now = Instant::now();
            match count {
                0 => {
                    self.server = Side::none();
                    self.mediator.server_closed(now, self.upstream);
                }
                _ => self.mediator.server_bytes(now, &buffer[..count], self.upstream),
            }
            // What the server said may be a reason to do something else than to read on.
            return true;
        }
        let streams = self.mediator.streams();
        if self.mediator.wants_client()
            && let Poll::Ready(count) = self.client.read(cx, if streams { buffer } else { &mut buffer[..MAX_HELD] })
        {
            let now = Instant::now();
            match count {
                0 => self.mediator.client_closed(now, self.upstream),
                _ => {
                    let (content, rest) = self.mediator.client_content(now, &buffer[..count], self.upstream);
                    let sent = self.server.send(cx, content);
                    self.mediator.to_server().push(&content[sent..]);
                    self.mediator.client_bytes(now, rest, self.upstream);
                }
            }
            moved = true;
        }
        moved
    }
}

#[cfg(test)]
mod tests;
