//! What came of clients and of what they wanted, counted since the start, for metrics.

use warren_metrics::{Page, Tally};

/// How a client was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// It was greeted.
    Taken,
    /// Its address has too many sessions.
    Address,
    /// There are too many sessions.
    Full,
    /// Its address failed to authenticate too often.
    Failures,
}

/// How an attempt to authenticate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// 235, after a full check.
    Right,
    /// 235, after a full check some minutes ago.
    Remembered,
    /// 535.
    Wrong,
    /// 454: too many failures before.
    Cut,
    /// 525: the tenant is suspended.
    Suspended,
    /// 454: too many passwords are being verified.
    Busy,
}

/// What became of something that an authenticated client wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submission {
    /// A message: its MSA has it.
    Accepted,
    /// A MAIL with an address that the account may not use.
    Sender,
    /// A MAIL or RCPT beyond an hourly limit.
    Limit,
    /// A session without an MSA: it could not be woken in time.
    Asleep,
    /// A session without an MSA: its volume is full.
    Full,
    /// A MAIL, RCPT or message that the MSA refused.
    Msa,
}

const WELCOMES: [Welcome; 4] = [Welcome::Taken, Welcome::Address, Welcome::Full, Welcome::Failures];
const ATTEMPTS: [Attempt; 6] =
    [Attempt::Right, Attempt::Remembered, Attempt::Wrong, Attempt::Cut, Attempt::Suspended, Attempt::Busy];
const SUBMISSIONS: [Submission; 6] = [
    Submission::Accepted,
    Submission::Sender,
    Submission::Limit,
    Submission::Asleep,
    Submission::Full,
    Submission::Msa,
];

/// The counts of a front door.
#[derive(Debug)]
pub struct Counts {
    welcomes: Tally<Welcome>,
    attempts: Tally<Attempt>,
    submissions: Tally<Submission>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { welcomes: Tally::new(&WELCOMES), attempts: Tally::new(&ATTEMPTS), submissions: Tally::new(&SUBMISSIONS) }
    }
}

impl Counts {
    /// A client connected.
    pub fn welcome(&self, how: Welcome) {
        self.welcomes.count(how);
    }

    /// A client tried to authenticate.
    pub fn attempt(&self, how: Attempt) {
        self.attempts.count(how);
    }

    /// An authenticated client wanted something.
    pub fn submission(&self, how: Submission) {
        self.submissions.count(how);
    }

    /// Adds what was counted.
    pub fn tell(&self, page: &mut Page) {
        let family = page.counter("warren_frontdoor_clients_total", "Clients that connected, by how they were taken.");
        for (how, count) in self.welcomes.iter() {
            let word = match how {
                Welcome::Taken => "taken",
                Welcome::Address => "too_many_of_address",
                Welcome::Full => "too_many",
                Welcome::Failures => "too_many_failures",
            };
            family.add(&[("result", word)], count);
        }
        let family = page.counter("warren_frontdoor_authentications_total", "Attempts to authenticate.");
        for (how, count) in self.attempts.iter() {
            let word = match how {
                Attempt::Right => "right",
                Attempt::Remembered => "remembered",
                Attempt::Wrong => "wrong",
                Attempt::Cut => "too_many_failures",
                Attempt::Suspended => "suspended",
                Attempt::Busy => "busy",
            };
            family.add(&[("result", word)], count);
        }
        let accepted = self.submissions.iter().find(|(how, _)| *how == Submission::Accepted).map_or(0, |(_, n)| n);
        page.counter("warren_submissions_total", "Messages that an MSA accepted from mail users.").add(&[], accepted);
        let help = "Commands, messages and sessions of mail users that were refused, by reason.";
        let family = page.counter("warren_submission_refusals_total", help);
        for (how, count) in self.submissions.iter() {
            let word = match how {
                Submission::Accepted => continue,
                Submission::Sender => "sender",
                Submission::Limit => "limit",
                Submission::Asleep => "not_woken",
                Submission::Full => "volume_full",
                Submission::Msa => "msa",
            };
            family.add(&[("reason", word)], count);
        }
    }
}
