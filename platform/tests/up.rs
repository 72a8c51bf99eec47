//! `warren up` with programs that only know how to live: start, reload, restart, stop, and being killed.
//!
//! Needs root, as the supervisor does. Each program of the node is a copy of this test, running [`program`] by way of
//! `warren_daemon`, so that readiness, inherited sockets, signals and the end with the supervisor are the real ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, test_kill_process};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "runs as a program of the node under test"]
fn program() {
    let name = std::env::var("FAKE").unwrap();
    let ended = warren_daemon::run(&name, async {
        let mut inherited = warren_daemon::Inherited::adopt()?;
        let mut lifecycle = warren_daemon::Lifecycle::start()?;
        for socket in ["submission", "submissions", "smtp"] {
            for listener in inherited.take_tcp(socket)? {
                eprintln!("has {socket} {}", listener.local_addr()?.port());
            }
        }
        for socket in ["launcher", "api"] {
            if (name == "warren-launcher") == (socket == "launcher")
                && matches!(&*name, "warren-launcher" | "warren-platform")
            {
                inherited.take_seqpacket(socket)?;
                eprintln!("has {socket}");
            }
        }
        if matches!(&*name, "warren-resolver" | "warren-receiver") && inherited.take_unix_stream("metrics")?.is_some() {
            eprintln!("has metrics");
        }
        if name == "warren-proxy" {
            inherited.take_datagram("names")?;
            inherited.take_seqpacket("control")?;
            eprintln!("has names and control");
        }
        inherited.finish()?;
        eprintln!("has nice {}", rustix::process::getpriority_process(None)?);
        warren_daemon::ready();
        while lifecycle.next().await == warren_daemon::Signal::Reload {
            eprintln!("reloads");
        }
        eprintln!("drains");
        Ok(())
    });
    assert_eq!(format!("{ended:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}

/// A node in a directory of its own.
struct Node {
    directory: tempfile::TempDir,
    ports: [u16; 3],
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Held together, so that they differ.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let node = Self { directory, ports: held.map(|listener| listener.local_addr().unwrap().port()) };
        fs::create_dir_all(node.path("config/tenants")).unwrap();
        fs::create_dir(node.path("bin")).unwrap();
        fs::copy(std::env::current_exe().unwrap(), node.path("bin/fake")).unwrap();
        for name in ["launcher", "proxy", "resolver", "platform", "receiver"] {
            let fake = node.path("bin/fake");
            let script = format!(
                "#!/bin/sh\n[ \"$1\" = check ] && exit 0\nFAKE=warren-{name} exec {} --ignored --exact program --nocapture\n",
                fake.display()
            );
            let file = node.path(&format!("bin/warren-{name}"));
            fs::write(&file, script).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        node.configure("");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, more: &str) {
        let base = self.directory.path().display();
        let [submission, submissions, smtp] = self.ports;
        let text = format!(
            "hostname = \"mail.example.net\"\n{more}\n[egress]\naddresses = [\"127.0.0.1\"]\n[listen]\n\
             submission = [\"127.0.0.1:{submission}\"]\nsubmissions = [\"127.0.0.1:{submissions}\"]\nsmtp = [\"127.0.0.1:{smtp}\"]\n\
             [users]\nplatform = \"daemon\"\nproxy = \"bin\"\nresolver = \"sys\"\nreceiver = \"mail\"\n\
             [paths]\nstate = \"{base}/state\"\nrun = \"{base}/run\"\nimages = \"{base}/images\"\n"
        );
        fs::write(self.path("config/warren.toml"), text).unwrap();
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
        command.arg(action).arg("--config").arg(self.path("config")).arg("--bin-dir").arg(self.path("bin"));
        command.env_remove("WARREN_CONFIG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn pid_of(&self, name: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.path("run/pids").join(name)).ok()?;
        Pid::from_raw(text.split(' ').next()?.parse().ok()?)
    }
}

/// A running `warren up` and the lines that it says.
struct Up {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Up {
    fn start(node: &Node) -> Self {
        let mut child = node.command("up").spawn().unwrap();
        let (sender, lines) = channel();
        read_lines(child.stdout.take().unwrap(), sender.clone());
        read_lines(child.stderr.take().unwrap(), sender);
        let mut up = Self { child, lines, said: Vec::new() };
        up.hear("warren is up (");
        up
    }

    /// Waits for a line that begins so.
    fn hear(&mut self, beginning: &str) {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.said.push(line);
            if self.said.last().unwrap().starts_with(beginning) {
                return;
            }
        }
        panic!("{beginning:?} was not said, but:\n{}", self.said.join("\n"));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; gives back all lines that were not heard.
    fn end(mut self) -> (ExitStatus, Vec<String>) {
        let rest = self.lines.iter().collect();
        (self.child.wait().unwrap(), rest)
    }
}

fn read_lines(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
}

/// Waits until a process ends, held by its descriptor.
fn wait_for_end(what: &str, process: &OwnedFd) {
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ended, 1, "{what}: not within {PATIENCE:?}");
}

fn alive(pid: Pid) -> bool {
    // A zombie that nobody has reaped yet has ended.
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !status.contains(") Z ")
}

fn sockets_left(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: `warren up` needs root");
    }
    root
}

#[test]
fn starts_reloads_restarts_and_stops() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mut up = Up::start(&node);
    let said = up.said.join("\n");
    let order: Vec<usize> = ["launcher ", "resolver ", "proxy ", "platform ", "receiver "]
        .iter()
        .map(|name| said.find(&format!("warren-{name}")).unwrap())
        .collect();
    assert!(order.is_sorted(), "{said}");
    for (name, socket) in [("platform", 0), ("platform", 1), ("receiver", 2)] {
        let kind = ["submission", "submissions", "smtp"][socket];
        // Output and readiness travel apart, so it may come after "warren is up".
        let line = format!("warren-{name}: has {kind} {}", node.ports[socket]);
        if !up.said.contains(&line) {
            up.hear(&line);
        }
    }

    // Those that check passwords go first, and all of them before tenants; a restart below changes nothing in that.
    for (name, nice) in [("platform", -20), ("resolver", -10), ("proxy", -10), ("receiver", -10), ("launcher", -10)] {
        let line = format!("warren-{name}: has nice {nice}");
        if !up.said.contains(&line) {
            up.hear(&line);
        }
    }

    let second = node.command("up").output().unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.starts_with("warren: this node is up already: `warren up` is process "), "{told}");
    assert_eq!(second.status.code(), Some(1));

    node.configure("hostnaem = \"x\"");
    up.signal(Signal::HUP);
    up.hear("warren: configuration not reloaded: the old one stays in force");
    assert!(up.said.iter().any(|line| line.contains("warren.toml:2:1: unknown field `hostnaem`")), "{:?}", up.said);
    node.configure("");
    up.signal(Signal::HUP);
    up.hear("warren: configuration reloaded: ");
    up.hear("warren-receiver: reloads");

    kill_process(node.pid_of("warren-proxy").unwrap(), Signal::KILL).unwrap();
    up.hear("warren-proxy: it ended (signal: 9 (SIGKILL)); starting it again in 0.1 s");
    up.hear("warren-proxy: has nice -10");
    up.hear("warren-proxy: ready again, process ");
    kill_process(node.pid_of("warren-platform").unwrap(), Signal::KILL).unwrap();
    up.hear("warren-platform: has nice -20");
    up.hear("warren-platform: ready again, process ");

    up.signal(Signal::TERM);
    let (status, rest) = up.end();
    let drained: Vec<&str> = rest.iter().filter_map(|line| line.strip_suffix(": drains")).collect();
    assert_eq!(
        drained,
        ["warren-receiver", "warren-platform", "warren-launcher", "warren-resolver", "warren-proxy"],
        "{rest:?}"
    );
    assert_eq!(status.code(), Some(0));
    assert_eq!(sockets_left(&node.path("run")), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_supervisor_leaves_what_the_next_one_ends() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let up = Up::start(&node);
    let programs = ["resolver", "proxy", "platform", "receiver"].map(|name| {
        let pid = node.pid_of(&format!("warren-{name}")).unwrap();
        pidfd_open(pid, PidfdFlags::empty()).unwrap()
    });
    let launcher = node.pid_of("warren-launcher").unwrap();
    up.signal(Signal::KILL);
    up.end();
    programs.iter().for_each(|program| wait_for_end("programs end with their supervisor", program));
    assert!(alive(launcher), "containers still need it");

    let up = Up::start(&node);
    assert!(!alive(launcher));
    assert!(up.said.iter().any(|line| line.starts_with("warren: ending warren-launcher (process ")), "{:?}", up.said);
    let launcher = node.pid_of("warren-launcher").unwrap();
    up.signal(Signal::KILL);
    up.end();

    let down = node.command("down").output().unwrap();
    assert_eq!(down.status.code(), Some(0), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(String::from_utf8(down.stdout).unwrap().ends_with("warren is down: nothing is left\n"));
    assert!(!alive(launcher));
    assert_eq!(sockets_left(&node.path("run")), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(node.path("run/pids")).unwrap().count(), 0);
}

#[test]
fn a_program_that_does_not_start_ends_the_start() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    fs::write(node.path("bin/warren-proxy"), "#!/bin/sh\necho 'cannot go on' >&2\nexit 3\n").unwrap();
    let output = node.command("up").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("warren-proxy: cannot go on\n"), "{told}");
    assert!(told.ends_with("warren: warren-proxy did not start: it ended (exit status: 3)\n"), "{told}");
    assert!(told.contains("warren-launcher: drains\n"), "{told}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let port = node.ports[2];
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let output = node.command("up").output().unwrap();
    let told = format!(
        "warren: [listen] smtp: port {port} of 127.0.0.1 is in use: `ss -ltnp 'sport = :{port}'` shows by whom\n"
    );
    assert_eq!((String::from_utf8(output.stderr).unwrap(), output.status.code()), (told, Some(1)));
}
