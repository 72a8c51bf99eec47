//! A front door with one tenant, a fleet that does as it is told, and a client that reads reply by reply.

use std::{
    collections::VecDeque,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use argon2::{Argon2, password_hash::PasswordHasher};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::RootCertStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use warren_control::{CellId, TenantName};
use warren_daemon::Lifecycle;
use warren_smtp::{
    Extensions, ForwardPath, Reply,
    command::Xclient,
    reply::ReplyParser,
    server::{Event, Server, ServerConfig},
};
use warren_wire::{ClientTls, MaybeTls};

use super::super::{FrontDoor, Listener, Wake, passwords::Verifier};
use crate::{
    books::Books,
    fleet::{ColdStart, Connection, Unavailable, words::Refusal},
};

/// What the fleet does for the next who asks.
pub enum Deed {
    /// A connection to an MSA.
    Serve,
    /// A connection that ends before its banner: the MSA was falling asleep.
    HangUp,
    /// Nothing.
    Refuse,
}

/// What the MSA saw.
#[derive(Default)]
pub struct Seen {
    pub asked: Vec<(String, Option<CellId>)>,
    pub commands: Vec<String>,
    pub messages: Vec<Vec<u8>>,
}

#[derive(Clone, Default)]
pub struct Fleet {
    pub deeds: Arc<Mutex<VecDeque<Deed>>>,
    pub seen: Arc<Mutex<Seen>>,
}

impl Wake for Fleet {
    async fn connect(&self, tenant: &TenantName, stale: Option<CellId>) -> Result<Connection, Unavailable> {
        let cell = {
            let mut seen = self.seen.lock().unwrap();
            seen.asked.push((tenant.to_string(), stale));
            CellId(seen.asked.len() as u64)
        };
        let deed = self.deeds.lock().unwrap().pop_front().unwrap_or(Deed::Serve);
        if let Deed::Refuse = deed {
            return Err(Unavailable::Refused { tenant: tenant.clone(), why: Refusal::Late, cause: None });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (msa, _) = listener.accept().await.unwrap();
        if let Deed::Serve = deed {
            tokio::spawn(serve(msa, Arc::clone(&self.seen)));
        }
        Ok(Connection { stream, cell, cold: None })
    }

    fn banner(&self, _: ColdStart, _: Instant) {}
}

/// An MSA: what the contract asks of one, and nothing more.
async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let extensions = Extensions {
        pipelining: true,
        size: Some(50 << 20),
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        enhanced_status_codes: true,
        chunking: true,
        xclient: Xclient::ATTRIBUTES.map(str::to_owned).into(),
        ..Extensions::default()
    };
    let mut server = Server::new(ServerConfig::new("msa", extensions));
    let (mut content, mut chunk) = (Vec::new(), vec![0; 65536]);
    loop {
        while let Some(event) = server.next_event() {
            let note = |text: String| seen.lock().unwrap().commands.push(text);
            match event {
                Event::Xclient(attributes) => note(format!("XCLIENT{attributes}")),
                Event::Mail { from, .. } => note(format!("MAIL {from}")),
                Event::Rcpt { to: ForwardPath::Mailbox(to), .. } if to.local() == "nobody" => {
                    server.reply(Reply::new(550, (5, 1, 1), "no such user"));
                    continue;
                }
                Event::Rcpt { to, .. } => note(format!("RCPT {to}")),
                Event::Content(bytes) => {
                    content.extend(bytes);
                    continue;
                }
                Event::ContentAborted(_) => {
                    content.clear();
                    continue;
                }
                Event::ContentEnd => seen.lock().unwrap().messages.push(std::mem::take(&mut content)),
                Event::Closed(_) => {
                    stream.write_all(&server.take_output()).await.unwrap();
                    return;
                }
                _ => {}
            }
            server.accept();
        }
        if stream.write_all(&server.take_output()).await.is_err() {
            return;
        }
        match stream.read(&mut chunk).await {
            Ok(count @ 1..) => server.receive(&chunk[..count]),
            _ => return,
        }
    }
}

/// The front door and all it needs; gone when dropped.
pub struct Rig {
    pub door: Arc<FrontDoor<Fleet>>,
    pub fleet: Fleet,
    pub submission: SocketAddr,
    pub submissions: SocketAddr,
    tls: ClientTls,
    _lifecycle: Lifecycle,
    _files: tempfile::TempDir,
}

impl Rig {
    /// One tenant with alice (who may also send as sales) and bob. `limits` are lines of `[limits]`.
    pub async fn new(limits: &str) -> Rig {
        let files = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(files.path().join(file), text).unwrap();
        fs::create_dir(files.path().join("tenants")).unwrap();
        let node = "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n[limits]\n";
        write("warren.toml", &format!("{node}{limits}\n"));
        let hash = Argon2::default().hash_password(b"secret").unwrap().to_string();
        let accounts = format!("accounts = {{ alice = \"{hash}\", bob = \"{hash}\" }}");
        let senders = "[senders]\nalice = [\"sales@acme.example\"]";
        write("tenants/acme.toml", &format!("domains = [\"acme.example\"]\n{accounts}\n{senders}\n"));
        let tls = warren_wire::server::self_signed(files.path(), "mail.example.net", None).unwrap();
        let lifecycle = Lifecycle::start().unwrap();
        let fleet = Fleet::default();
        let books = Arc::new(Books::open(files.path()).unwrap());
        let door =
            FrontDoor::new(books, tls, fleet.clone(), Arc::default(), lifecycle.draining(), Verifier::start().unwrap());
        let mut addresses = Vec::new();
        for tls_first in [false, true] {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(socket.local_addr().unwrap());
            tokio::spawn(Arc::clone(&door).accept(Listener { socket, tls_first }));
        }
        Rig {
            door,
            fleet,
            submission: addresses[0],
            submissions: addresses[1],
            tls: ClientTls::with_roots(RootCertStore::empty()),
            _lifecycle: lifecycle,
            _files: files,
        }
    }

    /// A client on 587, greeted.
    pub async fn plain(&self) -> Client {
        let mut client = self.silent().await;
        assert_eq!(client.hear(1).await, "220");
        client
    }

    /// A client on 587 that has not been greeted yet.
    pub async fn silent(&self) -> Client {
        Client::new(MaybeTls::Plain(TcpStream::connect(self.submission).await.unwrap()))
    }

    /// A client on 465, greeted.
    pub async fn implicit(&self) -> Client {
        let stream = MaybeTls::Plain(TcpStream::connect(self.submissions).await.unwrap());
        let mut client = Client::new(self.shake_hands(stream).await);
        assert_eq!(client.hear(1).await, "220");
        client
    }

    /// A client on 587, inside TLS, EHLO said.
    pub async fn secured(&self) -> Client {
        let mut client = self.plain().await;
        assert_eq!(client.say("EHLO me.example\r\nSTARTTLS\r\n").await, "250 | 220 2.0.0");
        let mut client = self.start_tls(client).await;
        assert_eq!(client.say("EHLO me.example\r\n").await, "250");
        client
    }

    /// A client that has authenticated as alice.
    pub async fn alice(&self) -> Client {
        let mut client = self.secured().await;
        assert_eq!(client.say(&plain("alice@acme.example", "secret")).await, "235 2.7.0");
        client
    }

    pub async fn start_tls(&self, client: Client) -> Client {
        Client::new(self.shake_hands(client.stream).await)
    }

    async fn shake_hands(&self, stream: MaybeTls<TcpStream>) -> MaybeTls<TcpStream> {
        let address = self.submission.ip();
        self.tls.connect(stream, Some("mail.example.net"), address, Duration::from_secs(10)).await.unwrap().stream
    }

    pub fn commands(&self) -> Vec<String> {
        self.fleet.seen.lock().unwrap().commands.clone()
    }

    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.fleet.seen.lock().unwrap().messages.clone()
    }
}

