#![allow(dead_code, unused_imports, reason = "each test program uses a part")]
//! A proxy, an MX that says what it is told to, and an MSA: all on loopback, over real sockets and real TLS.

mod ends;
mod manners;
mod mx;
mod node;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use warren_wire::MaybeTls;

pub use mx::{Mx, Shows};
pub use node::{CELL, Node, Plan, address, rules};

/// Nothing here takes this long unless it hangs.
const SOON: Duration = Duration::from_secs(10);

/// An SMTP peer by lines, failing loudly.
pub struct Peer<S> {
    stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends lines, each with CRLF.
    pub async fn say(&mut self, lines: &str) {
        let wire: String = lines.lines().map(|line| format!("{}\r\n", line.trim())).collect();
        self.send(wire.as_bytes()).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        timeout(SOON, async {
            self.stream.write_all(bytes).await.unwrap();
            self.stream.flush().await.unwrap();
        })
        .await
        .expect("the other side reads");
    }

    /// The next lines are these.
    pub async fn hears(&mut self, lines: &str) {
        for line in lines.lines() {
            assert_eq!(self.line().await.as_deref(), Some(line.trim()));
        }
    }

    /// The next line; none at the end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.more().await == 0 {
                assert_eq!(String::from_utf8_lossy(&self.read), "", "half a line before the end");
                return None;
            }
        }
    }

    /// Everything up to the end of the connection, however it ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.read)
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.more().await > 0, "the connection ended after {} bytes", self.read.len());
        }
        self.read.drain(..count).collect()
    }

    async fn more(&mut self) -> usize {
        let read = timeout(SOON, self.stream.read_buf(&mut self.read)).await.expect("the other side speaks");
        read.unwrap_or(0)
    }
}

impl Peer<MaybeTls<TcpStream>> {
    /// Becomes the server of a TLS handshake.
    pub async fn accept_tls(self, config: &Arc<rustls::ServerConfig>) -> Self {
        assert!(self.read.is_empty(), "the client talked before TLS");
        Self::new(self.stream.accept_tls(config, SOON).await.unwrap())
    }
}
