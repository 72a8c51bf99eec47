//! What the recipients' domains ask of TLS, asked in whole sessions: real handshakes, notes of a resolver, a refusal for each recipient, reports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use support::{Mx, Peer};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::task::JoinHandle;
use warren_config::{TenantName, TlsPolicy, TlsRule};
use warren_launcher_api::CellId;
use warren_proxy::egress::{Budget, EgressAddr, Limits, Moment, Policy, Rules};
use warren_proxy::names::{self, NameNote, Note, StsNote, TlsaNote};
use warren_proxy::proxy::{Parts, Proxy};
use warren_proxy::reach::Reach;
use warren_proxy::settings::Settings;
use warren_proxy::tls::{StsFound, StsMode, StsPolicy, Tlsa, TlsaFound};
use warren_proxy::{door, tls};
use warren_session::{Filter, Reader, Recorder, RecorderSettings, RecorderThread, TlsFacts};
use warren_tlsrpt::{Day, Folder, PolicyType, Reporter, ReporterThread};
use warren_wire::ClientTls;

const CELL: CellId = CellId(7);
const SOON: Duration = Duration::from_secs(10);
/// How long sessions wait for their turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy with a cell's door that leads to `mx`, and a resolver's notes about it.
struct Node {
    directory: tempfile::TempDir,
    proxy: Arc<Proxy>,
    recording: (Recorder, RecorderThread),
    reporting: ReporterThread,
    resolver: UnixDatagram,
    door: SocketAddr,
    mx: SocketAddr,
    serving: JoinHandle<()>,
}

impl Node {
    /// Trusts the MX's own certificate.
    async fn towards(mx: &Mx, rules: Vec<TlsRule>) -> Self {
        Self::asking_for(mx, rules, TlsPolicy::Opportunistic).await
    }

