//! The program itself: sockets, signals, one-line errors.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn write_config(directory: &Path, hostname: &str) {
    let text = format!(
        "hostname = \"{hostname}\"\n[egress]\naddresses = [\"127.0.0.1\"]\n[paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n",
        directory.display()
    );
    std::fs::write(directory.join("warren.toml"), text).unwrap();
}

struct Program(Child);

impl Program {
    fn start(directory: &Path, address: SocketAddr) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_warren-receiver"))
            .arg("--config")
            .arg(directory)
            .args(["--listen", &address.to_string()])
            .env_remove("LISTEN_FDS")
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the end, within bounds.
    fn ended(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the program did not end");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects as soon as somebody listens.
fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                return BufReader::new(stream);
            }
            Err(error) if Instant::now() > until => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
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
    // Found free a moment ago: as good as it gets without passing a socket.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut program = Program::start(directory.path(), address);
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

    // A transaction that is open may end; then the session does, then the program.
    program.signal(Signal::TERM);
    let mut idle = connect_or_refused(address);
    while idle {
        idle = connect_or_refused(address);
    }
    first.get_mut().write_all(b"RSET\r\n").unwrap();
    assert!(line(&mut first).starts_with("250 2.0.0"));
    assert!(line(&mut first).starts_with("421 4.3.2"));
    assert!(program.ended());
}

/// Whether somebody still listens.
fn connect_or_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

#[test]
fn bad_starts_end_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    write_config(directory.path(), "mail.warren.example");
    let says = |expected: &str| {
        let mut program = Program::start(directory.path(), taken.local_addr().unwrap());
        assert!(!program.ended());
        let mut text = String::new();
        program.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains(expected) && text.trim_end().lines().count() == 1, "{text}");
    };
    says("listening on 127.0.0.1:");
}
