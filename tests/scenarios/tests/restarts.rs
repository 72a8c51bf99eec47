//! The proxy is told to end, or the launcher is killed, while a tenant dials: whoever dials is greeted, by one proxy or the next, at one door or the next.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use warren_lab::{Lab, LabConfig};
use warren_scenarios::{Node, Setup, Tenant, inside};

const LONG: Duration = Duration::from_secs(60);
/// Greetings between one restart and the next.
const BETWEEN: usize = 5;

/// Dials an MX out of a cell, as the cell's MSA would, and hears its greeting.
fn greeted(cell: &Path) -> io::Result<String> {
    let mx: SocketAddr = ([198, 51, 100, 31], 25).into();
    inside(cell, || {
        let stream = TcpStream::connect_timeout(&mx, LONG)?;
        stream.set_read_timeout(Some(LONG))?;
        let mut greeting = String::new();
        BufReader::new(stream).read_line(&mut greeting)?;
        Ok(greeting)
    })
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn whoever_dials_while_the_proxy_is_restarted_is_greeted() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let idle = Duration::from_secs(600);
    let node = Node::start(&lab, &Setup { tenants: vec![Tenant::acme()], idle, ..Setup::default() });
    node.ask(&["tenant", "wake", "acme"]);
    let msa = node.wait_until("the MSA", || node.pids("warren-msa").first().copied());
    let cell = PathBuf::from(format!("/proc/{msa}/ns/net"));
    let (heard, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                match greeted(&cell) {
                    Ok(greeting) if greeting.starts_with("220 ") => drop(heard.fetch_add(1, Ordering::Relaxed)),
                    otherwise => return Err(otherwise),
                }
            }
            Ok(())
        });
        let goes_on = |after: &str| {
            let before = heard.load(Ordering::Relaxed);
            node.wait_until(&format!("greetings {after}"), || {
                (dialling.is_finished() || heard.load(Ordering::Relaxed) >= before + BETWEEN).then_some(())
            });
        };
        for round in 0..3 {
            goes_on(&format!("before restart {round}"));
            let old = node.wait_until("the proxy", || node.pids("warren-proxy").first().copied());
            signal(old, Signal::TERM);
            node.wait_until("another proxy", || node.pids("warren-proxy").iter().any(|pid| *pid != old).then_some(()));
        }
        goes_on("at the end");
        over.store(true, Ordering::Relaxed);
        let result = dialling.join().unwrap();
        assert!(result.is_ok(), "{result:?} after {} greetings\n{}", heard.load(Ordering::Relaxed), node.log());
    });
    node.stop();
}

/// Ends what goes on until this is said.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tenants that are awake: the launcher tells of their doors one by one.
const TENANTS: usize = 4;
/// Times that the launcher is killed.
const KILLS: usize = 6;
/// Dials and questions of each kind between one kill and the next.
const MANY: usize = 20;

/// What a program in a cell does over and over.
#[derive(Clone, Copy, Debug)]
enum Try {
    /// Dials what the proxy does not: it says so at once, and no MX is bothered. Not the same all the time: sessions to one are let through at a pace.
    Dial,
    /// Asks the resolver by UDP.
    Ask,
    /// The same by TCP.
    AskByTcp,
}

impl Try {
    fn once(self, n: usize) -> io::Result<()> {
        const RESOLVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53)), 53);
        let connected = |to: SocketAddr| {
            let stream = TcpStream::connect_timeout(&to, LONG)?;
            stream.set_read_timeout(Some(LONG))?;
            io::Result::Ok(stream)
        };
        // A for plain.example, recursion desired.
        let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05plain\x07example\0\0\x01\0\x01";
        let mut answer = [0; 512];
        match self {
            Self::Dial => {
                let mut greeting = String::new();
                BufReader::new(connected(([127, n as u8, 0, 1], 25).into())?).read_line(&mut greeting)?;
                if greeting.starts_with("421 4.4.1 ") { Ok(()) } else { Err(io::Error::other(greeting)) }
            }
            Self::Ask => {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.set_read_timeout(Some(LONG))?;
                socket.send_to(question, RESOLVER)?;
                socket.recv(&mut answer).map(|_| ())
            }
            Self::AskByTcp => {
                let mut stream = connected(RESOLVER)?;
                stream.write_all(&[&[0, question.len() as u8], &question[..]].concat())?;
                stream.read_exact(&mut answer[..14])
            }
        }
    }
}

#[test]
fn nobody_is_refused_because_the_launcher_is_killed() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let names: Vec<String> = (0..TENANTS).map(|n| format!("tenant{n}")).collect();
    let tenants = names.iter().map(|name| Tenant::new(name, "alice")).collect();
    let node = Node::start(&lab, &Setup { tenants, idle: Duration::from_secs(600), ..Setup::default() });
    names.iter().for_each(|name| drop(node.ask(&["tenant", "wake", name])));
    let cells = node.wait_until("the MSAs", || {
        let all = node.pids("warren-msa");
        (all.len() == TENANTS)
            .then(|| all.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net"))).collect::<Vec<_>>())
    });
    // Several of a kind in one cell: while one is served, others wait in the door.
    let tries = [Try::Dial, Try::Dial, Try::Dial, Try::Dial, Try::Ask, Try::AskByTcp];
    let counts = tries.map(|_| AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when an assertion fails.
        let _over = Over(&over);
        let trying: Vec<_> = cells
            .iter()
            .flat_map(|cell| tries.iter().zip(&counts).map(move |(what, count)| (cell, what, count)))
            .map(|(cell, what, count)| {
                let over = &over;
                scope.spawn(move || {
                    inside(cell, || {
                        let mut done = 0;
                        while !over.load(Ordering::Relaxed) {
                            what.once(done).map_err(|error| format!("{what:?} in {cell:?}: {error}"))?;
                            count.fetch_add(1, Ordering::Relaxed);
                            done += 1;
                        }
                        Ok::<_, String>(())
                    })
                })
            })
            .collect();
        let failed = || trying.iter().any(std::thread::ScopedJoinHandle::is_finished);
        let goes_on = |when: &str| {
            let before: Vec<usize> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            node.wait_until(&format!("dials and questions {when}"), || {
                let all = counts.iter().zip(&before).all(|(now, then)| now.load(Ordering::Relaxed) >= then + MANY);
                (failed() || all).then_some(())
            });
        };
        for kill in 0..KILLS {
            goes_on(&format!("before kill {kill}"));
            node.kill("warren-launcher");
            goes_on(&format!("without a launcher, {kill}"));
            // Proxy and resolver.
            let all_told = || node.log().matches("the launcher has told of all doors").count() >= 2 * (kill + 2);
            node.wait_until("a launcher, and all doors", || (failed() || all_told()).then_some(()));
        }
        goes_on("at the end");
        over.store(true, Ordering::Relaxed);
        let results: Vec<_> = trying.into_iter().map(|one| one.join().unwrap()).collect();
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(failed.is_empty(), "{failed:?} after {counts:?}\n{}", node.log());
    });
    println!("{counts:?} dials and questions, none refused");
    node.stop();
}
