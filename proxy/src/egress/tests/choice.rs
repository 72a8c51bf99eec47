//! Which address.

use super::*;

#[test]
fn addresses_take_turns_within_a_family() {
    let mut world = World::new(plain(&[A, "2001:db8::1", B, "2001:db8::2"]));
    let v4: Vec<_> = (0..3).map(|_| world.from(&mail("acme", "example.org"))).collect();
    assert_eq!(v4, [A, B, A]);
    let v6 = Mail { mx: ip("2606::1"), ..mail("acme", "example.org") };
    let v6: Vec<_> = (0..3).map(|_| world.from(&v6)).collect();
    assert_eq!(v6, ["2001:db8::1", "2001:db8::2", "2001:db8::1"]);
    let mapped = Mail { mx: ip("::ffff:198.51.100.25"), ..mail("acme", "example.org") };
    assert_eq!(world.from(&mapped), B, "a mapped address is IPv4");
}

#[test]
fn the_address_with_most_room_is_taken() {
    let mut world = World::new(plain(&[A, B]));
    let mail = mail("acme", "example.org");
    let (first, second) = (world.go(&mail), world.go(&mail));
    world.leave(second.ticket);
    assert_eq!(world.go(&mail).decision.egress, egress(B));
    let decision = world.go(&mail).decision;
    assert_eq!((first.decision.egress, decision.egress), (egress(A), egress(A)));
    assert_eq!(&*decision.pool, "default");
    let seen: Vec<_> = decision.candidates.iter().map(|one| (one.score, one.why.as_str())).collect();
    assert_eq!(seen, [(Some(99), "1 of 100 sessions"), (Some(99), "1 of 100 sessions")]);
}

#[test]
fn a_family_without_address_is_said_so() {
    let mut world = World::new(plain(&[A]));
    let refused = world.refused(&Mail { mx: ip("2606::1"), ..mail("acme", "example.org") });
    assert_eq!(refused.to_string(), "no egress address for IPv6");
    assert!(refused.try_next_mx() && refused.reply().code == 421);
    assert_eq!(world.policy.crowds.len(), 0, "nothing is left behind");
}

fn not_bound(world: &mut World, address: &str) -> Vec<Change> {
    let (tenant, operator) = (tenant("acme"), operator("example.org"));
    let (ticket, account, class, egress) = (None, None, MailClass::Submitted, egress(address));
    let lesson = Lesson { ticket, tenant: &tenant, account, class, egress, operator: &operator, what: What::NotBound };
    world.policy.learn(&lesson, world.now)
}

#[test]
fn an_address_that_cannot_be_bound_rests_for_a_while() {
    let mut world = World::new(plain(&[A, B]));
    assert_eq!(not_bound(&mut world, A), [Change::Unbound { address: egress(A) }]);
    assert_eq!(not_bound(&mut world, A), [], "no news");
    for to in ["example.org", "example.com", "example.net"] {
        assert_eq!(world.from(&mail("acme", to)), B);
    }
    not_bound(&mut world, B);
    let decision = world.go(&mail("acme", "example.org")).decision;
    assert_eq!((decision.egress, decision.reason.as_str()), (egress(A), "no other is left"));
    world.pass(31);
    let both: std::collections::BTreeSet<_> = (0..2).map(|_| world.from(&mail("acme", "example.com"))).collect();
    assert_eq!(both.len(), 2);
}

/// Pools `default` (A), `other` (B), and one rule to `other`.
fn with(rule: Rule) -> World {
    let mut rules = plain(&[A]);
    rules.pools.push(Pool { name: "other".into(), addresses: vec![egress(B)] });
    rules.rules = vec![Rule { pool: "missing".into(), ..Rule::default() }, Rule { pool: "other".into(), ..rule }];
    World::new(rules)
}

#[test]
fn a_rule_asks_for_a_tenant() {
    let mut world = with(Rule { tenants: vec![tenant("acme")], ..Rule::default() });
    assert_eq!(world.from(&mail("acme", "example.org")), B);
    assert_eq!(world.from(&mail("other", "example.org")), A);
}

#[test]
fn a_rule_asks_for_an_account_which_is_known_at_mail() {
    let mut world = with(Rule { accounts: vec!["news@acme.example".into()], ..Rule::default() });
    let plain = mail("acme", "example.org");
    let news = plain.clone().by("News@Acme.example");
    let session = world.go(&plain);
    assert_eq!(session.decision.egress, egress(A));
    assert!(matches!(world.at_mail(session.ticket, &plain.clone().by("alice@acme.example")), AtMail::Stay));
    assert!(matches!(world.at_mail(session.ticket, &news), AtMail::Move));
    world.leave(session.ticket);
    let moved = world.go(&news);
    assert_eq!((moved.decision.egress, &*moved.decision.rule), (egress(B), "rule 2"));
    assert!(matches!(world.at_mail(moved.ticket, &news), AtMail::Stay));
}

