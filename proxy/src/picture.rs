//! What `warren egress` is shown: the policy's view in the words of the control socket.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use warren_control::egress::{
    AddressRow, CandidateRow, DestinationRow, EvidenceRow, Explain, Explained, HealthRow, HealthState, MailClass,
    NodeRow, PoolRow, Row, RuleRow, SenderRow, WarmingRow,
};
use warren_metrics::Format;

use crate::control::Answers;
use crate::egress::view::{AddressView, DestinationView, Health, SenderView};
use crate::egress::{self, Ask, Change, EgressAddr, Evidence, Operator, Rule, Rules};
use crate::proxy::Proxy;
use crate::settings::Settings;

/// Pieces of evidence told of each address and destination, the newest.
const EVIDENCE: usize = 5;

impl Answers for Proxy {
    fn snapshot(&self) -> Vec<Row> {
        let settings = self.settings();
        let view = self.departures().view();
        let rules = self.departures().look(|policy, _| policy.rules().clone());
        let node =
            NodeRow { at_unix_ms: unix_ms(view.at), sessions: view.sessions.into(), waiting: view.waiting.into() };
        let mut rows = vec![Row::Node(node)];
        rows.extend(pools(&rules).map(Row::Pool));
        rows.extend(rule_rows(&rules).map(Row::Rule));
        rows.extend(view.addresses.into_iter().map(|address| Row::Address(address_row(address, &settings))));
        rows.extend(view.destinations.into_iter().map(|destination| Row::Destination(destination_row(destination))));
        rows.extend(view.senders.into_iter().map(|sender| Row::Sender(sender_row(sender))));
        rows
    }

    fn metrics(&self) -> String {
        crate::metrics::page(self).render(Format::Prometheus)
    }

    fn rest(&self, address: IpAddr, destination: Option<&str>) -> Result<Vec<String>, String> {
        let (address, operator) = known(self, address, destination)?;
        Ok(words(&self.departures().rest(address, operator.as_ref())))
    }

    fn restore(&self, address: IpAddr, destination: Option<&str>) -> Result<Vec<String>, String> {
        let (address, operator) = known(self, address, destination)?;
        Ok(words(&self.departures().restore(address, operator.as_ref())))
    }

    fn explain(&self, asked: &Explain) -> Explained {
        let operator = Operator::of(Some(&asked.mx), asked.address);
        let ask = Ask {
            tenant: &asked.tenant,
            account: asked.account.as_deref(),
            class: match asked.class {
                MailClass::Submitted => egress::MailClass::Submitted,
                MailClass::Forwarded => egress::MailClass::Forwarded,
            },
            operator: &operator,
            mx: asked.address,
        };
        let (suspicion, decided) =
            self.departures().look(|policy, now| (policy.suspicion(&ask, now), policy.explain(&ask, now)));
        let told = |rule, pool, chosen, why, candidates| Explained {
            destination: operator.to_string(),
            suspicion: suspicion.name().into(),
            rule,
            pool,
            chosen,
            why,
            candidates,
        };
        match decided {
            Ok(decision) => told(
                Some(decision.rule.to_string()),
                Some(decision.pool.to_string()),
                Some(decision.egress.0),
                decision.reason,
                decision.candidates.into_iter().map(candidate).collect(),
            ),
            Err(none) => told(None, None, None, none.to_string(), Vec::new()),
        }
    }
}

/// An address of ours, and a destination by whatever name.
fn known(proxy: &Proxy, address: IpAddr, destination: Option<&str>) -> Result<(EgressAddr, Option<Operator>), String> {
    let address = EgressAddr(address.to_canonical());
    let ours = |policy: &egress::Policy| policy.rules().addresses().any(|known| known == address);
    if !proxy.departures().look(|policy, _| ours(policy)) {
        return Err(format!("{address} is not in [egress] addresses of the running proxy"));
    }
    Ok((address, destination.map(Operator::named)))
}

fn words(changes: &[Change]) -> Vec<String> {
    changes.iter().map(Change::to_string).collect()
}

