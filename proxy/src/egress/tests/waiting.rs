//! Who waits, and for what.

use super::*;

/// One address with this budget, and these limits.
fn world(sessions: u32, per_minute: u32, limits: Limits) -> World {
    let mut rules = plain(&[A]);
    rules.budgets = budget(sessions, per_minute);
    rules.limits = limits;
    World::new(rules)
}

const WIDE: Limits = Limits { sessions: 2_000, per_tenant: 1_000 };

/// Whose turn it was, by what each ticket stands for.
fn turns<'a>(world: &mut World, names: &[(&'a str, Ticket)]) -> Vec<&'a str> {
    let outcomes = world.next();
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    let name = |outcome: &Outcome| names.iter().find(|(_, ticket)| *ticket == outcome.ticket).unwrap().0;
    outcomes.iter().map(name).collect()
}

#[test]
fn places_beyond_the_budget_wait_until_one_is_free() {
    let mut world = world(2, 6_000, WIDE);
    let to = mail("acme", "example.org");
    let first = world.go(&to);
    world.go(&to);
    let third = world.wait(&to);
    assert_eq!(world.from(&mail("acme", "example.com")), A, "a budget of its own");
    assert!(world.next().is_empty());
    world.leave(first.ticket);
    assert_eq!(turns(&mut world, &[("third", third)]), ["third"]);
    let view = world.policy.view(world.now);
    assert_eq!((view.sessions, view.waiting, view.addresses[0].sessions), (2, 0, 2));
}

#[test]
fn the_rate_of_a_minute_is_waited_for() {
    let mut world = world(1_000, 60, WIDE);
    let to = mail("acme", "example.org");
    for _ in 0..6 {
        world.go(&to);
    }
    let waiting = world.wait(&to);
    let due = world.policy.due().unwrap();
    world.pass_for(due - world.now.now);
    assert_eq!(turns(&mut world, &[("seventh", waiting)]), ["seventh"]);
    assert!(due - world.now.now < Duration::from_secs(2));
}

#[test]
fn tenants_take_turns_not_sessions() {
    let mut world = world(1, 6_000, WIDE);
    let (crowd, single) = (mail("crowd", "example.org"), mail("single", "example.org"));
    let held = world.go(&crowd);
    let waiting = [("crowd", world.wait(&crowd)), ("crowd", world.wait(&crowd)), ("single", world.wait(&single))];
    world.pass(1);
    world.leave(held.ticket);
    assert_eq!(turns(&mut world, &waiting), ["single"]);
    world.pass(1);
    world.leave(waiting[2].1);
    assert_eq!(turns(&mut world, &waiting), ["crowd"]);
}

#[test]
fn within_a_tenant_who_came_first_goes_first() {
    let mut world = world(1, 6_000, WIDE);
    let to = mail("acme", "example.org");
    let held = world.go(&to);
    let waiting = [("first", world.wait(&to)), ("second", world.wait(&to))];
    world.leave(held.ticket);
    assert_eq!(turns(&mut world, &waiting), ["first"]);
}

#[test]
fn who_waits_no_longer_is_nobodys_hindrance() {
    let mut world = world(1, 6_000, WIDE);
    let to = mail("acme", "example.org");
    let held = world.go(&to);
    let gone = world.wait(&to);
    let stays = world.wait(&mail("other", "example.org"));
    world.leave(gone);
    world.leave(gone);
    world.leave(held.ticket);
    assert_eq!(turns(&mut world, &[("stays", stays)]), ["stays"]);
    world.leave(stays);
    world.pass(60);
    world.next();
    assert!(world.policy.rooms.is_empty() && world.policy.crowds.is_empty() && world.policy.tickets.is_empty());
    assert_eq!(world.policy.due(), None);
}

#[test]
fn a_place_that_nobody_took_is_the_next_ones() {
    let mut world = world(1, 6_000, WIDE);
    let to = mail("acme", "example.org");
    let held = world.go(&to);
    let (gone, stays) = (world.wait(&to), world.wait(&to));
    world.leave(held.ticket);
    // It was granted a place, and went before it was told.
    world.leave(gone);
    assert_eq!(turns(&mut world, &[("stays", stays)]), ["stays"]);
}

