//! What is known of one sender: counts that fade, and the score that they come to.

use serde::{Deserialize, Serialize};
use warren_launcher_api::TenantName;
use warren_session::{About, Class, Verdict};

use super::clock::{DAY, HOUR, Now, Tick};
use super::rules::{Thresholds, level};
use super::witness::{StoredWitness, Witnesses};
use super::{MailClass, Operator, Stage, Suspicion};

/// In which bad and good outcomes lose half their weight.
pub(super) const HALF_LIFE: Tick = HOUR;
/// Over which a sender's own volume is learned.
const HISTORY: Tick = 7 * DAY;
/// Recipients taken for granted, all known.
const RECIPIENTS: f64 = 20.0;
/// Messages taken for granted, all welcome.
const MESSAGES: f64 = 30.0;
/// A rate of unknown users that is beyond doubt: address lists that people write to every day have a few in a hundred.
const UNKNOWN: f64 = 0.6;
/// A rate of messages called spam that is beyond doubt.
const SPAM: f64 = 0.3;
/// What a jump of volume adds to a score.
const JUMPED: f64 = 40.0;

/// What is known of a sender.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    recipients: Count,
    unknown: Count,
    messages: Count,
    spam: Count,
    volume: Count,
    usual: Count,
    /// Who spoke against it.
    witnesses: Witnesses,
    since: Tick,
    /// The level that was told last.
    told: Suspicion,
    /// A slowed sender may send again.
    pub slowed_until: Tick,
}

/// A count that decays.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    value: f64,
    at: Tick,
}

/// What a reply says about the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A recipient that there is.
    Known,
    /// A recipient that there is not.
    Unknown,
    /// A message that was taken, or refused for what is nobody's fault.
    Welcome,
    /// A message that was called spam.
    Spam,
}

/// A sender's level that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shift {
    pub account: Option<String>,
    pub from: Suspicion,
    pub to: Suspicion,
    pub why: String,
}

/// A sender, as stored. Counts in thousandths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredSender {
    pub tenant: TenantName,
    pub class: MailClass,
    pub account: Option<String>,
    since: i64,
    counts: [(u64, i64); 6],
    /// What was stored before there were any, nobody vouches for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    witnesses: Vec<StoredWitness>,
    told: Suspicion,
}

impl Word {
    /// What a reply says about the sender.
    pub(super) fn of(stage: Stage, verdict: &Verdict) -> Option<Self> {
        match (stage, verdict.class, verdict.about) {
            (Stage::Recipient, Class::UnknownUser, _) => Some(Self::Unknown),
            (Stage::Recipient, Class::Accepted, _) => Some(Self::Known),
            (Stage::Content, Class::Delivered, _) => Some(Self::Welcome),
            // The message, or the domain in it, is on a list.
            (Stage::Content, Class::Content | Class::BlockListed, About::Content | About::Sender | About::Unclear) => {
                Some(Self::Spam)
            }
            (_, Class::BlockListed, About::Content | About::Sender) => Some(Self::Spam),
            _ => None,
        }
    }

    pub(super) fn is_bad(self) -> bool {
        matches!(self, Self::Unknown | Self::Spam)
    }
}

impl Count {
    pub(super) fn now(&self, half_life: Tick, now: Tick) -> f64 {
        if self.value == 0.0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "half-lives, not microseconds, matter")]
        let halves = (now - self.at).max(0) as f64 / half_life as f64;
        self.value * (-halves).exp2()
    }

    pub(super) fn add(&mut self, half_life: Tick, now: Tick) {
        *self = Self { value: self.now(half_life, now) + 1.0, at: now.max(self.at) };
    }
}

impl Sender {
    pub(super) fn new(now: Tick) -> Self {
        let none = Count { value: 0.0, at: now };
        let [recipients, unknown, messages, spam, volume, usual] = [none; 6];
        let (witnesses, told) = (Witnesses::default(), Suspicion::Low);
        Self { recipients, unknown, messages, spam, volume, usual, witnesses, since: now, told, slowed_until: now }
    }

    /// Hears a word, unless its operator had said enough.
    pub(super) fn hear(&mut self, word: Word, operator: &Operator, now: Tick) {
        if word.is_bad() && !self.witnesses.believe(operator, word, now) {
            return;
        }
        let counts: &mut [&mut Count] = match word {
            Word::Known => &mut [&mut self.recipients],
            Word::Unknown => &mut [&mut self.recipients, &mut self.unknown],
            Word::Welcome => &mut [&mut self.messages],
            Word::Spam => &mut [&mut self.messages, &mut self.spam],
        };
        for count in counts {
            count.add(HALF_LIFE, now);
        }
    }

    pub(super) fn sent(&mut self, now: Tick) {
        self.volume.add(HOUR, now);
        self.usual.add(HISTORY, now);
    }

