//! What was asked and what came of it, counted since the start, for metrics. Counting takes no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use hickory_proto::rr::RecordType;
use warren_metrics::{Page, Tally};

/// What MSAs ask for, by name; the rest is `other`.
const KINDS: [(RecordType, &str); 5] = [
    (RecordType::MX, "MX"),
    (RecordType::A, "A"),
    (RecordType::AAAA, "AAAA"),
    (RecordType::TXT, "TXT"),
    (RecordType::PTR, "PTR"),
];
const OTHER: &str = "other";

/// What an MSA was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Records.
    Records,
    /// That there are no such records, or no such name.
    Nothing,
    /// SERVFAIL: nobody can tell, or it does not validate, or the proxy cannot be told.
    Failed,
    /// REFUSED: the cell asks for more names than mail does.
    Refused,
    /// What mail has no use for, or what is no question.
    Unserved,
    /// No answer, or SERVFAIL at once: too many questions are open.
    Dropped,
}

impl Outcome {
    const ALL: [Self; 6] = [Self::Records, Self::Nothing, Self::Failed, Self::Refused, Self::Unserved, Self::Dropped];

    fn word(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Nothing => "nothing",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unserved => "unserved",
            Self::Dropped => "dropped",
        }
    }
}

/// What came of a look-up, an MSA's or one for the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookedUp {
    /// It was known.
    Cached,
    /// It failed a moment ago, and was not asked again.
    Resting,
    /// Nameservers answered.
    Answered,
    /// It does not validate.
    Bogus,
    /// Nameservers failed, or did not answer in time.
    Failed,
}

impl LookedUp {
    const ALL: [Self; 5] = [Self::Cached, Self::Resting, Self::Answered, Self::Bogus, Self::Failed];

    fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Resting => "resting",
            Self::Answered => "answered",
            Self::Bogus => "bogus",
            Self::Failed => "failed",
        }
    }
}

/// Whether something was done.
const WHETHER: [bool; 2] = [true, false];

/// All counts of a resolver.
#[derive(Debug)]
pub struct Counts {
    started: SystemTime,
    questions: Vec<(&'static str, Tally<Outcome>)>,
    lookups: Tally<LookedUp>,
    notes: Tally<bool>,
    fetches: Tally<bool>,
    doors: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        let names = KINDS.iter().map(|(_, name)| *name).chain([OTHER]);
        Self {
            started: SystemTime::now(),
            questions: names.map(|name| (name, Tally::new(&Outcome::ALL))).collect(),
            lookups: Tally::new(&LookedUp::ALL),
            notes: Tally::new(&WHETHER),
            fetches: Tally::new(&WHETHER),
            doors: AtomicU64::new(0),
        }
    }
}

impl Counts {
    /// An MSA asked for this, if it was a question, and that came of it.
    pub fn question(&self, kind: Option<RecordType>, outcome: Outcome) {
        let known = KINDS.iter().position(|(known, _)| Some(*known) == kind).unwrap_or(KINDS.len());
        if let Some((_, tally)) = self.questions.get(known) {
            tally.count(outcome);
        }
    }

    /// Something was looked up.
    pub fn lookup(&self, came: LookedUp) {
        self.lookups.count(came);
    }

    /// The proxy was told what an answer stands for, or could not be.
    pub fn notes(&self, told: bool) {
        self.notes.count(told);
    }

    /// A policy was fetched, or could not be.
    pub fn fetch(&self, done: bool) {
        self.fetches.count(done);
    }

    /// A door is open until this is dropped.
    pub fn door(self: &Arc<Self>) -> Open {
        self.doors.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Adds what was counted.
    pub fn tell(&self, page: &mut Page) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let help = "When the resolver was started, in Unix time.";
        page.gauge("warren_resolver_start_time_seconds", help).measure(&[], started);
        let doors = self.doors.load(Ordering::Relaxed);
        page.gauge("warren_resolver_doors", "Cells that can ask.").add(&[], doors);
        let family = page.counter("warren_resolver_questions_total", "Questions of MSAs, by what came of them.");
        for (kind, outcomes) in &self.questions {
            for (outcome, count) in outcomes.iter() {
                family.add(&[("type", kind), ("outcome", outcome.word())], count);
            }
        }
        let help = "Look-ups, those for the proxy included, by where the answer came from.";
        let family = page.counter("warren_resolver_lookups_total", help);
        for (came, count) in self.lookups.iter() {
            family.add(&[("result", came.word())], count);
        }
        for (name, help, tally) in [
            ("warren_resolver_notes_total", "Times that the proxy was told what an answer stands for.", &self.notes),
            ("warren_resolver_policy_fetches_total", "Fetches of MTA-STS policies.", &self.fetches),
        ] {
            let family = page.counter(name, help);
            for (done, count) in tally.iter() {
                family.add(&[("result", if done { "done" } else { "failed" })], count);
            }
        }
    }
}

/// An open door.
#[derive(Debug)]
pub struct Open(Arc<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.doors.fetch_sub(1, Ordering::Relaxed);
    }
}
