//! What came of remote hosts and their mail, counted since the start, for metrics: `docs/metrics.md` has the names.
//!
//! Counting takes no lock, and no label takes a value from a peer: codes that are none of ours are `other`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use warren_metrics::http::Source;
use warren_metrics::{Page, Tally};
use warren_smtp::Reply;
use warren_smtp::server::Abort;

/// Codes of replies to RCPT and to a message, ours and those of our MSA.
const CODES: [u16; 10] = [250, 421, 450, 451, 452, 501, 550, 552, 553, 554];
/// All of these, then whatever else there may be.
const REPLIES: [Option<u16>; CODES.len() + 1] = {
    let mut all = [None; CODES.len() + 1];
    let mut at = 0;
    while at < CODES.len() {
        all[at] = Some(CODES[at]);
        at += 1;
    }
    all
};

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// It was let in.
    Taken,
    /// There are too many.
    TooMany,
    /// There are too many of its address.
    TooManyOfAddress,
}

const WELCOMES: [(Welcome, &str); 3] =
    [(Welcome::Taken, "taken"), (Welcome::TooMany, "too_many"), (Welcome::TooManyOfAddress, "too_many_of_address")];
const WELCOME: [Welcome; 3] = [Welcome::Taken, Welcome::TooMany, Welcome::TooManyOfAddress];
const ABORTS: [&str; 3] = ["line_end", "too_large", "reset"];
const WHETHER: [bool; 2] = [true, false];

/// All counts of a receiver.
#[derive(Debug)]
pub struct Counts {
    started: SystemTime,
    sessions: AtomicU64,
    connections: Tally<Welcome>,
    handshakes: Tally<bool>,
    recipients: Tally<Option<u16>>,
    messages: Tally<Option<u16>>,
    aborted: Tally<&'static str>,
    unanswered: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            sessions: AtomicU64::new(0),
            connections: Tally::new(&WELCOME),
            handshakes: Tally::new(&WHETHER),
            recipients: Tally::new(&REPLIES),
            messages: Tally::new(&REPLIES),
            aborted: Tally::new(&ABORTS),
            unanswered: AtomicU64::new(0),
        }
    }
}

impl Counts {
    /// A session begins, and goes on until this is dropped.
    #[must_use]
    pub fn session(self: &Arc<Self>) -> Session {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Session(Arc::clone(self))
    }

    /// A host connected.
    pub fn connection(&self, how: Welcome) {
        self.connections.count(how);
    }

    /// A TLS handshake succeeded or failed.
    pub fn handshake(&self, done: bool) {
        self.handshakes.count(done);
    }

    /// A recipient got this reply; none is 250.
    pub fn recipient(&self, refusal: Option<&Reply>) {
        self.recipients.count(refusal.map_or(Some(250), known));
    }

    /// A message got this reply.
    pub fn message(&self, reply: &Reply) {
        self.messages.count(known(reply));
    }

    /// A message was given up while it came.
    pub fn aborted(&self, why: Abort) {
        self.aborted.count(match why {
            Abort::LineEnd(_) => "line_end",
            Abort::TooLarge => "too_large",
            Abort::Reset => "reset",
        });
    }

    /// The platform did not answer a question about a recipient.
    pub fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    fn told(&self) -> Page {
        let mut page = Page::default();
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        page.gauge("warren_receiver_start_time_seconds", "When the receiver was started, in Unix time.")
            .measure(&[], started);
        let sessions = self.sessions.load(Ordering::Relaxed);
        page.gauge("warren_receiver_sessions", "Sessions with other hosts that go on.").add(&[], sessions);
        let family =
            page.counter("warren_receiver_connections_total", "Hosts that connected, by whether they were let in.");
        for ((_, word), (_, count)) in WELCOMES.iter().zip(self.connections.iter()) {
            family.add(&[("result", word)], count);
        }
        let family = page.counter("warren_receiver_tls_handshakes_total", "TLS handshakes of other hosts.");
        for (done, count) in self.handshakes.iter() {
            family.add(&[("result", if done { "done" } else { "failed" })], count);
        }
        for (name, help, replies) in [
            (
                "warren_receiver_recipients_total",
                "Recipients that hosts named, by the reply to each.",
                &self.recipients,
            ),
            (
                "warren_receiver_messages_total",
                "Messages that came whole, by the reply: 250 was handed over.",
                &self.messages,
            ),
        ] {
            let family = page.counter(name, help);
            for (code, count) in replies.iter() {
                let word = code.map_or("other".to_owned(), |code| code.to_string());
                family.add(&[("code", &word)], count);
            }
        }
        let family = page.counter("warren_receiver_aborted_messages_total", "Messages that did not come whole.");
        for (reason, count) in self.aborted.iter() {
            family.add(&[("reason", reason)], count);
        }
        page.counter(
            "warren_receiver_unanswered_total",
            "Questions about recipients that the platform did not answer.",
        )
        .add(&[], self.unanswered.load(Ordering::Relaxed));
        page
    }
}

/// A session that goes on. Each counts itself: of numbers that are told by those who come and go, a late one would stay.
#[derive(Debug)]
pub struct Session(Arc<Counts>);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

fn known(reply: &Reply) -> Option<u16> {
    Some(reply.code).filter(|code| CODES.contains(code))
}

/// Tells the counts.
#[derive(Debug)]
pub struct Told(pub Arc<Counts>);

impl Source for Told {
    async fn page(&self) -> Page {
        self.0.told()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_metrics::{Format, outline, parse};

    #[test]
    fn sessions_that_come_and_go_together_are_all_counted() {
        let counts = Arc::<Counts>::default();
        let open = |counts: &Counts| counts.told().value("warren_receiver_sessions", &[]);
        let stays = counts.session();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| drop(counts.session())));
            }
        });
        assert_eq!(open(&counts), Some(1.0));
        drop(stays);
        assert_eq!(open(&counts), Some(0.0));
    }

    #[test]
    fn what_is_told_is_what_is_documented() {
        let counts = Counts::default();
        counts.recipient(None);
        counts.recipient(Some(&Reply::new(550, (5, 1, 1), "no")));
        counts.message(&Reply::new(599, (5, 0, 0), "an MSA's own"));
        let page = counts.told();
        let of = |code| page.value("warren_receiver_recipients_total", &[("code", code)]);
        assert_eq!((of("250"), of("550"), of("other")), (Some(1.0), Some(1.0), Some(0.0)));
        assert_eq!(page.value("warren_receiver_messages_total", &[("code", "other")]), Some(1.0));
        assert_eq!(parse(&page.render(Format::OpenMetrics)).as_ref(), Ok(&page));
        assert_eq!(page.outline(), outline(include_str!("../../docs/metrics.md"), "## Receiver"));
    }
}
