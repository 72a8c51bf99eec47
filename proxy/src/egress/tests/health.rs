//! How addresses fare at operators.

use super::*;

const QUARTER: u64 = 15 * 60;

#[test]
fn a_listed_address_rests_with_its_evidence_and_only_there() {
    let mut world = World::new(plain(&[A, B]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    let changes = world.listed(&session, &to);
    let [Change::Rested { address, operator, evidence, until }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((*address, operator.as_ref()), (egress(A), Some(&to.operator)));
    assert_eq!(*until, Some(world.now.wall + Duration::from_secs(QUARTER)));
    assert_eq!((evidence.what.as_str(), evidence.list.as_deref()), ("block_listed", Some("spamhaus")));
    assert_eq!((evidence.reply.as_str(), evidence.at), ("550 5.7.1 as it was said", world.now.wall));
    assert_eq!(world.listed(&session, &to), [], "sessions that began before hear the same");
    for _ in 0..4 {
        assert_eq!(world.from(&to), B);
    }
    let decision = world.go(&to).decision;
    assert_eq!(
        (decision.candidates[0].score, decision.candidates[0].why.as_str()),
        (None, "rests for 15 more minutes")
    );
    assert!((0..2).any(|_| world.from(&mail("acme", "example.com")) == A), "others have nothing against it");
}

#[test]
fn what_speaks_of_the_message_or_the_sender_rests_no_address() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    for about in [About::Content, About::Sender, About::Recipient, About::Unclear] {
        let changes = world.hears(&session, &to, Stage::Content, (Class::BlockListed, about));
        assert!(changes.iter().all(|change| matches!(change, Change::Suspicion { .. })), "{changes:?}");
    }
    assert_eq!(world.from(&to), A);
}

#[test]
fn a_rested_address_is_probed_once_and_readmitted_gently() {
    let mut world = World::new(plain(&[A, B]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    world.pass(QUARTER);
    let probe = world.go(&to);
    assert!(probe.decision.probe && probe.decision.egress == egress(A), "{probe:?}");
    for _ in 0..3 {
        assert_eq!(world.go(&to).decision.egress, egress(B), "one probe at a time");
    }
    assert_eq!(world.welcome(&session, &to), [], "a session of before the rest is no evidence");
    let changes = world.welcome(&probe, &to);
    assert_eq!(
        changes,
        [Change::Readmitted { address: egress(A), operator: Some(to.operator.clone()), by_hand: false }]
    );
    let row = world.policy.view(world.now).destinations.into_iter().find(|row| row.address == egress(A)).unwrap();
    assert_eq!((row.health, row.budget.sessions), (view::Health::Throttled, 10), "a tenth to begin with");
}

#[test]
fn a_probe_that_is_turned_away_doubles_the_rest_up_to_a_day() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    for expected in [1, 2, 4, 8, 16, 32, 64, 96, 96].map(|quarters| quarters * QUARTER) {
        world.pass(expected - 1);
        assert!(matches!(world.refused(&to), NoEgress::Rested { .. }));
        world.pass(1);
        let probe = world.go(&to);
        assert!(probe.decision.probe);
        world.listed(&probe, &to);
        world.leave(probe.ticket);
    }
}

#[test]
fn a_probe_without_an_answer_is_repeated_soon() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    world.pass(QUARTER);
    let probe = world.go(&to);
    world.leave(probe.ticket);
    assert!(matches!(world.refused(&to), NoEgress::Rested { until: Some(_) }));
    world.pass(60);
    assert!(world.go(&to).decision.probe);
}

#[test]
fn a_suspect_sender_is_no_probe() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    world.recipients(&mail("shady", "example.com"), 10, 0);
    world.pass(QUARTER);
    assert!(matches!(world.refused(&mail("shady", "example.org")), NoEgress::Rested { .. }));
    assert!(world.go(&to).decision.probe);
}

#[test]
fn when_all_rest_messages_are_put_off_not_the_destination() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    let refused = world.refused(&to);
    assert_eq!(refused, NoEgress::Rested { until: Some(world.now.wall + Duration::from_secs(QUARTER)) });
    assert!(!refused.try_next_mx());
    assert_eq!(refused.reply().code, 451);
    assert!(
        matches!(world.at_mail(session.ticket, &to), AtMail::Refuse(NoEgress::Rested { .. })),
        "nor goes an old session on"
    );
    assert_eq!(world.from(&mail("acme", "example.com")), A);
}

