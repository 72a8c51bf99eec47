//! Policies from hosts on loopback: good ones, and all that a host may do instead.

mod doors;
mod policies;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::{
    RData, Record,
    rdata::{A, MX, TXT},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use warren_config::{Dnssec, Resolver};

use super::{Policies, Share, fetch::Fetcher};
use crate::{
    resolver::{
        Upstream,
        tests::{authority_of, name},
    },
    tls::StsFound,
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
    /// How many requests they got.
    requests: watch::Sender<usize>,
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
        let (requests, open) = (watch::Sender::new(0), watch::Sender::new(true));
        let port = host(answers, directory.path().join("ca.pem"), requests.clone(), open.subscribe()).await.port();
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
        *self.requests.borrow()
    }

    /// Waits until policy hosts got so many requests.
    async fn asked(&self, requests: usize) {
        let mut count = self.requests.subscribe();
        timeout(LONG, count.wait_for(|count| *count >= requests)).await.unwrap().unwrap();
    }
}

/// All policy hosts in one: which is meant is in the SNI.
async fn host(
    answers: HashMap<&'static str, Vec<u8>>,
    ca: PathBuf,
    requests: watch::Sender<usize>,
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
            let (acceptor, answers, requests) = (acceptor.clone(), Arc::clone(&answers), requests.clone());
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
                requests.send_modify(|count| *count += 1);
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
