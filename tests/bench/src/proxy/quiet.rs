//! What is not a matter of load: time added to one session, memory of sessions that do nothing, memory that does not come back.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::Helper;
use super::net::MX;
use super::paths::{Paths, Way};
use super::sender::Counted;
use super::sink::{BROKEN_MX, TLS_MX};
use super::speed::median;
use crate::interrupt::Interrupt;
use crate::report::Goal;

/// How often the ways take turns.
const ROUNDS: u64 = 10;
/// Memory is what it is when it has not changed for so long. Programs give back what they do not need only after a while.
const SETTLED: Duration = Duration::from_secs(4);
/// Sessions behind which everything that is there for all has its size, a database's memory for pages, say.
const FIRST: u64 = 2_000;

/// How long a session takes while nothing else goes on: connect, one mail of 10 KiB, QUIT.
#[derive(Debug, Serialize)]
pub struct Added {
    pub(super) path: &'static str,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) added_p50_us: f64,
    pub(super) added_p99_us: f64,
}

/// What a session takes that waits.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub(super) path: &'static str,
    pub(super) tls: bool,
    pub(super) sessions: u32,
    pub(super) kib_each: f64,
    pub(super) threads: u64,
}

/// Memory before and after.
#[derive(Debug, Serialize)]
pub struct Leak {
    pub(super) sessions: u64,
    pub(super) failures: u64,
    pub(super) before_kib: u64,
    pub(super) after_kib: u64,
}

fn sender(paths: &Paths, way: Way, mx: Ipv4Addr, arguments: &[(&str, u64)], flags: &[&str]) -> anyhow::Result<Helper> {
    let mut all = vec!["proxy-sender".to_owned(), "--to".to_owned(), Paths::destination(way, mx).to_string()];
    for (name, value) in arguments {
        all.extend([format!("--{name}"), value.to_string()]);
    }
    all.extend(flags.iter().map(|flag| format!("--{flag}")));
    Helper::start(paths.senders(way), &all)
}

fn sessions(paths: &Paths, way: Way, mx: Ipv4Addr, connections: u64, count: u64) -> anyhow::Result<Counted> {
    let arguments = [("connections", connections), ("mails", 1), ("bytes", 10_240), ("sessions", count)];
    let mut sender = sender(paths, way, mx, &arguments, &[])?;
    sender.hear::<String>().context("the sender")?;
    sender.hear().with_context(|| format!("the sender through {way}"))
}

/// One session after the other through each way; the ways take turns.
pub(super) fn added(
    paths: &Paths,
    wanted: impl Fn(&Way) -> bool,
    count: u64,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Added>> {
    let ways = [Way::Direct, Way::Haproxy, Way::Nginx, Way::Warren, Way::Dialling, Way::Unrecorded]
        .into_iter()
        .filter(|way| *way == Way::Direct || wanted(way));
    let mut times: Vec<(Way, Vec<f64>, Vec<f64>)> = ways.map(|way| (way, vec![], vec![])).collect();
    for _ in 0..ROUNDS {
        for (way, p50, p99) in &mut times {
            interrupt.check()?;
            let counted = sessions(paths, *way, MX, 1, count / ROUNDS)?;
            p50.push(counted.session_p50_us);
            p99.push(counted.session_p99_us);
        }
    }
    let direct = times.first().map(|(_, p50, p99)| (median(p50), median(p99))).unwrap_or_default();
    let rows = times.iter().map(|(way, p50, p99)| Added {
        path: way.name(),
        p50_us: median(p50),
        p99_us: median(p99),
        added_p50_us: median(p50) - direct.0,
        added_p99_us: median(p99) - direct.1,
    });
    Ok(rows.collect())
}

/// Sessions that have brought one mail each and wait.
pub(super) fn idle(
    paths: &Paths,
    wanted: impl Fn(&Way) -> bool,
    count: u32,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Idle>> {
    let mut rows = Vec::new();
    for (tls, mx) in [(false, MX), (true, TLS_MX)] {
        for way in [Way::Haproxy, Way::Nginx, Way::Warren, Way::Unrecorded].into_iter().filter(&wanted) {
            interrupt.check()?;
            sessions(paths, way, mx, 50, FIRST)?;
            let before = settled_kib(paths, way);
            let flags: &[&str] = if tls && !way.secures() { &["hold", "tls"] } else { &["hold"] };
            let arguments = [("connections", u64::from(count)), ("mails", 1), ("bytes", 10_240)];
            let mut held = sender(paths, way, mx, &arguments, flags)?;
            held.hear::<String>().with_context(|| format!("hold {count} sessions through {way}"))?;
            let after = settled_kib(paths, way);
            let kib_each = after.saturating_sub(before) as f64 / f64::from(count);
            let idle = Idle { path: way.name(), tls, sessions: count, kib_each, threads: paths.threads(way) };
            eprintln!("{:<18} {:>4} {kib_each:.2} KiB each", idle.path, if tls { "tls" } else { "" });
            rows.push(idle);
        }
    }
    Ok(rows)
}

/// Many sessions, and handshakes that fail, after as many as bring everything to its usual size.
pub(super) fn leak(paths: &Paths, count: u64, failures: u64) -> anyhow::Result<Leak> {
    let way = Way::Warren;
    sessions(paths, way, MX, 50, count / 5)?;
    sessions(paths, way, BROKEN_MX, 10, failures / 5)?;
    let before_kib = settled_kib(paths, way);
    sessions(paths, way, MX, 50, count)?;
    sessions(paths, way, BROKEN_MX, 10, failures)?;
    let after_kib = settled_kib(paths, way);
    Ok(Leak { sessions: count, failures, before_kib, after_kib })
}

/// User memory once nothing changes any more: records are written behind the mail.
fn settled_kib(paths: &Paths, way: Way) -> u64 {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let before = (paths.private_kib(way), paths.cpu(way));
        std::thread::sleep(SETTLED);
        let after = (paths.private_kib(way), paths.cpu(way));
        if before == after || Instant::now() > end {
            return after.0;
        }
    }
}

pub(super) fn goals(added: &[Added], idle: &[Idle], leak: Option<&Leak>) -> Vec<Goal> {
    let own = Way::Warren.name();
    let mut goals = Vec::new();
    if let Some(row) = added.iter().find(|row| row.path == own) {
        goals.push(Goal::at_most("us added to a quiet session", row.added_p50_us, 200.0));
    }
    for row in idle.iter().filter(|row| row.path == own) {
        let (name, bound) =
            if row.tls { ("KiB of an idle session, TLS", 20.0) } else { ("KiB of an idle session", 4.0) };
        goals.push(Goal::at_most(name, row.kib_each, bound));
    }
    if let Some(leak) = leak {
        goals.push(Goal::at_most("KiB that do not come back", leak.after_kib as f64 - leak.before_kib as f64, 1024.0));
    }
    goals
}
