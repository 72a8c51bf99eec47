//! The policy: everything of this folder, put together.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use warren_launcher_api::TenantName;

use super::bounded::Bounded;
use super::clock::{Clock, Now, Tick};
use super::health::Healths;
use super::ramp::Ramps;
use super::room::{Room, RoomKey};
use super::suspicion::Senders;
use super::{
    Ask, Decision, EgressAddr, Entry, Evidence, Granted, Moment, NoEgress, Operator, Outcome, Rules, State, Suspicion,
    Ticket,
};

/// Networks of big providers that are remembered.
const HOMES: usize = 10_000;

/// All egress addresses, what is known about them, and everybody who leaves or waits.
#[derive(Debug)]
pub struct Policy {
    pub(super) rules: Rules,
    pub(super) clock: Clock,
    pub(super) addresses: BTreeMap<EgressAddr, Member>,
    pub(super) healths: Healths,
    pub(super) ramps: Ramps,
    pub(super) senders: Senders,
    homes: Bounded<String, Operator>,
    pub(super) rooms: HashMap<RoomKey, Room>,
    /// Boxed: a table of thousands has room for half as many more.
    pub(super) tickets: HashMap<Ticket, Box<Session>>,
    pub(super) crowds: HashMap<TenantName, Crowd>,
    /// Rooms in which somebody could go on if the proxy as a whole had a place.
    pub(super) queued: VecDeque<RoomKey>,
    pub(super) due: BTreeSet<(Tick, RoomKey)>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) sessions: u32,
    pub(super) last_ticket: u64,
    pub(super) last_turn: u64,
}

/// One of the addresses.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// It rests towards all operators, because a human said so.
    pub by_hand: Option<Evidence>,
    /// It could not be bound lately.
    pub unbound_until: Option<Tick>,
    pub sessions: u32,
    /// When it was chosen last: a number that grows.
    pub turn: u64,
}

/// A session, from coming in to leaving. Thousands wait: it fits into 128 bytes.
#[derive(Debug)]
pub(super) struct Session {
    pub tenant: TenantName,
    pub account: Option<Box<str>>,
    pub class: super::MailClass,
    pub room: RoomKey,
    pub pool: usize,
    pub rule: Option<u32>,
    pub suspicion: Suspicion,
    /// None while it waits.
    pub seat: Option<Seat>,
    /// The place that it had before, while it is not certain that it goes on from the new one: both connections are there.
    pub aside: Option<Box<Seat>>,
    /// It left an address that was turned away: once is enough.
    pub failed_over: bool,
    /// Its message is in its sender's history.
    pub counted: bool,
}

/// The place that a session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub address: EgressAddr,
    pub since: Tick,
    pub probe: bool,
    /// Messages that were counted and have not come yet.
    pub reserved: Option<Reserved>,
}

/// Messages of an address's ramp that were counted before they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    /// On this day of the ramp.
    pub day: u32,
    pub messages: u32,
}

impl Reserved {
    /// What is left behind so many; none if that is nothing.
    pub(super) fn less(self, messages: u32) -> Option<Self> {
        let messages = self.messages.saturating_sub(messages);
        (messages > 0).then_some(Self { messages, ..self })
    }
}

/// The sessions of a tenant.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Under way.
    pub sessions: u32,
    /// Those that wait among them.
    pub tickets: u32,
    /// Rooms in which it waits for having fewer sessions.
    pub parked: VecDeque<RoomKey>,
}

impl Policy {
    /// A policy of these rules that remembers what another one knew.
    pub fn new(rules: Rules, state: Option<State>, now: Moment) -> Self {
        let clock = Clock::new(now.now);
        let mut policy = Self {
            addresses: BTreeMap::new(),
            healths: Healths::new(),
            ramps: Ramps::default(),
            senders: Senders::new(rules.suspicion),
            homes: Bounded::new(HOMES),
            rooms: HashMap::new(),
            tickets: HashMap::new(),
            crowds: HashMap::new(),
            queued: VecDeque::new(),
            due: BTreeSet::new(),
            outcomes: Vec::new(),
            sessions: 0,
            last_ticket: 0,
            last_turn: 0,
            rules,
            clock,
        };
        policy.configure(clock.now(now));
        if let Some(state) = state {
            policy.restore_state(state, clock.now(now));
        }
        policy
    }

    /// Takes over changed rules. Sessions under way keep their places; sessions that wait, wait by the new rules.
    pub fn reload(&mut self, rules: Rules, now: Moment) {
        let now = self.clock.now(now);
        self.rules = rules;
        self.configure(now);
        self.sort_anew(now);
    }

