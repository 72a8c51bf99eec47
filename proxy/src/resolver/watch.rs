//! Whether nameservers pass DNSSEC records on.
//!
//! ```text
//!   each nameserver ◀── ". SOA", DO ── look ──▶ Seen ──▶ Watch::take ──▶ Stance: validate with these, or nothing is secure
//! ```
//!
//! Many a router strips signatures from what it forwards. Validated through such a one, every signed domain is bogus and no mail flows; so it is noticed, said,
//! and everything is insecure. Somebody on the way can strip, too, to switch DANE off: once nameservers did pass signatures on, they must fail to
//! several times in a row before that is believed, and mail to signed domains waits meanwhile. `[resolver] dnssec = "require"` never believes it.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{net::UdpSocket, time::timeout};
use warren_config::Dnssec;

/// Rounds in which nobody passes signatures on, after they did, before nothing is validated any more.
const DISBELIEF: u32 = 5;
/// How long one nameserver has for an answer, and how often it is asked.
const ATTEMPT: Duration = Duration::from_millis(700);
const ATTEMPTS: usize = 2;
/// Until the next look while something is wrong.
const SOON: Duration = Duration::from_secs(30);
/// Until the next look while all is well.
const LATER: Duration = Duration::from_secs(600);

/// What one nameserver did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Its answer had a signature.
    Passes,
    /// Its answer had none.
    Strips,
    /// There was no answer to go by.
    Silent,
}

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stance {
    /// Validate; otherwise nothing is secure.
    pub validate: bool,
    /// The nameservers to ask, as indices.
    pub servers: Vec<usize>,
}

/// Follows the nameservers. Pure.
#[derive(Debug)]
pub struct Watch {
    mode: Dnssec,
    stance: Stance,
    ever_passed: bool,
    stripped_rounds: u32,
}

impl Watch {
    /// Before anything was seen of `servers` nameservers: they are trusted to pass signatures on. `ever_passed` if they are known to have done so.
    #[must_use]
    pub fn new(mode: Dnssec, servers: usize, ever_passed: bool) -> Self {
        let stance = Stance { validate: mode != Dnssec::Off, servers: (0..servers).collect() };
        Self { mode, stance, ever_passed, stripped_rounds: 0 }
    }

    /// How to ask now.
    #[must_use]
    pub fn stance(&self) -> &Stance {
        &self.stance
    }

    /// Whether one of them ever passed signatures on.
    #[must_use]
    pub fn ever_passed(&self) -> bool {
        self.ever_passed
    }

    /// Takes what a round of looking has seen, one entry for each nameserver; the time until the next, if there is to be one.
    pub fn take(&mut self, seen: &[Seen]) -> Option<Duration> {
        if self.mode == Dnssec::Off {
            return None;
        }
        let all = || (0..seen.len()).collect::<Vec<_>>();
        let passing: Vec<usize> = all().into_iter().filter(|n| seen[*n] == Seen::Passes).collect();
        if !passing.is_empty() {
            (self.ever_passed, self.stripped_rounds) = (true, 0);
            let next = if passing.len() == seen.len() { LATER } else { SOON };
            self.stance = Stance { validate: true, servers: passing };
            return Some(next);
        }
        if seen.contains(&Seen::Strips) {
            self.stripped_rounds += 1;
            let believed = !self.ever_passed || self.stripped_rounds >= DISBELIEF;
            if believed && self.mode == Dnssec::Auto {
                self.stance = Stance { validate: false, servers: all() };
            } else {
                self.stance.servers = all();
            }
        }
        Some(SOON)
    }
}

/// Asks one nameserver for something that is signed wherever anything is.
pub async fn look(server: SocketAddr) -> Seen {
    for _ in 0..ATTEMPTS {
        if let Ok(Ok(Some(seen))) = timeout(ATTEMPT, ask(server)).await {
            return seen;
        }
    }
    Seen::Silent
}

