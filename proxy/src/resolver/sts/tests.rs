//! Policies from hosts on loopback: good ones, and all that a host may do instead.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        RData, Record, RecordType,
        rdata::{A, MX, TXT},
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixDatagram},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use warren_config::{Dnssec, Resolver};
use warren_launcher_api::CellId;

use super::{MAX_OF_ONE_CELL, Policies, Share, fetch::Fetcher, now_s};
use crate::{
    names::{MAX_NOTE, Note},
    resolver::{
        Doors, Notes, Upstream,
        tests::{ask, authority_of, name, question, sockets},
    },
    tls::{StsFound, StsMode, StsPolicy, sts::StsFailure},
};

const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: mx.good.example\r\nmax_age: 604800\r\n";
const LONG: Duration = Duration::from_secs(20);
/// What a host that drips is given.
const PATIENCE: Duration = Duration::from_secs(1);
/// More slow hosts than there are fetches at a time.
const MANY: usize = 100;

fn response(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

fn plain(body: &str) -> Vec<u8> {
    response("200 OK\r\nContent-Type: text/plain; charset=utf-8", body)
}

/// Hosts that take a request and never answer it.
fn slow() -> Vec<String> {
    (0..MANY).map(|n| format!("slow{n}")).collect()
}

/// What each host answers; what is not listed drips.
fn answers() -> HashMap<&'static str, Vec<u8>> {
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{POLICY}\r\n0\r\n\r\n",
        POLICY.len()
    );
    let endless = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n{POLICY}{}",
        "x: y\r\n".repeat(20_000)
    );
    HashMap::from([
        ("good", plain(POLICY)),
        ("chunked", chunked.into_bytes()),
        ("testing", plain("version: STSv1\nmode: testing\nmx: *.example\nmax_age: 9999999999\n")),
        ("moved", response("301 Moved\r\nLocation: https://mta-sts.good.example/.well-known/mta-sts.txt", "")),
        ("gone", response("404 Not Found\r\nContent-Type: text/plain", POLICY)),
        ("html", response("200 OK\r\nContent-Type: text/html", POLICY)),
        ("untyped", response("200 OK", POLICY)),
        ("large", plain(&format!("{POLICY}{}", "x: y\r\n".repeat(20_000)))),
        ("endless", endless.into_bytes()),
        ("heads", response(&format!("200 OK\r\nContent-Type: text/plain\r\n{}", "X: y\r\n".repeat(5_000)), POLICY)),
        ("nonsense", b"220 mx ESMTP\r\n".to_vec()),
        (
            "cut",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 900\r\n\r\nversion: STSv1\r\n".to_vec(),
        ),
        ("empty", plain("")),
        ("invalid", plain("version: STSv1\nmode: enforce\nmax_age: 60\n")),
        ("binary", plain("version: STSv1\nmode: \0\u{1b}[2J\nmx: a.example\nmax_age: 60\n")),
        ("stranger", plain(POLICY)),
    ])
}

/// DNS, policy hosts and the policies of one resolver.
struct World {
    upstream: Upstream,
    directory: TempDir,
    port: u16,
    requests: Arc<AtomicUsize>,
    /// Policy hosts answer when this is true.
    open: watch::Sender<bool>,
}

