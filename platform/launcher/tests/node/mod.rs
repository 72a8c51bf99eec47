//! A launcher with directories and control groups of its own, for one test; ended and checked for leftovers when dropped.
#![allow(dead_code)] // each test file uses its part

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, net};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketAddrUnix, connect};
use rustix::process::{Pid, Signal, kill_process};
use warren_launcher_api::{CONTROL_NAME, CellId, Event, ImageName, Limits, Request, Role, Stage, TenantName, VERSION};
use warren_packet::Packets;

/// Nothing in these tests takes longer.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Node {
    pub directory: tempfile::TempDir,
    pub cgroup: String,
    slots: usize,
    launcher: Option<Child>,
}

/// The static guest, compiled once.
fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let guest = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("guest-{}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/guest.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc)
            .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "opt-level=1", "-o"])
            .args([&guest, &source])
            .status()
            .unwrap();
        assert!(built.success());
        guest
    })
}

impl Node {
    pub fn new(slots: usize) -> Node {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "these tests make containers: run them as root");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix("warren-launcher-")
            // As closed as a home directory: containers must do without passing through.
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        let mut node =
            Node { directory, cgroup: format!("warren-test-{}-{number}", std::process::id()), slots, launcher: None };
        node.make_image("msa", &["/guest"]);
        node.start();
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn make_image(&self, name: &str, args: &[&str]) {
        let rootfs = self.path("images").join(name).join("rootfs");
        for directory in ["proc", "dev", "tmp", "etc", "var/spool/warren"] {
            fs::create_dir_all(rootfs.join(directory)).unwrap();
        }
        fs::copy(guest(), rootfs.join("guest")).unwrap();
        let description = serde_json::json!({ "args": args, "entrance": "inherited", "uid": 1000, "gid": 1000 });
        fs::write(rootfs.with_file_name("image.json"), description.to_string()).unwrap();
    }

    /// Starts a launcher and waits until it says that it is ready.
    pub fn start(&mut self) {
        let notify = self.path("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let launcher = Command::new(env!("CARGO_BIN_EXE_warren-launcher"))
            .args(["--state".as_ref(), self.path("state").as_os_str(), "--run".as_ref(), self.path("run").as_os_str()])
            .args(["--images".as_ref(), self.path("images").as_os_str()])
            .args(["--cgroup", &self.cgroup, "--slots", &self.slots.to_string(), "--grace-ms", "2000"])
            .args(["--platform-uid", "64001", "--proxy-uid", "64002", "--resolver-uid", "64003"])
            .env("NOTIFY_SOCKET", &notify)
            .spawn()
            .unwrap();
        self.launcher = Some(launcher);
        let mut text = [0; 100];
        let length = socket.recv(&mut text).expect("the launcher becomes ready");
        assert!(text[..length].starts_with(b"READY=1"));
    }

    pub fn pid(&self) -> i32 {
        self.launcher.as_ref().unwrap().id() as i32
    }

    pub fn maker(&self) -> Option<i32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).ok()?;
        let is_maker = |pid: &&str| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0maker\0"))
                && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| !name.starts_with("youki"))
        };
        children.split_whitespace().find(is_maker)?.parse().ok()
    }

    /// kill -9 of the child that measures volumes.
    pub fn kill_watcher(&self) {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap();
        let is_watcher =
            |pid: &&str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0watcher\0"));
        let watcher = children.split_whitespace().find(is_watcher).unwrap().parse().unwrap();
        kill_process(Pid::from_raw(watcher).unwrap(), Signal::KILL).unwrap();
    }

    /// kill -9, and it is really gone.
    pub fn kill_launcher(&mut self) {
        let mut launcher = self.launcher.take().unwrap();
        launcher.kill().unwrap();
        launcher.wait().unwrap();
    }

    /// SIGTERM; answers whether it ended well, and checks that it left nothing.
    pub fn stop(&mut self) {
        let mut launcher = self.launcher.take().unwrap();
        kill_process(Pid::from_child(&launcher), Signal::TERM).unwrap();
        assert!(launcher.wait().unwrap().success());
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }

    /// Everything of this node that the machine still knows of.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for place in ["cells", "containers", "bundles"] {
            let entries = fs::read_dir(self.path("run").join(place)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        for group in self.groups() {
            found.push(group.display().to_string());
        }
        let directory = self.directory.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(&directory)).map(str::to_owned));
        // Processes that have this node in their arguments: makers, waiting inits.
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let environment = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            if environment.contains(&directory) {
                found.push(process.path().display().to_string());
            }
        }
        found
    }

    /// Control groups with our name, wherever they are.
    pub fn groups(&self) -> Vec<PathBuf> {
        fn search(directory: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name() == name {
                        found.push(entry.path());
                    } else if depth > 0 {
                        search(&entry.path(), name, depth - 1, found);
                    }
                }
            }
        }
        let mut found = Vec::new();
        search(Path::new("/sys/fs/cgroup"), &self.cgroup, 4, &mut found);
        found
    }

    pub fn connect(&self, role: Role) -> Client {
        let packets = Packets::connect(self.path("run/launcher.sock")).unwrap();
        let client = Client { packets, tag: 0, later: Vec::new() };
        client.packets.send(&Request::Hello { role, version: VERSION }, &[]).unwrap();
        assert!(matches!(client.receive(), (Event::Welcome { version: VERSION }, _)));
        client
    }

    pub fn platform(&self) -> Client {
        self.connect(Role::Platform)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.launcher.is_none() {
            return;
        }
        if std::thread::panicking() {
            let mut launcher = self.launcher.take().unwrap();
            let _ = kill_process(Pid::from_child(&launcher), Signal::TERM);
            let _ = launcher.wait();
        } else {
            self.stop();
        }
    }
}