#[test]
fn who_waits_when_the_last_address_comes_to_rest_is_told() {
    let mut rules = plain(&[A]);
    rules.budgets = budget(1, 6_000);
    let mut world = World::new(rules);
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    let waiting = [world.wait(&to), world.wait(&mail("other", "example.org"))];
    world.listed(&session, &to);
    let outcomes = world.next();
    assert_eq!(outcomes.iter().map(|one| one.ticket).collect::<std::collections::BTreeSet<_>>(), waiting.into());
    assert!(outcomes.iter().all(|one| matches!(one.result, Err(NoEgress::Rested { .. }))));
}

#[test]
fn by_hand_an_address_rests_until_by_hand() {
    let mut world = World::new(plain(&[A, B]));
    let to = mail("acme", "example.org");
    assert_eq!(world.policy.rest(egress(A), None, world.now).len(), 1);
    assert_eq!(world.policy.rest(egress(A), None, world.now), [], "no news");
    assert_eq!(world.policy.rest(egress(B), Some(&to.operator), world.now).len(), 1);
    world.pass(30 * 24 * 3600);
    assert_eq!(world.refused(&to), NoEgress::Rested { until: None });
    assert_eq!(world.from(&mail("acme", "example.com")), B);
    let restored = world.policy.restore(egress(B), Some(&to.operator), world.now);
    assert_eq!(
        restored,
        [Change::Readmitted { address: egress(B), operator: Some(to.operator.clone()), by_hand: true }]
    );
    assert_eq!(world.from(&to), B);
    assert_eq!(world.policy.restore(egress(A), None, world.now).len(), 1);
    assert_eq!(world.policy.restore(egress(A), None, world.now), []);
    assert_eq!(world.from(&to), A);
    assert_eq!(world.policy.rest(egress("192.0.2.9"), None, world.now), [], "not one of ours");
}

#[test]
fn a_complaint_halves_the_budget_once_for_all_who_hear_it() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    let halved = |changes: Vec<Change>| match &changes[..] {
        [Change::Throttled { sessions, sessions_per_minute, .. }] => (*sessions, *sessions_per_minute),
        other => panic!("{other:?}"),
    };
    assert_eq!(halved(world.throttled(&session, &to)), (50, 3_000));
    assert_eq!(world.throttled(&session, &to), []);
    for expected in [(25, 1_500), (12, 750), (6, 372)] {
        world.pass(30);
        assert_eq!(halved(world.throttled(&session, &to)), expected);
    }
    for _ in 0..20 {
        world.pass(30);
        world.throttled(&session, &to);
    }
    let row = &world.policy.view(world.now).destinations[0];
    assert_eq!(row.budget, Budget { sessions: 1, sessions_per_minute: 6 }, "never nothing");
    assert_eq!(row.evidence.len(), 4);
}

#[test]
fn a_throttled_budget_grows_while_nobody_minds() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.throttled(&session, &to);
    let mut minutes = 0;
    loop {
        world.pass(60);
        minutes += 1;
        match &world.welcome(&session, &to)[..] {
            [] => {}
            changes => {
                break assert_eq!(changes, [Change::Recovered { address: egress(A), operator: to.operator.clone() }]);
            }
        }
    }
    assert_eq!(minutes, 5);
    assert_eq!(world.policy.view(world.now).destinations[0].health, view::Health::Healthy);
}

#[test]
fn slowness_to_one_address_throttles_it() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let (ticket, account, class, egress) = (None, None, to.class, egress(A));
    let what = What::Slow { evidence: "RCPT took 9.5 s, usually 0.1 s" };
    let lesson = Lesson { ticket, tenant: &to.tenant, account, class, egress, operator: &to.operator, what };
    let changes = world.policy.learn(&lesson, world.now);
    assert!(matches!(&changes[..], [Change::Throttled { evidence, .. }] if evidence.what == "slow"), "{changes:?}");
}

#[test]
fn a_limit_of_the_recipient_or_the_sender_throttles_no_address() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    for about in [About::Recipient, About::Sender] {
        assert_eq!(world.hears(&session, &to, Stage::Recipient, (Class::RateLimited, about)), []);
    }
}

/// A warms up with two messages on its first day and five on its second; B is established, if it is there.
fn warming(addresses: &[&str]) -> World {
    let mut rules = plain(addresses);
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    rules.warm_up.insert(egress(A), WarmUp { since, daily: [2, 5].into() });
    World::new(rules)
}

/// So many sessions of one message each: how many left from A.
fn sent_from_a(world: &mut World, to: &Mail, sessions: usize) -> usize {
    let mut from_a = 0;
    for _ in 0..sessions {
        let session = world.go(to);
        assert!(matches!(world.at_mail(session.ticket, to), AtMail::Stay));
        from_a += usize::from(session.decision.egress == egress(A));
        world.leave(session.ticket);
    }
    from_a
}

