//! What is remembered, for how long, and how much of it at most.

use super::*;
use crate::egress::clock::Clock;

/// A world in which everything happened once.
fn eventful() -> World {
    let mut rules = plain(&[A, B, "192.0.2.3"]);
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    rules.warm_up.insert(egress("192.0.2.3"), WarmUp { since, daily: [50; 30].into() });
    let mut world = World::new(rules);
    let to = mail("acme", "example.org").by("alice@acme.example");
    let sessions: Vec<_> = (0..3).map(|_| world.go(&to)).collect();
    world.listed(&sessions[0], &to);
    world.throttled(&sessions[1], &to);
    for session in &sessions[1..] {
        world.at_mail(session.ticket, &to);
    }
    world.policy.rest(egress(B), None, world.now);
    world.policy.rest(egress(A), Some(&operator("example.net")), world.now);
    world.pass_for(Duration::from_millis(1_234));
    world.recipients(&to, 9, 1);
    world
}

/// The same policy, behind a restart.
fn restarted(world: &World, state: State, downtime: u64) -> World {
    let wall = world.now.wall + Duration::from_secs(downtime);
    let now = Moment { now: world.now.now + Duration::from_secs(12_345), wall };
    World { policy: Policy::new(world.policy.rules.clone(), Some(state), now), now }
}

#[test]
fn a_restart_changes_nothing_that_is_known() {
    let world = eventful();
    let state = world.policy.state(world.now);
    let json = serde_json::to_string(&state).unwrap();
    let again = restarted(&world, serde_json::from_str(&json).unwrap(), 0);
    assert_eq!(serde_json::to_string(&again.policy.state(again.now)).unwrap(), json);
    let (before, after) = (world.policy.view(world.now), again.policy.view(again.now));
    // Seconds are what is stored of the times that counts decay from.
    let senders = |view: &View| -> Vec<_> {
        view.senders
            .iter()
            .map(|row| (row.tenant.clone(), row.account.clone(), row.suspicion, row.why.clone()))
            .collect()
    };
    assert_eq!(senders(&before), senders(&after));
    let health = |view: &View| -> Vec<_> {
        let marked = view.destinations.iter().filter(|row| !row.evidence.is_empty());
        marked
            .map(|row| (row.address, row.operator.clone(), row.health, row.by_hand, row.evidence.clone(), row.budget))
            .collect()
    };
    assert_eq!(health(&before), health(&after));
    assert_eq!(health(&after).len(), 3);
    assert_eq!(again.policy.ramps.stored(again.policy.clock.now(again.now).tick).len(), 1);
}

#[test]
fn time_that_passed_while_nobody_was_there_counts() {
    let world = eventful();
    let state = world.policy.state(world.now);
    let to = mail("other", "example.org");
    let mut soon = restarted(&world, state.clone(), 60);
    assert_eq!(soon.go(&to).decision.candidates[0].score, None);
    let mut late = restarted(&world, state, 20 * 60);
    assert!(late.go(&to).decision.probe);
}

#[test]
fn a_calendar_that_was_wrong_lets_nothing_rest_for_ever() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    world.now.wall += Duration::from_secs(40 * 365 * 24 * 3600);
    let session = world.go(&to);
    world.listed(&session, &to);
    let state = world.policy.state(world.now);
    world.now.wall -= Duration::from_secs(40 * 365 * 24 * 3600);
    let mut again = restarted(&world, state, 0);
    assert!(matches!(again.refused(&to), NoEgress::Rested { .. }));
    again.pass(24 * 3600);
    assert!(again.go(&to).decision.probe);
}

#[test]
fn a_state_of_other_addresses_is_no_obstacle() {
    let world = eventful();
    let state = world.policy.state(world.now);
    let mut other = World { policy: Policy::new(plain(&["192.0.2.9"]), Some(state), world.now), now: world.now };
    assert_eq!(other.from(&mail("other", "example.org")), "192.0.2.9");
    assert!(other.policy.view(other.now).destinations.iter().all(|row| row.address == egress("192.0.2.9")));
    let nothing: State = serde_json::from_str("{}").unwrap();
    assert_eq!(nothing, State::default());
}

