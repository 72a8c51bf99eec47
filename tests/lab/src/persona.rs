//! Scripted MX hosts: an SMTP server whose every step a rule can bend.
//!
//! Written apart from Warren's own SMTP code, so that a fault there is not repeated here. Pipelining works because
//! commands are answered in order from one buffer; what comes with STARTTLS is thrown away with the buffer.

pub mod catalogue;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::config::{Act, Persona, Step, When};

/// Sessions at a time; more wait in the backlog.
const MAX_SESSIONS: usize = 512;

/// One thing that happened at a persona.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Microseconds since the lab started.
    pub at_us: u64,
    /// Counts the sessions of this persona.
    pub session: u64,
    /// Who spoke.
    pub peer: SocketAddr,
    /// What happened.
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Accepted.
    Connected,
    /// TLS is up: version, and the name that the client asked for.
    Tls {
        /// `TLSv1_3`
        version: String,
        /// SNI
        name: Option<String>,
    },
    /// A command, without its line end.
    Command(String),
    /// A reply line, without its line end, when it began to be written.
    Reply(String),
    /// A message's content arrived, with its size as sent (dots unstuffed).
    Content(u64),
    /// Over, and why.
    Closed(String),
}

/// A running persona.
#[derive(Debug)]
pub struct Host {
    script: Persona,
    name: String,
    tls: TlsAcceptorBox,
    home: PathBuf,
    started: Instant,
    log: Mutex<File>,
    sessions: AtomicU64,
    memory: Mutex<Memory>,
}

struct TlsAcceptorBox(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

/// What outlives a session.
#[derive(Debug, Default)]
struct Memory {
    pairs: BTreeSet<(String, String)>,
    reached: BTreeMap<Step, u64>,
    stored: u64,
}

/// What a step is judged by.
struct Moment<'a> {
    step: Step,
    peer: SocketAddr,
    line: &'a str,
    pair: (&'a str, &'a str),
    encrypted: bool,
}

/// Where the lab at `home` keeps the list of this name: addresses, one a line.
pub fn list_path(home: &Path, name: &str) -> PathBuf {
    home.join("lists").join(name)
}

/// Who is on a list. One that nobody made is empty.
fn listed(list: &Path, peer: IpAddr) -> bool {
    let list = std::fs::read_to_string(list).unwrap_or_default();
    list.lines().any(|line| line.parse() == Ok(peer))
}

impl Host {
    /// Makes it, in the lab at `home`; `log` gets one JSON line for each event.
    pub fn new(script: Persona, name: String, tls: TlsAcceptor, home: PathBuf, log: File, started: Instant) -> Self {
        let (log, tls) = (Mutex::new(log), TlsAcceptorBox(tls));
        Host { script, name, tls, home, started, log, sessions: AtomicU64::new(0), memory: Mutex::default() }
    }

