//! A proxy with one door, as a test wants it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::task::JoinHandle;
use warren_config::{Reuse, TenantName, TlsPolicy, TlsRule};
use warren_launcher_api::CellId;
use warren_proxy::egress::{Budget, EgressAddr, Limits, Moment, Policy, Rules, State};
use warren_proxy::names::{self, NameNote, Note, StsNote, TlsaNote};
use warren_proxy::proxy::{Parts, Proxy};
use warren_proxy::reach::Reach;
use warren_proxy::settings::Settings;
use warren_proxy::tls::{StsFound, StsMode, StsPolicy, TlsaFound};
use warren_proxy::{door, tls};
use warren_session::reader::Recorded;
use warren_session::{Filter, Reader, Recorder, RecorderSettings, RecorderThread};
use warren_tlsrpt::{Day, Folder, Reporter, ReporterThread};
use warren_wire::ClientTls;

use super::mx::NAME;
use super::{Mx, Peer, SOON};

/// How long sessions wait for their turn.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whose names a resolver tells.
pub const CELL: CellId = CellId(7);

/// What a node is to be. Unless told otherwise, it leaves from 127.0.0.9 and 127.0.0.10 in turn, in the clear, may dial loopback, and nobody tells it of names.
pub struct Plan {
    tls: tls::Rules,
    allow: Vec<String>,
    egress: Rules,
    known: Option<State>,
    patience: Duration,
    reuse: Reuse,
    roots: rustls::RootCertStore,
    cell: Option<CellId>,
    reports: bool,
}

impl Plan {
    pub fn new() -> Self {
        Self {
            tls: tls::Rules { rules: Vec::new(), default: TlsPolicy::Off },
            allow: vec!["127.0.0.0/8".into()],
            egress: rules(100),
            known: None,
            patience: PATIENCE,
            reuse: Reuse { idle: Duration::ZERO, messages: 10 },
            roots: rustls::RootCertStore::empty(),
            cell: None,
            reports: false,
        }
    }

    /// What is done about STARTTLS where no rule says otherwise.
    pub fn tls(mut self, default: TlsPolicy) -> Self {
        self.tls.default = default;
        self
    }

    /// By recipient domain.
    pub fn tls_rules(mut self, rules: Vec<TlsRule>) -> Self {
        self.tls.rules = rules;
        self
    }

    /// What it may dial although it is special.
    pub fn allow(mut self, networks: &[&str]) -> Self {
        self.allow = networks.iter().map(|network| (*network).to_owned()).collect();
        self
    }

    pub fn egress(mut self, rules: Rules) -> Self {
        self.egress = rules;
        self
    }

    /// What another one knew.
    pub fn remembering(mut self, state: State) -> Self {
        self.known = Some(state);
        self
    }

    /// How long a session waits for its turn.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Keeps connections to MXs for so long.
    pub fn keeping(mut self, idle: Duration) -> Self {
        self.reuse.idle = idle;
        self
    }

    /// Keeps them until they have carried so many messages.
    pub fn of_messages(mut self, messages: u32) -> Self {
        self.reuse.messages = messages;
        self
    }

    /// Takes this MX's certificate for a good one.
    pub fn trusting(mut self, mx: &Mx) -> Self {
        self.roots.add(mx.certificate.clone()).unwrap();
        self
    }

    /// A resolver tells what the MX's address was given out for: see [`Node::serves`].
    pub fn told_of_names(mut self) -> Self {
        self.cell = Some(CELL);
        self
    }

    /// Writes TLS reports: see [`Node::reported`].
    pub fn reporting(mut self) -> Self {
        self.reports = true;
        self
    }

    /// Whose door leads to `to`.
    pub async fn start(self, to: SocketAddr) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let notes = UnixDatagram::bind(directory.path().join(names::SOCKET_NAME)).unwrap();
        let recording = Recorder::in_directory(
            directory.path(),
            RecorderSettings { patience: PATIENCE, ..RecorderSettings::new(directory.path()) },
        )
        .unwrap();
        let (tls_reports, reporting) = if self.reports {
            let (reporter, thread) = Reporter::start(reports(directory.path())).unwrap();
            (reporter, Some(thread))
        } else {
            (Reporter::off(), None)
        };
        let proxy = Proxy::new(Parts {
            settings: Settings {
                ehlo_name: "out.example".into(),
                names: [(address(10), "out10.example".into()), (address(11), "out11.example".into())].into(),
                reach: Reach {
                    allow: self.allow.iter().map(|network| network.parse().unwrap()).collect(),
                    ..Reach::default()
                },
                max_wait: self.patience,
                connect_timeout: SOON,
                deadlines: Arc::default(),
                reuse: self.reuse,
                tls_rules: self.tls,
            },
            policy: Policy::new(self.egress, self.known, Moment::current()),
            notes: Some(notes),
            tls: ClientTls::with_roots(self.roots),
            recorder: recording.0.clone(),
            tls_reports,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        let tenant = TenantName::new("acme").unwrap();
        let serving = tokio::spawn(door::serve_fixed(Arc::clone(&proxy), listener, tenant, self.cell, to));
        Node { proxy, directory, mx: to, recording, reporting, door, serving }
    }
}

/// A proxy with one door.
pub struct Node {
    pub proxy: Arc<Proxy>,
    pub directory: tempfile::TempDir,
    /// Where its door leads.
    pub mx: SocketAddr,
    recording: (Recorder, RecorderThread),
    reporting: Option<ReporterThread>,
    door: SocketAddr,
    serving: JoinHandle<()>,
}

impl Node {
    /// Whose door leads to `to`.
    pub async fn towards(to: SocketAddr, tls: TlsPolicy) -> Self {
        Plan::new().tls(tls).start(to).await
    }

