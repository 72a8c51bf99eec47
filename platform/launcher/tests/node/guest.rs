//! What runs in the containers of the tests: answers questions about what it sees. One line in, one line out, on every entrance.
//! Compiled by the tests with rustc alone, as a static program without dependencies.

use std::ffi::{c_int, c_long};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const VOLUME: &str = "/var/spool/warren";

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn _exit(status: c_int) -> !;
    fn syscall(number: c_long, ...) -> c_long;
}

/// Whether threads burn the processor.
static BURN: AtomicBool = AtomicBool::new(false);

extern "C" fn on_term(_: c_int) {
    // SAFETY: _exit may be called in a handler.
    unsafe { _exit(0) }
}

fn main() {
    // An image that listens itself: only whether it runs is of interest.
    while std::env::args().nth(1).as_deref() == Some("waits") {
        std::thread::park();
    }
    // Wants the address of its exit door for itself.
    while std::env::args().nth(1).as_deref() == Some("takes") {
        if let Ok(_taken) = TcpListener::bind("0.0.0.0:25") {
            let _ = fs::write(format!("{VOLUME}/taken"), "25");
            loop {
                std::thread::park();
            }
        }
        // Nothing tells a program that an address became free: it has to try.
        std::thread::sleep(Duration::from_millis(5));
    }
    if std::env::args().nth(1).as_deref() != Some("stubborn") {
        // SAFETY: the handler only calls _exit.
        unsafe { signal(15, on_term) };
    }
    // SAFETY: LISTEN_FDS promises these three.
    let (submission, relay, control) = unsafe {
        (TcpListener::from_raw_fd(3), TcpListener::from_raw_fd(4), UnixListener::from_raw_fd(5))
    };
    std::thread::spawn(move || {
        for stream in relay.incoming().flatten() {
            std::thread::spawn(move || serve("relay", stream.try_clone().expect("a descriptor"), stream));
        }
    });
    std::thread::spawn(move || {
        for stream in control.incoming().flatten() {
            std::thread::spawn(move || serve("control", stream.try_clone().expect("a descriptor"), stream));
        }
    });
    for stream in submission.incoming().flatten() {
        std::thread::spawn(move || serve("submission", stream.try_clone().expect("a descriptor"), stream));
    }
}

fn serve(entrance: &str, read: impl Read, mut write: impl Write) {
    // In one piece: many small ones would wait for each other's acknowledgements.
    let _ = write.write_all(format!("220 {entrance}\n").as_bytes());
    for line in BufReader::new(read).lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = answer(&words).unwrap_or_else(|error| format!("error {error}"));
        if write.write_all((answer.replace('\n', "|") + "\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(words: &[&str]) -> std::io::Result<String> {
    Ok(match words {
        ["read", path] => fs::read_to_string(path)?,
        ["list", path] => {
            let mut names: Vec<String> =
                fs::read_dir(path)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names.join(" ")
        }
        ["links", path] => {
            let links = fs::read_dir(path)?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
            links.map(|link| link.display().to_string()).collect::<Vec<_>>().join(" ")
        }
        ["owner", path] => {
            use std::os::unix::fs::MetadataExt;
            let metadata = fs::symlink_metadata(path)?;
            format!("{}:{}", metadata.uid(), metadata.gid())
        }
        ["write", path, text] => {
            fs::write(path, format!("{text}\n"))?;
            "written".into()
        }
        ["fill", path, megabytes] => {
            let mut file = fs::File::create(path)?;
            for _ in 0..megabytes.parse().unwrap_or(0) {
                file.write_all(&vec![b'x'; 1 << 20])?;
            }
            "filled".into()
        }
        ["fifo"] => {
            // SAFETY: mknod with a C string.
            let made = unsafe { syscall(133, c"/var/spool/warren/next-due".as_ptr(), 0o010_600, 0) };
            format!("{made}")
        }
        ["environment"] => std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
        ["threads", number] => {
            let all: Vec<_> = (0..number.parse().unwrap_or(0))
                .map(|_| std::thread::Builder::new().spawn(|| std::thread::sleep(Duration::from_millis(300))).is_ok())
                .collect();
            format!("{}", all.iter().filter(|made| **made).count())
        }
        ["open", number] => {
            let all: Vec<_> = (0..number.parse().unwrap_or(0)).map_while(|_| fs::File::open("/proc/self/status").ok()).collect();
            format!("{}", all.len())
        }
        ["eat", megabytes] => {
            let mut all = vec![0_u8; megabytes.parse::<usize>().unwrap_or(0) << 20];
            all.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            format!("{}", all.len())
        }
        ["burn", threads] => {
            BURN.store(true, Ordering::Relaxed);
            for _ in 0..threads.parse().unwrap_or(0) {
                std::thread::spawn(|| while BURN.load(Ordering::Relaxed) {});
            }
            "burning".into()
        }
        ["rest"] => {
            BURN.store(false, Ordering::Relaxed);
            "resting".into()
        }
        ["dial", address] => {
            let address = address.parse().map_err(std::io::Error::other)?;
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            let mut text = [0; 100];
            let length = stream.read(&mut text)?;
            String::from_utf8_lossy(&text[..length]).trim().to_string()
        }
        ["ask", text] => {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            socket.send_to(text.as_bytes(), "127.0.0.53:53")?;
            let mut answer = [0; 100];
            let (length, from) = socket.recv_from(&mut answer)?;
            format!("{} from {from}", String::from_utf8_lossy(&answer[..length]))
        }
        ["syscall", number, arguments @ ..] => {
            let number: c_long = number.parse().unwrap_or(-1);
            let a: Vec<c_long> = (0..5).map(|at| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(0)).collect();
            // SAFETY: numbers only; what a pointer would be wanted for gets null.
            let result = unsafe { syscall(number, a[0], a[1], a[2], a[3], a[4]) };
            if result == -1 { format!("errno {}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { format!("{result}") }
        }
        ["exit", status] => std::process::exit(status.parse().unwrap_or(1)),
        ["crash"] => std::process::abort(),
        ["volume"] => VOLUME.into(),
        other => format!("unknown {other:?}"),
    })
}