    /// The same, that asks for this where no rule says otherwise.
    async fn asking_for(mx: &Mx, rules: Vec<TlsRule>, default: TlsPolicy) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(names::SOCKET_NAME);
        let notes = UnixDatagram::bind(&path).unwrap();
        let resolver = UnixDatagram::unbound().unwrap();
        resolver.connect(&path).unwrap();
        let recording = Recorder::in_directory(directory.path(), RecorderSettings::new(directory.path())).unwrap();
        let (tls_reports, reporting) = Reporter::start(Folder::new(directory.path().join("tlsrpt"))).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(mx.certificate.clone()).unwrap();
        let budget = Budget { sessions: 50, sessions_per_minute: 10_000 };
        let addresses = [EgressAddr([127, 0, 0, 9].into())];
        let egress = Rules::plain(addresses, budget, Limits { sessions: 100, per_tenant: 50 });
        let proxy = Proxy::new(Parts {
            settings: Settings {
                ehlo_name: "out.example".into(),
                names: BTreeMap::new(),
                reach: Reach { allow: vec!["127.0.0.0/8".parse().unwrap()], ..Reach::default() },
                max_wait: PATIENCE,
                connect_timeout: SOON,
                deadlines: Arc::default(),
                tls_rules: tls::Rules { rules, default },
            },
            policy: Policy::new(egress, None, Moment::current()),
            notes: Some(notes),
            tls: ClientTls::with_roots(roots),
            recorder: recording.0.clone(),
            tls_reports,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = listener.local_addr().unwrap();
        let tenant = TenantName::new("acme").unwrap();
        let serving = tokio::spawn(door::serve_fixed(Arc::clone(&proxy), listener, tenant, Some(CELL), mx.address));
        Self { directory, proxy, recording, reporting, resolver, door, mx: mx.address, serving }
    }

    async fn note(&self, note: Note) {
        self.resolver.send(&serde_json::to_vec(&note).unwrap()).await.unwrap();
    }

    /// The resolver says that the MX's address was given out as `mx.example`, an MX of these domains.
    async fn serves(&self, domains: &[&str], secure: bool) {
        for domain in domains {
            let domain = Some((*domain).to_owned());
            let note =
                NameNote { cell: CELL, domain, mx: "mx.example".into(), address: self.mx.ip(), secure, ttl_s: 60 };
            self.note(Note::Name(note)).await;
        }
    }

    /// The resolver says what MTA-STS policy a domain has.
    async fn enforces(&self, domain: &str, mx: &str) {
        let policy = StsPolicy { mode: StsMode::Enforce, mx: vec![mx.into()], max_age_s: 86_400, id: "1".into() };
        let found = StsFound::Policy(policy);
        self.note(Note::Sts(StsNote { cell: CELL, domain: domain.into(), found })).await;
    }

    /// The resolver says what TLSA records the MX has.
    async fn tlsa(&self, found: TlsaFound) {
        self.note(Note::Tlsa(TlsaNote { cell: CELL, mx: "mx.example".into(), found, ttl_s: 60 })).await;
    }

    async fn msa(&self) -> Peer<TcpStream> {
        Peer::new(TcpStream::connect(self.door).await.unwrap())
    }

    /// The end: TLS of the last leg as recorded, and what is reported.
    async fn found(self) -> (Option<TlsFacts>, Day) {
        let (mut sessions, day) = self.all_found().await;
        (sessions.remove(0), day)
    }

    /// The same of all sessions, the newest first.
    async fn all_found(self) -> (Vec<Option<TlsFacts>>, Day) {
        self.serving.abort();
        self.proxy.drain(SOON).await;
        self.recording.0.flush().await;
        self.recording.1.finish(SOON).await;
        tokio::task::spawn_blocking(|| self.reporting.finish()).await.unwrap();
        let mut reader = Reader::open(&self.directory.path().join("sessions.db")).await.unwrap();
        let mut found = Vec::new();
        for session in reader.list(&Filter::default()).await.unwrap() {
            let leg = reader.load(&session.id).await.unwrap().legs.pop().unwrap();
            found.push(leg.tls.map(|tls| serde_json::from_str(&tls).unwrap()));
        }
        let folder = Folder::new(self.directory.path().join("tlsrpt"));
        let day = folder.days().unwrap().pop().unwrap();
        (found, folder.load(day).unwrap().unwrap())
    }
}

/// Speaks for an MX with TLS: until QUIT every command is fine.
async fn encrypted(mx: &Mx) {
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx").await;
    peer.hears("EHLO out.example").await;
    peer.say("250-mx\n250 STARTTLS").await;
    peer.hears("STARTTLS").await;
    peer.say("220 go").await;
    until_quit(peer.accept_tls(&mx.tls).await).await;
}

/// Speaks for an MX without.
async fn plain(mx: &Mx) {
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx").await;
    until_quit(peer).await;
}

async fn until_quit<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut peer: Peer<S>) {
    while let Some(line) = peer.line().await {
        peer.say("250 fine").await;
        if line == "QUIT" {
            return;
        }
    }
}

/// An MSA that tries recipients, and hears these codes.
async fn tries(node: &Node, recipients: &[(&str, &str)]) {
    let mut msa = node.msa().await;
    msa.hears("220 mx").await;
    msa.say("EHLO msa").await;
    msa.hears("250 fine").await;
    msa.say("MAIL FROM:<a@acme.example>").await;
    msa.hears("250 fine").await;
    for (domain, expected) in recipients {
        msa.say(&format!("RCPT TO:<b@{domain}>")).await;
        let reply = msa.line().await.unwrap();
        assert!(reply.starts_with(expected), "{domain}: {reply}");
    }
    msa.say("QUIT").await;
    msa.hears("250 fine").await;
}

#[tokio::test]
async fn what_the_resolver_told_is_known_before_the_runtime_looks() {
    let mx = Mx::new().await;
    let node = Node::towards(&mx, Vec::new()).await;
    let (cell, address) = (CELL, node.mx.ip());
    let note = NameNote { cell, domain: None, mx: "mx.example".into(), address, secure: false, ttl_s: 60 };
    let resolver = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let note = serde_json::to_vec(&Note::Name(note)).unwrap();
    resolver.send_to(&note, node.directory.path().join(names::SOCKET_NAME)).unwrap();
    // Nothing was awaited: as on a session's thread, whose poll is another than the socket's.
    assert_eq!(node.proxy.names_of(CELL, address).len(), 1);
}

