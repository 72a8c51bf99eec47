//! Getting a policy from its host (RFC 8461 §3.3): one request, no redirects, everything bounded. The host is whoever the recipient's domain says, so its
//! addresses are judged as those of MXs are, and the one that was judged is the one that is dialled.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Body, Bytes},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use warren_config::Network;
use warren_wire::client::{RootsError, system_roots};

use crate::{
    own::OwnAddresses,
    reach::Reach,
    resolver::{Upstream, answer::Found},
    tls::sts::StsFailure,
};
use hickory_proto::rr::{Name, RecordType};

/// Where policies are (RFC 8461 §3.3).
const PATH: &str = "/.well-known/mta-sts.txt";
/// Longest policy taken, as the RFC suggests.
pub const MAX_POLICY: usize = 64 * 1024;
/// Most bytes of a response's head.
const MAX_HEAD: usize = 16 * 1024;
/// Most header fields of a response.
const MAX_FIELDS: usize = 64;
/// How long a fetch may take in all (the RFC suggests a minute): a host that drips holds a place for so long.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long one address has for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Most addresses tried.
const MAX_ADDRESSES: usize = 4;

/// Fetches policies.
#[derive(Debug)]
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    reach: Reach,
    own: OwnAddresses,
    port: u16,
    patience: Duration,
}

/// Why a policy was not had. The words are for the log.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct NotHad {
    /// As reports count it.
    pub failure: StsFailure,
    why: String,
}

fn fetch(why: impl Into<String>) -> NotHad {
    NotHad { failure: StsFailure::Fetch, why: why.into() }
}

impl Fetcher {
    /// Trusts the system's roots and those in the file `more`; dials what is global, and the networks of `allow`.
    pub fn new(more: Option<&Path>, allow: Vec<Network>) -> Result<Self, RootsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites for both versions")
            .with_root_certificates(system_roots(more)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A ticket would tell policy hosts when this node was last there.
        config.resumption = rustls::client::Resumption::disabled();
        let reach = Reach { allow, ..Reach::default() };
        Ok(Self { tls: Arc::new(config), reach, own: OwnAddresses::default(), port: 443, patience: PATIENCE })
    }

    /// The same, of another port and patience.
    #[cfg(test)]
    pub(crate) fn with(self, port: u16, patience: Duration) -> Self {
        Self { port, patience, ..self }
    }

    /// The text of `domain`'s policy.
    pub async fn fetch(&self, upstream: &Upstream, domain: &str) -> Result<String, NotHad> {
        let host = format!("mta-sts.{domain}");
        let got = timeout(self.patience, async {
            let stream = self.connect(upstream, &host).await?;
            self.get(stream, &host).await
        });
        got.await.unwrap_or_else(|_| Err(fetch(format!("{host} took longer than {:?}", self.patience))))
    }

    async fn connect(&self, upstream: &Upstream, host: &str) -> Result<TlsStream<TcpStream>, NotHad> {
        let server = ServerName::try_from(host.to_owned()).map_err(|_| fetch(format!("{host} is no host name")))?;
        let name = Name::from_ascii(host).map_err(|_| fetch(format!("{host} is no host name")))?;
        let (v4, v6) = tokio::join!(upstream.find(&name, RecordType::A), upstream.find(&name, RecordType::AAAA));
        let addresses: Vec<IpAddr> = [v6.found, v4.found]
            .iter()
            .filter_map(|found| match found {
                Found::Records(records) => Some(records),
                _ => None,
            })
            .flat_map(|records| records.iter().filter_map(|record| record.data.ip_addr()).take(MAX_ADDRESSES / 2))
            .collect();
        let mut last = fetch(format!("{host} has no address"));
        for address in addresses {
            let to = match self.judge(address) {
                Ok(to) => to,
                Err(why) => {
                    last = fetch(format!("{address} of {host} is not dialled: {why}"));
                    continue;
                }
            };
            let stream = match timeout(CONNECT, TcpStream::connect(to)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = fetch(format!("{to} of {host}: {error}"));
                    continue;
                }
                Err(_) => {
                    last = fetch(format!("{to} of {host} does not answer"));
                    continue;
                }
            };
            return TlsConnector::from(Arc::clone(&self.tls)).connect(server, stream).await.map_err(|error| {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                let failure = match inner {
                    Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                        StsFailure::WebPki
                    }
                    _ => StsFailure::Fetch,
                };
                NotHad { failure, why: format!("TLS with {host}: {error}") }
            });
        }
        Err(last)
    }

    /// What is judged is what is dialled, port and all.
    fn judge(&self, address: IpAddr) -> Result<SocketAddr, crate::reach::Refused> {
        self.reach.judge_on(self.port, SocketAddr::new(address, self.port), &self.own.now())
    }

    async fn get(&self, stream: TlsStream<TcpStream>, host: &str) -> Result<String, NotHad> {
        let failed = |error: hyper::Error| fetch(format!("{host}: {error}"));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
        let (mut sender, connection) =
            builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(failed)?;
        let request = Request::get(PATH)
            .header(HOST, host)
            .header(USER_AGENT, concat!("Warren/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| fetch(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            // Not even a redirect within the host (RFC 8461 §3.3).
            if response.status() != StatusCode::OK {
                return Err(fetch(format!("{host} answers {}", response.status())));
            }
            let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim();
            if !kind.eq_ignore_ascii_case("text/plain") {
                return Err(fetch(format!("{host} answers with {kind:?}, not text/plain")));
            }
            if response.body().size_hint().lower() > MAX_POLICY as u64 {
                return Err(fetch(format!("{host} answers with more than {MAX_POLICY} bytes")));
            }
            let body = Limited::new(response.into_body(), MAX_POLICY).collect().await;
            let body = body.map_err(|error| fetch(format!("{host}: {error}")))?.to_bytes();
            let invalid = |_| NotHad { failure: StsFailure::Invalid, why: format!("{host}: not UTF-8") };
            String::from_utf8(body.into()).map_err(invalid)
        };
        // The connection is driven by this task, so that nothing of it outlives the deadline.
        tokio::pin!(connection, exchange);
        tokio::select! {
            biased;
            got = &mut exchange => got,
            ended = &mut connection => match ended {
                // What was read before it ended may be the answer.
                Ok(()) => exchange.await,
                Err(error) => Err(failed(error)),
            }
        }
    }
}