#[test]
fn what_did_not_change_is_stored_as_it_was() {
    let mut world = eventful();
    let before = world.policy.state(world.now);
    // The two clocks are never read at quite the same time.
    world.now = Moment {
        now: world.now.now + Duration::from_micros(70_900),
        wall: world.now.wall + Duration::from_micros(71_200),
    };
    assert_eq!(world.policy.state(world.now), before);
}

#[test]
fn numbers_that_an_attacker_chooses_are_bounded() {
    let mut world = World::new(plain(&[A]));
    for n in 0..12_000 {
        let to = mail(&format!("tenant{n}"), &format!("operator{n}.example"));
        let session = world.go(&to);
        world.throttled(&session, &to);
        world.hears(&session, &to, Stage::Recipient, (Class::UnknownUser, About::Recipient));
        world.leave(session.ticket);
        world.pass_for(Duration::from_millis(20));
        world.next();
    }
    let session = world.go(&mail("acme", "example.org"));
    for n in 0..1_000 {
        let account = mail("acme", "example.org").by(&format!("{n}@acme.example"));
        world.hears(&session, &account, Stage::Content, (Class::Content, About::Content));
        world.pass_for(Duration::from_millis(20));
    }
    let long = mail("acme", "example.org").by(&"x".repeat(100_000));
    world.hears(&session, &long, Stage::Content, (Class::Content, About::Content));
    world.leave(session.ticket);
    assert_eq!(world.policy.senders.sizes(), (10_000, 16));
    assert_eq!(world.policy.healths.all().count(), 10_000);
    world.pass(120);
    world.next();
    assert!(world.policy.rooms.is_empty());
    let stored = serde_json::to_string(&world.policy.state(world.now)).unwrap();
    assert!(stored.len() < 16 << 20, "{}", stored.len());
}

#[test]
fn a_rest_by_hand_is_not_forgotten_for_what_strangers_do() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    world.policy.rest(egress(A), Some(&to.operator), world.now);
    for n in 0..10_100 {
        let other = mail("acme", &format!("operator{n}.example"));
        let session = world.go(&other);
        world.throttled(&session, &other);
        world.leave(session.ticket);
    }
    assert_eq!(world.refused(&to), NoEgress::Rested { until: None });
}

#[test]
fn a_ramp_that_cannot_be_remembered_is_used_up() {
    let mut world = eventful();
    let operators = (0..20_000).map(|n| operator(&format!("operator{n}.example")));
    let tick = |world: &World| world.policy.clock.now(world.now).tick;
    for operator in operators {
        world.policy.ramps.take(egress("192.0.2.3"), &operator, 1, tick(&world));
    }
    let one_more = operator("one-more.example");
    assert_eq!(world.policy.ramps.take(egress("192.0.2.3"), &one_more, 1, tick(&world)), None);
    world.pass(24 * 3600);
    assert_eq!(
        world.policy.ramps.take(egress("192.0.2.3"), &one_more, 1, tick(&world)),
        Some(Some(1)),
        "yesterday is forgotten"
    );
}

#[test]
fn times_survive_the_way_through_the_calendar() {
    let moment =
        Moment { now: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_499) };
    let now = Clock::new(moment.now).now(moment);
    for at in [-86_400_000_001, -1, 0, 1, 999_999, 86_400_000_000_000] {
        let stamp = now.stamp(at);
        assert_eq!(now.stamp(now.restored(stamp)), stamp);
        assert!((now.restored(stamp) - at).abs() <= 500_000);
    }
    assert_eq!(now.of(now.calendar(-7_000_000)), -7_000_000);
    assert_eq!(now.of(now.calendar(7_000_000)), 7_000_000);
}
