//! How suspect senders are, and what follows.

use super::*;

fn level(world: &World, mail: &Mail) -> Suspicion {
    world.policy.suspicion(&mail.ask(), world.now)
}

#[test]
fn unknown_users_make_suspect_by_their_rate() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    world.recipients(&to, 1, 0);
    assert_eq!(level(&world, &to), Suspicion::Low, "one is a typo");
    for (name, unknown, known, expected) in [
        ("clean", 5, 200, Suspicion::Low),
        ("old-list", 50, 150, Suspicion::Raised),
        ("bought", 100, 100, Suspicion::High),
        ("guessing", 100, 10, Suspicion::Severe),
    ] {
        world.recipients(&mail(name, "example.org"), unknown, known);
        assert_eq!(level(&world, &mail(name, "example.org")), expected, "{name}");
    }
}

#[test]
fn spam_verdicts_make_suspect() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    for expected in [Suspicion::Low, Suspicion::Low, Suspicion::Raised] {
        world.hears(&session, &to, Stage::Content, (Class::Content, About::Content));
        assert_eq!(level(&world, &to), expected);
    }
}

/// Operators whose words are told apart.
const STRANGERS: [&str; 5] = ["a.example", "b.example", "d.example", "e.example", "f.example"];

#[test]
fn a_strangers_mx_stops_nobody() {
    let bad = [
        (Stage::Content, (Class::Content, About::Content)),
        (Stage::Recipient, (Class::UnknownUser, About::Recipient)),
    ];
    for (strangers, worst) in
        [(1, Suspicion::Raised), (2, Suspicion::Raised), (3, Suspicion::High), (5, Suspicion::Severe)]
    {
        for (stage, what) in bad {
            let mut world = World::new(plain(&[A]));
            let to = mail("acme", "example.org").by("alice@acme.example");
            let mut seen = Suspicion::Low;
            // All day, and all at once.
            for hour in 0..10 {
                for n in 0..40 * strangers {
                    let to = Mail { operator: operator(STRANGERS[n % strangers]), ..to.clone() };
                    if let Entry::Granted(session) = world.enter(&to) {
                        world.hears(&session, &to, stage, what);
                        world.leave(session.ticket);
                    }
                    world.pass(if hour == 0 { 0 } else { 60 });
                    world.next();
                    seen = seen.max(level(&world, &to));
                }
            }
            assert_eq!(seen, worst, "{strangers} at {stage:?}");
        }
    }
}

#[test]
fn what_a_big_provider_says_counts_for_more() {
    let mut world = World::new(plain(&[A]));
    for (name, whose) in [("spammer", "google.com"), ("victim", "example.net")] {
        let to = mail(name, whose);
        world.recipients(&to, 0, 100);
        let session = world.go(&to);
        for n in 0..100 {
            world.hears(&session, &to, Stage::Content, (Class::Delivered, About::Unclear));
            let what = if n < 60 { (Class::Content, About::Content) } else { (Class::Delivered, About::Unclear) };
            world.hears(&session, &to, Stage::Content, what);
        }
        world.leave(session.ticket);
    }
    assert_eq!(level(&world, &mail("spammer", "example.org")), Suspicion::Raised);
    assert_eq!(level(&world, &mail("victim", "example.org")), Suspicion::Low);
}

#[test]
fn witnesses_are_few_and_survive_a_restart() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    world.recipients(&to, 1_000, 0);
    let state = world.policy.state(world.now);
    let stored = serde_json::to_value(&state).unwrap();
    let sender = stored["senders"].as_object().unwrap().values().next().unwrap();
    assert!(sender["witnesses"].as_array().unwrap().len() <= 32, "{sender}");
    let mut again = World { policy: Policy::new(plain(&[A]), Some(state), world.now), now: world.now };
    assert_eq!(level(&again, &to), Suspicion::Severe);
    again.pass(6 * 3600);
    assert_eq!(level(&again, &to), Suspicion::Low);
}