pub struct Client {
    pub packets: Packets,
    tag: u64,
    later: Vec<(Event, Vec<OwnedFd>)>,
}

/// A container that runs.
pub struct Awake {
    pub cell: CellId,
    pub slot: bool,
    pub stages: Vec<Stage>,
    pub pidfd: OwnedFd,
    pub control: OwnedFd,
    pub tcp: Vec<OwnedFd>,
}

impl Client {
    pub fn receive(&self) -> (Event, Vec<OwnedFd>) {
        self.receive_within(SOON).expect("an event in time")
    }

    pub fn receive_within(&self, time: Duration) -> Option<(Event, Vec<OwnedFd>)> {
        wait_readable(&self.packets, time).then(|| self.packets.recv().unwrap().expect("the launcher lives"))
    }

    /// The next event that is meant by `wanted`; others are kept for later.
    pub fn wait_for<T>(&mut self, mut wanted: impl FnMut(&Event, &mut Vec<OwnedFd>) -> Option<T>) -> T {
        for at in 0..self.later.len() {
            let (event, descriptors) = &mut self.later[at];
            if let Some(found) = wanted(event, descriptors) {
                self.later.remove(at);
                return found;
            }
        }
        let deadline = Instant::now() + SOON;
        loop {
            assert!(
                Instant::now() < deadline,
                "not in time; got {:?}",
                self.later.iter().map(|(event, _)| event).collect::<Vec<_>>()
            );
            let (event, mut descriptors) = self.receive();
            match wanted(&event, &mut descriptors) {
                Some(found) => return found,
                None => self.later.push((event, descriptors)),
            }
        }
    }

    pub fn ask(&mut self, request: impl FnOnce(u64) -> Request) -> u64 {
        self.tag += 1;
        self.packets.send(&request(self.tag), &[]).unwrap();
        self.tag
    }

    pub fn wake(&mut self, tenant: &str) -> Awake {
        self.try_wake(tenant, "msa", Limits::default()).unwrap()
    }

