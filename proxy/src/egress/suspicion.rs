//! How suspect tenants and accounts are, from what MXs say about their mail.
//!
//! Counts decay by half in [`HALF_LIFE`](super::sender::HALF_LIFE), so that who stops is trusted again, and every rate has a handful of good outcomes added, so
//! that one refusal of three is no pattern. A volume beyond the sender's own history adds to that; alone it goes no further than quarantine, because a
//! newsletter is no crime. What level a score means, and how many have to agree, is for the configuration to say ([`Thresholds`]).
//!
//! What an MX says is believed for so much only: anybody may run one, have a tenant write to it, and call it all spam. One operator's bad words count up to
//! [`EACH`](super::witness::EACH) ([`PROVIDER`](super::witness::PROVIDER) times that if it is a big provider, whose name nobody else can have), and it takes several
//! operators to slow a sender, and more to stop it.
//!
//! What this cannot see through: a sender who mixes bad mail with good mail to an MX of his own has lower rates, and whoever owns as many
//! domains as it takes, and is written to at all of them, is believed.

use std::collections::BTreeMap;

use warren_launcher_api::TenantName;

use super::bounded::Bounded;
use super::clock::{Now, Tick, ticks};
use super::rules::{Thresholds, level};
use super::sender::{Sender, Shift, StoredSender, Word};
use super::{MailClass, Operator, Suspicion};

/// Tenants remembered.
const TENANTS: usize = 10_000;
/// Accounts remembered of a tenant. With more bad ones the tenant as a whole is what counts.
const ACCOUNTS: usize = 16;
/// Bytes of an account that is remembered; RFC 5321 §4.5.3.1.3 allows a path 256.
const ACCOUNT: usize = 320;

/// All senders.
#[derive(Debug)]
pub(super) struct Senders {
    known: Bounded<(TenantName, MailClass), Tenant>,
    thresholds: Thresholds,
}

#[derive(Debug)]
struct Tenant {
    all: Sender,
    /// Those that had something against them.
    accounts: Vec<(Box<str>, Sender)>,
}

/// A sender, for people.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub tenant: &'a TenantName,
    pub class: MailClass,
    pub account: Option<&'a str>,
    pub suspicion: Suspicion,
    pub score: u32,
    pub why: String,
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
    fn account_mut(&mut self, account: &str, bad: bool, limits: &Thresholds, now: Tick) -> Option<&mut Sender> {
        let place = self.accounts.iter().position(|(known, _)| **known == *account);
        let place = match place {
            Some(place) => place,
            None if !bad => return None,
            None if self.accounts.len() < ACCOUNTS => {
                self.accounts.push((account.into(), Sender::new(now)));
                self.accounts.len() - 1
            }
            None => {
                let scores = self.accounts.iter().map(|(_, sender)| sender.score(limits, now).0).enumerate();
                let (least, _) = scores.min_by_key(|(_, score)| *score)?;
                self.accounts[least] = (account.into(), Sender::new(now));
                least
            }
        };
        self.accounts.get_mut(place).map(|(_, sender)| sender)
    }
}

impl Senders {
    pub(super) fn new(thresholds: Thresholds) -> Self {
        Self { known: Bounded::new(TENANTS), thresholds }
    }

    /// Takes over what the configuration says. What is known stays.
    pub(super) fn configure(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// How suspect a sender is: as much as its account or its tenant.
    pub(super) fn level(&self, tenant: &TenantName, account: Option<&str>, class: MailClass, now: Tick) -> Suspicion {
        let Some(known) = self.known.get(&(tenant.clone(), class)) else { return Suspicion::Low };
        let account = account.filter(|_| class == MailClass::Submitted).and_then(|account| known.account(account));
        let level = |sender: &Sender| sender.level(&self.thresholds, now);
        level(&known.all).max(account.map_or(Suspicion::Low, level))
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
        let limits = &self.thresholds;
        let known = self.known.entry(&(tenant.clone(), class), || Tenant::new(now));
        known.all.hear(word, operator, now);
        let mut shifts: Vec<Shift> = known.all.shift(None, limits, now).into_iter().collect();
        if let Some(account) = key(account, class)
            && let Some(sender) = known.account_mut(&account, word.is_bad(), limits, now)
        {
            sender.hear(word, operator, now);
            shifts.extend(sender.shift(Some(&account), limits, now));
        }
        shifts
    }

    /// Counts a message.
    pub(super) fn sent(&mut self, tenant: &TenantName, class: MailClass, now: Tick) {
        self.known.entry(&(tenant.clone(), class), || Tenant::new(now)).all.sent(now);
    }

    /// Whether a slowed sender may send a message now; if so, it has.
    pub(super) fn slowly(&mut self, tenant: &TenantName, account: Option<&str>, class: MailClass, now: Tick) -> bool {
        let limits = &self.thresholds;
        let known = self.known.entry(&(tenant.clone(), class), || Tenant::new(now));
        let slow_tenant = known.all.level(limits, now) >= Suspicion::High;
        let account = if slow_tenant { None } else { key(account, class) };
        let sender = match account.and_then(|account| known.accounts.iter_mut().find(|(name, _)| *name == account)) {
            Some((_, sender)) => sender,
            None => &mut known.all,
        };
        let free = now >= sender.slowed_until;
        if free {
            sender.slowed_until = now + ticks(limits.every);
        }
        free
    }

    /// Those that are not beyond doubt, the most suspect first.
    pub(super) fn seen(&self, now: Tick) -> Vec<Seen<'_>> {
        let mut all = Vec::new();
        for ((tenant, class), known) in self.known.iter() {
            let accounts = known.accounts.iter().map(|(account, sender)| (Some(&**account), sender));
            for (account, sender) in std::iter::once((None, &known.all)).chain(accounts) {
                let (score, why) = sender.score(&self.thresholds, now);
                let suspicion = level(&self.thresholds, score);
                if suspicion > Suspicion::Low {
                    all.push(Seen { tenant, class: *class, account, suspicion, score, why });
                }
            }
        }
        all.sort_by_key(|seen| std::cmp::Reverse(seen.score));
        all
    }

    /// By a name that stays the same, so that whoever stores it finds what changed.
    pub(super) fn stored(&self, now: Now) -> BTreeMap<String, StoredSender> {
        let mut all = BTreeMap::new();
        for ((tenant, class), known) in self.known.iter() {
            let accounts = known.accounts.iter().map(|(account, sender)| (Some(account.to_string()), sender));
            for (account, sender) in std::iter::once((None, &known.all)).chain(accounts) {
                let kind = if *class == MailClass::Submitted { "submitted" } else { "forwarded" };
                let name = format!("{tenant} {kind} {}", account.as_deref().unwrap_or_default());
                all.insert(name, sender.stored(tenant.clone(), *class, account, now));
            }
        }
        all
    }

    pub(super) fn restore(&mut self, stored: BTreeMap<String, StoredSender>, now: Now) {
        let mut stored: Vec<StoredSender> = stored.into_values().collect();
        // Who was heard of last is forgotten last.
        stored.sort_by_key(StoredSender::heard_of);
        for one in stored {
            let sender = Sender::restored(&one, now);
            let known = self.known.entry(&(one.tenant, one.class), || Tenant::new(now.tick));
            match one.account {
                None => known.all = sender,
                Some(account) if known.accounts.len() < ACCOUNTS => known.accounts.push((account.into(), sender)),
                Some(_) => {}
            }
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.known.len(), self.known.iter().map(|(_, known)| known.accounts.len()).max().unwrap_or_default())
    }
}
