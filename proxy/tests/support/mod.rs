#![allow(dead_code, reason = "each test program uses a part")]
//! A proxy, an MX that says what it is told to, and an MSA: all on loopback, over real sockets and real TLS.

mod ends;
mod manners;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use warren_config::{TenantName, TlsPolicy, TlsRule};
use warren_proxy::egress::{Budget, EgressAddr, Limits, Moment, Policy, Rules, State};
use warren_proxy::proxy::{Parts, Proxy};
use warren_proxy::reach::Reach;
use warren_proxy::settings::Settings;
use warren_proxy::{door, names};
use warren_session::reader::Recorded;
use warren_session::{Filter, Reader, Recorder, RecorderSettings, RecorderThread};
use warren_wire::{ClientTls, MaybeTls};

/// Nothing here takes this long unless it hangs.
const SOON: Duration = Duration::from_secs(10);
/// How long sessions wait for their turn.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// An MX that waits to be dialled.
pub struct Mx {
    listener: TcpListener,
    pub address: SocketAddr,
    pub tls: Arc<rustls::ServerConfig>,
    pub certificate: CertificateDer<'static>,
}

impl Mx {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let made = rcgen::generate_simple_self_signed(["mx.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let certificate = made.cert.der().clone();
        Self { address: listener.local_addr().unwrap(), listener, tls: Arc::new(tls), certificate }
    }

    /// The next connection, with the address it came from.
    pub async fn dialled(&self) -> (Peer<MaybeTls<TcpStream>>, IpAddr) {
        let (stream, from) = timeout(SOON, self.listener.accept()).await.expect("somebody dials").unwrap();
        stream.set_nodelay(true).unwrap();
        (Peer::new(MaybeTls::Plain(stream)), from.ip())
    }
}

/// A proxy with one door.
pub struct Node {
    pub proxy: Arc<Proxy>,
    pub directory: tempfile::TempDir,
    recorder: Recorder,
    recording: RecorderThread,
    door: SocketAddr,
    serving: JoinHandle<()>,
}

impl Node {
    /// Whose door leads to `to`, leaving from 127.0.0.9 and 127.0.0.10 in turn.
    pub async fn towards(to: SocketAddr, tls: TlsPolicy) -> Self {
        Self::with(to, tls, &["127.0.0.0/8"]).await
    }

    pub async fn with(to: SocketAddr, tls: TlsPolicy, allow: &[&str]) -> Self {
        Self::start(to, tls, allow, rules(100), PATIENCE).await
    }

    /// With one place for a session, for which others wait so long.
    pub async fn of_one_session(to: SocketAddr, patience: Duration) -> Self {
        Self::start(to, TlsPolicy::Off, &["127.0.0.0/8"], rules(1), patience).await
    }

    /// That leaves by these rules, in the clear.
    pub async fn by(to: SocketAddr, rules: Rules) -> Self {
        Self::start(to, TlsPolicy::Off, &["127.0.0.0/8"], rules, PATIENCE).await
    }

    /// That asks for TLS by these rules, where it does not ask for what the default is.
    pub async fn with_tls_rules(to: SocketAddr, tls: TlsPolicy, tls_rules: Vec<TlsRule>) -> Self {
        let policy = Policy::new(rules(100), None, Moment::current());
        let tls = warren_proxy::tls::Rules { rules: tls_rules, default: tls };
        Self::around(to, tls, &["127.0.0.0/8"], policy, PATIENCE).await
    }

    /// That knows what another one knew.
    pub async fn remembering(to: SocketAddr, rules: Rules, state: State) -> Self {
        let policy = Policy::new(rules, Some(state), Moment::current());
        let tls = warren_proxy::tls::Rules { rules: Vec::new(), default: TlsPolicy::Off };
        Self::around(to, tls, &["127.0.0.0/8"], policy, PATIENCE).await
    }

    /// That may dial these networks.
    pub async fn start(to: SocketAddr, tls: TlsPolicy, allow: &[&str], rules: Rules, patience: Duration) -> Self {
        let tls = warren_proxy::tls::Rules { rules: Vec::new(), default: tls };
        Self::around(to, tls, allow, Policy::new(rules, None, Moment::current()), patience).await
    }

    async fn around(
        to: SocketAddr,
        tls_rules: warren_proxy::tls::Rules,
        allow: &[&str],
        policy: Policy,
        patience: Duration,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let notes = UnixDatagram::bind(directory.path().join(names::SOCKET_NAME)).unwrap();
        let (recorder, recording) =
            Recorder::in_directory(directory.path(), RecorderSettings::new(directory.path())).unwrap();
        let reach = Reach { allow: allow.iter().map(|network| network.parse().unwrap()).collect(), ..Reach::default() };
        let proxy = Proxy::new(Parts {
            settings: Settings {
                ehlo_name: "out.example".into(),
                names: [(address(10), "out10.example".into()), (address(11), "out11.example".into())].into(),
                reach,
                max_wait: patience,
                connect_timeout: SOON,
                deadlines: Arc::default(),
                tls_rules,
            },
            policy,
            notes: Some(notes),
            tls: ClientTls::with_roots(rustls::RootCertStore::empty()),
            recorder: recorder.clone(),
            tls_reports: warren_tlsrpt::Reporter::off(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        let tenant = TenantName::new("acme").unwrap();
        let serving = tokio::spawn(door::serve_fixed(Arc::clone(&proxy), listener, tenant, None, to));
        Self { proxy, directory, recorder, recording, door, serving }
    }

    /// The MSA connects.
    pub async fn msa(&self) -> Peer<TcpStream> {
        Peer::new(self.connect().await)
    }

    /// The same, without a word for it.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.door).await.unwrap()
    }

    /// The end: what was recorded of the one session.
    pub async fn recorded(self) -> (Recorded, String) {
        let mut all = self.all_recorded().await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// The end: what was recorded, the newest session first.
    pub async fn all_recorded(self) -> Vec<(Recorded, String)> {
        self.serving.abort();
        self.proxy.drain(SOON).await;
        self.recorder.flush().await;
        self.recording.finish(SOON).await;
        read(self.directory.path()).await
    }
}

/// Leaving from 127.0.0.9 and 127.0.0.10, so many sessions at once.
pub fn rules(max_sessions: u32) -> Rules {
    let addresses = [9, 10].map(address);
    let budget = Budget { sessions: 50, sessions_per_minute: 10_000 };
    Rules::plain(addresses, budget, Limits { sessions: max_sessions, per_tenant: 50 })
}

/// 127.0.0.N
pub fn address(last: u8) -> EgressAddr {
    EgressAddr([127, 0, 0, last].into())
}

async fn read(directory: &Path) -> Vec<(Recorded, String)> {
    let mut reader = Reader::open(&directory.join("sessions.db")).await.unwrap();
    let mut all = Vec::new();
    for session in reader.list(&Filter::default()).await.unwrap() {
        all.push((reader.load(&session.id).await.unwrap(), reader.show(&session.id).await.unwrap()));
    }
    all
}