#[test]
fn a_rule_asks_for_a_class() {
    let mut world = with(Rule { class: Some(MailClass::Forwarded), ..Rule::default() });
    assert_eq!(world.from(&mail("acme", "example.org")), A);
    assert_eq!(world.from(&Mail { class: MailClass::Forwarded, ..mail("acme", "example.org") }), B);
}

#[test]
fn a_rule_asks_for_a_destination() {
    let mut world = with(Rule { destinations: vec![operator("gmail.com")], ..Rule::default() });
    assert_eq!(world.from(&mail("acme", "google.com")), B);
    assert_eq!(world.from(&mail("acme", "example.org")), A);
}

#[test]
fn a_rule_asks_for_suspicion() {
    let mut world = with(Rule { suspicion: Some(Suspicion::Raised), ..Rule::default() });
    world.recipients(&mail("acme", "example.org"), 10, 0);
    assert_eq!(world.from(&mail("acme", "example.org")), B);
    assert_eq!(world.from(&mail("other", "example.org")), A);
}

#[test]
fn a_rule_asks_for_all_that_it_names_and_the_first_wins() {
    let mut rules = with(Rule::default()).policy.rules.clone();
    rules.rules = vec![
        Rule {
            pool: "other".into(),
            tenants: vec![tenant("acme")],
            destinations: vec![operator("example.org")],
            ..Rule::default()
        },
        Rule { pool: "default".into(), tenants: vec![tenant("acme")], ..Rule::default() },
        Rule { pool: "other".into(), ..Rule::default() },
    ];
    let mut world = World::new(rules);
    assert_eq!(world.from(&mail("acme", "example.org")), B);
    assert_eq!(world.from(&mail("acme", "example.com")), A);
    assert_eq!(&*world.go(&mail("other", "example.com")).decision.rule, "rule 3");
}

#[test]
fn who_waits_waits_by_changed_rules() {
    let mut rules = plain(&[A]);
    rules.budgets = budget(1, 6_000);
    let mut world = World::new(rules.clone());
    world.go(&mail("acme", "example.org"));
    let waiting = world.wait(&mail("acme", "example.org"));
    rules.pools[0].addresses.push(egress(B));
    world.policy.reload(rules, world.now);
    let outcomes = world.next();
    assert_eq!(outcomes[0].ticket, waiting);
    assert_eq!(outcomes[0].result.as_ref().unwrap().egress, egress(B));
}

#[test]
fn explaining_changes_nothing() {
    let mut world = World::new(plain(&[A, B]));
    let mail = mail("acme", "example.org");
    for _ in 0..3 {
        assert_eq!(world.policy.explain(&mail.ask(), world.now).unwrap().egress, egress(A));
    }
    assert_eq!(world.policy.state(world.now), State::default());
    assert_eq!(world.go(&mail).decision.egress, egress(A));
}

#[test]
fn a_name_made_for_the_address_of_a_big_provider_is_no_way_around_its_budget() {
    let mut world = World::new(plain(&[A]));
    let google = ip("203.0.113.26");
    assert_eq!(world.policy.operator(Some("mx.evil.example"), google).as_str(), "evil.example", "not known yet");
    assert_eq!(world.policy.operator(Some("aspmx.l.google.com"), google).as_str(), "google.com");
    assert_eq!(world.policy.operator(Some("mx.evil.example"), google).as_str(), "google.com");
    assert_eq!(world.policy.operator(None, ip("203.0.113.27")).as_str(), "google.com");
}

#[test]
fn every_session_has_a_decision_to_store() {
    let mut world = World::new(plain(&[A, B]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    let again = world.policy.decided(session.ticket, &to.ask(), egress(A), world.now);
    // Nor is nothing told of one that the policy does not know.
    let unknown = world.policy.decided(Ticket(99), &to.ask(), egress(B), world.now);
    for (decision, from) in [(&again, A), (&unknown, B)] {
        assert_eq!((decision.egress, &*decision.pool, &*decision.rule), (egress(from), "default", "default"));
        assert_eq!((decision.candidates.len(), &*decision.reason), (2, "the session's own, dialled again"));
    }
    // One without an address has no leg to store it with.
    for address in [A, B] {
        world.policy.rest(egress(address), None, world.now);
    }
    assert_eq!(world.refused(&to), NoEgress::Rested { until: None });
    let over = world.policy.passed_over(&to.ask(), world.now).to_string();
    let each = |address: &str| format!("; {address}: rests: by hand");
    assert_eq!(over, format!("default, pool default, suspicion low{}{}", each(A), each(B)));
}
