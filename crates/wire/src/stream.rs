//! A connection that may change to TLS on the way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::SendFlags;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, client, server};

use crate::deadline::Expired;

/// A stream in the clear, or under TLS with us as server or as client.
#[derive(Debug)]
pub enum MaybeTls<S = TcpStream> {
    /// In the clear.
    Plain(S),
    /// Under TLS; the peer began it.
    Server(Box<server::TlsStream<S>>),
    /// Under TLS; we began it.
    Client(Box<client::TlsStream<S>>),
}

/// A stream that a session is relayed over.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {
    /// Whether closing says all that shutting down first would say: not where TLS has a farewell of its own.
    fn closing_is_enough(&self) -> bool {
        false
    }

    /// Writes what can be written at once, kept back to travel with the end of the stream, which has to follow immediately: how much that was.
    fn send_with_the_end(&mut self, last: &[u8]) -> usize {
        let _ = last;
        0
    }
}

impl Connection for TcpStream {
    fn closing_is_enough(&self) -> bool {
        true
    }

    fn send_with_the_end(&mut self, last: &[u8]) -> usize {
        // Not by the runtime, which knows no flags. What fails here fails again in what follows.
        rustix::net::send(self, last, SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0)
    }
}

/// A pipe in memory, as tests have it.
impl Connection for DuplexStream {}

impl<S: Connection> Connection for MaybeTls<S> {
    fn closing_is_enough(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.closing_is_enough(),
            Self::Server(_) | Self::Client(_) => false,
        }
    }

    fn send_with_the_end(&mut self, last: &[u8]) -> usize {
        match self {
            Self::Plain(stream) => stream.send_with_the_end(last),
            Self::Server(_) | Self::Client(_) => 0,
        }
    }
}

/// Why a handshake did not come about. The connection is lost: its state is unknown.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// STARTTLS inside TLS.
    #[error("the connection is under TLS already")]
    Already,
    /// The peer took too long.
    #[error(transparent)]
    Expired(#[from] Expired),
    /// The handshake failed: alert, bad record, connection lost.
    #[error("TLS handshake: {0}")]
    Failed(#[source] io::Error),
}

impl<S> MaybeTls<S> {
    /// Whether what is sent is encrypted.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The transport below.
    pub fn transport(&self) -> &S {
        match self {
            Self::Plain(stream) => stream,
            Self::Server(stream) => stream.get_ref().0,
            Self::Client(stream) => stream.get_ref().0,
        }
    }

    /// The TLS state, if there is one: version, cipher suite, certificates.
    pub fn tls(&self) -> Option<&rustls::CommonState> {
        match self {
            Self::Plain(_) => None,
            Self::Server(stream) => Some(stream.get_ref().1),
            Self::Client(stream) => Some(stream.get_ref().1),
        }
    }

    /// The words for a Received field's comment and logs: `TLSv1.3 with TLS13_AES_256_GCM_SHA384`.
    pub fn tls_words(&self) -> Option<String> {
        let state = self.tls()?;
        let version = match state.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            other => other.as_str()?,
        };
        Some(format!("{version} with {}", state.negotiated_cipher_suite()?.suite().as_str()?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> MaybeTls<S> {
    /// Does the server's side of a TLS handshake, at most for `limit`. Bytes that the caller read before and did not
    /// consume must have been refused or dropped by now; the reply to STARTTLS must have been flushed.
    pub async fn accept_tls(self, config: &Arc<ServerConfig>, limit: Duration) -> Result<Self, HandshakeError> {
        let Self::Plain(stream) = self else { return Err(HandshakeError::Already) };
        let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
        match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(stream)) => Ok(Self::Server(Box::new(stream))),
            Ok(Err(error)) => Err(HandshakeError::Failed(error)),
            Err(_) => Err(Expired { what: "TLS handshake", limit }.into()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Server(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Client(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Server(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Client(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Server(stream) => Pin::new(stream).poll_flush(cx),
            Self::Client(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Server(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Client(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Server(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Client(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Server(stream) => stream.is_write_vectored(),
            Self::Client(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn changes_to_tls_on_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let config = crate::server::self_signed(directory.path(), "mail.example.net", None).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(directory.path().join("certificate.pem")).unwrap();
        roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();

        let (ours, theirs) = tokio::io::duplex(4096);
        let peer = tokio::spawn(async move {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
            let mut tls = connector.connect("mail.example.net".try_into().unwrap(), theirs).await.unwrap();
            tls.write_all(b"EHLO x\r\n").await.unwrap();
            tls.flush().await.unwrap();
            tls
        });
        let mut stream = MaybeTls::Plain(ours).accept_tls(&config, Duration::from_secs(10)).await.unwrap();
        let mut line = [0; 8];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"EHLO x\r\n");
        assert!(stream.tls_words().unwrap().starts_with("TLSv1.3 with TLS13_"));
        assert!(matches!(stream.accept_tls(&config, Duration::ZERO).await, Err(HandshakeError::Already)));
        drop(peer.await.unwrap());
    }

    #[test]
    fn a_stream_in_the_clear_costs_no_more_than_its_socket() {
        assert_eq!(size_of::<MaybeTls>(), size_of::<TcpStream>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let config = crate::server::self_signed(directory.path(), "mail.example.net", None).unwrap();
        let (ours, _silent) = tokio::io::duplex(64);
        let error = MaybeTls::Plain(ours).accept_tls(&config, Duration::from_secs(30)).await.unwrap_err();
        assert_eq!(error.to_string(), "no TLS handshake within 30 s");
    }
}