    /// With one place for a session, for which others wait so long.
    pub async fn of_one_session(to: SocketAddr, patience: Duration) -> Self {
        Plan::new().egress(rules(1)).patience(patience).start(to).await
    }

    /// That leaves by these rules, in the clear.
    pub async fn by(to: SocketAddr, rules: Rules) -> Self {
        Plan::new().egress(rules).start(to).await
    }

    /// The MSA connects.
    pub async fn msa(&self) -> Peer<TcpStream> {
        Peer::new(self.connect().await)
    }

    /// The same, without a word for it.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.door).await.unwrap()
    }

    /// Until somebody waits for a turn.
    pub async fn waits_for_a_turn(&self) {
        while self.proxy.departures().view().waiting == 0 {
            self.proxy.departures().happened().await;
        }
    }

    /// The resolver says this.
    pub async fn note(&self, note: Note) {
        let resolver = UnixDatagram::unbound().unwrap();
        let note = serde_json::to_vec(&note).unwrap();
        resolver.send_to(&note, self.directory.path().join(names::SOCKET_NAME)).await.unwrap();
    }

    /// The resolver says that the MX's address was given out as `mx.example`, an MX of these domains.
    pub async fn serves(&self, domains: &[&str], secure: bool) {
        for domain in domains {
            self.given_out(Some((*domain).to_owned()), secure).await;
        }
    }

    /// The same, of nobody in particular.
    pub async fn serves_anybody(&self) {
        self.given_out(None, false).await;
    }

    async fn given_out(&self, domain: Option<String>, secure: bool) {
        let (mx, address) = (NAME.to_owned(), self.mx.ip());
        self.note(Note::Name(NameNote { cell: CELL, domain, mx, address, secure, ttl_s: 60 })).await;
    }

    /// The resolver says what MTA-STS policy a domain has.
    pub async fn enforces(&self, domain: &str, mx: &str) {
        let policy = StsPolicy { mode: StsMode::Enforce, mx: vec![mx.into()], max_age_s: 86_400, id: "1".into() };
        let found = StsFound::Policy(policy);
        self.note(Note::Sts(StsNote { cell: CELL, domain: domain.into(), found })).await;
    }

    /// The resolver says what TLSA records the MX has.
    pub async fn tlsa(&self, found: TlsaFound) {
        self.note(Note::Tlsa(TlsaNote { cell: CELL, mx: NAME.into(), found, ttl_s: 60 })).await;
    }

    /// Everything that was told so far is written.
    pub async fn flush(&self) {
        self.recording.0.flush().await;
    }

    /// The end: what was recorded of the one session.
    pub async fn recorded(self) -> (Recorded, String) {
        let mut all = self.all_recorded().await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// The end: what was recorded, the newest session first.
    pub async fn all_recorded(self) -> Vec<(Recorded, String)> {
        read(self.end().await.path()).await
    }

    /// The end: the same, and what is reported of TLS.
    pub async fn reported(self) -> (Vec<(Recorded, String)>, Day) {
        let directory = self.end().await;
        let folder = reports(directory.path());
        let day = folder.days().unwrap().pop().unwrap();
        (read(directory.path()).await, folder.load(day).unwrap().unwrap())
    }

    async fn end(self) -> tempfile::TempDir {
        self.serving.abort();
        self.proxy.drain(SOON).await;
        self.recording.0.flush().await;
        self.recording.1.finish(SOON).await;
        if let Some(reporting) = self.reporting {
            tokio::task::spawn_blocking(|| reporting.finish()).await.unwrap();
        }
        self.directory
    }
}

fn reports(directory: &Path) -> Folder {
    Folder::new(directory.join("tlsrpt"))
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