#[tokio::test]
async fn a_recipient_without_a_domain_is_judged_by_the_default() {
    const NOT_OFFERED: &str = "451 4.7.5 TLS policy here: the MX does not offer STARTTLS";
    const NO_NAME: &str = "451 4.7.5 TLS policy here: the MX's name is not known";
    for (default, secured, expected) in [
        (TlsPolicy::Opportunistic, false, "250"),
        (TlsPolicy::Require, false, NOT_OFFERED),
        (TlsPolicy::Require, true, "250"),
        (TlsPolicy::Verify, true, NO_NAME),
    ] {
        let mx = Mx::new().await;
        // The connection is as good as its domain wants it.
        let lax = TlsRule { domains: vec!["lax.example".into()], policy: TlsPolicy::Opportunistic };
        let node = Node::asking_for(&mx, vec![lax], default).await;
        node.serves(&["lax.example"], false).await;
        let server = async { if secured { encrypted(&mx).await } else { plain(&mx).await } };
        let client = async {
            let mut msa = node.msa().await;
            msa.hears("220 mx").await;
            msa.say("EHLO msa").await;
            msa.hears("250 fine").await;
            msa.say("MAIL FROM:<a@acme.example>").await;
            msa.hears("250 fine").await;
            for (to, expected) in [
                ("b@lax.example", "250"),
                ("postmaster", expected),
                ("b@[127.0.0.1]", expected),
                ("b@[IPv6:::1]", expected),
            ] {
                msa.say(&format!("RCPT TO:<{to}>")).await;
                let reply = msa.line().await.unwrap();
                assert!(reply.starts_with(expected), "{default:?}, {secured}: {to}: {reply}");
            }
            msa.say("QUIT").await;
            msa.hears("250 fine").await;
        };
        tokio::join!(server, client);
        let (_, day) = node.found().await;
        let reported: Vec<_> = day.domains.keys().map(String::as_str).collect();
        assert_eq!(reported, ["lax.example"], "nobody is told about an address");
    }
}

#[tokio::test]
async fn each_recipient_is_judged_by_its_own_domain() {
    let mx = Mx::new().await;
    let strict = TlsRule { domains: vec!["strict.example".into()], policy: TlsPolicy::Verify };
    let node = Node::towards(&mx, vec![strict]).await;
    node.enforces("good.example", "mx.example").await;
    node.enforces("moved.example", "*.elsewhere.example").await;
    node.serves(&["good.example", "moved.example", "plain.example", "strict.example"], false).await;
    let recipients = [
        ("good.example", "250"),
        (
            "moved.example",
            "451 4.7.5 TLS policy of the recipient's domain: its MTA-STS policy does not name mx.example",
        ),
        ("plain.example", "250"),
        ("strict.example", "250"),
        ("MOVED.example", "451 4.7.5"),
    ];
    tokio::join!(encrypted(&mx), tries(&node, &recipients));
    let (tls, day) = node.found().await;
    let policies: Vec<_> =
        tls.unwrap().policies.into_iter().map(|one| (one.domain, one.policy, one.satisfied)).collect();
    let expected = [
        ("good.example", "mta-sts enforce", true),
        ("moved.example", "mta-sts enforce", false),
        ("plain.example", "opportunistic", true),
        ("strict.example", "configured verify", true),
    ];
    assert_eq!(policies, expected.map(|(domain, policy, good)| (domain.to_owned(), policy.to_owned(), good)));
    assert_eq!((day.sessions(), day.domains.len()), ((3, 1), 4), "a domain and a connection count once");
    let moved = &day.domains["moved.example"][0];
    assert_eq!((moved.policy.policy_type, &moved.policy.mx_host[0][..]), (PolicyType::Sts, "*.elsewhere.example"));
    let details = &moved.failure_details[0];
    assert_eq!(details.sending_mta_ip.as_deref(), Some("127.0.0.9"));
    assert_eq!(details.receiving_mx_hostname.as_deref(), Some("mx.example"));
}

