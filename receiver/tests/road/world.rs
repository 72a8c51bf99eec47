//! The receiver with everything around it played: a platform on its socket, an MSA behind each connection, a remote host.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use warren_config::Node;
use warren_control::api::{ApiReply, ApiRequest, Verdict};
use warren_daemon::Lifecycle;
use warren_launcher_api::CellId;
use warren_packet::PacketListener;
use warren_packet::aio::{AsyncListener, AsyncPackets};
use warren_receiver::door::Door;
use warren_receiver::platform::Platform;
use warren_receiver::session::Patience;
use warren_receiver::settings::Settings;
use warren_receiver::srs::Srs;
use warren_smtp::command::Xclient;
use warren_smtp::server::{Event, Server, ServerConfig};
use warren_smtp::{Extensions, Reply};

/// What an MSA took.
#[derive(Debug, Clone)]
pub struct Taken {
    pub xclient: Xclient,
    pub from: String,
    pub to: Vec<String>,
    pub content: String,
}

/// What the played parts do and saw.
#[derive(Debug, Default)]
pub struct Stage {
    pub taken: Mutex<Vec<Taken>>,
    /// This many connections end before their banner.
    pub sleepy: AtomicUsize,
    pub connects: AtomicUsize,
    /// The MSA's connection ends after the end of data.
    pub lost_after_dot: AtomicUsize,
    /// The MSA does not greet.
    pub silent: AtomicBool,
}

pub struct World {
    pub stage: Arc<Stage>,
    pub address: SocketAddr,
    pub directory: tempfile::TempDir,
    platform: tokio::task::JoinHandle<()>,
    _lifecycle: Lifecycle,
    _settings: watch::Sender<Arc<Settings>>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Patience::default(), |_| ()).await
    }

    pub async fn with(patience: Patience, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let text = format!(
            "hostname = \"mail.warren.example\"\n[egress]\naddresses = [\"127.0.0.1\"]\n[paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n\
             [limits]\nmessage_size = \"1M\"\n",
            path.display()
        );
        std::fs::write(path.join("warren.toml"), text).unwrap();
        std::fs::create_dir(path.join("run")).unwrap();
        let node = Node::load(path).unwrap();
        let stage = Arc::new(Stage::default());
        let listener = AsyncListener::new(PacketListener::listen(node.paths.platform_socket()).unwrap()).unwrap();
        let platform = tokio::spawn(play_platform(listener, Arc::clone(&stage)));
        let mut settings = Settings::of(&node).unwrap();
        change(&mut settings);
        let (sender, settings) = watch::channel(Arc::new(settings));
        let lifecycle = Lifecycle::start().unwrap();
        let door =
            Door::new(settings, Arc::new(Platform::at(node.paths.platform_socket())), patience, lifecycle.draining());
        let smtp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = smtp.local_addr().unwrap();
        tokio::spawn(door.serve(vec![smtp]));
        Self { stage, address, directory, platform, _lifecycle: lifecycle, _settings: sender }
    }

    pub async fn remote(&self) -> Remote<TcpStream> {
        let mut remote = Remote { stream: TcpStream::connect(self.address).await.unwrap() };
        assert_eq!(remote.hear().await, "220");
        remote
    }

    pub async fn greeted(&self) -> Remote<TcpStream> {
        let mut remote = self.remote().await;
        assert_eq!(remote.say("EHLO mx.remote.example\r\n").await, "250");
        remote
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.stage.taken.lock().unwrap().clone()
    }

    /// The platform dies with its connections.
    pub async fn end_platform(&mut self) {
        self.platform.abort();
        let _ = (&mut self.platform).await;
    }

    pub fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("state/tls/receiver/certificate.pem")).unwrap()
    }
}

async fn play_platform(listener: AsyncListener, stage: Arc<Stage>) {
    // Aborting the platform must end its connections too, so they are served here.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok(packets) = listener.accept().await {
        connections.spawn(answer(packets, Arc::clone(&stage)));
    }
}

async fn answer(packets: AsyncPackets, stage: Arc<Stage>) {
    while let Ok(Some((request, _))) = packets.recv::<ApiRequest>().await {
        match request {
            ApiRequest::Recipient { tag, address } => {
                packets.send(&ApiReply::Recipient { tag, verdict: verdict(&address) }, &[]).await.unwrap()
            }
            ApiRequest::Connect { tag, .. } => {
                stage.connects.fetch_add(1, Ordering::SeqCst);
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                let (there, here) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
                packets.send(&ApiReply::Connected { tag, cell: CellId(1) }, &[there.unwrap().as_fd()]).await.unwrap();
                if stage.sleepy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
                    tokio::spawn(play_msa(here.unwrap().0, Arc::clone(&stage)));
                }
            }
            other => panic!("the receiver does not ask {other:?}"),
        }
    }
}

