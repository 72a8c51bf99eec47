//! The load: so many connections that each bring so many mails, pipelined as MSAs do it, again and again.
//!
//! One thread, one epoll, edge-triggered. It says on standard output when the warm-up is over, and at the end what it counted: one JSON value a line.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use memchr::memchr;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::Timespec;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::link::Link;
use crate::report;

const BUFFER: usize = 64 * 1024;
/// A path that fails this often is not measured.
const MAX_ERRORS: u64 = 1_000;

/// What is sent, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    /// At once
    #[arg(long)]
    connections: usize,
    /// Before QUIT
    #[arg(long)]
    mails: u32,
    /// Of each mail
    #[arg(long)]
    bytes: usize,
    /// STARTTLS first
    #[arg(long)]
    tls: bool,
    /// Uncounted, in milliseconds
    #[arg(long, default_value_t = 0)]
    warm_up: u64,
    /// Counted, in milliseconds
    #[arg(long, default_value_t = u64::MAX >> 24)]
    measure: u64,
    /// End after so many sessions
    #[arg(long, default_value_t = u64::MAX)]
    sessions: u64,
    /// Keep every session open behind its mails, until standard input ends
    #[arg(long)]
    hold: bool,
}

/// What was counted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Mails acknowledged between warm-up and end.
    pub mails: u64,
    /// How long that was.
    pub seconds: f64,
    /// Mails acknowledged, warm-up and end included.
    pub all_mails: u64,
    /// Sessions that were begun and ended.
    pub sessions: u64,
    /// Sessions that broke off or were refused.
    pub errors: u64,
    /// Half of all sessions took no longer, from connect to the answer to QUIT; in microseconds.
    pub session_p50_us: f64,
    /// 99 of 100.
    pub session_p99_us: f64,
}

/// Sends.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut load = Load::new(options)?;
    for _ in 0..options.connections {
        load.open()?;
    }
    let start = Instant::now();
    let measured_from = start + Duration::from_millis(options.warm_up);
    let until = measured_from + Duration::from_millis(options.measure);
    if options.hold {
        load.turn(start + Duration::from_secs(300), |load| load.held == options.connections)?;
        ensure!(load.held == options.connections, "only {} are held", load.held);
        report::line(&"held")?;
        io::stdin().read_to_end(&mut Vec::new()).context("wait for the end")?;
        return Ok(());
    }
    load.turn(measured_from, |_| false)?;
    report::line(&"begun")?;
    let (began, before) = (Instant::now(), load.mails);
    load.times.clear();
    load.turn(until, |load| load.ended >= options.sessions)?;
    let (mails, seconds) = (load.mails - before, began.elapsed().as_secs_f64());
    load.times.sort_unstable();
    let percentile = |percent: usize| {
        let rank = (load.times.len() * percent).div_ceil(100).max(1);
        load.times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    let (session_p50_us, session_p99_us) = (percentile(50), percentile(99));
    // Sessions end in order, so that the next path finds nothing of this one.
    load.ending = true;
    load.turn(Instant::now() + Duration::from_secs(20), |load| load.open == 0)?;
    let (all_mails, sessions, errors) = (load.mails, load.ended, load.errors);
    report::line(&Counted { mails, seconds, all_mails, sessions, errors, session_p50_us, session_p99_us })
}

struct Load<'a> {
    options: &'a Options,
    poll: std::os::fd::OwnedFd,
    body: Vec<u8>,
    tls: Arc<ClientConfig>,
    sessions: Vec<Option<Session>>,
    free: Vec<usize>,
    begun: u64,
    open: usize,
    held: usize,
    ended: u64,
    mails: u64,
    errors: u64,
    ending: bool,
    times: Vec<Duration>,
    buffer: Vec<u8>,
}

/// What the next reply answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Greeting,
    Ehlo,
    StartTls,
    Mail,
    Rcpt,
    Data,
    EndOfData,
    Quit,
    Nothing,
}