    pub fn try_wake(
        &mut self,
        tenant: &str,
        image: &str,
        limits: Limits,
    ) -> Result<Awake, warren_launcher_api::LauncherError> {
        let (tenant, image) = (TenantName::new(tenant).unwrap(), ImageName::new(image).unwrap());
        let wanted = self.ask(|tag| Request::Wake { tag, tenant, image, limits });
        self.wait_for(|event, descriptors| match event {
            Event::Woken { tag, cell, slot, stages } if *tag == wanted => {
                let mut descriptors = std::mem::take(descriptors);
                let (pidfd, control) = (descriptors.remove(0), descriptors.remove(0));
                Some(Ok(Awake { cell: *cell, slot: *slot, stages: stages.clone(), pidfd, control, tcp: descriptors }))
            }
            Event::Failed { tag, error } if *tag == wanted => Some(Err(error.clone())),
            _ => None,
        })
    }

    pub fn stop(&mut self, cell: CellId, grace_ms: u32) {
        let wanted = self.ask(|tag| Request::Stop { tag, cell, grace_ms });
        self.wait_for(|event, _| matches!(event, Event::Stopped { tag } if *tag == wanted).then_some(()));
    }

    pub fn exited(&mut self, wanted: CellId) -> warren_launcher_api::ExitStatus {
        self.wait_for(|event, _| match event {
            Event::Exited { cell, status, .. } if *cell == wanted => Some(*status),
            _ => None,
        })
    }

    pub fn list(&mut self) -> Vec<(warren_launcher_api::CellInfo, OwnedFd)> {
        let wanted = self.ask(|tag| Request::List { tag });
        let mut all = Vec::new();
        loop {
            let (part, more) = self.wait_for(|event, descriptors| match event {
                Event::Cells { tag, cells, more } if *tag == wanted => {
                    Some((cells.iter().cloned().zip(std::mem::take(descriptors)).collect::<Vec<_>>(), *more))
                }
                _ => None,
            });
            all.extend(part);
            if !more {
                return all;
            }
        }
    }

    pub fn status(&mut self) -> warren_launcher_api::Status {
        let wanted = self.ask(|tag| Request::Status { tag });
        self.wait_for(|event, _| match event {
            Event::Status { tag, status } if *tag == wanted => Some(status.clone()),
            _ => None,
        })
    }

    /// Asks until the pool is full; each answer is an event, so this does not spin.
    pub fn wait_slots(&mut self, wanted: u64) {
        let deadline = Instant::now() + SOON;
        while self.status().slots_ready < wanted {
            assert!(Instant::now() < deadline, "{:?}", self.status());
            pause();
        }
    }
}

/// Between two questions about something that tells nobody when it changes.
pub fn pause() {
    let short = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let _ = poll(&mut [], Some(&short));
}

pub fn wait_readable(source: impl AsFd, time: Duration) -> bool {
    let time = rustix::event::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::new(&source, PollFlags::IN)], Some(&time)).unwrap() > 0
}

/// A conversation with the guest.
pub struct Talk<S> {
    stream: BufReader<S>,
}

impl Talk<net::TcpStream> {
    pub fn tcp(socket: OwnedFd, port: u16) -> Talk<net::TcpStream> {
        connect(&socket, &net::SocketAddrV4::new(net::Ipv4Addr::LOCALHOST, port)).unwrap();
        let stream = net::TcpStream::from(socket);
        stream.set_read_timeout(Some(SOON)).unwrap();
        Talk { stream: BufReader::new(stream) }
    }
}

impl Talk<UnixStream> {
    pub fn control(socket: OwnedFd) -> Talk<UnixStream> {
        connect(&socket, &SocketAddrUnix::new_abstract_name(CONTROL_NAME.as_bytes()).unwrap()).unwrap();
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(SOON)).unwrap();
        Talk { stream: BufReader::new(stream) }
    }
}

impl<S: std::io::Read + Write> Talk<S> {
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    pub fn ask(&mut self, text: &str) -> String {
        self.say(text);
        self.line()
    }
}

impl Awake {
    /// A conversation over the submission entrance.
    pub fn talk(&mut self) -> Talk<net::TcpStream> {
        let mut talk = Talk::tcp(self.tcp.remove(0), 587);
        assert_eq!(talk.line(), "220 submission");
        talk
    }

    pub fn has_ended(&self, time: Duration) -> bool {
        wait_readable(&self.pidfd, time)
    }

    pub fn micros(&self) -> u64 {
        self.stages.iter().map(|stage| stage.micros).sum()
    }
}