/// `AUTH PLAIN` with its initial response.
pub fn plain(login: &str, password: &str) -> String {
    format!("AUTH PLAIN {}\r\n", STANDARD.encode(format!("\0{login}\0{password}")))
}

pub struct Client {
    stream: MaybeTls<TcpStream>,
    replies: ReplyParser,
    /// The last reply with all its lines.
    pub last: Option<Reply>,
}

impl Client {
    fn new(stream: MaybeTls<TcpStream>) -> Client {
        Client { stream, replies: ReplyParser::new(), last: None }
    }

    /// Sends in one piece, and hears as many replies as it has lines.
    pub async fn say(&mut self, text: &str) -> String {
        self.send(text.as_bytes()).await;
        self.hear(text.matches("\r\n").count()).await
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// So many replies, as `250 2.1.0 | 354`; `closed` where the connection ends.
    pub async fn hear(&mut self, count: usize) -> String {
        let mut heard = Vec::new();
        while heard.len() < count {
            if let Some(reply) = self.replies.next_reply().unwrap() {
                heard.push(match reply.enhanced {
                    Some(enhanced) => format!("{} {enhanced}", reply.code),
                    None => reply.code.to_string(),
                });
                self.last = Some(reply);
                continue;
            }
            let mut chunk = [0; 4096];
            let read = timeout(Duration::from_secs(20), self.stream.read(&mut chunk)).await.expect("a reply in time");
            match read {
                Ok(count @ 1..) => self.replies.push(&chunk[..count]),
                _ => {
                    heard.push("closed".into());
                    break;
                }
            }
        }
        heard.join(" | ")
    }

    /// The lines of the last reply.
    pub fn lines(&self) -> Vec<String> {
        self.last.as_ref().map(|reply| reply.lines.clone()).unwrap_or_default()
    }
}