    /// How often the usual volume of this sender it is now; 0 if there is too little to say.
    fn jump(&self, limits: &Thresholds, now: Tick) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "days, not microseconds, matter")]
        let age = (now - self.since) as f64 / HOUR as f64;
        // Behind a count that halves in T stands a rate of count × ln 2 / T, less what it had no time to learn.
        let history = HISTORY / HOUR;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let history = history as f64;
        let learned = 1.0 - (-age / history).exp2();
        if age < 24.0 {
            return 0.0;
        }
        let hourly = self.volume.now(HOUR, now) * std::f64::consts::LN_2;
        let usual = self.usual.now(HISTORY, now) * std::f64::consts::LN_2 / history / learned;
        if hourly < f64::from(limits.jump_from) { 0.0 } else { hourly / usual.max(1.0) }
    }

    /// From 0 to 100, and why.
    pub(super) fn score(&self, limits: &Thresholds, now: Tick) -> (u32, String) {
        let rate =
            |bad: &Count, all: &Count, granted: f64| bad.now(HALF_LIFE, now) / (all.now(HALF_LIFE, now) + granted);
        let unknown = rate(&self.unknown, &self.recipients, RECIPIENTS) / UNKNOWN;
        let spam = rate(&self.spam, &self.messages, MESSAGES) / SPAM;
        let jump = self.jump(limits, now);
        let jumped = if jump < f64::from(limits.jump) { 0.0 } else { JUMPED };
        let witnesses = self.witnesses.count(now);
        let most = match u32::try_from(witnesses).unwrap_or(u32::MAX) {
            few if few < limits.high_destinations => limits.high - 1,
            some if some < limits.severe_destinations => limits.severe - 1,
            _ => 100,
        };
        let score = (unknown.max(spam) * 100.0 + jumped).clamp(0.0, f64::from(most.min(100)));
        let mut why = Vec::new();
        if unknown > 0.01 {
            why.push(format!(
                "{:.0} of {:.0} recipients unknown",
                self.unknown.now(HALF_LIFE, now),
                self.recipients.now(HALF_LIFE, now)
            ));
        }
        if spam > 0.01 {
            why.push(format!(
                "{:.0} of {:.0} messages called spam",
                self.spam.now(HALF_LIFE, now),
                self.messages.now(HALF_LIFE, now)
            ));
        }
        if !why.is_empty() {
            why.push(format!("say {witnesses} destinations"));
        }
        if jumped > 0.0 {
            why.push(format!("{jump:.0} times its usual volume"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
        (score as u32, why.join(", "))
    }

    pub(super) fn level(&self, limits: &Thresholds, now: Tick) -> Suspicion {
        level(limits, self.score(limits, now).0)
    }

    /// Whether the level is another one than was told.
    pub(super) fn shift(&mut self, account: Option<&str>, limits: &Thresholds, now: Tick) -> Option<Shift> {
        let (score, why) = self.score(limits, now);
        let (from, to) = (self.told, level(limits, score));
        self.told = to;
        (from != to).then(|| Shift { account: account.map(str::to_owned), from, to, why })
    }
}

impl Sender {
    fn counts(&self) -> [Count; 6] {
        [self.recipients, self.unknown, self.messages, self.spam, self.volume, self.usual]
    }

    pub(super) fn stored(
        &self,
        tenant: TenantName,
        class: MailClass,
        account: Option<String>,
        now: Now,
    ) -> StoredSender {
        let (since, counts) = (now.stamp(self.since), self.counts().map(|count| count.stored(now)));
        StoredSender { tenant, class, account, since, counts, witnesses: self.witnesses.stored(now), told: self.told }
    }

    pub(super) fn restored(stored: &StoredSender, now: Now) -> Self {
        let [recipients, unknown, messages, spam, volume, usual] =
            stored.counts.map(|count| Count::restored(count, now));
        let since = now.restored(stored.since).min(now.tick);
        let (told, slowed_until) = (stored.told, now.tick);
        let witnesses = Witnesses::restored(&stored.witnesses, now);
        Self { recipients, unknown, messages, spam, volume, usual, witnesses, since, told, slowed_until }
    }
}

impl StoredSender {
    /// When it was heard of last.
    pub(super) fn heard_of(&self) -> Option<i64> {
        self.counts.map(|(_, at)| at).into_iter().max()
    }
}

impl Count {
    pub(super) fn stored(self, now: Now) -> (u64, i64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is never negative")]
        ((self.value * 1_000.0).round() as u64, now.stamp(self.at))
    }

    pub(super) fn restored((thousandths, at): (u64, i64), now: Now) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        Self { value: thousandths.min(1 << 50) as f64 / 1_000.0, at: now.restored(at).min(now.tick) }
    }
}
