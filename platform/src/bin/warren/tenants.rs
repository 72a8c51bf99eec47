//! `warren tenants`: who there is, who is awake, since when and why.

use warren_control::api::{StartReason, Started, TenantInfo, TenantState};
use warren_control::{ApiReply, ApiRequest};

use crate::platform::{Asking, Platform, unexpected};
use crate::tell;

pub fn run(asking: &Asking) -> anyhow::Result<()> {
    let platform = Platform::connect(&asking.config)?;
    let header = [
        "TENANT",
        "STATE",
        "SINCE",
        "MEMORY",
        "QUEUED",
        "NEXT DUE",
        "LAST START",
        "TOOK",
        "REASON",
        "ACCOUNTS",
        "DOMAINS",
    ];
    let mut table = tell::table(&header);
    let now = tell::now();
    each(&platform, |tenant| {
        if asking.json {
            // One that went away (`| head`) wants no more.
            return tell::line(&serde_json::to_string(&tenant)?);
        }
        table.add_row(row(&tenant, now));
        Ok(())
    })?;
    if asking.json { Ok(()) } else { tell::raw(&tell::lines(&table)) }
}

/// Asks for the tenants, page by page.
pub fn each(platform: &Platform, mut then: impl FnMut(TenantInfo) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        match platform.ask(&ApiRequest::Tenants { tag: 1, after })? {
            ApiReply::Tenants { tenants, more, .. } => {
                after = tenants.last().map(|tenant| tenant.name.clone());
                tenants.into_iter().try_for_each(&mut then)?;
                if !more || after.is_none() {
                    return Ok(());
                }
            }
            other => return Err(unexpected(&other)),
        }
    }
}

fn row(tenant: &TenantInfo, now: u64) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let start = tenant.started.as_ref();
    let took = |start: &Started| start.took_us.map(tell::micros);
    [
        tenant.name.to_string(),
        state(tenant.state).into(),
        or_dash(tenant.since_unix_ms.map(|since| tell::ago(since, now))),
        or_dash(tenant.memory_bytes.map(tell::mebibytes)),
        or_dash(tenant.queued.map(|queued| queued.to_string())),
        or_dash(tenant.next_due_unix_ms.map(tell::time)),
        or_dash(start.map(|start| tell::ago(start.at_unix_ms, now))),
        or_dash(start.and_then(took)),
        or_dash(start.map(|start| reason(start.reason).into())),
        tenant.accounts.to_string(),
        tell::cell(tenant.domains.join(" ")),
    ]
}

/// A state in a word.
pub fn state(state: TenantState) -> &'static str {
    match state {
        TenantState::Asleep => "asleep",
        TenantState::Starting => "starting",
        TenantState::Awake => "awake",
        TenantState::Draining => "draining",
        TenantState::Failed => "failed",
        TenantState::Suspended => "suspended",
    }
}

/// Why a tenant was started, in two words at most.
pub fn reason(reason: StartReason) -> &'static str {
    match reason {
        StartReason::Connection => "connection",
        StartReason::Forward => "forward",
        StartReason::Due => "due",
        StartReason::Hand => "by hand",
        StartReason::Found => "found",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_state_and_start() {
        let started = Some(Started { at_unix_ms: 940_000, took_us: Some(2_300), reason: StartReason::Forward });
        let tenant = TenantInfo {
            name: "acme".parse().unwrap(),
            state: TenantState::Awake,
            domains: vec!["acme.example".into(), "x\u{1b}[2J".into()],
            accounts: 3,
            next_due_unix_ms: None,
            queued: Some(2),
            since_unix_ms: Some(940_002),
            memory_bytes: Some(1 << 20),
            started,
        };
        let expected = [
            "acme",
            "awake",
            "59 s",
            "1.0 MiB",
            "2",
            "-",
            "60 s",
            "2.3 ms",
            "forward",
            "3",
            "acme.example x\\u{1b}[2J",
        ];
        assert_eq!(row(&tenant, 1_000_000), expected);
    }
}