#[test]
fn suspicion_is_told_when_it_changes_and_calms_down() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    let session = world.go(&to);
    let mut told = Vec::new();
    for n in 0..60 {
        told.extend(world.hears(&session, &to.at(n), Stage::Recipient, (Class::UnknownUser, About::Recipient)));
    }
    let levels = told.iter().map(|change| match change {
        Change::Suspicion { from, to, account: None, .. } => (*from, *to),
        other => panic!("{other:?}"),
    });
    let levels: Vec<_> = levels.collect();
    use Suspicion::{High, Low, Raised, Severe};
    assert_eq!(levels, [(Low, Raised), (Raised, High), (High, Severe)]);
    assert!(told[0].to_string().contains("recipients unknown"), "{}", told[0]);
    let mut seen = vec![level(&world, &to)];
    for _ in 0..12 {
        world.pass(3600);
        seen.push(level(&world, &to));
    }
    seen.dedup();
    assert_eq!(seen, [Severe, High, Raised, Low]);
}

#[test]
fn a_bad_account_is_suspect_before_its_tenant() {
    let mut world = World::new(plain(&[A]));
    let (good, bad) =
        (mail("acme", "example.org").by("alice@acme.example"), mail("acme", "example.org").by("bob@acme.example"));
    world.recipients(&good, 0, 300);
    world.recipients(&bad, 30, 0);
    assert_eq!(level(&world, &bad), Suspicion::Severe);
    assert_eq!(level(&world, &good), Suspicion::Low);
    assert_eq!(level(&world, &mail("acme", "example.org")), Suspicion::Low);
    let senders = world.policy.view(world.now).senders;
    assert_eq!(senders.len(), 1);
    assert_eq!((senders[0].account.as_deref(), senders[0].suspicion), (Some("bob@acme.example"), Suspicion::Severe));
    let session = world.go(&good);
    assert!(matches!(world.at_mail(session.ticket, &bad), AtMail::Refuse(NoEgress::Stopped)));
    assert!(matches!(world.at_mail(session.ticket, &good), AtMail::Stay));
}

#[test]
fn forwarded_mail_has_a_suspicion_of_its_own() {
    let mut world = World::new(plain(&[A]));
    let forwarded = Mail { class: MailClass::Forwarded, ..mail("acme", "example.org").by("SRS0=x@acme.example") };
    world.recipients(&forwarded, 100, 0);
    assert_eq!(level(&world, &forwarded), Suspicion::Severe);
    assert_eq!(level(&world, &mail("acme", "example.org").by("alice@acme.example")), Suspicion::Low);
}

#[test]
fn a_stopped_tenant_is_told_at_mail_and_takes_no_place() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    world.recipients(&to, 100, 0);
    let refused = world.refused(&to);
    assert_eq!(refused, NoEgress::Stopped);
    assert_eq!((refused.reply().code, refused.try_next_mx()), (451, false));
    assert_eq!(world.policy.explain(&to.ask(), world.now), Err(NoEgress::Stopped));
}

#[test]
fn a_slowed_tenant_sends_a_message_now_and_then() {
    let mut world = World::new(plain(&[A]));
    let to = mail("acme", "example.org");
    world.recipients(&to, 100, 100);
    let session = world.go(&to);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Refuse(NoEgress::Slowed)));
    world.pass(20);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
}

