//! A node, an internet and a client for the tests: all real sockets on loopback, only DNS and dialing are answered here.

use crate::control::Control;
use crate::delivery::dial::Dial;
use crate::delivery::route::{Exchange, LookupError, Pending, Resolve};
use crate::life::{DRAIN, Parts, Sockets, run};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use warren_control::{FromMsa, LineReader, Settings, ToMsa};

/// Nothing in these tests takes so long.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The internet: zones, hosts and where their MXs really listen.
#[derive(Default)]
pub struct World {
    exchanges: Mutex<HashMap<String, Result<Vec<Exchange>, LookupError>>>,
    hosts: Mutex<HashMap<String, Vec<IpAddr>>>,
    ports: Mutex<HashMap<IpAddr, SocketAddr>>,
}

impl World {
    pub fn mx(&self, domain: &str, answer: Result<Vec<(u16, &str)>, LookupError>) {
        let answer = answer
            .map(|all| all.into_iter().map(|(preference, name)| Exchange { preference, name: name.into() }).collect());
        self.exchanges.lock().unwrap().insert(domain.into(), answer);
    }

    /// A host with one address; `None`: nobody listens there.
    pub fn host(&self, name: &str, port: Option<SocketAddr>) {
        let mut hosts = self.hosts.lock().unwrap();
        let address = IpAddr::from([192, 0, 2, u8::try_from(hosts.len()).unwrap() + 1]);
        hosts.insert(name.into(), vec![address]);
        if let Some(port) = port {
            self.ports.lock().unwrap().insert(address, port);
        }
    }

    /// A domain with one MX.
    pub fn domain(&self, domain: &str, mx: &Mx) {
        let host = format!("mx.{domain}");
        self.mx(domain, Ok(vec![(10, &host)]));
        self.host(&host, Some(mx.address));
    }
}

impl Resolve for World {
    fn exchanges<'a>(&'a self, domain: &'a str) -> Pending<'a, Result<Vec<Exchange>, LookupError>> {
        Box::pin(
            async move { self.exchanges.lock().unwrap().get(domain).cloned().unwrap_or(Err(LookupError::NoDomain)) },
        )
    }

    fn addresses<'a>(&'a self, host: &'a str) -> Pending<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(async move { self.hosts.lock().unwrap().get(host).cloned().ok_or(LookupError::NoDomain) })
    }
}

impl Dial for World {
    fn dial(&self, mx: IpAddr) -> Pending<'_, io::Result<TcpStream>> {
        let port = self.ports.lock().unwrap().get(&mx).copied();
        Box::pin(async move { TcpStream::connect(port.ok_or(io::ErrorKind::ConnectionRefused)?).await })
    }
}

/// What an MX took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    pub mail: String,
    pub rcpts: Vec<String>,
    pub content: Vec<u8>,
}

