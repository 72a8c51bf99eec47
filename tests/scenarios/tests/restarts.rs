//! The proxy is told to end while a tenant dials: whoever dials is greeted, by one proxy or the next.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
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
fn greeted(cell: &Path) -> std::io::Result<String> {
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
