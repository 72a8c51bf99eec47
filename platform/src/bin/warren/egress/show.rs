//! The picture as tables.

use warren_control::egress::{
    AddressRow, DestinationRow, EgressReply, EgressRequest, EvidenceRow, HealthRow, HealthState, NodeRow, Row,
    SenderRow,
};

use super::{Proxy, unexpected};
use crate::tell;

/// So much of a reply is shown in a table; `--json` has all that is kept.
const REPLY_SHOWN: usize = 100;

pub fn run(proxy: &Proxy, json: bool, all: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    loop {
        match proxy.ask(&EgressRequest::Snapshot { from: rows.len() as u64 })? {
            EgressReply::Rows { rows: page, more } => {
                let none = page.is_empty();
                rows.extend(page);
                if !more || none {
                    break;
                }
            }
            other => return Err(unexpected(&other)),
        }
    }
    if json {
        return rows.iter().try_for_each(|row| tell::line(&serde_json::to_string(row)?));
    }
    tell::raw(&text(&rows, all))
}

fn text(rows: &[Row], all: bool) -> String {
    let now = rows.iter().find_map(|row| match row {
        Row::Node(node) => Some(node.at_unix_ms),
        _ => None,
    });
    let now = now.unwrap_or_else(tell::now);
    let mut parts = Vec::new();
    parts.extend(rows.iter().find_map(|row| match row {
        Row::Node(node) => Some(summary(node)),
        _ => None,
    }));
    parts.push(addresses(rows, now));
    parts.extend(rules(rows));
    parts.extend(destinations(rows, now, all));
    parts.extend(senders(rows));
    parts.join("\n")
}

fn summary(node: &NodeRow) -> String {
    format!("{} sessions go on, {} wait for their turn\n", node.sessions, node.waiting)
}

fn addresses(rows: &[Row], now: u64) -> String {
    let mut table = tell::table(&["ADDRESS", "NAME", "POOLS", "SESSIONS", "STATE", "WHY"]);
    for row in rows {
        let Row::Address(AddressRow { address, name, pools, sessions, health, warming_day }) = row else { continue };
        let mut state = state(health, now);
        if let Some(day) = warming_day {
            state.push_str(&format!(", day {day}"));
        }
        table.add_row([
            address.to_string(),
            tell::cell(name),
            tell::cell(pools.join(" ")),
            sessions.to_string(),
            state,
            health.evidence.first().map_or_else(|| "-".into(), evidence),
        ]);
    }
    tell::lines(&table)
}

fn rules(rows: &[Row]) -> Option<String> {
    let mut table = tell::table(&["RULE", "MAIL", "POOL"]);
    for row in rows {
        let Row::Rule(rule) = row else { continue };
        table.add_row([rule.number.to_string(), tell::cell(&rule.when), tell::cell(&rule.pool)]);
    }
    (table.row_count() > 0).then(|| tell::lines(&table))
}

fn destinations(rows: &[Row], now: u64, all: bool) -> Option<String> {
    let mut table =
        tell::table(&["DESTINATION", "ADDRESS", "SESSIONS", "WAITING", "A MINUTE", "TODAY", "STATE", "WHY"]);
    let mut quiet = 0_usize;
    for row in rows {
        let Row::Destination(row) = row else { continue };
        if !all && is_quiet(row) {
            quiet += 1;
            continue;
        }
        let DestinationRow { sessions, sessions_limit, begun, begun_limit, .. } = row;
        table.add_row([
            tell::cell(&row.destination),
            row.address.to_string(),
            format!("{sessions}/{sessions_limit}"),
            row.waiting.to_string(),
            format!("{begun}/{begun_limit}"),
            row.warming.as_ref().map_or_else(|| "-".into(), |ramp| format!("{}/{}", ramp.sent, ramp.limit)),
            state(&row.health, now),
            row.health.evidence.first().map_or_else(|| "-".into(), evidence),
        ]);
    }
    let mut text = if table.row_count() > 0 { tell::lines(&table) } else { String::new() };
    if quiet > 0 {
        text.push_str(&format!("{quiet} destinations where all is well and nothing goes on: --all shows them\n"));
    }
    (!text.is_empty()).then_some(text)
}

fn is_quiet(row: &DestinationRow) -> bool {
    row.health.state == HealthState::Healthy && row.sessions == 0 && row.begun == 0 && row.waiting == 0
}

fn senders(rows: &[Row]) -> Option<String> {
    let mut table = tell::table(&["TENANT", "ACCOUNT", "MAIL", "SUSPICION", "WHY"]);
    for row in rows {
        let Row::Sender(SenderRow { tenant, account, class, suspicion, score, why }) = row else { continue };
        table.add_row([
            tenant.to_string(),
            account.as_ref().map_or_else(|| "-".into(), tell::cell),
            super::explain::class_name(*class).into(),
            format!("{} ({score})", tell::cell(suspicion)),
            tell::cell(why),
        ]);
    }
    (table.row_count() > 0).then(|| tell::lines(&table))
}

/// `rested by hand for 12 min, until 2026-11-22 02:00:00Z`
pub fn state(health: &HealthRow, now: u64) -> String {
    let word = match health.state {
        HealthState::Healthy => "healthy",
        HealthState::Throttled => "throttled",
        HealthState::Rested => "rested",
        HealthState::Probing => "probing",
        HealthState::Warming => "warming",
    };
    let mut text = word.to_owned();
    if health.by_hand {
        text.push_str(" by hand");
    }
    if let Some(since) = health.since_unix_ms.filter(|_| health.state != HealthState::Healthy) {
        // A length of no second says nothing.
        text.push_str(&match now.saturating_sub(since) {
            0..1_000 => " since just now".to_owned(),
            _ => format!(" for {}", tell::ago(since, now)),
        });
    }
    if let Some(until) = health.until_unix_ms {
        text.push_str(&format!(", until {}", tell::time(until)));
    }
    text
}

fn evidence(row: &EvidenceRow) -> String {
    let list = row.list.as_ref().map_or_else(String::new, |list| format!(" ({})", tell::cell(list)));
    let reply: String = row.reply.chars().take(REPLY_SHOWN).collect();
    let more = if reply.len() < row.reply.len() { "…" } else { "" };
    let at = tell::time(row.at_unix_ms);
    let said = if reply.is_empty() { String::new() } else { format!(": {}{more}", tell::cell(reply)) };
    format!("{at} {}{list}{said}", tell::cell(&row.what))
}
