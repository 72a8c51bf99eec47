//! How suspect tenants and accounts are, from what MXs say about their mail.
//!
//! Counts decay by half in [`HALF_LIFE`], so that who stops is trusted again, and every rate has a handful of good outcomes added ([`RECIPIENTS`],
//! [`MESSAGES`]), so that one refusal of three is no pattern. A volume beyond the sender's own history adds to that; alone it goes no
//! further than quarantine, because a newsletter is no crime.
//!
//! What an MX says is believed for so much only: anybody may run one, have a tenant write to it, and call it all spam. One operator's bad words count up to
//! [`EACH`](super::witness::EACH) ([`PROVIDER`](super::witness::PROVIDER) times that if it is a big provider, whose name nobody else can have), and it takes [`FOR_HIGH`] operators to slow a sender and
//! [`FOR_SEVERE`] to stop it.
//!
//! What this cannot see through: a sender who mixes bad mail with good mail to an MX of his own has lower rates, and whoever owns as many
//! domains as it takes, and is written to at all of them, is believed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use warren_launcher_api::TenantName;
use warren_session::{About, Class, Verdict};

use super::bounded::Bounded;
use super::clock::{DAY, HOUR, Now, SECOND, Tick};
use super::witness::{StoredWitness, Witnesses};
use super::{MailClass, Operator, Stage, Suspicion};

/// Tenants remembered.
const TENANTS: usize = 10_000;
/// Accounts remembered of a tenant. With more bad ones the tenant as a whole is what counts.
const ACCOUNTS: usize = 16;
/// Bytes of an account that is remembered; RFC 5321 §4.5.3.1.3 allows a path 256.
const ACCOUNT: usize = 320;
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
/// So many operators have to speak against a sender before it is slowed.
const FOR_HIGH: usize = 3;
/// So many before it is stopped.
const FOR_SEVERE: usize = 5;
/// So many times the usual volume are a jump, from so many messages an hour.
const JUMP: (f64, f64) = (10.0, 200.0);
/// A message now and then, for who is slowed.
const SLOW: Tick = 20 * SECOND;

/// All senders.
#[derive(Debug)]
pub(super) struct Senders(Bounded<(TenantName, MailClass), Tenant>);

#[derive(Debug)]
struct Tenant {
    all: Sender,
    /// Those that had something against them.
    accounts: Vec<(Box<str>, Sender)>,
}

/// What is known of a sender.
#[derive(Debug, Clone)]
struct Sender {
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
    slowed_until: Tick,
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

/// A sender, for people.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub tenant: &'a TenantName,
    pub class: MailClass,
    pub account: Option<&'a str>,
    pub score: u32,
    pub why: String,
}

/// A sender, as stored. Counts in thousandths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredSender {
    tenant: TenantName,
    class: MailClass,
    account: Option<String>,
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
}

impl Word {
    fn is_bad(self) -> bool {
        matches!(self, Self::Unknown | Self::Spam)
    }
}

impl Count {
    pub(super) fn now(&self, half_life: Tick, now: Tick) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "half-lives, not microseconds, matter")]
        let halves = (now - self.at).max(0) as f64 / half_life as f64;
        self.value * (-halves).exp2()
    }

    pub(super) fn add(&mut self, half_life: Tick, now: Tick) {
        *self = Self { value: self.now(half_life, now) + 1.0, at: now.max(self.at) };
    }
}

impl Sender {
    fn new(now: Tick) -> Self {
        let none = Count { value: 0.0, at: now };
        let [recipients, unknown, messages, spam, volume, usual] = [none; 6];
        let (witnesses, told) = (Witnesses::default(), Suspicion::Low);
        Self { recipients, unknown, messages, spam, volume, usual, witnesses, since: now, told, slowed_until: now }
    }

