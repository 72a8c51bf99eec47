//! `[egress]` as it is written, and the way from there to [`Egress`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::checker::{Checker, Text};
use crate::egress::{
    Budget, Budgets, DEFAULT_POOL, Egress, EgressRule, MailClass, Rest, SuspicionLevel, Thresholds, WarmUp,
};
use crate::node_file::{List, Number, Value, bounded};
use crate::values::{Network, parse_address, parse_date, parse_domain, parse_name, parse_unicast};
use crate::{TenantName, defaults};

type Map<T> = BTreeMap<Spanned<Text>, T>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EgressFile {
    addresses: Spanned<List>,
    #[serde(default)]
    names: Map<Spanned<Text>>,
    #[serde(default)]
    pools: Map<Spanned<List>>,
    #[serde(default)]
    rules: Vec<RuleFile>,
    #[serde(default)]
    budgets: BudgetsFile,
    #[serde(default)]
    warm_up: WarmUpFile,
    #[serde(default)]
    rest: RestFile,
    #[serde(default)]
    suspicion: SuspicionFile,
    #[serde(default)]
    allow_networks: List,
    #[serde(default)]
    receiver: List,
    max_sessions: Number,
    max_sessions_per_tenant: Number,
    max_wait: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    pool: Spanned<Text>,
    #[serde(default)]
    tenants: List,
    #[serde(default)]
    accounts: List,
    #[serde(default)]
    destinations: List,
    class: Option<MailClass>,
    suspicion: Option<SuspicionLevel>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct WarmUpFile {
    #[serde(default)]
    since: Map<Spanned<Text>>,
    daily: Option<Spanned<Vec<Spanned<i64>>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RestFile {
    first: Value,
    longest: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SuspicionFile {
    raised: Number,
    high: Number,
    severe: Number,
    high_destinations: Number,
    severe_destinations: Number,
    every: Value,
    jump: Number,
    jump_from: Number,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct BudgetsFile {
    sessions: Number,
    sessions_per_minute: Number,
    #[serde(default)]
    destinations: Map<BudgetFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetFile {
    sessions: Number,
    sessions_per_minute: Number,
}

/// MSAs wait five minutes for a greeting (RFC 5321 §4.5.3.2.1), and the MX takes its time for it, too.
const MAX_WAIT_MOST: Duration = Duration::from_secs(4 * 60);

/// Checks the section.
pub(crate) fn egress(check: &mut Checker, raw: &EgressFile) -> Egress {
    if raw.addresses.get_ref().is_empty() {
        check.problem(raw.addresses.span(), "no egress address, expected at least one of this host's addresses");
    }
    let addresses = check.list(raw.addresses.get_ref(), parse_egress);
    let pools = pools(check, raw, &addresses);
    let max_sessions = check.number(raw.max_sessions.as_ref(), defaults::MAX_SESSIONS, 1..=100_000);
    Egress {
        names: names(check, &raw.names, &addresses),
        rules: rules(check, &raw.rules, &pools),
        budgets: budgets(check, &raw.budgets),
        warm_up: warm_up(check, &raw.warm_up, &addresses),
        rest: rest(check, &raw.rest),
        suspicion: suspicion(check, &raw.suspicion),
        allow_networks: check.list(&raw.allow_networks, str::parse),
        receiver: check.list(&raw.receiver, parse_unicast),
        max_sessions,
        max_sessions_per_tenant: check
            .number(raw.max_sessions_per_tenant.as_ref(), defaults::MAX_SESSIONS_PER_TENANT, 1..=100_000)
            .min(max_sessions),
        max_wait: bounded(check, raw.max_wait.as_ref(), defaults::MAX_WAIT, Duration::from_secs(1), MAX_WAIT_MOST),
        addresses,
        pools,
    }
}

/// An address in the form in which it is compared with others.
fn parse_egress(text: &str) -> Result<IpAddr, String> {
    Ok(parse_unicast(text)?.to_canonical())
}

/// One of the addresses that mail leaves from.
fn known(addresses: &[IpAddr]) -> impl Fn(&str) -> Result<IpAddr, String> {
    move |text| {
        let address = parse_egress(text)?;
        if addresses.contains(&address) {
            Ok(address)
        } else {
            Err(format!("{address} is not in [egress] addresses, expected one of {}", listed(addresses)))
        }
    }
}

/// An operator of MX hosts, as `warren egress` shows it: a domain, or the network of hosts without a name.
fn parse_destination(text: &str) -> Result<String, String> {
    if !text.contains('/') {
        return parse_domain(text);
    }
    let network: Network = text.parse()?;
    match network.prefix() {
        24 if network.is_ipv4() => Ok(network.to_string()),
        48 if !network.is_ipv4() => Ok(network.to_string()),
        _ => Err(format!(
            "{text:?} is no destination, expected a domain such as \"google.com\", an IPv4 /24 or an IPv6 /48"
        )),
    }
}

/// What could have been written: the first few.
fn listed<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let mut all = all.into_iter().map(|one| one.to_string());
    let shown: Vec<String> = all.by_ref().take(SHOWN).collect();
    let more = if all.next().is_some() { " …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn names(check: &mut Checker, raw: &Map<Spanned<Text>>, addresses: &[IpAddr]) -> BTreeMap<IpAddr, String> {
    let mut names = BTreeMap::new();
    for (address, name) in raw {
        let found = check.value(address, known(addresses)).zip(check.value(name, parse_domain));
        if let Some((found, name)) = found
            && names.insert(found, name).is_some()
        {
            check.problem(address.span(), format!("{found} has a name already"));
        }
    }
    names
}

/// The pools by name. What is in none of them is the default pool, unless one is written under that name.
fn pools(check: &mut Checker, raw: &EgressFile, addresses: &[IpAddr]) -> BTreeMap<String, Vec<IpAddr>> {
    let mut pools = BTreeMap::new();
    for (name, members) in &raw.pools {
        if members.get_ref().is_empty() {
            check.problem(members.span(), "a pool without an address, expected at least one of [egress] addresses");
        }
        let members = check.list(members.get_ref(), known(addresses));
        if let Some(name) = check.value(name, parse_name) {
            pools.insert(name, members);
        }
    }
    if !pools.contains_key(DEFAULT_POOL) {
        let free = |address: &&IpAddr| !pools.values().any(|members: &Vec<IpAddr>| members.contains(address));
        let rest: Vec<IpAddr> = addresses.iter().filter(free).copied().collect();
        if rest.is_empty() && !addresses.is_empty() {
            check.problem(
                raw.addresses.span(),
                "every address is in a pool, expected one that is in none, or a pool named \"default\": \
                 it is for mail that no rule sends elsewhere",
            );
        }
        pools.insert(DEFAULT_POOL.into(), rest);
    }
    pools
}

fn rules(check: &mut Checker, raw: &[RuleFile], pools: &BTreeMap<String, Vec<IpAddr>>) -> Vec<EgressRule> {
    let mut rules = Vec::with_capacity(raw.len());
    let mut all_taken = false;
    for raw in raw {
        let rule = EgressRule {
            pool: check.value(&raw.pool, |name| pool(name, pools)).unwrap_or_default(),
            tenants: check.list(&raw.tenants, TenantName::new),
            accounts: check.list(&raw.accounts, |text| parse_address(text).map(|address| address.to_ascii_lowercase())),
            destinations: check.list(&raw.destinations, parse_destination),
            class: raw.class,
            suspicion: raw.suspicion,
        };
        if all_taken {
            check.problem(raw.pool.span(), "this rule is never reached: one before it takes all mail");
        }
        all_taken |= rule.takes_all();
        rules.push(rule);
    }
    rules
}

/// The name of a pool that there is.
fn pool(name: &str, pools: &BTreeMap<String, Vec<IpAddr>>) -> Result<String, String> {
    if pools.contains_key(name) {
        Ok(name.to_owned())
    } else {
        Err(format!("there is no pool {name:?}, expected one of {}", listed(pools.keys())))
    }
}

fn budgets(check: &mut Checker, raw: &BudgetsFile) -> Budgets {
    let every = budget(check, &raw.sessions, &raw.sessions_per_minute, defaults::EGRESS_BUDGET);
    let mut destinations = BTreeMap::new();
    for (destination, raw) in &raw.destinations {
        let own = budget(check, &raw.sessions, &raw.sessions_per_minute, every);
        if let Some(destination) = check.value(destination, parse_destination) {
            destinations.insert(destination, own);
        }
    }
    Budgets { every, destinations }
}

fn budget(check: &mut Checker, sessions: &Number, per_minute: &Number, default: Budget) -> Budget {
    Budget {
        sessions: check.number(sessions.as_ref(), default.sessions, 1..=100_000),
        sessions_per_minute: check.number(per_minute.as_ref(), default.sessions_per_minute, 1..=1_000_000),
    }
}

fn warm_up(check: &mut Checker, raw: &WarmUpFile, addresses: &[IpAddr]) -> WarmUp {
    let mut since = BTreeMap::new();
    for (address, date) in &raw.since {
        since.extend(check.value(address, known(addresses)).zip(check.value(date, parse_date)));
    }
    let Some(raw) = &raw.daily else { return WarmUp { since, daily: defaults::WARM_UP.into() } };
    let mut daily = Vec::with_capacity(raw.get_ref().len());
    for number in raw.get_ref() {
        let least = daily.last().copied().unwrap_or(1);
        daily.push(check.number(Some(number), least, least..=1_000_000_000));
    }
    if daily.is_empty() {
        check.problem(raw.span(), "a ramp without a day, expected messages on each day such as [50, 100, 200]");
    }
    WarmUp { since, daily }
}

fn rest(check: &mut Checker, raw: &RestFile) -> Rest {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    let rest = Rest {
        first: bounded(check, raw.first.as_ref(), defaults::EGRESS_REST.first, LEAST, MOST),
        longest: bounded(check, raw.longest.as_ref(), defaults::EGRESS_REST.longest, LEAST, MOST),
    };
    if let Some(raw) = raw.longest.as_ref().or(raw.first.as_ref()).filter(|_| rest.longest < rest.first) {
        check.problem(raw.span(), "[egress.rest] longest is shorter than first, expected it to be at least as long");
    }
    rest
}

fn suspicion(check: &mut Checker, raw: &SuspicionFile) -> Thresholds {
    /// Past all scores.
    const NEVER: u32 = 101;
    /// Operators are told apart by so many drawers; see `docs/egress.md`.
    const DESTINATIONS: u32 = 32;
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(24 * 60 * 60);
    let default = defaults::SUSPICION;
    let score = |check: &mut Checker, raw: &Number, default| check.number(raw.as_ref(), default, 1..=NEVER);
    let count = |check: &mut Checker, raw: &Number, default| check.number(raw.as_ref(), default, 1..=DESTINATIONS);
    let found = Thresholds {
        raised: score(check, &raw.raised, default.raised),
        high: score(check, &raw.high, default.high),
        severe: score(check, &raw.severe, default.severe),
        high_destinations: count(check, &raw.high_destinations, default.high_destinations),
        severe_destinations: count(check, &raw.severe_destinations, default.severe_destinations),
        every: bounded(check, raw.every.as_ref(), default.every, LEAST, MOST),
        jump: check.number(raw.jump.as_ref(), default.jump, 2..=1_000_000),
        jump_from: check.number(raw.jump_from.as_ref(), default.jump_from, 1..=1_000_000_000),
    };
    let mut ascending = |less: (&str, &Number, u32), more: (&str, &Number, u32)| {
        if let Some(raw) = more.1.as_ref().or(less.1.as_ref()).filter(|_| more.2 < less.2) {
            let text = format!(
                "[egress.suspicion] {} is {}, expected at least {}, which is {}",
                more.0, more.2, less.0, less.2
            );
            check.problem(raw.span(), text);
        }
    };
    ascending(("raised", &raw.raised, found.raised), ("high", &raw.high, found.high));
    ascending(("high", &raw.high, found.high), ("severe", &raw.severe, found.severe));
    ascending(
        ("high_destinations", &raw.high_destinations, found.high_destinations),
        ("severe_destinations", &raw.severe_destinations, found.severe_destinations),
    );
    found
}