#[test]
fn a_new_address_climbs_its_ramp_and_the_rest_leaves_from_established_ones() {
    let mut world = warming(&[A, B]);
    let (to, other) = (mail("acme", "example.org"), mail("acme", "example.com"));
    assert_eq!(sent_from_a(&mut world, &to, 20), 2);
    assert_eq!(sent_from_a(&mut world, &other, 20), 2, "each operator has its own");
    world.pass(24 * 3600);
    assert_eq!(sent_from_a(&mut world, &to, 20), 5);
    world.pass(24 * 3600);
    assert_eq!(sent_from_a(&mut world, &to, 20), 10, "established");
}

#[test]
fn messages_of_one_session_count_one_by_one() {
    let mut world = warming(&[A, B]);
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    assert_eq!(session.decision.egress, egress(A));
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Move));
}

#[test]
fn a_session_without_a_message_uses_nothing_of_the_ramp() {
    let mut world = warming(&[A]);
    let to = mail("acme", "example.org");
    for _ in 0..10 {
        world.from(&to);
    }
    assert_eq!(sent_from_a(&mut world, &to, 2), 2);
    let until = world.now.wall + Duration::from_secs(24 * 3600);
    assert_eq!(world.refused(&to), NoEgress::WarmedUp { until }, "no established address");
}

#[test]
fn a_good_senders_session_fails_over_once_to_a_healthy_address() {
    let mut world = World::new(plain(&[A, B, "192.0.2.3"]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    let moved = world.policy.failover(session.ticket, &[to.ask()], world.now).unwrap();
    assert_eq!((moved.ticket, moved.decision.egress), (session.ticket, egress(B)));
    assert_eq!(moved.decision.reason, format!("failover from {A}"));
    assert_eq!(moved.decision.candidates[0].why, "turned this session away");
    let there = |world: &World| [A, B].map(|address| world.policy.addresses[&egress(address)].sessions);
    assert_eq!(there(&world), [1, 1], "both connections are there");
    world.moved(session.ticket, &to);
    assert_eq!(there(&world), [0, 1], "the old place is free");
    world.listed(&moved, &to);
    assert!(world.policy.failover(session.ticket, &[to.ask()], world.now).is_none(), "once");
}

#[test]
fn nobody_fails_over_around_a_block() {
    let mut world = World::new(plain(&[A, B]));
    let (to, shady) = (mail("acme", "example.org"), mail("shady", "example.org"));
    world.recipients(&mail("shady", "example.com"), 10, 0);
    let session = world.go(&shady);
    assert!(world.policy.failover(session.ticket, &[shady.ask()], world.now).is_none(), "not a suspect sender");
    world.leave(session.ticket);
    let first = world.go(&to);
    let second = world.go(&to);
    world.throttled(&second, &to);
    assert!(world.policy.failover(first.ticket, &[to.ask()], world.now).is_none(), "not to a throttled address");
    assert!(world.policy.failover(Ticket(99), &[to.ask()], world.now).is_none());
}

#[test]
fn a_failover_of_no_use_gives_the_new_place_back_and_the_next_message_moves() {
    let mut world = World::new(plain(&[A, B]));
    let to = mail("acme", "example.org").by("alice@acme.example");
    let session = world.go(&to);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
    world.listed(&session, &to);
    let second = world.policy.failover(session.ticket, &[to.ask()], world.now).unwrap();
    assert_eq!(second.decision.egress, egress(B));
    world.policy.stayed(session.ticket, world.now);
    assert_eq!([A, B].map(|address| world.policy.addresses[&egress(address)].sessions), [1, 0]);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Move), "its connection is from an address that rests");
    world.leave(session.ticket);
    assert_eq!(world.policy.addresses[&egress(A)].sessions, 0);
}