fn pools(rules: &Rules) -> impl Iterator<Item = PoolRow> {
    rules.pools.iter().map(|pool| PoolRow {
        name: pool.name.to_string(),
        addresses: pool.addresses.iter().map(|address| address.0).collect(),
    })
}

fn rule_rows(rules: &Rules) -> impl Iterator<Item = RuleRow> {
    (1..).zip(&rules.rules).map(|(number, rule)| RuleRow { number, when: when(rule), pool: rule.pool.to_string() })
}

/// What a rule asks for, in words.
fn when(rule: &Rule) -> String {
    let mut parts = Vec::new();
    let mut list = |what: &str, all: Vec<&str>| {
        if !all.is_empty() {
            parts.push(format!("{what} {}", all.join(" or ")));
        }
    };
    list("of tenant", rule.tenants.iter().map(|tenant| tenant.as_str()).collect());
    list("from", rule.accounts.iter().map(String::as_str).collect());
    list("to", rule.destinations.iter().map(Operator::as_str).collect());
    list("that is", rule.class.iter().map(|class| class_name(*class)).collect());
    list("of senders whose suspicion is at least", rule.suspicion.iter().map(|level| level.name()).collect());
    if parts.is_empty() { "all".into() } else { parts.join(", ") }
}

fn class_name(class: egress::MailClass) -> &'static str {
    match class {
        egress::MailClass::Submitted => "submitted",
        egress::MailClass::Forwarded => "forwarded",
    }
}

fn address_row(view: AddressView, settings: &Settings) -> AddressRow {
    let state = match view.rested {
        Some(_) => HealthState::Rested,
        None if view.warming_day.is_some() => HealthState::Warming,
        None => HealthState::Healthy,
    };
    let by_hand = view.rested.as_ref().is_some_and(|evidence| evidence.what == crate::departures::BY_HAND);
    AddressRow {
        address: view.address.0,
        name: settings.name_of(view.address).to_owned(),
        pools: view.pools.iter().map(ToString::to_string).collect(),
        sessions: view.sessions.into(),
        warming_day: view.warming_day,
        health: HealthRow {
            state,
            since_unix_ms: view.rested.as_ref().map(|evidence| unix_ms(evidence.at)),
            until_unix_ms: view.until.map(unix_ms),
            by_hand,
            evidence: view.rested.into_iter().map(evidence).collect(),
        },
    }
}

fn destination_row(view: DestinationView) -> DestinationRow {
    DestinationRow {
        address: view.address.0,
        destination: view.operator.to_string(),
        health: HealthRow {
            state: match view.health {
                Health::Healthy => HealthState::Healthy,
                Health::Throttled => HealthState::Throttled,
                Health::Rested => HealthState::Rested,
                Health::Probing => HealthState::Probing,
                Health::Warming => HealthState::Warming,
            },
            since_unix_ms: view.since.map(unix_ms),
            until_unix_ms: view.until.map(unix_ms),
            by_hand: view.by_hand,
            evidence: view.evidence.into_iter().take(EVIDENCE).map(evidence).collect(),
        },
        sessions: view.sessions,
        sessions_limit: view.budget.sessions,
        begun: view.begun,
        begun_limit: view.budget.sessions_per_minute,
        waiting: view.waiting,
        warming: view.warming.map(|(sent, limit)| WarmingRow { sent, limit }),
    }
}

fn sender_row(view: SenderView) -> SenderRow {
    SenderRow {
        tenant: view.tenant,
        account: view.account,
        class: match view.class {
            egress::MailClass::Submitted => MailClass::Submitted,
            egress::MailClass::Forwarded => MailClass::Forwarded,
        },
        suspicion: view.suspicion.name().into(),
        score: view.score,
        why: view.why,
    }
}

fn evidence(evidence: Evidence) -> EvidenceRow {
    EvidenceRow { at_unix_ms: unix_ms(evidence.at), what: evidence.what, list: evidence.list, reply: evidence.reply }
}

fn candidate(candidate: egress::Candidate) -> CandidateRow {
    CandidateRow { address: candidate.address.0, score: candidate.score, why: candidate.why }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or_default()
}