    /// Hears a word, unless its operator had said enough.
    fn hear(&mut self, word: Word, operator: &Operator, now: Tick) {
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

    fn sent(&mut self, now: Tick) {
        self.volume.add(HOUR, now);
        self.usual.add(HISTORY, now);
    }

    /// How often the usual volume of this sender it is now; 0 if there is too little to say.
    fn jump(&self, now: Tick) -> f64 {
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
        if hourly < JUMP.1 { 0.0 } else { hourly / usual.max(1.0) }
    }

    /// From 0 to 100, and why.
    fn score(&self, now: Tick) -> (u32, String) {
        let rate =
            |bad: &Count, all: &Count, granted: f64| bad.now(HALF_LIFE, now) / (all.now(HALF_LIFE, now) + granted);
        let unknown = rate(&self.unknown, &self.recipients, RECIPIENTS) / UNKNOWN;
        let spam = rate(&self.spam, &self.messages, MESSAGES) / SPAM;
        let jump = self.jump(now);
        let jumped = if jump < JUMP.0 { 0.0 } else { 0.4 };
        let witnesses = self.witnesses.count(now);
        let most = match witnesses {
            0..FOR_HIGH => 59.0,
            FOR_HIGH..FOR_SEVERE => 89.0,
            _ => 100.0,
        };
        let score = ((unknown.max(spam) + jumped) * 100.0).clamp(0.0, most);
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

    fn level(&self, now: Tick) -> Suspicion {
        level(self.score(now).0)
    }

    /// Whether the level is another one than was told.
    fn shift(&mut self, account: Option<&str>, now: Tick) -> Option<Shift> {
        let (score, why) = self.score(now);
        let (from, to) = (self.told, level(score));
        self.told = to;
        (from != to).then(|| Shift { account: account.map(str::to_owned), from, to, why })
    }
}

/// What a score means.
pub(super) fn level(score: u32) -> Suspicion {
    match score {
        0..30 => Suspicion::Low,
        30..60 => Suspicion::Raised,
        60..90 => Suspicion::High,
        _ => Suspicion::Severe,
    }
}

/// An account as it is compared. Forwarded mail has the accounts of others: only its tenant counts.
fn key(account: Option<&str>, class: MailClass) -> Option<Box<str>> {
    let account = account.filter(|account| class == MailClass::Submitted && (1..=ACCOUNT).contains(&account.len()))?;
    Some(account.to_ascii_lowercase().into())
}

impl Tenant {
    fn new(now: Tick) -> Self {
        Self { all: Sender::new(now), accounts: Vec::new() }
    }

    fn account(&self, account: &str) -> Option<&Sender> {
        self.accounts.iter().find(|(known, _)| known.eq_ignore_ascii_case(account)).map(|(_, sender)| sender)
    }

    /// The account's place: made if something speaks against it, instead of the least suspect one if it has to be.
    fn account_mut(&mut self, account: &str, bad: bool, now: Tick) -> Option<&mut Sender> {
        let place = self.accounts.iter().position(|(known, _)| **known == *account);
        let place = match place {
            Some(place) => place,
            None if !bad => return None,
            None if self.accounts.len() < ACCOUNTS => {
                self.accounts.push((account.into(), Sender::new(now)));
                self.accounts.len() - 1
            }
            None => {
                let scores = self.accounts.iter().map(|(_, sender)| sender.score(now).0).enumerate();
                let (least, _) = scores.min_by_key(|(_, score)| *score)?;
                self.accounts[least] = (account.into(), Sender::new(now));
                least
            }
        };
        self.accounts.get_mut(place).map(|(_, sender)| sender)
    }
}

impl Senders {
    pub(super) fn new() -> Self {
        Self(Bounded::new(TENANTS))
    }

    /// How suspect a sender is: as much as its account or its tenant.
    pub(super) fn level(&self, tenant: &TenantName, account: Option<&str>, class: MailClass, now: Tick) -> Suspicion {
        let Some(known) = self.0.get(&(tenant.clone(), class)) else { return Suspicion::Low };
        let account = account.filter(|_| class == MailClass::Submitted).and_then(|account| known.account(account));
        known.all.level(now).max(account.map_or(Suspicion::Low, |account| account.level(now)))
    }

    /// Hears a word about a sender.
    pub(super) fn hear(
        &mut self,
        tenant: &TenantName,
        account: Option<&str>,
        class: MailClass,
        (operator, word): (&Operator, Word),
        now: Tick,
    ) -> Vec<Shift> {
        let known = self.0.entry(&(tenant.clone(), class), || Tenant::new(now));
        known.all.hear(word, operator, now);
        let mut shifts: Vec<Shift> = known.all.shift(None, now).into_iter().collect();
        if let Some(account) = key(account, class)
            && let Some(sender) = known.account_mut(&account, word.is_bad(), now)
        {
            sender.hear(word, operator, now);
            shifts.extend(sender.shift(Some(&account), now));
        }
        shifts
    }

    /// Counts a message.
    pub(super) fn sent(&mut self, tenant: &TenantName, class: MailClass, now: Tick) {
        self.0.entry(&(tenant.clone(), class), || Tenant::new(now)).all.sent(now);
    }

    /// Whether a slowed sender may send a message now; if so, it has.
    pub(super) fn slowly(&mut self, tenant: &TenantName, account: Option<&str>, class: MailClass, now: Tick) -> bool {
        let known = self.0.entry(&(tenant.clone(), class), || Tenant::new(now));
        let slow_tenant = known.all.level(now) >= Suspicion::High;
        let account = if slow_tenant { None } else { key(account, class) };
        let sender = match account.and_then(|account| known.accounts.iter_mut().find(|(name, _)| *name == account)) {
            Some((_, sender)) => sender,
            None => &mut known.all,
        };
        let free = now >= sender.slowed_until;
        if free {
            sender.slowed_until = now + SLOW;
        }
        free
    }

    /// Those that are not beyond doubt, the most suspect first.
    pub(super) fn seen(&self, now: Tick) -> Vec<Seen<'_>> {
        let mut all = Vec::new();
        for ((tenant, class), known) in self.0.iter() {
            let accounts = known.accounts.iter().map(|(account, sender)| (Some(&**account), sender));
            for (account, sender) in std::iter::once((None, &known.all)).chain(accounts) {
                let (score, why) = sender.score(now);
                if level(score) > Suspicion::Low {
                    all.push(Seen { tenant, class: *class, account, score, why });
                }
            }
        }
        all.sort_by_key(|seen| std::cmp::Reverse(seen.score));
        all
    }

    /// By a name that stays the same, so that whoever stores it finds what changed.
    pub(super) fn stored(&self, now: Now) -> BTreeMap<String, StoredSender> {
        let mut all = BTreeMap::new();
        for ((tenant, class), known) in self.0.iter() {
            let accounts = known.accounts.iter().map(|(account, sender)| (Some(account.to_string()), sender));
            for (account, sender) in std::iter::once((None, &known.all)).chain(accounts) {
                let kind = if *class == MailClass::Submitted { "submitted" } else { "forwarded" };
                let name = format!("{tenant} {kind} {}", account.as_deref().unwrap_or_default());
                let (tenant, counts) = (tenant.clone(), sender.counts().map(|count| count.stored(now)));
                let (class, since, told) = (*class, now.stamp(sender.since), sender.told);
                let witnesses = sender.witnesses.stored(now);
                all.insert(name, StoredSender { tenant, class, account, since, counts, witnesses, told });
            }
        }
        all
    }

    pub(super) fn restore(&mut self, stored: BTreeMap<String, StoredSender>, now: Now) {
        let mut stored: Vec<StoredSender> = stored.into_values().collect();
        // Who was heard of last is forgotten last.
        stored.sort_by_key(|one| one.counts.map(|(_, at)| at).into_iter().max());
        for one in stored {
            let sender = Sender::restored(&one, now);
            let known = self.0.entry(&(one.tenant, one.class), || Tenant::new(now.tick));
            match one.account {
                None => known.all = sender,
                Some(account) if known.accounts.len() < ACCOUNTS => known.accounts.push((account.into(), sender)),
                Some(_) => {}
            }
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.0.len(), self.0.iter().map(|(_, known)| known.accounts.len()).max().unwrap_or_default())
    }
}

impl Sender {
    fn counts(&self) -> [Count; 6] {
        [self.recipients, self.unknown, self.messages, self.spam, self.volume, self.usual]
    }

    fn restored(stored: &StoredSender, now: Now) -> Self {
        let [recipients, unknown, messages, spam, volume, usual] =
            stored.counts.map(|count| Count::restored(count, now));
        let since = now.restored(stored.since).min(now.tick);
        let (told, slowed_until) = (stored.told, now.tick);
        let witnesses = Witnesses::restored(&stored.witnesses, now);
        Self { recipients, unknown, messages, spam, volume, usual, witnesses, since, told, slowed_until }
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
