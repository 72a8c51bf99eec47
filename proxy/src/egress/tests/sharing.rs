//! How places and the rate are shared, and what an event costs where there are many.

use std::collections::{BTreeSet, HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// A tenant that keeps so many connections waiting or going, each for so long.
#[derive(Debug, Clone, Copy)]
struct Appetite {
    connections: usize,
    millis: u64,
}

/// What each of the tenants got in the time after a settling-in: sessions begun, and milliseconds of places.
fn shares(sessions: u32, per_minute: u32, tenants: &[Appetite], minutes: u64) -> Vec<(u64, u64)> {
    let mut rules = plain(&[A]);
    (rules.budgets, rules.limits) = (budget(sessions, per_minute), Limits { sessions: 5_000, per_tenant: 1_000 });
    let mut world = World::new(rules);
    let start = world.now.now;
    let mails: Vec<Mail> = (0..tenants.len()).map(|n| mail(&format!("tenant{n}"), "one.example")).collect();
    let mut ends: BTreeSet<(Instant, Ticket, usize)> = BTreeSet::new();
    let mut whose: HashMap<Ticket, usize> = HashMap::new();
    let mut got = vec![(0, 0); tenants.len()];
    let settled = start + Duration::from_secs(60);
    let begins = |now: Instant, ticket, tenant: usize, ends: &mut BTreeSet<_>, got: &mut Vec<(u64, u64)>| {
        ends.insert((now + Duration::from_millis(tenants[tenant].millis), ticket, tenant));
        if now >= settled {
            got[tenant].0 += 1;
            got[tenant].1 += tenants[tenant].millis;
        }
    };
    let mut wanted: Vec<usize> = tenants.iter().enumerate().flat_map(|(n, one)| vec![n; one.connections]).collect();
    while world.now.now < start + Duration::from_secs(60 * minutes) {
        for tenant in wanted.drain(..) {
            match world.enter(&mails[tenant]) {
                Entry::Granted(granted) => begins(world.now.now, granted.ticket, tenant, &mut ends, &mut got),
                Entry::Wait(ticket) => {
                    whose.insert(ticket, tenant);
                }
                Entry::Refused(none) => panic!("{none}"),
            }
        }
        for outcome in world.next() {
            let tenant = whose.remove(&outcome.ticket).unwrap();
            begins(world.now.now, outcome.ticket, tenant, &mut ends, &mut got);
        }
        let ended = ends.first().map(|(at, ..)| *at);
        let Some(then) = [ended, world.policy.due()].into_iter().flatten().min() else { break };
        world.pass_for(then.saturating_duration_since(world.now.now));
        while let Some((at, ticket, tenant)) = ends.first().copied()
            && at <= world.now.now
        {
            ends.pop_first();
            world.leave(ticket);
            wanted.push(tenant);
        }
    }
    got
}

/// The least and the most, by their mean.
fn spread(shares: impl Iterator<Item = u64> + Clone) -> (f64, f64) {
    let count = shares.clone().count() as f64;
    let mean = shares.clone().sum::<u64>() as f64 / count;
    (shares.clone().min().unwrap() as f64 / mean, shares.max().unwrap() as f64 / mean)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Places are short: everybody holds them for the same time, however many connections he opens and however long his sessions take. Two are the
    /// least, because who has one wants no place at the moment in which he gives one back.
    #[test]
    fn places_are_shared_equally(
        sessions in 1u32..6,
        tenants in prop::collection::vec((2usize..40, 100u64..8_000).prop_map(|(connections, millis)| Appetite { connections, millis }), 6..12),
    ) {
        let got = shares(sessions, 1_000_000, &tenants, 30);
        let (least, most) = spread(got.iter().map(|(_, held)| *held));
        prop_assert!(least >= 0.9 && most <= 1.1, "{least:.3} {most:.3} {got:?}");
    }

    /// The rate is short: everybody begins as many sessions.
    #[test]
    fn the_rate_is_shared_equally(
        per_minute in 60u32..300,
        tenants in prop::collection::vec((20usize..200, 10u64..2_000).prop_map(|(connections, millis)| Appetite { connections, millis }), 2..8),
    ) {
        let got = shares(10_000, per_minute, &tenants, 20);
        let (least, most) = spread(got.iter().map(|(begun, _)| *begun));
        prop_assert!(least >= 0.9 && most <= 1.1, "{least:.3} {most:.3} {got:?}");
    }
}

/// A thousand sessions under way, five thousand tenants that wait: an event costs no more for that. The bound is generous, for slow machines and
/// builds without optimisation; a look at every tenant would be far beyond it.
#[test]
fn an_event_does_not_look_at_everybody() {
    let cost = |tenants: u32| {
        let mut rules = plain(&[A, B]);
        (rules.budgets, rules.limits) = (budget(500, 1_000_000), Limits { sessions: 1_000, per_tenant: 100 });
        let mut world = World::new(rules);
        let names: Vec<Mail> = (0..tenants).map(|n| mail(&format!("tenant{n}"), "one.example")).collect();
        let mut going: VecDeque<Ticket> = VecDeque::new();
        for name in names.iter().cycle().take(1_000 + names.len()) {
            if let Entry::Granted(granted) = world.enter(name) {
                going.push_back(granted.ticket);
            }
        }
        assert_eq!(going.len(), 1_000);
        let rounds = 2_000;
        let began = Instant::now();
        for name in names.iter().cycle().take(rounds) {
            world.pass_for(Duration::from_millis(1));
            world.leave(going.pop_front().unwrap());
            world.enter(name);
            going.extend(world.next().into_iter().map(|outcome| outcome.ticket));
        }
        began.elapsed() / u32::try_from(rounds).unwrap()
    };
    let (few, many) = (cost(50), cost(5_000));
    eprintln!("a session's leaving, entering and being granted: {few:?} among 50 tenants, {many:?} among 5,000");
    assert!(many < few * 5 + Duration::from_micros(50), "{few:?} among 50, {many:?} among 5,000");
}