    fn configure(&mut self, now: Now) {
        let mut known = std::mem::take(&mut self.addresses);
        self.addresses =
            self.rules.addresses().map(|address| (address, known.remove(&address).unwrap_or_default())).collect();
        self.ramps.configure(&self.rules.warm_up, now);
        self.senders.configure(self.rules.suspicion);
        let addresses: Vec<EgressAddr> = self.addresses.keys().copied().collect();
        self.healths.keep(&addresses);
    }

    /// Who runs an MX. Beyond [`Operator::of`], the networks of the big providers are remembered by their own names for them, so that a name that
    /// a tenant made for an address of theirs, or none, is no way around their budgets.
    pub fn operator(&mut self, mx_name: Option<&str>, mx: IpAddr) -> Operator {
        let named = Operator::of(mx_name, mx);
        let network = Operator::of(None, mx).to_string();
        if named.is_big_provider() {
            self.homes.entry(&network, || named.clone()).clone_from(&named);
            return named;
        }
        self.homes.touch(&network).cloned().unwrap_or(named)
    }

    /// A session wants to leave. It gets a place, or waits its fair turn, or no address serves it.
    pub fn enter(&mut self, ask: &Ask<'_>, now: Moment) -> Entry {
        let now = self.clock.now(now);
        let suspicion = self.level(ask, now);
        if suspicion == Suspicion::Severe {
            return Entry::Refused(NoEgress::Stopped);
        }
        let (pool, rule) = self.rules.choose(ask, suspicion);
        self.healths.touch(ask.operator);
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let room = RoomKey::of(ask);
        let session = Session {
            tenant: ask.tenant.clone(),
            account: ask.account.map(Box::from),
            class: ask.class,
            room: room.clone(),
            pool,
            rule,
            suspicion,
            seat: None,
            aside: None,
            failed_over: false,
            counted: false,
        };
        self.tickets.insert(ticket, Box::new(session));
        self.crowds.entry(ask.tenant.clone()).or_default().tickets += 1;
        self.rooms.entry(room.clone()).or_default().wait(ask.tenant, pool, ticket, now.tick);
        self.pump(&room, now);
        match self.outcomes.iter().rposition(|outcome| outcome.ticket == ticket) {
            None => Entry::Wait(ticket),
            Some(place) => match self.outcomes.swap_remove(place).result {
                Ok(decision) => Entry::Granted(Granted { ticket, decision }),
                Err(refused) => Entry::Refused(refused),
            },
        }
    }

    /// What became of waiting sessions since the last call. To be called after every other call that changes anything, and at [`due`](Self::due).
    pub fn next(&mut self, now: Moment) -> Vec<Outcome> {
        let now = self.clock.now(now);
        while let Some((at, _)) = self.due.first()
            && *at <= now.tick
        {
            let Some((_, room)) = self.due.pop_first() else { break };
            if let Some(known) = self.rooms.get_mut(&room) {
                known.due = None;
            }
            self.pump(&room, now);
        }
        std::mem::take(&mut self.outcomes)
    }

    /// When [`next`](Self::next) is to be called though nothing happened.
    pub fn due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| self.clock.instant(*at))
    }

    /// A session is over, or nobody waits for it any more.
    pub fn leave(&mut self, ticket: Ticket, now: Moment) {
        let now = self.clock.now(now);
        self.outcomes.retain(|outcome| outcome.ticket != ticket);
        self.depart(ticket, now);
    }

    /// What [`enter`](Self::enter) would decide if there were places enough. Nothing is changed by asking.
    pub fn explain(&self, ask: &Ask<'_>, now: Moment) -> Result<Decision, NoEgress> {
        let now = self.clock.now(now);
        let suspicion = self.level(ask, now);
        if suspicion == Suspicion::Severe {
            return Err(NoEgress::Stopped);
        }
        self.explained(ask, suspicion, now)
    }

    /// How suspect a sender is.
    pub fn suspicion(&self, ask: &Ask<'_>, now: Moment) -> Suspicion {
        self.level(ask, self.clock.now(now))
    }

    pub(super) fn level(&self, ask: &Ask<'_>, now: Now) -> Suspicion {
        self.senders.level(ask.tenant, ask.account, ask.class, now.tick)
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Sessions under way.
    pub fn sessions(&self) -> u32 {
        self.sessions
    }
}

#[cfg(test)]
mod tests {
    use super::Session;

    /// The allocator's next blocks are of 160.
    #[test]
    fn a_session_is_small() {
        let size = size_of::<Session>();
        assert!(size <= 128, "{size}");
    }
}