impl Taken {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

type Script = dyn Fn(&str) -> Option<String> + Send + Sync;

/// A scripted MX. The script sees `CONNECT`, each command, `.` after content; what it does not answer is answered as usual.
/// `DROP` closes, `HANG` says nothing for ever.
pub struct Mx {
    pub address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
    sessions: Arc<Mutex<usize>>,
    arrived: Arc<Notify>,
}

impl Mx {
    pub async fn start(script: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mx = Self { address, taken: Arc::default(), sessions: Arc::default(), arrived: Arc::default() };
        let (taken, sessions, arrived, script) =
            (mx.taken.clone(), mx.sessions.clone(), mx.arrived.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *sessions.lock().unwrap() += 1;
                let (taken, arrived, script) = (taken.clone(), arrived.clone(), script.clone());
                tokio::spawn(async move { serve(stream, &*script, &taken, &arrived).await });
            }
        });
        mx
    }

    /// One that takes everything.
    pub async fn willing() -> Self {
        Self::start(|_| None).await
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    pub fn sessions(&self) -> usize {
        *self.sessions.lock().unwrap()
    }

    pub async fn wait_for(&self, count: usize) -> Vec<Taken> {
        let wait = async {
            loop {
                let arrived = self.arrived.notified();
                if self.taken().len() >= count {
                    return self.taken();
                }
                arrived.await;
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{} of {count} messages came", self.taken().len()))
    }
}

async fn serve(stream: TcpStream, script: &Script, taken: &Mutex<Vec<Taken>>, arrived: &Notify) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut message = Taken::default();
    let mut command = "CONNECT".to_owned();
    loop {
        let verb = command.split([' ', ':']).next().unwrap().to_uppercase();
        let usual = match verb.as_str() {
            "CONNECT" => "220 mx.example ESMTP",
            "EHLO" => {
                "250-mx.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 0"
            }
            "DATA" => "354 go on",
            "QUIT" => "221 2.0.0 bye",
            _ => "250 2.0.0 ok",
        };
        let reply = script(&command).unwrap_or_else(|| usual.to_owned());
        match reply.as_str() {
            "DROP" => return None,
            "HANG" => std::future::pending().await,
            _ => {}
        }
        if reply.starts_with("250") {
            match verb.as_str() {
                "MAIL" => message = Taken { mail: command.clone(), ..Taken::default() },
                "RCPT" => message.rcpts.push(command.clone()),
                "." => {
                    taken.lock().unwrap().push(std::mem::take(&mut message));
                    arrived.notify_waiters();
                }
                _ => {}
            }
        }
        stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
        if verb == "DATA" && reply.starts_with("354") {
            message.content = content(&mut stream).await?;
            command = ".".to_owned();
            continue;
        }
        command.clear();
        if verb == "QUIT" || reply.starts_with("421") || stream.read_line(&mut command).await.ok()? == 0 {
            return None;
        }
        command.truncate(command.trim_end().len());
    }
}

async fn content(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        match line.as_slice() {
            b".\r\n" => return Some(content),
            [b'.', rest @ ..] => content.extend_from_slice(rest),
            whole => content.extend_from_slice(whole),
        }
    }
}

/// An MSA, with a platform at its control socket.
pub struct Node {
    pub submission: SocketAddr,
    pub relay: SocketAddr,
    pub control: Unlinked,
    pub task: JoinHandle<()>,
    kill: oneshot::Sender<()>,
    heard: Arc<Mutex<Vec<FromMsa>>>,
    hearing: Arc<Notify>,
}

impl Node {
    pub async fn start(volume: &Path, world: &Arc<World>, settings: Settings) -> Self {
        let node = Self::start_mute(volume, world).await;
        node.connect(settings).await;
        node
    }

    /// Without a platform.
    pub async fn start_mute(volume: &Path, world: &Arc<World>) -> Self {
        Self::start_patient(volume, world, DRAIN).await
    }