    /// Serves until the lab ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_SESSIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, peer)) = listener.accept().await else { continue };
            let host = self.clone();
            tokio::spawn(async move {
                let id = host.sessions.fetch_add(1, Ordering::Relaxed);
                session::run(&host, stream, peer, id).await;
                drop(place);
            });
        }
    }

    fn log(&self, session: u64, peer: SocketAddr, event: Event) {
        let at_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let entry = LogEntry { at_us, session, peer, event };
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        // One write for each line: a reader never sees half of one, except at the very end.
        let _ = self.log.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
    }

    /// The first rule that fits; also counts the step.
    fn decide(&self, moment: &Moment<'_>) -> Act {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let count = memory.reached.entry(moment.step).or_default();
        *count += 1;
        let count = *count;
        for rule in self.script.rules.iter().filter(|rule| rule.at == moment.step) {
            let fits = match &rule.when {
                When::Always => true,
                When::FirstOfPair => memory.pairs.insert((moment.pair.0.to_owned(), moment.pair.1.to_owned())),
                When::After(n) => count > *n,
                When::Until(n) => count <= *n,
                When::Peer(addresses) => addresses.contains(&moment.peer.ip()),
                When::Listed(name) => listed(&list_path(&self.home, name), moment.peer.ip()),
                When::InTheClear => !moment.encrypted,
                When::Line(part) => moment.line.to_ascii_lowercase().contains(&part.to_ascii_lowercase()),
            };
            if fits {
                return rule.act.clone();
            }
        }
        Act::Accept
    }

    /// Stores a message for one recipient, as it came.
    fn store(&self, recipient: &str, content: &[u8]) -> std::io::Result<()> {
        let Some((user, domain)) = recipient.rsplit_once('@') else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        let number = {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.stored += 1;
            memory.stored
        };
        let maildir = self.home.join("mail").join(domain.to_ascii_lowercase()).join(user);
        let [tmp, new] = ["tmp", "new"].map(|part| maildir.join(part));
        std::fs::create_dir_all(&tmp)?;
        std::fs::create_dir_all(&new)?;
        let name = format!("{number:08}.{}", self.script.name);
        std::fs::write(tmp.join(&name), content)?;
        std::fs::rename(tmp.join(&name), new.join(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Authority;

    fn host(script: Persona) -> Host {
        host_at(script, PathBuf::new())
    }

    fn host_at(script: Persona, home: PathBuf) -> Host {
        let tls = Authority::new().unwrap().identity(&["mx".into()]).unwrap().server().unwrap();
        let log = tempfile_in_memory();
        Host::new(script, "mx".into(), TlsAcceptor::from(tls), home, log, Instant::now())
    }

    fn tempfile_in_memory() -> File {
        File::options().write(true).open("/dev/null").unwrap()
    }

    fn reply(host: &Host, step: Step, pair: (&str, &str)) -> bool {
        let peer = "203.0.113.11:1".parse().unwrap();
        !matches!(host.decide(&Moment { step, peer, line: "RCPT TO:<x@y>", pair, encrypted: false }), Act::Accept)
    }

    #[test]
    fn greylists_each_pair_once() {
        let rule =
            Persona::new("p", [198, 51, 100, 9].into(), &[]).rule(Step::Rcpt, When::FirstOfPair, Act::reply("451 no"));
        let host = host(rule);
        assert!(reply(&host, Step::Rcpt, ("a", "b")));
        assert!(!reply(&host, Step::Rcpt, ("a", "b")));
        assert!(reply(&host, Step::Rcpt, ("a", "c")));
        assert!(!reply(&host, Step::Mail, ("a", "d")));
    }

    #[test]
    fn a_list_can_change_while_the_lab_runs() {
        let home = tempfile::tempdir().unwrap();
        let script = Persona::new("p", [198, 51, 100, 9].into(), &[]);
        let script = script.rule(Step::Rcpt, When::Listed("bl".into()), Act::reply("554 listed"));
        let host = host_at(script, home.path().to_owned());
        assert!(!reply(&host, Step::Rcpt, ("a", "b")), "there is no list");
        let list = list_path(home.path(), "bl");
        std::fs::create_dir_all(list.parent().unwrap()).unwrap();
        std::fs::write(&list, "203.0.113.10\n203.0.113.11\n").unwrap();
        assert!(reply(&host, Step::Rcpt, ("a", "b")));
        std::fs::write(&list, "203.0.113.1\n").unwrap();
        assert!(!reply(&host, Step::Rcpt, ("a", "b")), "not because it begins alike");
    }

    #[test]
    fn throttles_after_n_and_blocks_by_address() {
        let rule = Persona::new("p", [198, 51, 100, 9].into(), &[])
            .rule(Step::Mail, When::After(2), Act::reply("421 slow"))
            .rule(Step::Greeting, When::Peer(vec!["203.0.113.11".parse().unwrap()]), Act::reply("554 listed"));
        let host = host(rule);
        assert!(reply(&host, Step::Greeting, ("", "")));
        assert_eq!([1, 2, 3, 4].map(|_| reply(&host, Step::Mail, ("", ""))), [false, false, true, true]);
    }
}