impl World {
    async fn new() -> Self {
        let answers = answers();
        let mut records = Vec::new();
        let mut add = |owner: String, data| records.push(Record::from_rdata(name(&owner), 0, data));
        let slow = slow();
        let slow = slow.iter().map(String::as_str);
        for host in answers.keys().copied().chain(["drip", "inside"]).chain(slow) {
            let text = format!("v=STSv1; id={host}1;");
            add(format!("_mta-sts.{host}.example."), RData::TXT(TXT::new(vec![text])));
            let address = if host == "inside" { Ipv4Addr::new(10, 0, 0, 1) } else { Ipv4Addr::LOCALHOST };
            add(format!("mta-sts.{host}.example."), RData::A(A(address)));
            add(format!("{host}.example."), RData::MX(MX::new(10, name(&format!("mx.{host}.example.")))));
        }
        add("_mta-sts.nohost.example.".into(), RData::TXT(TXT::new(vec!["v=STSv1; id=1;".into()])));
        add("hush.example.".into(), RData::MX(MX::new(10, name("mx.hush.example."))));
        add("spf.example.".into(), RData::MX(MX::new(10, name("mx.spf.example."))));
        add("_mta-sts.spf.example.".into(), RData::TXT(TXT::new(vec!["v=spf1 -all".into()])));
        let nameserver = authority_of(records).await;
        let config = Resolver { nameservers: vec![nameserver], dnssec: Dnssec::Off, trust_anchors: None };
        let directory = tempfile::tempdir().unwrap();
        let (requests, open) = (Arc::default(), watch::Sender::new(true));
        let port = host(answers, directory.path().join("ca.pem"), Arc::clone(&requests), open.subscribe()).await.port();
        Self { upstream: Upstream::new(&config).unwrap(), directory, port, requests, open }
    }

    fn policies(&self) -> Arc<Policies> {
        self.policies_of_the_patient(PATIENCE)
    }

    fn policies_of_the_patient(&self, patience: Duration) -> Arc<Policies> {
        let allow = vec!["127.0.0.0/8".parse().unwrap()];
        let fetcher = Fetcher::new(Some(&self.directory.path().join("ca.pem")), allow).unwrap();
        Arc::new(Policies::new(fetcher.with(self.port, patience), Some(self.directory.path())))
    }