    /// Without a platform, and with so much time at the end.
    pub async fn start_patient(volume: &Path, world: &Arc<World>, drain: Duration) -> Self {
        let control = std::env::temp_dir().join(format!("warren-msa-test-{:016x}", crate::clock::random()));
        let [submission, relay] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let (submission_address, relay_address) = (submission.local_addr().unwrap(), relay.local_addr().unwrap());
        let control_listener = std::os::unix::net::UnixListener::bind(&control).unwrap();
        submission.set_nonblocking(true).unwrap();
        relay.set_nonblocking(true).unwrap();
        control_listener.set_nonblocking(true).unwrap();
        let (volume, world) = (volume.to_owned(), world.clone());
        let (kill, killed) = oneshot::channel::<()>();
        // A runtime of its own: dropped in the middle, it leaves everything as SIGKILL would.
        let task = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let sockets = Sockets {
                    submission: TcpListener::from_std(submission).unwrap(),
                    relay: TcpListener::from_std(relay).unwrap(),
                    control: UnixListener::from_std(control_listener).unwrap(),
                };
                let parts = Parts {
                    volume,
                    resolver: world.clone(),
                    dialer: world,
                    control: Control::default(),
                    started: Instant::now(),
                    drain,
                };
                tokio::select! {
                    () = run(sockets, parts) => {}
                    _ = killed => {}
                }
            });
        });
        Self {
            submission: submission_address,
            relay: relay_address,
            control: Unlinked(control),
            task,
            kill,
            heard: Arc::default(),
            hearing: Arc::default(),
        }
    }

    pub async fn connect(&self, settings: Settings) {
        let mut stream = UnixStream::connect(&self.control.0).await.unwrap();
        warren_control::send(&mut stream, &ToMsa::Settings(settings)).await.unwrap();
        let (heard, hearing) = (self.heard.clone(), self.hearing.clone());
        tokio::spawn(async move {
            let mut reader = LineReader::new(stream);
            while let Ok(Some(message)) = reader.recv::<FromMsa>().await {
                heard.lock().unwrap().push(message);
                hearing.notify_waiters();
            }
        });
    }

    pub fn heard(&self) -> Vec<FromMsa> {
        self.heard.lock().unwrap().clone()
    }

    pub async fn wait_for(&self, what: impl Fn(&FromMsa) -> bool) -> FromMsa {
        let wait = async {
            loop {
                let hearing = self.hearing.notified();
                if let Some(found) = self.heard().into_iter().find(|message| what(message)) {
                    return found;
                }
                hearing.await;
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never heard it: {:#?}", self.heard()))
    }

    pub async fn wait_for_log(&self, part: &str) {
        self.wait_for(|message| matches!(message, FromMsa::Log { text, .. } if text.contains(part))).await;
    }

    /// A logged-in client at the submission entrance.
    pub async fn alice(&self) -> Client {
        let mut client = Client::connect(self.submission).await;
        client.ask("EHLO front").await;
        let reply = client.ask("XCLIENT ADDR=192.0.2.7 PROTO=ESMTP HELO=laptop LOGIN=alice@acme.example").await;
        assert!(reply.starts_with("220 "), "{reply}");
        client.ask("EHLO laptop").await;
        client
    }

    /// A client at the relay entrance.
    pub async fn receiver(&self) -> Client {
        let mut client = Client::connect(self.relay).await;
        client.ask("EHLO receiver").await;
        client
    }

    /// Ends it as SIGTERM does.
    pub async fn drain(self) {
        let mut platform = UnixStream::connect(&self.control.0).await.unwrap();
        warren_control::send(&mut platform, &ToMsa::Drain).await.unwrap();
        timeout(LIMIT, self.task).await.unwrap().unwrap();
    }

    /// As if by SIGKILL: everything stops where it is.
    pub async fn kill(self) {
        drop(self.kill);
        timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

/// A socket's path, removed at the end.
pub struct Unlinked(pub PathBuf);

impl Drop for Unlinked {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An SMTP client that says what it is told to.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(address).await.unwrap()));
        let banner = client.reply().await;
        assert!(banner.starts_with("220 "), "{banner}");
        client
    }

    pub async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            timeout(LIMIT, self.0.read_line(&mut line)).await.expect("a reply in time").unwrap();
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply.trim_end().to_owned();
            }
        }
    }

    pub async fn ask(&mut self, command: &str) -> String {
        self.write(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// Writes to somebody who may be gone.
    pub async fn try_write(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes).await;
    }

    /// What is said until the end.
    pub async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, self.0.read_to_end(&mut rest)).await.expect("an end in time");
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// A whole transaction; gives the answer to its content.
    pub async fn send(&mut self, from: &str, to: &[&str], content: &[u8]) -> String {
        let reply = self.ask(&format!("MAIL FROM:{from}")).await;
        assert!(reply.starts_with("250"), "{reply}");
        for to in to {
            let reply = self.ask(&format!("RCPT TO:{to}")).await;
            assert!(reply.starts_with("250"), "{reply}");
        }
        let reply = self.ask("DATA").await;
        assert!(reply.starts_with("354"), "{reply}");
        let mut wire = Vec::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        self.write(&wire).await;
        self.reply().await
    }
}

/// Sets the due times of everything in a sleeping MSA's queue to the past, as the clock does.
pub fn make_due(volume: &Path) {
    let queue = warren_queue::Queue::open(&volume.join("queue")).unwrap();
    for mut envelope in queue.scan().unwrap().messages {
        envelope.recipients.iter_mut().for_each(|recipient| recipient.due_ms = 1);
        queue.update(&envelope).unwrap();
    }
}