async fn ask(server: SocketAddr) -> std::io::Result<Option<Seen>> {
    let mut question = Message::new(Message::query().metadata.id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.queries.push(Query::query(Name::root(), RecordType::SOA));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.set_dnssec_ok(true);
    question.edns = Some(edns);
    let own: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec().map_err(std::io::Error::other)?).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.metadata.id == question.metadata.id && answer.queries == question.queries => {
                return Ok(read(&answer));
            }
            // Not an answer to this.
            _ => {}
        }
    }
}

/// What an answer shows; none if it is only trouble.
fn read(answer: &Message) -> Option<Seen> {
    let signed = |records: &[hickory_proto::rr::Record]| records.iter().any(|record| record.record_type().is_rrsig());
    match answer.metadata.response_code {
        _ if signed(&answer.answers) || signed(&answer.authorities) => Some(Seen::Passes),
        // It may not even know EDNS.
        ResponseCode::NoError | ResponseCode::NXDomain | ResponseCode::FormErr | ResponseCode::NotImp => {
            Some(Seen::Strips)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Seen::{Passes, Silent, Strips};
    use super::*;

    fn stance(validate: bool, servers: &[usize]) -> Stance {
        Stance { validate, servers: servers.to_vec() }
    }

    #[test]
    fn nameservers_that_strip_are_left_out_where_others_do_not() {
        let mut watch = Watch::new(Dnssec::Auto, 3, false);
        assert_eq!(*watch.stance(), stance(true, &[0, 1, 2]), "before anything was seen");
        assert_eq!(watch.take(&[Strips, Passes, Silent]), Some(SOON));
        assert_eq!(*watch.stance(), stance(true, &[1]));
        assert_eq!(watch.take(&[Passes, Passes, Passes]), Some(LATER));
        assert_eq!(*watch.stance(), stance(true, &[0, 1, 2]));
    }

    #[test]
    fn where_all_strip_from_the_start_nothing_is_secure_until_one_does_not() {
        let mut watch = Watch::new(Dnssec::Auto, 2, false);
        watch.take(&[Silent, Silent]);
        assert_eq!(*watch.stance(), stance(true, &[0, 1]), "silence says nothing");
        watch.take(&[Strips, Silent]);
        assert_eq!(*watch.stance(), stance(false, &[0, 1]));
        watch.take(&[Silent, Silent]);
        assert_eq!(*watch.stance(), stance(false, &[0, 1]));
        watch.take(&[Silent, Passes]);
        assert_eq!(*watch.stance(), stance(true, &[1]));
    }

    #[test]
    fn who_starts_to_strip_is_not_believed_at_once() {
        let mut watch = Watch::new(Dnssec::Auto, 1, false);
        watch.take(&[Passes]);
        for _ in 1..DISBELIEF {
            assert_eq!(watch.take(&[Strips]), Some(SOON));
            assert!(watch.stance().validate);
        }
        watch.take(&[Passes]);
        for _ in 1..DISBELIEF {
            watch.take(&[Strips]);
            assert!(watch.stance().validate, "it begins anew");
        }
        watch.take(&[Strips]);
        assert!(!watch.stance().validate);
    }

    #[test]
    fn who_passed_before_is_not_believed_at_once_either() {
        let mut watch = Watch::new(Dnssec::Auto, 1, true);
        assert!(watch.ever_passed());
        for _ in 1..DISBELIEF {
            watch.take(&[Strips]);
            assert!(watch.stance().validate);
        }
        watch.take(&[Strips]);
        assert!(!watch.stance().validate);
    }

    #[test]
    fn it_can_be_required_or_switched_off() {
        let mut required = Watch::new(Dnssec::Require, 1, false);
        for _ in 0..3 * DISBELIEF {
            required.take(&[Strips]);
        }
        assert_eq!(*required.stance(), stance(true, &[0]));
        let mut off = Watch::new(Dnssec::Off, 1, false);
        assert_eq!((off.take(&[Passes]), off.stance().validate), (None, false));
    }
}