    async fn of(&self, policies: &Arc<Policies>, host: &str) -> StsFound {
        timeout(LONG, policies.of(&Share::default(), &self.upstream, &format!("{host}.example"))).await.unwrap()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// All policy hosts in one: which is meant is in the SNI.
async fn host(
    answers: HashMap<&'static str, Vec<u8>>,
    ca: PathBuf,
    requests: Arc<AtomicUsize>,
    open: watch::Receiver<bool>,
) -> SocketAddr {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(ca, issuer.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let trusted = answers.keys().copied().chain(["drip"]).filter(|host| *host != "stranger");
    let trusted = trusted.map(ToOwned::to_owned).chain(slow());
    let names: Vec<String> = trusted.map(|host| format!("mta-sts.{host}.example")).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answers, requests) = (acceptor.clone(), Arc::clone(&answers), Arc::clone(&requests));
            let mut open = open.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let sni = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), "{head}");
                assert!(head.contains(&format!("host: {sni}\r\n")), "{head}");
                requests.fetch_add(1, Ordering::Relaxed);
                open.wait_for(|open| *open).await.unwrap();
                let host = sni.trim_start_matches("mta-sts.").trim_end_matches(".example");
                match answers.get(host) {
                    Some(answer) => {
                        // Who has enough of it goes away.
                        let _ = stream.write_all(answer).await;
                        let _ = stream.shutdown().await;
                    }
                    // Says nothing until it is left.
                    None if host.starts_with("slow") => _ = stream.read_u8().await,
                    None => {
                        for byte in plain(POLICY) {
                            if stream.write_all(&[byte]).await.and(stream.flush().await).is_err() {
                                return;
                            }
                            tokio::time::sleep(PATIENCE / 50).await;
                        }
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn policies_are_fetched_once_and_known_from_then_on() {
    let world = World::new().await;
    let policies = world.policies();
    let StsFound::Policy(policy) = world.of(&policies, "good").await else { panic!("no policy") };
    assert_eq!(
        (policy.mode, &*policy.mx, policy.max_age_s),
        (StsMode::Enforce, &["mx.good.example".into()][..], 604_800)
    );
    assert_eq!(policy.id, "good1");
    let again: Vec<_> = (0..50).map(|_| world.of(&policies, "good")).collect();
    for found in again {
        assert_eq!(found.await, StsFound::Policy(policy.clone()));
    }
    assert_eq!(world.requests(), 1);
    assert!(matches!(world.of(&policies, "chunked").await, StsFound::Policy(_)));
    assert!(
        matches!(world.of(&policies, "testing").await, StsFound::Policy(policy) if policy.mode == StsMode::Testing)
    );
    for none in ["spf", "nothing"] {
        assert_eq!(world.of(&policies, none).await, StsFound::None, "{none}");
    }
}

#[tokio::test]
async fn hosts_that_do_anything_else_have_no_policy() {
    let world = World::new().await;
    let policies = world.policies();
    use StsFailure::{Fetch, Invalid, WebPki};
    for (host, failure) in [
        ("moved", Fetch),
        ("gone", Fetch),
        ("html", Fetch),
        ("untyped", Fetch),
        ("large", Fetch),
        ("endless", Fetch),
        ("heads", Fetch),
        ("nonsense", Fetch),
        ("cut", Fetch),
        ("drip", Fetch),
        ("nohost", Fetch),
        ("inside", Fetch),
        ("empty", Invalid),
        ("invalid", Invalid),
        ("binary", Invalid),
        ("stranger", WebPki),
    ] {
        assert_eq!(world.of(&policies, host).await, StsFound::Failed(failure), "{host}");
    }
    // A failure rests: nobody is asked again at once.
    let before = world.requests();
    assert_eq!(world.of(&policies, "gone").await, StsFound::Failed(Fetch));
    assert_eq!(world.requests(), before);
}

#[tokio::test]
async fn only_addresses_that_may_be_dialled_are() {
    let world = World::new().await;
    let fetcher = Fetcher::new(Some(&world.directory.path().join("ca.pem")), Vec::new()).unwrap();
    let policies = Arc::new(Policies::new(fetcher.with(world.port, PATIENCE), None));
    assert_eq!(world.of(&policies, "good").await, StsFound::Failed(StsFailure::Fetch), "loopback");
    assert_eq!(world.requests(), 0);
}

#[tokio::test]
async fn what_was_fetched_survives_the_process_and_the_host() {
    let world = World::new().await;
    let policies = world.policies();
    let found = world.of(&policies, "good").await;
    assert_ne!(policies.write(0).await, 0);
    world.open.send_replace(false);
    let again = world.policies();
    assert_eq!(world.of(&again, "good").await, found);
    assert_eq!(world.requests(), 1);
    // A file that is no file of ours is begun anew.
    std::fs::write(world.directory.path().join(super::FILE), "{\"x\":").unwrap();
    world.open.send_replace(true);
    assert_eq!(world.of(&world.policies(), "good").await, found);
    assert_eq!(world.requests(), 2);
}

#[tokio::test]
async fn who_stops_waiting_stops_nothing() {
    let world = World::new().await;
    let policies = world.policies_of_the_patient(LONG);
    world.open.send_replace(false);
    let (first, second) = (world.of(&policies, "good"), world.of(&policies, "good"));
    let mut second = Box::pin(second);
    {
        let mut first = Box::pin(first);
        while world.requests() == 0 {
            assert!(timeout(Duration::from_millis(1), &mut first).await.is_err());
        }
        assert!(timeout(Duration::from_millis(1), &mut second).await.is_err());
    }
    world.open.send_replace(true);
    assert!(matches!(second.await, StsFound::Policy(_)));
    assert_eq!(world.requests(), 1, "one fetch for all who ask");
}

#[tokio::test]
async fn an_answer_waits_a_moment_for_a_policy_and_a_late_one_is_told_later() {
    let world = World::new().await;
    let socket = world.directory.path().join("names.sock");
    let notes = UnixDatagram::bind(&socket).unwrap();
    let mut doors = Doors::new(world.upstream.clone(), world.policies_of_the_patient(LONG), Notes::new(socket));
    let (door, udp, tcp) = sockets(None);
    doors.open(CellId(7), 1, udp, tcp).await.unwrap();
    let mx = |domain: &str| question(&format!("{domain}.example."), RecordType::MX, None);
    let next = async || {
        let mut buffer = vec![0; MAX_NOTE];
        let length = timeout(LONG, notes.recv(&mut buffer)).await.unwrap().unwrap();
        match serde_json::from_slice::<Note>(&buffer[..length]).unwrap() {
            Note::Sts(note) => (note.domain, matches!(note.found, StsFound::Policy(_))),
            other => panic!("{other:?}"),
        }
    };
    ask(door, &mx("chunked")).await;
    let mut buffer = vec![0; MAX_NOTE];
    assert!(notes.try_recv(&mut buffer).is_ok(), "a policy in time comes before the answer");
    world.open.send_replace(false);
    ask(door, &mx("good")).await;
    assert_eq!(world.requests(), 2);
    assert!(notes.try_recv(&mut buffer).is_err(), "the host has not answered");
    world.open.send_replace(true);
    assert_eq!(next().await, ("good.example".into(), true));
    ask(door, &mx("spf")).await;
    assert_eq!(next().await, ("spf.example".into(), false), "that there is none is told, too");
}

#[tokio::test]
async fn a_cell_with_slow_hosts_holds_up_only_itself() {
    let world = World::new().await;
    let policies = world.policies_of_the_patient(10 * LONG);
    let greedy = Arc::new(Share::default());
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let (policies, greedy, upstream) = (Arc::clone(&policies), Arc::clone(&greedy), world.upstream.clone());
        waiting.spawn(async move { policies.of(&greedy, &upstream, &format!("slow{n}.example")).await });
    }
    while world.requests() < MAX_OF_ONE_CELL {
        tokio::task::yield_now().await;
    }
    let other = Share::default();
    let good = policies.of(&other, &world.upstream, "good.example");
    let found = timeout(LONG, good).await.expect("the other cell has places of its own");
    assert!(matches!(found, StsFound::Policy(_)));
    assert_eq!(world.requests(), MAX_OF_ONE_CELL + 1);
    // What the greedy one waits for is nothing that others have to wait for.
    let last = format!("slow{}.example", MANY - 1);
    let _ = timeout(Duration::from_millis(1), policies.of(&other, &world.upstream, &last)).await;
    while world.requests() < MAX_OF_ONE_CELL + 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_policy_that_is_known_holds_while_somebody_holds_dns_up() {
    let world = World::new().await;
    let socket = world.directory.path().join("names.sock");
    let notes = UnixDatagram::bind(&socket).unwrap();
    let policies = world.policies();
    let policy =
        StsPolicy { mode: StsMode::Enforce, mx: vec!["mx.hush.example".into()], max_age_s: 600, id: "1".into() };
    policies.book().fetched("hush.example", "1", Ok(policy.clone()), now_s());
    let mut doors = Doors::new(world.upstream.clone(), policies, Notes::new(socket));
    let (door, udp, tcp) = sockets(None);
    doors.open(CellId(7), 1, udp, tcp).await.unwrap();
    ask(door, &question("hush.example.", RecordType::MX, None)).await;
    let mut buffer = vec![0; MAX_NOTE];
    let length = notes.try_recv(&mut buffer).expect("before the answer");
    let Note::Sts(note) = serde_json::from_slice(&buffer[..length]).unwrap() else { panic!("another note") };
    assert_eq!((&*note.domain, note.found), ("hush.example", StsFound::Policy(policy)));
}

#[tokio::test]
async fn an_answer_that_the_proxy_has_to_know_about_waits_for_it() {
    let world = World::new().await;
    let socket = world.directory.path().join("names.sock");
    let mut doors = Doors::new(world.upstream.clone(), world.policies(), Notes::new(socket.clone()));
    let (door, udp, tcp) = sockets(None);
    doors.open(CellId(7), 1, udp, tcp).await.unwrap();
    let code = async |domain: &str| ask(door, &question(domain, RecordType::MX, None)).await.metadata.response_code;
    assert_eq!(code("good.example.").await, ResponseCode::ServFail, "nobody told the proxy of its policy");
    assert_eq!(code("spf.example.").await, ResponseCode::NoError, "nothing hangs on this");
    let _notes = UnixDatagram::bind(&socket).unwrap();
    timeout(LONG, async { while code("good.example.").await != ResponseCode::NoError {} }).await.unwrap();
}