struct Session {
    link: Link,
    began: Instant,
    awaits: Awaits,
    line: Vec<u8>,
    out: Vec<u8>,
    /// How much of the content was written, while it is.
    sending: Option<usize>,
    mails: u32,
}

/// How a session goes on.
enum Turn {
    Waits,
    Holds,
    Ended,
}

impl<'a> Load<'a> {
    fn new(options: &'a Options) -> anyhow::Result<Self> {
        Ok(Load {
            options,
            poll: epoll::create(CreateFlags::CLOEXEC).context("epoll")?,
            body: message(options.bytes),
            tls: Arc::new(believing()?),
            sessions: Vec::new(),
            free: Vec::new(),
            begun: 0,
            open: 0,
            held: 0,
            ended: 0,
            mails: 0,
            errors: 0,
            ending: false,
            times: Vec::new(),
            buffer: vec![0; BUFFER],
        })
    }

    fn open(&mut self) -> anyhow::Result<()> {
        if self.ending || self.begun >= self.options.sessions {
            return Ok(());
        }
        let began = Instant::now();
        let socket = Socket::new(Domain::for_address(self.options.to), Type::STREAM, None).context("make a socket")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.options.to.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error).context("connect");
            }
            _ => {}
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.poll, socket.as_fd(), EventData::new_u64(place as u64), interest)?;
        self.sessions[place] = Some(Session {
            link: Link::new(socket.into()),
            began,
            awaits: Awaits::Greeting,
            line: Vec::new(),
            out: Vec::new(),
            sending: None,
            mails: 0,
        });
        self.begun += 1;
        self.open += 1;
        Ok(())
    }

    /// Serves all sessions until then, or until `done`.
    fn turn(&mut self, until: Instant, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(1024);
        loop {
            let now = Instant::now();
            if now >= until || done(self) {
                return Ok(());
            }
            let timeout = Timespec::try_from(until - now).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.context("epoll")?,
            };
            for event in &events {
                self.serve(usize::try_from(event.data.u64()).unwrap_or(usize::MAX))?;
            }
        }
    }

    fn serve(&mut self, place: usize) -> anyhow::Result<()> {
        let Some(session) = self.sessions.get_mut(place).and_then(Option::as_mut) else { return Ok(()) };
        let before = session.mails;
        let plan = Plan { options: self.options, body: &self.body, tls: &self.tls, ending: self.ending };
        let turn = session.go_on(&plan, &mut self.buffer);
        self.mails += u64::from(session.mails - before);
        match turn {
            Ok(Turn::Waits) => return Ok(()),
            Ok(Turn::Holds) => {
                self.held += 1;
                return Ok(());
            }
            Ok(Turn::Ended) => {
                self.times.push(session.began.elapsed());
                self.ended += 1;
            }
            Err(error) => {
                self.errors += 1;
                self.ended += 1;
                if self.errors <= 3 {
                    eprintln!("a session failed: {error}");
                }
                ensure!(self.errors < MAX_ERRORS && !self.options.hold, "sessions fail, the last one: {error}");
            }
        }
        self.sessions[place] = None;
        self.free.push(place);
        self.open -= 1;
        self.open()
    }
}

struct Plan<'a> {
    options: &'a Options,
    body: &'a [u8],
    tls: &'a Arc<ClientConfig>,
    ending: bool,
}

impl Session {
    fn go_on(&mut self, plan: &Plan<'_>, buffer: &mut [u8]) -> io::Result<Turn> {
        self.write(plan)?;
        while let Some(count) = self.link.read(buffer)? {
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut bytes = &buffer[..count];
            while let Some(end) = memchr(b'\n', bytes) {
                self.line.extend_from_slice(&bytes[..end]);
                bytes = &bytes[end + 1..];
                let last = self.line.get(3) != Some(&b'-');
                if last {
                    let positive = matches!(self.line.first(), Some(b'2' | b'3'));
                    if !positive {
                        return Err(io::Error::other(String::from_utf8_lossy(&self.line).into_owned()));
                    }
                    if let turn @ (Turn::Holds | Turn::Ended) = self.answered(plan)? {
                        return Ok(turn);
                    }
                }
                self.line.clear();
            }
            self.line.extend_from_slice(bytes);
            self.write(plan)?;
        }
        Ok(Turn::Waits)
    }

