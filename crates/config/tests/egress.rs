//! `[egress]`: what it means, and what a broken one is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::net::IpAddr;
use std::time::SystemTime;

use warren_config::Node;
use warren_config::egress::{Budget, Egress, MailClass, SuspicionLevel, Thresholds};

/// The egress of a node with three addresses, and whatever else is written behind them.
fn load(more: &str) -> Result<Egress, String> {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\", \"203.0.113.11\", \"2001:db8::10\"]\n{more}"
    );
    fs::write(directory.path().join("warren.toml"), text).unwrap();
    let told = |problems: warren_config::Problems| {
        problems.to_string().replace(&format!("{}/warren.toml:", directory.path().display()), "")
    };
    Node::load(directory.path()).map(|node| node.egress).map_err(told)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_alone_are_one_pool_with_the_hosts_name() {
    let egress = load("").unwrap();
    assert_eq!(egress.pools.len(), 1);
    assert_eq!(egress.pools["default"], egress.addresses);
    assert!(egress.rules.is_empty());
    assert_eq!(egress.budgets.every, Budget { sessions: 20, sessions_per_minute: 600 });
    assert_eq!(egress.ehlo_name(ip("203.0.113.10"), "mail.example.net"), "mail.example.net");
}

#[test]
fn pools_rules_and_names_can_be_set() {
    let egress = load(
        r#"
names = { "203.0.113.11" = "OUT2.example.net" }
[egress.pools]
letters = ["203.0.113.11"]
[[egress.rules]]
pool = "letters"
tenants = ["acme", "globex"]
accounts = ["News@Acme.example"]
destinations = ["google.com", "192.0.2.0/24"]
class = "forwarded"
suspicion = "high"
[[egress.rules]]
pool = "default"
[egress.budgets]
sessions = 10
[egress.budgets.destinations]
"Google.com" = { sessions = 50 }
[egress.warm_up]
since = { "203.0.113.11" = "2026-11-20" }
daily = [10, 10, 40]
[egress.rest]
first = "1m"
"#,
    )
    .unwrap();
    assert_eq!(egress.ehlo_name(ip("::ffff:203.0.113.11"), "mail.example.net"), "out2.example.net");
    assert_eq!(egress.pools["letters"], [ip("203.0.113.11")]);
    assert_eq!(egress.pools["default"], [ip("203.0.113.10"), ip("2001:db8::10")], "what no pool names");
    let rule = &egress.rules[0];
    assert_eq!((rule.pool.as_str(), rule.class), ("letters", Some(MailClass::Forwarded)));
    assert_eq!(rule.suspicion, Some(SuspicionLevel::High));
    assert_eq!((&*rule.accounts[0], &*rule.destinations[0]), ("news@acme.example", "google.com"));
    assert!(!rule.takes_all() && egress.rules[1].takes_all());
    assert_eq!(egress.named_tenants().len(), 2);
    assert_eq!(egress.budgets.destinations["google.com"], Budget { sessions: 50, sessions_per_minute: 600 });
    let since = egress.warm_up.since[&ip("203.0.113.11")].duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!((since.as_secs(), &*egress.warm_up.daily), (1_795_132_800, &[10, 10, 40][..]));
    assert_eq!((egress.rest.first.as_secs(), egress.rest.longest.as_secs()), (60, 86_400));
}

#[test]
fn thresholds_of_suspicion() {
    let default = load("").unwrap().suspicion;
    assert_eq!(default, warren_config::defaults::SUSPICION);
    let written =
        "[egress.suspicion]\nraised = 20\nsevere = 101\nhigh_destinations = 1\nevery = \"1m\"\njump_from = 50";
    let expected = Thresholds {
        raised: 20,
        severe: 101,
        high_destinations: 1,
        every: std::time::Duration::from_secs(60),
        jump_from: 50,
        ..default
    };
    assert_eq!(load(written).unwrap().suspicion, expected);
}