#[tokio::test]
async fn the_mx_is_asked_for_by_its_own_name_and_the_next_session_resumes() {
    let mx = Mx::new().await;
    let node = Node::towards(&mx, Vec::new()).await;
    node.serves(&["customer.example"], false).await;
    for _ in 0..2 {
        tokio::join!(encrypted(&mx), tries(&node, &[("customer.example", "250")]));
    }
    let (sessions, _) = node.all_found().await;
    let known: Vec<_> = sessions.into_iter().map(|tls| tls.map(|tls| (tls.sni, tls.resumed)).unwrap()).collect();
    let name = || Some("mx.example".to_owned());
    assert_eq!(known, [(name(), true), (name(), false)], "the newest first");
}

#[tokio::test]
async fn records_of_a_signed_zone_decide_and_their_absence_of_an_answer_defers() {
    let mx = Mx::new().await;
    let full = |der: &[u8]| Tlsa { usage: 3, selector: 0, matching: 0, data: der.to_vec() };
    let right = TlsaFound::Records(vec![full(&mx.certificate)]);
    let wrong = TlsaFound::Records(vec![Tlsa { matching: 1, data: vec![7; 32], ..full(&[]) }]);
    for (found, secure, expected) in [
        (right, true, "250"),
        (wrong.clone(), true, "451 4.7.5"),
        (TlsaFound::Failed, true, "451 4.7.5"),
        (wrong, false, "250"),
    ] {
        let node = Node::towards(&mx, Vec::new()).await;
        node.tlsa(found.clone()).await;
        node.serves(&["signed.example"], secure).await;
        let recipients = [("signed.example", expected)];
        tokio::join!(encrypted(&mx), tries(&node, &recipients));
        let (tls, day) = node.found().await;
        let policy = &tls.unwrap().policies[0];
        assert_eq!((policy.policy == "dane", policy.satisfied), (secure, expected == "250"), "{found:?}");
        let kind = if secure { PolicyType::Tlsa } else { PolicyType::NoPolicyFound };
        assert_eq!(day.domains["signed.example"][0].policy.policy_type, kind);
    }
}

#[tokio::test]
async fn in_the_clear_only_those_pass_who_let_it() {
    let mx = Mx::new().await;
    let node = Node::towards(&mx, Vec::new()).await;
    node.enforces("good.example", "mx.example").await;
    node.serves(&["good.example", "plain.example"], false).await;
    let recipients = [("good.example", "451 4.7.5"), ("plain.example", "250")];
    tokio::join!(plain(&mx), tries(&node, &recipients));
    let (tls, day) = node.found().await;
    assert_eq!(tls, None);
    assert_eq!(day.sessions(), (0, 2));
    for domain in ["good.example", "plain.example"] {
        let details = &day.domains[domain][0].failure_details[0];
        assert_eq!(details.result_type, warren_tlsrpt::ResultType::StarttlsNotSupported);
    }
}

#[tokio::test]
async fn where_nobody_may_go_in_the_clear_the_session_ends_and_that_is_reported() {
    let mx = Mx::new().await;
    let node = Node::towards(&mx, Vec::new()).await;
    node.enforces("good.example", "mx.example").await;
    node.serves(&["good.example"], false).await;
    let msa = async {
        let mut msa = node.msa().await;
        msa.hears("220 mx").await;
        msa.say("EHLO msa").await;
        let reply = msa.line().await.unwrap();
        assert!(reply.starts_with("421 4.7."), "{reply}");
    };
    tokio::join!(plain(&mx), msa);
    let (_, day) = node.found().await;
    assert_eq!(day.sessions(), (0, 1));
    assert_eq!(day.domains["good.example"][0].policy.policy_type, PolicyType::Sts);
}