#[test]
fn a_tenant_with_all_its_sessions_waits_without_being_in_anybodys_way() {
    let mut world = world(2, 6_000, Limits { sessions: 100, per_tenant: 1 });
    let (acme, other) = (mail("acme", "example.org"), mail("other", "example.org"));
    let held = world.go(&acme);
    let waiting = [("org", world.wait(&acme)), ("com", world.wait(&mail("acme", "example.com")))];
    world.go(&other);
    assert!(world.next().is_empty());
    world.leave(held.ticket);
    assert_eq!(turns(&mut world, &waiting), ["org"]);
    world.leave(waiting[0].1);
    assert_eq!(turns(&mut world, &waiting), ["com"]);
}

#[test]
fn a_tenant_that_gives_up_while_it_has_all_its_sessions_can_wait_again() {
    let mut world = world(9, 6_000, Limits { sessions: 100, per_tenant: 1 });
    let (org, com) = (mail("acme", "example.org"), mail("acme", "example.com"));
    let held = world.go(&com);
    for _ in 0..100 {
        let gone = world.wait(&org);
        world.leave(gone);
    }
    assert_eq!(world.policy.crowds[&tenant("acme")].parked.len(), 0);
    let waiting = world.wait(&org);
    world.leave(held.ticket);
    assert_eq!(turns(&mut world, &[("org", waiting)]), ["org"]);
}

#[test]
fn a_full_proxy_gives_its_next_place_to_who_has_fewest() {
    let mut world = world(100, 6_000, Limits { sessions: 3, per_tenant: 100 });
    let crowd: Vec<_> = (0..3).map(|n| world.go(&mail("crowd", &format!("example{n}.org")))).collect();
    let waiting = [
        ("crowd", world.wait(&mail("crowd", "example.com"))),
        ("single", world.wait(&mail("single", "example.net"))),
        ("crowd", world.wait(&mail("crowd", "example.net"))),
    ];
    assert!(world.next().is_empty());
    world.leave(crowd[0].ticket);
    assert_eq!(turns(&mut world, &waiting), ["single"]);
    world.leave(crowd[1].ticket);
    assert_eq!(turns(&mut world, &waiting), ["crowd"]);
    assert_eq!(world.policy.sessions(), 3);
}

#[test]
fn a_busy_room_forgets_who_was_not_there_for_a_while() {
    let mut world = world(100, 60_000, WIDE);
    world.go(&mail("stays", "example.org"));
    for n in 0..1_000 {
        world.from(&mail(&format!("tenant{n}"), "example.org"));
    }
    let remembered = |world: &World| world.policy.rooms.values().map(|room| room.remembered()).max();
    assert_eq!(remembered(&world), Some(1_001), "a debt outlives a session");
    world.pass(121);
    for _ in 0..300 {
        world.from(&mail("another", "example.org"));
    }
    assert_eq!(remembered(&world), Some(2));
}

#[test]
fn lanes_of_two_pools_share_an_address_by_turns() {
    let mut rules = plain(&[A]);
    rules.budgets = budget(1, 6_000);
    rules.pools.push(Pool { name: "other".into(), addresses: vec![egress(A)] });
    rules.rules = vec![Rule { pool: "other".into(), tenants: vec![tenant("second")], ..Rule::default() }];
    let mut world = World::new(rules);
    let (one, two) = (mail("first", "example.org"), mail("second", "example.org"));
    let held = world.go(&one);
    let waiting = [("first", world.wait(&one)), ("second", world.wait(&two)), ("first", world.wait(&one))];
    world.pass(1);
    world.leave(held.ticket);
    assert_eq!(turns(&mut world, &waiting), ["second"]);
    world.pass(1);
    world.leave(waiting[1].1);
    assert_eq!(turns(&mut world, &waiting), ["first"]);
}
