//! Sessions played to the watch.

use super::*;
use crate::{Said, classify};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));

struct Scene {
    senses: Shared,
    now: Instant,
    watch: Watch,
}

impl Scene {
    fn new() -> Self {
        let mut scene =
            Self { senses: Shared::default(), now: Instant::now(), watch: Watch::new("acme.example".into()) };
        scene.dial(A);
        scene
    }

    fn dial(&mut self, egress: IpAddr) -> Vec<Finding> {
        self.watch.connected(&self.senses, egress, Duration::from_millis(20), self.now)
    }

    fn reply(&mut self, verb: &str, code: u16, text: &str, took_ms: u64) -> Vec<Finding> {
        let took = Duration::from_millis(took_ms);
        self.now += took;
        self.watch.heard(self.now, text.len() + 6);
        let verdict = (code >= 400).then(|| classify(&Said { verb, code, enhanced: None, text }));
        let answer = Answer { verb, code, text, verdict: verdict.as_ref(), took };
        self.watch.replied(&self.senses, &answer, self.now)
    }

    fn sessions(&mut self, count: usize, text: &str, code: u16) -> Vec<Finding> {
        let mut found = Vec::new();
        for _ in 0..count {
            self.dial(A);
            found.extend(self.reply("", 220, "mx.acme.example ESMTP", 30));
            found.extend(self.reply("MAIL", code, text, 30));
        }
        found
    }
}

#[test]
fn an_ordinary_session_is_nothing_to_speak_of() {
    let mut scene = Scene::new();
    assert_eq!(scene.sessions(200, "2.1.0 Ok", 250), []);
    assert_eq!(scene.reply("RCPT", 550, "5.1.1 User unknown", 40), []);
}

#[test]
fn a_reply_that_drips_is_a_tarpit() {
    let mut scene = Scene::new();
    let text = "220 tarpit.example ESMTP\r\n";
    for _ in 0..text.len() - 1 {
        scene.now += Duration::from_millis(300);
        scene.watch.heard(scene.now, 1);
    }
    let found = scene.reply("", 220, "tarpit.example ESMTP", 8_000);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, &found[0].evidence["how"]), (EventKind::Tarpit, &json!("drip")));
    // The next one says nothing new.
    for _ in 0..30 {
        scene.now += Duration::from_millis(300);
        scene.watch.heard(scene.now, 1);
    }
    assert_eq!(scene.reply("EHLO", 250, "tarpit.example", 9_000), []);
}

#[test]
fn a_long_reply_in_packets_is_no_tarpit() {
    let mut scene = Scene::new();
    for _ in 0..20 {
        scene.now += Duration::from_millis(200);
        scene.watch.heard(scene.now, 500);
    }
    assert_eq!(scene.reply("EHLO", 250, "x", 4_000), []);
}

#[test]
fn two_replies_slower_than_ever_are_a_tarpit_and_one_is_not() {
    let mut scene = Scene::new();
    scene.sessions(20, "2.1.0 Ok", 250);
    scene.dial(A);
    assert_eq!(scene.reply("", 220, "mx", 4_000), []);
    let found = scene.reply("MAIL", 250, "2.1.0 Ok", 4_000);
    assert_eq!(found[0].kind, EventKind::Tarpit);
    assert_eq!(found[0].evidence["replies"].as_array().unwrap().len(), 2);
    assert!(found[0].evidence["replies"][0]["usual_us"].as_u64().unwrap() < 20_000, "less the round trip");
}

#[test]
fn who_has_always_been_slow_is_no_tarpit() {
    let mut scene = Scene::new();
    for _ in 0..30 {
        scene.dial(A);
        assert_eq!(scene.reply("", 220, "mx", 6_000), []);
        assert_eq!(scene.reply("MAIL", 250, "ok", 3_000), []);
    }
}

#[test]
fn refusals_say_what_they_are() {
    for (verb, code, text, kind) in [
        ("RCPT", 450, "4.2.0 Greylisted, come back", EventKind::Greylisting),
        ("MAIL", 421, "4.7.0 Too many connections, slow down", EventKind::Throttle),
        ("", 554, "5.7.1 blocked using zen.spamhaus.org", EventKind::Listing),
    ] {
        let mut scene = Scene::new();
        let found = scene.reply(verb, code, text, 10);
        assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), [kind], "{text}");
        assert_eq!(found[0].evidence["reply"], text);
        assert_eq!(scene.reply(verb, code, text, 10), [], "once a leg");
    }
}

#[test]
fn a_refusal_without_a_reason_after_many_sessions_is_a_throttle() {
    let words = "not now";
    assert_eq!(Scene::new().sessions(5, words, 421), [], "nothing was taken before");
    let mut scene = Scene::new();
    scene.sessions(5, "2.1.0 Ok", 250);
    assert_eq!(scene.sessions(1, words, 421), [], "once is an accident");
    let found = scene.sessions(1, words, 421);
    assert_eq!((found[0].kind, &found[0].evidence["how"]), (EventKind::Throttle, &json!("after_sessions")));
    assert_eq!(found[0].evidence["pace"]["taken"], 5);
}

#[test]
fn what_follows_a_dial_of_no_use_belongs_to_the_leg_before() {
    let mut scene = Scene::new();
    let tried: IpAddr = [203, 0, 113, 11].into();
    scene.dial(tried);
    scene.watch.back(&scene.senses, A, scene.now);
    let found = scene.reply("RCPT", 554, "5.7.1 blocked using zen.spamhaus.org", 10);
    assert_eq!(found[0].egress, A);
    assert_eq!(scene.senses.lock().pace("acme.example", A, scene.now).dialled, 1, "not dialled again");
}

#[test]
fn a_slow_address_is_found_when_its_session_ends() {
    let mut scene = Scene::new();
    let slow: IpAddr = [203, 0, 113, 11].into();
    let mut found = Vec::new();
    for _ in 0..4 {
        for (egress, took) in [(A, 30), (slow, 2_000)] {
            found.extend(scene.dial(egress));
            scene.reply("", 220, "mx", 30);
            assert_eq!(scene.reply("RCPT", 250, "ok", took), [], "not in its midst");
        }
    }
    found.extend(scene.watch.settle(&scene.senses, scene.now));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].kind, found[0].verb.as_str()), (EventKind::SlowAddress, "RCPT"));
    assert!(found[0].evidence["times"].as_f64().unwrap() > 50.0);
}
