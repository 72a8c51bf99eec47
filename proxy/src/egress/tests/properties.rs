//! What holds whatever happens.

use std::collections::{BTreeMap, HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// Something that happens.
#[derive(Debug, Clone)]
enum Event {
    Enter { tenant: usize, operator: usize, ipv6: bool },
    Leave { which: prop::sample::Index },
    Mail { which: prop::sample::Index, account: usize },
    Reply { which: prop::sample::Index, kind: usize },
    Failover { which: prop::sample::Index, messages: usize },
    Settle { which: prop::sample::Index, well: bool },
    Rest { address: usize, operator: Option<usize> },
    Restore { address: usize, operator: Option<usize> },
    Pass { millis: u64 },
    Restart,
}

const ADDRESSES: [&str; 5] = [A, B, "192.0.2.3", "2001:db8::1", "2001:db8::2"];
const OPERATORS: [&str; 3] = ["one.example", "two.example", "three.example"];
const TENANTS: [&str; 4] = ["anna", "bert", "carl", "dora"];

fn events() -> impl Strategy<Value = Event> {
    let which = || any::<prop::sample::Index>();
    let towards = || proptest::option::of(0..OPERATORS.len());
    prop_oneof![
        8 => (0..TENANTS.len(), 0..OPERATORS.len(), prop::bool::weighted(0.2))
            .prop_map(|(tenant, operator, ipv6)| Event::Enter { tenant, operator, ipv6 }),
        6 => which().prop_map(|which| Event::Leave { which }),
        4 => (which(), 0..3usize).prop_map(|(which, account)| Event::Mail { which, account }),
        5 => (which(), 0..8usize).prop_map(|(which, kind)| Event::Reply { which, kind }),
        2 => (which(), 1..4usize).prop_map(|(which, messages)| Event::Failover { which, messages }),
        2 => (which(), any::<bool>()).prop_map(|(which, well)| Event::Settle { which, well }),
        1 => (0..ADDRESSES.len(), towards()).prop_map(|(address, operator)| Event::Rest { address, operator }),
        1 => (0..ADDRESSES.len(), towards()).prop_map(|(address, operator)| Event::Restore { address, operator }),
        4 => prop_oneof![0..2_000u64, 0..120_000u64, Just(900_000), Just(86_400_000)].prop_map(|millis| Event::Pass { millis }),
        1 => Just(Event::Restart),
    ]
}

fn rules(sessions: u32, per_minute: u32, limits: Limits, daily: &[u32]) -> Rules {
    let mut rules = plain(&ADDRESSES);
    rules.budgets = budget(sessions, per_minute);
    rules.limits = limits;
    rules.pools.push(Pool { name: "quarantine".into(), addresses: vec![egress(ADDRESSES[2]), egress(ADDRESSES[4])] });
    rules.rules = vec![Rule { pool: "quarantine".into(), suspicion: Some(Suspicion::Raised), ..Rule::default() }];
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    rules.warm_up.insert(egress(B), WarmUp { since, daily: daily.into() });
    rules
}

/// A session as the world around the policy sees it.
#[derive(Clone)]
struct Going {
    mail: Mail,
    granted: Granted,
    /// The place before, while the session fails over.
    aside: Option<Decision>,
    /// So many messages with it.
    along: usize,
    /// The day on which it got its place.
    day: u64,
}

/// The world around the policy: it keeps books of its own.
struct Books {
    world: World,
    going: BTreeMap<Ticket, Going>,
    waiting: BTreeMap<Ticket, Mail>,
    begun: HashMap<(EgressAddr, Operator), VecDeque<Instant>>,
    /// Rests that were told and not ended, and until when.
    rested: BTreeMap<(EgressAddr, Option<Operator>), Option<SystemTime>>,
    /// Sessions that find out about a rested address.
    probes: BTreeMap<(EgressAddr, Operator), Ticket>,
    sent: HashMap<(EgressAddr, Operator, u64), u32>,
}

impl Books {
    fn new(rules: Rules) -> Self {
        let (going, waiting, rested, probes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { world: World::new(rules), going, waiting, begun: HashMap::new(), rested, probes, sent: HashMap::new() }
    }

    fn begins(&mut self, mail: Mail, granted: Granted) {
        let decision = &granted.decision;
        let (address, operator, now) = (decision.egress, decision.operator.clone(), self.world.now);
        assert!(address.serves(mail.mx), "families are apart");
        assert!(!self.rested.contains_key(&(address, None)), "{address} rests by hand");
        if let Some(until) = self.rested.get(&(address, Some(operator.clone()))) {
            assert!(
                decision.probe && until.is_some_and(|until| until <= now.wall),
                "{address} rests until {until:?}: {decision:?}"
            );
            let before = self.probes.insert((address, operator.clone()), granted.ticket);
            assert_eq!(before, None, "one probe at a time");
        }
        self.begun.entry((address, operator)).or_default().push_back(now.now);
        let (ticket, decision) = (granted.ticket, granted.decision.clone());
        let aside = self.going.remove(&ticket).map(|going| going.granted.decision);
        let (fails_over, sends) = (aside.is_some(), mail.account.is_some());
        let day = self.day();
        self.going.insert(ticket, Going { mail: mail.clone(), granted, aside, along: 1, day });
        // It came here for a message.
        if sends && !fails_over {
            self.world.moved(ticket, &mail);
            self.sends(&decision, ticket);
        }
    }

    fn told(&mut self) {
        for outcome in self.world.next() {
            let Some(mail) = self.waiting.remove(&outcome.ticket) else { panic!("{outcome:?} was not waiting") };
            if let Ok(decision) = outcome.result {
                self.begins(mail, Granted { ticket: outcome.ticket, decision });
            }
        }
        self.check();
    }

    fn changes(&mut self, changes: Vec<Change>) {
        for change in changes {
            if let Change::Rested { address, operator, .. } | Change::Readmitted { address, operator, .. } = &change {
                self.probes.retain(|(known, at), _| {
                    known != address || operator.as_ref().is_some_and(|operator| operator != at)
                });
            }
            match change {
                Change::Rested { address, operator, until, .. } => {
                    self.rested.insert((address, operator), until);
                }
                Change::Readmitted { address, operator: None, .. } => {
                    self.rested.retain(|(known, _), _| *known != address)
                }
                Change::Readmitted { address, operator, .. } => {
                    self.rested.remove(&(address, operator));
                }
                _ => {}
            }
        }
    }

    fn check(&mut self) {
        let rules = self.world.policy.rules().clone();
        let mut places: HashMap<(EgressAddr, &Operator), u32> = HashMap::new();
        let mut tenants: HashMap<&TenantName, u32> = HashMap::new();
        for going in self.going.values() {
            for decision in going.aside.iter().chain([&going.granted.decision]) {
                *places.entry((decision.egress, &decision.operator)).or_default() += 1;
            }
            *tenants.entry(&going.mail.tenant).or_default() += 1;
        }
        assert!(places.values().all(|sessions| *sessions <= rules.budgets.every.sessions), "{places:?}");
        assert!(tenants.values().all(|sessions| *sessions <= rules.limits.per_tenant), "{tenants:?}");
        assert!(self.going.len() <= rules.limits.sessions as usize);
        assert_eq!(self.world.policy.sessions() as usize, self.going.len());
        for begun in self.begun.values_mut() {
            while begun
                .front()
                .is_some_and(|first| self.world.now.now.duration_since(*first) >= Duration::from_secs(60))
            {
                begun.pop_front();
            }
            assert!(begun.len() <= rules.budgets.every.sessions_per_minute as usize);
        }
        assert!(
            self.sent.iter().all(|((_, _, day), sent)| {
                rules.warm_up[&egress(B)].daily.get(*day as usize).is_none_or(|limit| sent <= limit)
            }),
            "{:?}",
            self.sent
        );
    }

    fn chosen(&self, which: &prop::sample::Index) -> Option<Ticket> {
        (!self.going.is_empty()).then(|| *which.get(&self.going.keys().copied().collect::<Vec<_>>()))
    }

    fn leave(&mut self, ticket: Ticket) {
        self.going.remove(&ticket);
        self.waiting.remove(&ticket);
        self.probes.retain(|_, probe| *probe != ticket);
        self.world.leave(ticket);
        self.told();
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Enter { tenant, operator, ipv6 } => {
                let mx = if *ipv6 { ip("2606::1") } else { ip(MX) };
                self.enters(Mail { mx, ..mail(TENANTS[*tenant], OPERATORS[*operator]) });
            }
            Event::Leave { which } => {
                let all: Vec<Ticket> = self.going.keys().chain(self.waiting.keys()).copied().collect();
                if !all.is_empty() {
                    self.leave(*which.get(&all));
                }
            }
            Event::Mail { which, account } => {
                let Some(ticket) = self.chosen(which) else { return };
                let going = self.going[&ticket].clone();
                if going.aside.is_some() {
                    return;
                }
                let mail = going.mail.by(&format!("{account}@example.net"));
                match self.world.at_mail(ticket, &mail) {
                    AtMail::Stay => {
                        self.going.get_mut(&ticket).unwrap().mail = mail;
                        self.sends(&going.granted.decision, ticket);
                    }
                    AtMail::Move => {
                        self.leave(ticket);
                        self.enters(mail);
                    }
                    AtMail::Refuse(_) => self.leave(ticket),
                }
                self.check();
            }
            Event::Reply { which, kind } => {
                let Some(ticket) = self.chosen(which) else { return };
                let Going { mail, granted, .. } = self.going[&ticket].clone();
                let (stage, meaning) = [
                    (Stage::Mail, (Class::BlockListed, About::Egress)),
                    (Stage::Mail, (Class::RateLimited, About::Egress)),
                    (Stage::Recipient, (Class::UnknownUser, About::Recipient)),
                    (Stage::Content, (Class::Content, About::Content)),
                    (Stage::Content, (Class::Delivered, About::Unclear)),
                ]
                .get(*kind)
                .copied()
                .unwrap_or((Stage::Recipient, (Class::Accepted, About::Unclear)));
                let changes = self.world.hears(&granted, &mail, stage, meaning);
                self.changes(changes);
                self.told();
            }
            Event::Failover { which, messages } => {
                let Some(ticket) = self.chosen(which) else { return };
                let going = self.going[&ticket].clone();
                let along = if going.mail.account.is_some() { *messages } else { 1 };
                let asks = vec![going.mail.ask(); along];
                if let Some(granted) = self.world.policy.failover(ticket, &asks, self.world.now) {
                    assert!(!granted.decision.probe && granted.decision.egress != going.granted.decision.egress);
                    self.begins(going.mail.clone(), granted);
                    self.going.get_mut(&ticket).unwrap().along = along;
                }
                self.told();
            }
            Event::Settle { which, well } => {
                let Some(ticket) = self.chosen(which) else { return };
                let going = self.going.get_mut(&ticket).unwrap();
                let Some(before) = going.aside.take() else { return };
                let (mail, along, day) = (going.mail.clone(), going.along, going.day);
                if *well {
                    let decision = going.granted.decision.clone();
                    self.probes.retain(|_, probe| *probe != ticket);
                    self.world.policy.moved(ticket, &vec![mail.ask(); along], self.world.now);
                    for _ in 0..along {
                        if mail.account.is_some() && decision.egress == egress(B) {
                            self.counts(&decision, day);
                        }
                    }
                } else {
                    going.granted.decision = before;
                    self.world.policy.stayed(ticket, self.world.now);
                }
                self.told();
            }
            Event::Rest { address, operator } => {
                let operator = operator.map(|operator| super::operator(OPERATORS[operator]));
                let changes = self.world.policy.rest(egress(ADDRESSES[*address]), operator.as_ref(), self.world.now);
                self.changes(changes);
                self.told();
            }
            Event::Restore { address, operator } => {
                let operator = operator.map(|operator| super::operator(OPERATORS[operator]));
                let changes = self.world.policy.restore(egress(ADDRESSES[*address]), operator.as_ref(), self.world.now);
                self.changes(changes);
                self.told();
            }
            Event::Pass { millis } => {
                self.world.pass_for(Duration::from_millis(*millis));
                self.told();
            }
            Event::Restart => {
                let state = self.world.policy.state(self.world.now);
                let stored: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
                let policy = Policy::new(self.world.policy.rules().clone(), Some(stored), self.world.now);
                // As for what sessions go on, a restart forgets it: the same policy goes on.
                assert_eq!(policy.state(self.world.now), state, "the state round-trips");
            }
        }
    }

    fn enters(&mut self, mail: Mail) {
        match self.world.enter(&mail) {
            Entry::Granted(granted) => self.begins(mail, granted),
            Entry::Wait(ticket) => {
                self.waiting.insert(ticket, mail);
            }
            Entry::Refused(_) => {}
        }
        self.told();
    }

    fn sends(&mut self, decision: &Decision, ticket: Ticket) {
        let Decision { egress: address, operator, .. } = decision;
        let there = (*address, operator.clone());
        assert!(!self.rested.contains_key(&(*address, None)));
        assert!(
            self.probes.get(&there) == Some(&ticket) || !self.rested.contains_key(&(*address, Some(operator.clone()))),
            "{ticket:?} sends from {address}"
        );
        self.counts(decision, self.day());
    }

    fn day(&self) -> u64 {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        self.world.now.wall.duration_since(start).unwrap().as_secs() / 86_400
    }

    /// A message left by this decision, for which a message of that day's ramp was reserved.
    fn counts(&mut self, Decision { egress: address, operator, .. }: &Decision, day: u64) {
        if *address == egress(B) {
            *self.sent.entry((*address, operator.clone(), day)).or_default() += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No budget and no limit is ever exceeded, no rested address is used but by its one probe, no ramp is exceeded, the state round-trips, and when
    /// all have left nothing is left.
    #[test]
    fn whatever_happens(
        all in prop::collection::vec(events(), 1..200),
        (sessions, per_minute) in (1u32..5, 1u32..60),
        limits in (1u32..12, 1u32..6).prop_map(|(sessions, per_tenant)| Limits { sessions, per_tenant }),
        daily in prop::collection::vec(0u32..5, 1..4),
    ) {
        let mut books = Books::new(rules(sessions, per_minute, limits, &daily));
        for event in &all {
            books.happens(event);
        }
        let mut tickets: Vec<Ticket> = books.waiting.keys().chain(books.going.keys()).copied().collect();
        while let Some(ticket) = tickets.pop() {
            books.leave(ticket);
            tickets.extend(books.going.keys().filter(|ticket| !tickets.contains(ticket)).copied().collect::<Vec<_>>());
        }
        books.world.pass(120);
        books.told();
        let policy = &books.world.policy;
        prop_assert!(policy.rooms.is_empty() && policy.tickets.is_empty() && policy.crowds.is_empty() && policy.queued.is_empty());
        prop_assert_eq!((policy.due(), policy.sessions()), (None, 0));
    }

    /// What is granted to those who stay is the same whether or not others came to wait beside them and gave up.
    #[test]
    fn waits_that_are_given_up_cost_nothing(gone in prop::collection::vec((0..20usize, 0..TENANTS.len()), 0..40)) {
        let order = |gone: &[(usize, usize)]| {
            let mut world = World::new(rules(1, 6_000, Limits { sessions: 50, per_tenant: 50 }, &[0]));
            world.policy.rest(egress(ADDRESSES[2]), None, world.now);
            let held = world.go(&mail("held", "one.example"));
            let mut waiting = Vec::new();
            for step in 0..20 {
                let given_up: Vec<_> = gone.iter().filter(|(at, _)| *at == step)
                    .map(|(_, tenant)| world.wait(&mail(TENANTS[*tenant], "one.example"))).collect();
                waiting.push(world.wait(&mail(TENANTS[step * step % 3], "one.example")));
                world.pass_for(Duration::from_millis(10));
                given_up.into_iter().for_each(|ticket| world.leave(ticket));
            }
            let (mut served, mut last) = (Vec::new(), held.ticket);
            while served.len() < waiting.len() {
                world.pass_for(Duration::from_millis(500));
                world.leave(last);
                let outcomes = world.next();
                last = outcomes[0].ticket;
                served.push(waiting.iter().position(|ticket| *ticket == last).unwrap());
            }
            served
        };
        prop_assert_eq!(order(&gone), order(&[]));
    }
}
