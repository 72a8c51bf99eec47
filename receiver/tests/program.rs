//! The program itself: sockets, signals, one-line errors.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

fn write_config(directory: &Path, hostname: &str) {
    let text = format!(
        "hostname = \"{hostname}\"\n[egress]\naddresses = [\"127.0.0.1\"]\n[paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n",
        directory.display()
    );
    std::fs::write(directory.join("warren.toml"), text).unwrap();
}

struct Program(Child);

impl Program {
    /// Starts the program with a socket that listens already, as `warren up` and systemd do; gives its address.
    fn start(directory: &Path) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut command = Self::command(directory);
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "smtp");
        command.fd_mappings(vec![FdMapping { parent_fd: listener.into(), child_fd: 3 }]).unwrap();
        (Self(command.spawn().unwrap()), address)
    }

    fn command(directory: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren-receiver"));
        for variable in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WARREN_LOG"] {
            command.env_remove(variable);
        }
        command.arg("--config").arg(directory).stderr(Stdio::piped());
        command
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the end, within bounds; whether it was a success.
    fn ended(&mut self) -> bool {
        let process = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ended, 1, "the program did not end");
        self.0.wait().unwrap().success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    BufReader::new(stream)
}

fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}

#[test]
fn signals_reload_and_drain() {
    let directory = tempfile::tempdir().unwrap();
    write_config(directory.path(), "one.warren.example");
    std::fs::create_dir(directory.path().join("run")).unwrap();
    let (mut program, address) = Program::start(directory.path());
    let mut first = connect(address);
    assert!(line(&mut first).starts_with("220 one.warren.example"));

    std::fs::write(directory.path().join("warren.toml"), "broken").unwrap();
    program.signal(Signal::HUP);
    assert!(
        line(&mut connect(address)).starts_with("220 one.warren.example"),
        "a broken configuration changes nothing"
    );
    write_config(directory.path(), "two.warren.example");
    program.signal(Signal::HUP);
    let until = Instant::now() + Duration::from_secs(20);
    while !line(&mut connect(address)).starts_with("220 two.warren.example") {
        assert!(Instant::now() < until, "the new configuration is never used");
    }

    // The platform is away: mail is put off, the program stays.
    first.get_mut().write_all(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<info@acme.example>\r\n").unwrap();
    while line(&mut first).starts_with("250-") {}
    assert!(line(&mut first).starts_with("250 2.1.0"));
    assert!(line(&mut first).starts_with("451 4.3.0"));
    let mut told = String::new();
    UnixStream::connect(directory.path().join("run/receiver.sock")).unwrap().read_to_string(&mut told).unwrap();
    let told = warren_metrics::parse(&told).unwrap();
    assert_eq!(told.value("warren_receiver_recipients_total", &[("code", "451")]), Some(1.0));
    assert_eq!(told.value("warren_receiver_unanswered_total", &[]), Some(1.0));
    assert!(told.value("warren_receiver_sessions", &[]) >= Some(1.0));
    assert!(told.value("warren_receiver_connections_total", &[("result", "taken")]) >= Some(3.0));

    // A transaction that is open may end; then the session does, then the program.
    program.signal(Signal::TERM);
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < until, "it still listens");
    }
    first.get_mut().write_all(b"RSET\r\n").unwrap();
    assert!(line(&mut first).starts_with("250 2.0.0"));
    assert!(line(&mut first).starts_with("421 4.3.2"));
    assert!(program.ended());
}

#[test]
fn bad_starts_end_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = TcpListener::bind(taken).unwrap();
    let says = |arguments: &[&str], expected: &str| {
        let mut program = Program(Program::command(directory.path()).args(arguments).spawn().unwrap());
        assert!(!program.ended());
        let mut text = String::new();
        program.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains(expected) && text.trim_end().lines().count() == 1, "{text}");
    };
    says(&[], "nothing to listen on");
    says(&["--listen", &taken.to_string()], &format!("listening on {taken}: Address already in use"));
    drop(held);
    says(&["--listen", &taken.to_string()], "warren.toml");
}
