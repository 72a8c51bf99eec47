//! A hostile program in the MSA's place that takes all it can get of one thing. Which, is the tenant's name: `forker`, `filler`, `littler`,
//! `eater`, `opener`, `flooder`. What it got, where that can be counted, it writes to `report` in its volume.
//!
//! Standard library only, so that `rustc` alone builds it: `rustc -O --edition 2024 -C target-feature=+crt-static hog.rs`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

const VOLUME: &str = "/var/spool/warren";

unsafe extern "C" {
    fn fork() -> i32;
}

fn main() {
    // SAFETY: descriptor 5 is the control listener that every image inherits.
    let listener = unsafe { UnixListener::from_raw_fd(5) };
    let Ok((stream, _)) = listener.accept() else { return };
    let mut lines = BufReader::new(&stream);
    let mut settings = String::new();
    let _ = lines.read_line(&mut settings);
    let _ = (&stream).write_all(b"\"Ready\"\n");
    // SAFETY: descriptor 3 is the submission entrance.
    let entrance = unsafe { TcpListener::from_raw_fd(3) };
    std::thread::spawn(move || {
        for client in entrance.incoming().flatten() {
            let _ = (&client).write_all(b"421 4.3.2 not a mail server\r\n");
        }
    });
    let vices: [(&str, fn(&UnixStream)); 6] = [
        ("forker", |_| forks()),
        ("filler", |_| fills()),
        ("littler", |_| litters()),
        ("eater", |_| eats()),
        ("opener", |_| opens()),
        ("flooder", floods),
    ];
    for (name, vice) in vices {
        if settings.contains(&format!("\"tenant\":\"{name}\"")) {
            vice(&stream);
        }
    }
    let _ = std::io::copy(&mut lines, &mut std::io::sink());
}

fn report(text: String) {
    // Written whole or not at all: whoever waits for it sees it complete.
    if fs::write(format!("{VOLUME}/report.new"), text).is_ok() {
        let _ = fs::rename(format!("{VOLUME}/report.new"), format!("{VOLUME}/report"));
    }
}

/// A fork bomb: every child forks on, and burns the processor when it cannot.
fn forks() {
    let mut children = 0;
    loop {
        // SAFETY: the children use nothing but the stack and system calls.
        match unsafe { fork() } {
            0 => loop {
                // SAFETY: as above.
                if unsafe { fork() } < 0 {
                    (0..10_000_u64).for_each(|n| _ = std::hint::black_box(n * n));
                }
            },
            pid if pid > 0 => children += 1,
            _ => return report(format!("{children}")),
        }
    }
}

/// Fills the disk, a few MiB a file, deleting every other one while it is open.
fn fills() {
    let block = vec![b'x'; 1 << 20];
    let mut held = Vec::new();
    for n in 0_u64.. {
        let path = format!("{VOLUME}/fill-{}-{n}", std::process::id());
        let Ok(mut file) = File::create(&path) else { continue };
        for _ in 0..4 {
            let _ = file.write_all(&block);
        }
        if n % 2 == 0 && held.len() < 50 {
            let _ = fs::remove_file(&path);
            held.push(file);
        }
    }
}

/// Empty files without number.
fn litters() {
    for n in 0_u64.. {
        let _ = File::create(format!("{VOLUME}/litter-{n}"));
    }
}

/// Touches all memory that it can have.
fn eats() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&eaten);
    }
}

/// Opens files and sockets until there are no descriptors, and keeps them.
fn opens() {
    let mut files = Vec::new();
    while let Ok(file) = File::open("/etc/hosts") {
        files.push(file);
    }
    // Room for the report.
    let count = files.len();
    files.pop();
    report(format!("{count}"));
    loop {
        std::hint::black_box(&files);
        std::thread::park();
    }
}

/// Log lines, connections to the world's port 25 and questions of names, as fast as they go.
fn floods(control: &UnixStream) {
    let control = Arc::new(control.try_clone().expect("a descriptor"));
    std::thread::spawn(move || {
        let line = format!("{{\"Log\":{{\"level\":\"error\",\"text\":\"{}\"}}}}\n", "flood ".repeat(100));
        while (&*control).write_all(line.as_bytes()).is_ok() {}
    });
    for n in 0_u8..4 {
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for at in 0_usize.. {
                let target = format!("198.51.100.{}:25", 100 + n).parse().expect("an address");
                if let Ok(stream) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) {
                    open.push(stream);
                }
                if open.len() > 100 {
                    open.swap_remove(at % 100);
                }
            }
        });
    }
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return };
    for n in 0_u32.. {
        let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
        question.extend(format!("{n:08x}").bytes());
        question.extend(b"\x07example\0\0\x0f\0\x01");
        let _ = socket.send_to(&question, "127.0.0.53:53");
    }
}