#[test]
fn what_is_wrong_is_told_where_and_what() {
    for (text, told) in [
        (
            "names = { \"203.0.113.99\" = \"out.example.net\" }",
            "4:11: 203.0.113.99 is not in [egress] addresses, expected one of 203.0.113.10, 203.0.113.11, 2001:db8::10",
        ),
        (
            "names = { \"203.0.113.10\" = \"out\" }",
            "4:28: \"out\" is not a domain: it has one label only; expected a name such as \"example.com\"",
        ),
        (
            "names = { \"2001:db8:0::10\" = \"a.example\", \"2001:db8::10\" = \"b.example\" }",
            "4:43: 2001:db8::10 has a name already",
        ),
        ("pools = { a = [] }", "4:15: a pool without an address, expected at least one of [egress] addresses"),
        (
            "pools = { \"A!\" = [\"203.0.113.10\"] }",
            "4:11: \"A!\" is not a name, expected up to 32 of a-z, 0-9, - and _, beginning with a letter",
        ),
        (
            "pools = { a = [\"203.0.113.10\", \"203.0.113.11\", \"2001:db8::10\"] }",
            "3:13: every address is in a pool, expected one that is in none, or a pool named \"default\": it is for mail that \
             no rule sends elsewhere",
        ),
        (
            "pools = { a = [\"203.0.113.10\"] }\nrules = [{ pool = \"b\" }]",
            "5:19: there is no pool \"b\", expected one of a, default",
        ),
        (
            "pools = { a = [\"203.0.113.10\"] }\nrules = [{ pool = \"a\" }, { pool = \"default\", class = \"forwarded\" }]",
            "5:35: this rule is never reached: one before it takes all mail",
        ),
        ("rules = [{ tenants = [\"acme\"] }]", "4:10: missing field `pool`"),
        (
            "rules = [{ pool = \"default\", class = \"bulk\" }]",
            "4:38: unknown variant `bulk`, expected `submitted` or `forwarded`",
        ),
        (
            "rules = [{ pool = \"default\", accounts = [\"bob\"] }]",
            "4:42: \"bob\" is not an address, expected one such as \"someone@example.com\"",
        ),
        ("budgets = { sessions = 0 }", "4:24: 0 is out of bounds, expected 1 to 100000"),
        (
            "rules = [{ pool = \"default\", destinations = [\"192.0.2.0/25\"] }]",
            "4:46: \"192.0.2.0/25\" is no destination, expected a domain such as \"google.com\", an IPv4 /24 or an IPv6 /48",
        ),
        (
            "rules = [{ pool = \"default\", suspicion = \"low\" }]",
            "4:42: unknown variant `low`, expected one of `raised`, `high`, `severe`",
        ),
        (
            "warm_up = { since = { \"203.0.113.10\" = \"2026-11-31\" } }",
            "4:40: \"2026-11-31\" is not a date, expected one such as \"2026-11-22\"",
        ),
        (
            "warm_up = { since = { \"203.0.113.9\" = \"2026-11-30\" } }",
            "4:23: 203.0.113.9 is not in [egress] addresses, expected one of 203.0.113.10, 203.0.113.11, 2001:db8::10",
        ),
        ("warm_up = { daily = [50, 40] }", "4:26: 40 is out of bounds, expected 50 to 1000000000"),
        (
            "warm_up = { daily = [] }",
            "4:21: a ramp without a day, expected messages on each day such as [50, 100, 200]",
        ),
        ("rest = { first = \"0s\" }", "4:18: \"0s\" is out of bounds, expected 1s to 2592000 s"),
        (
            "rest = { first = \"2h\", longest = \"1h\" }",
            "4:34: [egress.rest] longest is shorter than first, expected it to be at least as long",
        ),
        ("suspicion = { severe = 102 }", "4:24: 102 is out of bounds, expected 1 to 101"),
        ("suspicion = { every = \"0s\" }", "4:23: \"0s\" is out of bounds, expected 1s to 86400 s"),
        ("suspicion = { jump = 1 }", "4:22: 1 is out of bounds, expected 2 to 1000000"),
        ("suspicion = { raised = 70 }", "4:24: [egress.suspicion] high is 60, expected at least raised, which is 70"),
        (
            "suspicion = { high = 50, severe = 40 }",
            "4:35: [egress.suspicion] severe is 40, expected at least high, which is 50",
        ),
        (
            "suspicion = { severe_destinations = 2 }",
            "4:37: [egress.suspicion] severe_destinations is 2, expected at least high_destinations, which is 3",
        ),
        (
            "suspicion = { calm = true }",
            "4:15: unknown field `calm`, expected one of `raised`, `high`, `severe`, `high_destinations`, `severe_destinations`, `every`, `jump`, `jump_from`",
        ),
        (
            "budgets = { destinations = { gmail = { sessions = 5 } } }",
            "4:30: \"gmail\" is not a domain: it has one label only; expected a name such as \"example.com\"",
        ),
    ] {
        assert_eq!(load(text).unwrap_err(), told, "{text}");
    }
}
