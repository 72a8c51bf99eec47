//! How a peer is heard byte for byte, and how it leaves.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use warren_wire::MaybeTls;

use super::{Peer, SOON};

/// Who takes nothing for so long is full.
const FULL: Duration = Duration::from_secs(1);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// The next bytes are these.
    pub async fn gets(&mut self, expected: &[u8], at: &str) {
        while self.read.len() < expected.len() {
            let read = timeout(SOON, self.stream.read_buf(&mut self.read)).await;
            if !matches!(read, Ok(Ok(1..))) {
                break;
            }
        }
        let there = self.read.len().min(expected.len());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&self.read[..there]), text(expected), "{at}");
        self.read.drain(..there);
    }

    /// Sends so many bytes at a time, each piece a segment. The other side may have left: what it said then tells.
    pub async fn send_in_pieces(&mut self, bytes: &[u8], size: usize) {
        for piece in bytes.chunks(size) {
            let _ = timeout(SOON, self.stream.write_all(piece)).await.expect("the other side reads");
            let _ = timeout(SOON, self.stream.flush()).await.expect("the other side reads");
            if size < bytes.len() {
                // Lets the other side read this one before the next is there.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Sends the same again and again, up to so many bytes: how many were taken until the other side closed, or took no more for a second.
    pub async fn pour(&mut self, again: &[u8], limit: usize) -> usize {
        let mut sent = 0;
        while sent < limit {
            match timeout(FULL, self.stream.write(&again[sent % again.len()..])).await {
                Ok(Ok(count @ 1..)) => sent += count,
                _ => break,
            }
        }
        sent
    }

    /// Says no more, and goes on listening.
    pub async fn close_direction(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

impl Peer<TcpStream> {
    pub fn without_delay(self) -> Self {
        self.stream.set_nodelay(true).unwrap();
        self
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl Peer<MaybeTls<TcpStream>> {
    /// The first of a handshake is there, whole.
    pub async fn client_hello(&mut self) {
        let head = self.exactly(5).await;
        assert_eq!(head[..2], [0x16, 0x03], "a handshake record");
        self.exactly(usize::from(u16::from_be_bytes([head[3], head[4]]))).await;
    }

    /// [`forge`]s as a server.
    pub async fn forge(self, line: &str) {
        let MaybeTls::Server(stream) = self.stream else { panic!("there is no TLS to end") };
        let (stream, tls) = stream.into_inner();
        forge(stream, tls.into(), line).await;
    }

    /// Leaves with a reset, out of a connection in the clear.
    pub fn reset(self) {
        let MaybeTls::Plain(stream) = self.stream else { panic!("a reset under TLS was not asked for") };
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl Peer<TlsStream<TcpStream>> {
    /// [`forge`]s as a client.
    pub async fn forge(self, line: &str) {
        let (stream, tls) = self.stream.into_inner();
        forge(stream, tls.into(), line).await;
    }
}

/// Says that TLS ends here and, in the same segment, a line in the clear: what somebody in the middle can add. Then it is gone.
async fn forge(mut stream: TcpStream, mut tls: rustls::Connection, line: &str) {
    tls.send_close_notify();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes.extend(format!("{line}\r\n").bytes());
    stream.write_all(&bytes).await.unwrap();
}