    /// One whole reply has come.
    fn answered(&mut self, plan: &Plan<'_>) -> io::Result<Turn> {
        self.awaits = match self.awaits {
            Awaits::Greeting => self.say(b"EHLO sender.bench.example\r\n", Awaits::Ehlo),
            Awaits::Ehlo if plan.options.tls && !self.link.is_secure() => self.say(b"STARTTLS\r\n", Awaits::StartTls),
            Awaits::StartTls => {
                let name = ServerName::try_from(super::MX_NAME).map_err(io::Error::other)?;
                let connection = ClientConnection::new(Arc::clone(plan.tls), name).map_err(io::Error::other)?;
                self.link.secure(connection);
                self.say(b"EHLO sender.bench.example\r\n", Awaits::Ehlo)
            }
            Awaits::Ehlo => self.next_mail(plan),
            Awaits::Mail => Awaits::Rcpt,
            Awaits::Rcpt => Awaits::Data,
            Awaits::Data => {
                self.sending = Some(0);
                Awaits::EndOfData
            }
            Awaits::EndOfData => {
                self.mails += 1;
                self.next_mail(plan)
            }
            Awaits::Quit => return Ok(Turn::Ended),
            Awaits::Nothing => return Err(io::Error::other("a reply to nothing")),
        };
        Ok(if self.awaits == Awaits::Nothing { Turn::Holds } else { Turn::Waits })
    }

    fn next_mail(&mut self, plan: &Plan<'_>) -> Awaits {
        let done = self.mails >= plan.options.mails || (plan.ending && self.mails > 0);
        match (done, plan.options.hold) {
            (true, true) => Awaits::Nothing,
            (true, false) => self.say(b"QUIT\r\n", Awaits::Quit),
            (false, _) => self.say(
                b"MAIL FROM:<alice@sender.bench.example> SIZE=10240\r\nRCPT TO:<bob@mx.bench.example>\r\nDATA\r\n",
                Awaits::Mail,
            ),
        }
    }

    fn say(&mut self, line: &[u8], awaits: Awaits) -> Awaits {
        self.out.extend_from_slice(line);
        awaits
    }

    fn write(&mut self, plan: &Plan<'_>) -> io::Result<()> {
        if !self.out.is_empty() {
            let written = match self.link.write(&self.out) {
                // Not connected yet.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => 0,
                other => other?,
            };
            self.out.drain(..written);
        }
        while let Some(sent) = self.sending {
            let written = self.link.write(&plan.body[sent..])?;
            self.sending = (sent + written < plan.body.len()).then_some(sent + written);
            if written == 0 {
                break;
            }
        }
        self.link.flush()
    }
}

/// A mail of that many bytes on the wire, its end included.
fn message(bytes: usize) -> Vec<u8> {
    let mut text =
        b"Message-ID: <1@sender.bench.example>\r\nFrom: <alice@sender.bench.example>\r\nTo: <bob@mx.bench.example>\r\n\
        Date: Sun, 22 Nov 2026 00:00:00 +0000\r\nSubject: load\r\n\r\n"
            .to_vec();
    let line = "All work and no play makes a dull benchmark, so the lines are of usual size.\r\n";
    while text.len() + line.len() + 3 < bytes {
        text.extend_from_slice(line.as_bytes());
    }
    text.extend_from_slice(b".\r\n");
    text
}

/// TLS with whoever answers: it is the benchmark's own sink, or node. The suite that the proxy asks for first comes first, so that ways do not differ in that.
pub fn believing() -> anyhow::Result<ClientConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    Ok(ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth())
}

/// Asks for no proof of who it is.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