#[test]
fn a_jump_of_volume_is_seen_against_the_senders_own_history() {
    let mut world = World::new(plain(&[A]));
    let (quiet, busy) = (mail("quiet", "example.org"), mail("busy", "example.org"));
    let send = |world: &mut World, to: &Mail, count: u32| {
        let session = world.go(to);
        for _ in 0..count {
            assert!(matches!(world.at_mail(session.ticket, to), AtMail::Stay));
        }
        world.leave(session.ticket);
    };
    for _ in 0..72 {
        send(&mut world, &quiet, 2);
        send(&mut world, &busy, 600);
        world.pass(3600);
    }
    send(&mut world, &quiet, 600);
    send(&mut world, &busy, 600);
    send(&mut world, &mail("new", "example.org"), 600);
    assert_eq!(level(&world, &quiet), Suspicion::Raised, "quarantine, and no more");
    assert_eq!(level(&world, &busy), Suspicion::Low);
    assert_eq!(level(&world, &mail("new", "example.org")), Suspicion::Low, "no history");
    let why = &world.policy.view(world.now).senders[0].why;
    assert!(why.contains("times its usual volume"), "{why}");
}

#[test]
fn messages_that_move_are_slowed_and_counted_like_others() {
    let mut rules = plain(&[A, B]);
    rules.pools = vec![
        Pool { name: "default".into(), addresses: vec![egress(A)] },
        Pool { name: "people".into(), addresses: vec![egress(B)] },
    ];
    let accounts = vec!["alice@acme.example".into()];
    rules.rules = vec![Rule { pool: "people".into(), accounts, ..Rule::default() }];
    let mut world = World::new(rules);
    let anybody = mail("acme", "example.org");
    let alice = anybody.clone().by("alice@acme.example");
    let send = |world: &mut World, count: u32| {
        for _ in 0..count {
            let session = world.go(&anybody);
            let granted = world.elsewhere(session.ticket, &alice);
            world.leave(granted.ticket);
        }
    };
    for _ in 0..72 {
        send(&mut world, 2);
        world.pass(3600);
    }
    send(&mut world, 600);
    assert_eq!(level(&world, &alice), Suspicion::Raised, "a jump of volume");

    world.pass(7 * 24 * 3600);
    world.recipients(&anybody, 100, 100);
    assert_eq!(level(&world, &alice), Suspicion::High);
    let session = world.go(&anybody);
    assert!(matches!(world.at_mail(session.ticket, &alice), AtMail::Move));
    assert!(matches!(world.at_mail(session.ticket, &alice), AtMail::Refuse(NoEgress::Slowed)));
    let placeless = world.policy.mail(None, &alice.ask(), world.now);
    assert!(matches!(placeless, AtMail::Refuse(NoEgress::Slowed)), "{placeless:?}");
    world.pass(20);
    assert!(matches!(world.at_mail(session.ticket, &alice), AtMail::Move));
}

#[test]
fn thresholds_are_what_the_configuration_says() {
    let mut rules = plain(&[A]);
    let default = rules.suspicion;
    let to = mail("acme", "example.org");
    for (thresholds, expected) in [
        (default, Suspicion::High),
        (Thresholds { high: 80, ..default }, Suspicion::Raised),
        (Thresholds { severe: 65, ..default }, Suspicion::Severe),
        (Thresholds { raised: 90, high: 101, severe: 101, ..default }, Suspicion::Low),
        (Thresholds { high_destinations: 200, severe_destinations: 200, ..default }, Suspicion::Raised),
    ] {
        rules.suspicion = thresholds;
        let mut world = World::new(rules.clone());
        world.recipients(&to, 100, 100);
        assert_eq!(level(&world, &to), expected, "{thresholds:?}");
    }
    // Whatever is known already is seen by new rules.
    rules.suspicion = default;
    let mut world = World::new(rules.clone());
    world.recipients(&to, 100, 100);
    rules.suspicion = Thresholds { every: Duration::from_secs(60), severe: 65, ..default };
    world.policy.reload(rules.clone(), world.now);
    assert_eq!(level(&world, &to), Suspicion::Severe);
    rules.suspicion.severe = 90;
    world.policy.reload(rules, world.now);
    let session = world.go(&to);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
    world.pass(59);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Refuse(NoEgress::Slowed)));
    world.pass(1);
    assert!(matches!(world.at_mail(session.ticket, &to), AtMail::Stay));
}
