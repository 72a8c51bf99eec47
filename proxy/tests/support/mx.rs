//! An MX that waits to be dialled, and what it has to show.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::time::timeout;
use warren_wire::MaybeTls;

use super::{Peer, SOON};

/// What it shows in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// A certificate for [`NAME`].
    Trusted,
    /// The same, and speaks TLS 1.2 only.
    Tls12,
    /// A certificate that was good once.
    Expired,
    /// A certificate for somebody else.
    WrongName,
}

/// What it is called.
pub const NAME: &str = "mx.example";

/// An MX that waits to be dialled.
pub struct Mx {
    listener: TcpListener,
    pub address: SocketAddr,
    pub tls: Arc<rustls::ServerConfig>,
    /// Vouches for itself: whoever trusts it trusts nobody else.
    pub certificate: CertificateDer<'static>,
}

impl Mx {
    pub async fn new() -> Self {
        Self::showing(Shows::Trusted).await
    }

    pub async fn showing(shows: Shows) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = if shows == Shows::WrongName { "elsewhere.example" } else { NAME };
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if shows == Shows::Expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let versions: &[&SupportedProtocolVersion] = if shows == Shows::Tls12 { &[&TLS12] } else { &[&TLS13, &TLS12] };
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        Self { address: listener.local_addr().unwrap(), listener, tls: Arc::new(tls), certificate }
    }

    /// The next connection, with the address it came from.
    pub async fn dialled(&self) -> (Peer<MaybeTls<tokio::net::TcpStream>>, IpAddr) {
        let (stream, from) = timeout(SOON, self.listener.accept()).await.expect("somebody dials").unwrap();
        stream.set_nodelay(true).unwrap();
        (Peer::new(MaybeTls::Plain(stream)), from.ip())
    }
}