fn verdict(address: &str) -> Verdict {
    let (local, domain) = address.rsplit_once('@').unwrap();
    let tenant = match domain {
        "acme.example" => "acme",
        "globex.example" => "globex",
        _ => return Verdict::NotLocal,
    };
    let tenant = tenant.parse().unwrap();
    let to = match local {
        "info" => vec!["someone@elsewhere.example".to_owned()],
        "both" => vec!["one@elsewhere.example".to_owned(), "later@elsewhere.example".to_owned()],
        "pair" => vec!["one@elsewhere.example".to_owned(), "two@elsewhere.example".to_owned()],
        "slow" => return Verdict::Deferred,
        local if Srs::has_form(local) => return Verdict::Srs { tenant },
        _ => return Verdict::NoSuchUser,
    };
    Verdict::Forward { tenant, to }
}

async fn play_msa(mut stream: TcpStream, stage: Arc<Stage>) {
    let extensions = Extensions {
        pipelining: true,
        size: Some(1 << 20),
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        xclient: Xclient::ATTRIBUTES.map(str::to_owned).to_vec(),
        ..Extensions::default()
    };
    let mut server = Server::new(ServerConfig::new("mail.warren.example", extensions));
    let mut now = Taken { xclient: Xclient::default(), from: String::new(), to: vec![], content: String::new() };
    let mut content = Vec::new();
    if stage.silent.load(Ordering::SeqCst) {
        let _ = stream.read(&mut [0]).await;
        return;
    }
    let mut buffer = [0; 4_096];
    loop {
        while let Some(event) = server.next_event() {
            match event {
                Event::Xclient(attributes) => {
                    now.xclient = attributes;
                    server.accept();
                }
                Event::Mail { from, .. } => {
                    now.from = from.to_string();
                    server.accept();
                }
                Event::Rcpt { to, .. } if to.to_string().starts_with("later") => {
                    server.reply(Reply::new(451, (4, 2, 0), "later"))
                }
                Event::Rcpt { to, .. } => {
                    now.to.push(to.to_string());
                    server.accept();
                }
                Event::Content(bytes) => content.extend(bytes),
                Event::ContentEnd if stage.lost_after_dot.load(Ordering::SeqCst) > 0 => return,
                Event::ContentEnd => {
                    now.content = String::from_utf8_lossy(&std::mem::take(&mut content)).into_owned();
                    if now.content.contains("reject me") {
                        server.reply(Reply::new(554, (5, 7, 1), "rejected by the MSA"));
                    } else {
                        stage.taken.lock().unwrap().push(now.clone());
                        server.reply(Reply::new(250, (2, 0, 0), "queued as 42"));
                    }
                }
                event if event.wants_answer() => server.accept(),
                _ => {}
            }
        }
        if stream.write_all(&server.take_output()).await.is_err() || server.is_closed() {
            return;
        }
        match stream.read(&mut buffer).await {
            Ok(length) if length > 0 => server.receive(&buffer[..length]),
            _ => return,
        }
    }
}

/// A host that sends mail here.
pub struct Remote<S> {
    pub stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Remote<S> {
    /// Says something and gives the codes of the answers, as many as there are lines that end a command.
    pub async fn say(&mut self, text: &str) -> String {
        self.send(text).await;
        self.hear().await
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next reply's code, or what follows it on a last line without one; empty at the end of the stream.
    pub async fn hear(&mut self) -> String {
        loop {
            let line = self.line().await;
            if line.len() < 4 || line.as_bytes()[3] == b' ' {
                return line.chars().take(3).collect();
            }
        }
    }

    pub async fn line(&mut self) -> String {
        let mut line = Vec::new();
        let read = async {
            while !line.ends_with(b"\n") {
                match self.stream.read_u8().await {
                    Ok(byte) => line.push(byte),
                    Err(_) => break,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer within 20 s");
        String::from_utf8(line).unwrap()
    }

    /// A whole transaction; the answer to its end.
    pub async fn transfer(&mut self, from: &str, to: &str, content: &str) -> String {
        assert_eq!(self.say(&format!("MAIL FROM:<{from}>\r\n")).await, "250");
        assert_eq!(self.say(&format!("RCPT TO:<{to}>\r\n")).await, "250");
        assert_eq!(self.say("DATA\r\n").await, "354");
        self.say(&format!("{content}\r\n.\r\n")).await
    }
}

pub fn files_below(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}