#[test]
fn a_session_that_ends_between_two_places_has_neither() {
    let mut world = World::new(plain(&[A, B]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    world.policy.failover(session.ticket, &[to.ask()], world.now).unwrap();
    world.leave(session.ticket);
    assert_eq!([A, B].map(|address| world.policy.addresses[&egress(address)].sessions), [0, 0]);
    assert_eq!(world.policy.sessions(), 0);
}

#[test]
fn a_probe_that_was_turned_away_sends_no_more() {
    let mut world = World::new(plain(&[A, B]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    world.listed(&session, &to);
    world.leave(session.ticket);
    world.pass(QUARTER);
    let probe = world.go(&to);
    assert!(probe.decision.probe);
    assert!(matches!(world.at_mail(probe.ticket, &to), AtMail::Stay));
    world.listed(&probe, &to);
    assert!(matches!(world.at_mail(probe.ticket, &to), AtMail::Move), "the address rests again");
}

/// Alice's mail leaves from A, which warms up with two messages; everybody else's from B.
fn people() -> (World, Mail, Mail) {
    let mut rules = warming(&[A, B]).policy.rules().clone();
    rules.pools = vec![
        Pool { name: "default".into(), addresses: vec![egress(B)] },
        Pool { name: "people".into(), addresses: vec![egress(A)] },
    ];
    let accounts = vec!["alice@acme.example".into()];
    rules.rules = vec![Rule { pool: "people".into(), accounts, ..Rule::default() }];
    let to = mail("acme", "example.org");
    (World::new(rules), to.clone().by("bob@acme.example"), to.by("alice@acme.example"))
}

#[test]
fn a_message_that_moved_is_counted_where_it_leaves_from() {
    let (mut world, bob, alice) = people();
    let mut moved = 0;
    for _ in 0..4 {
        // Known by its tenant only, as a session is before MAIL.
        let session = world.go(&Mail { account: None, ..bob.clone() });
        match world.at_mail(session.ticket, &alice) {
            AtMail::Move => {
                world.leave(session.ticket);
                let granted = world.go(&alice);
                world.moved(granted.ticket, &alice);
                world.leave(granted.ticket);
                moved += 1;
            }
            AtMail::Refuse(NoEgress::WarmedUp { .. }) => world.leave(session.ticket),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((moved, world.of_the_ramp(A, &alice)), (2, 2));
}

#[test]
fn a_message_that_fails_over_is_counted_where_it_leaves_from_and_once() {
    let mut world = warming(&[A, B, "192.0.2.3"]);
    let to = mail("acme", "example.org").by("alice@acme.example");
    // From B, which is turned away, to A, which warms up.
    let first = world.go(&to);
    assert_eq!(first.decision.egress, egress(A));
    let session = world.go(&to);
    assert_eq!(session.decision.egress, egress(B));
    world.leave(first.ticket);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
    world.listed(&session, &to);
    let third = world.go(&mail("other", "example.org"));
    assert_eq!(third.decision.egress, egress("192.0.2.3"));
    let moved = world.policy.failover(session.ticket, &[to.ask()], world.now).unwrap();
    assert_eq!(moved.decision.egress, egress(A));
    assert_eq!(world.of_the_ramp(A, &to), 1, "reserved");
    world.moved(session.ticket, &to);
    world.leave(session.ticket);
    assert_eq!(world.of_the_ramp(A, &to), 1, "sent");
}

#[test]
fn each_of_the_messages_that_fail_over_together_is_counted_where_it_leaves_from_and_none_of_them_twice() {
    let told = |messages: usize| {
        let mut world = warming(&[A, B]);
        let to = mail("acme", "example.org").by("alice@acme.example");
        let first = world.go(&to);
        let session = world.go(&to);
        assert_eq!((first.decision.egress, session.decision.egress), (egress(A), egress(B)));
        world.leave(first.ticket);
        for _ in 0..messages {
            assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
        }
        world.listed(&session, &to);
        let sent = world.policy.senders.stored(world.policy.clock.now(world.now));
        let asks = vec![to.ask(); messages];
        let granted = world.policy.failover(session.ticket, &asks, world.now)?;
        assert_eq!(world.of_the_ramp(A, &to) as usize, messages, "reserved");
        world.policy.moved(granted.ticket, &asks, world.now);
        let again = world.policy.senders.stored(world.policy.clock.now(world.now));
        assert_eq!(sent, again, "they are the same messages");
        world.leave(session.ticket);
        Some(world.of_the_ramp(A, &to))
    };
    // A may send two today.
    assert_eq!([1, 2, 3].map(told), [Some(1), Some(2), None]);
}

#[test]
fn a_suspect_senders_message_does_not_fail_over_behind_a_good_ones() {
    let mut world = World::new(plain(&[A, B]));
    let good = mail("acme", "example.org").by("alice@acme.example");
    let bad = good.clone().by("mallory@acme.example");
    world.recipients(&good, 0, 200);
    world.recipients(&bad, 12, 0);
    let session = world.go(&good);
    let now = world.now;
    assert_eq!([&good, &bad].map(|mail| world.policy.suspicion(&mail.ask(), now) > Suspicion::Low), [false, true]);
    assert!(world.policy.failover(session.ticket, &[good.ask(), bad.ask()], now).is_none());
    assert!(world.policy.failover(session.ticket, &[good.ask(), good.ask()], now).is_some());
}
