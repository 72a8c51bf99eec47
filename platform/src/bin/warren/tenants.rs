//! `warren tenants`: who there is, and who is awake.

use warren_control::api::{TenantInfo, TenantState};
use warren_control::{ApiReply, ApiRequest};

use crate::platform::{Platform, unexpected};
use crate::{Config, tell};

pub fn run(config: &Config) -> anyhow::Result<()> {
    let platform = Platform::connect(config)?;
    let mut table = tell::table(&["TENANT", "STATE", "QUEUED", "NEXT DUE", "ACCOUNTS", "DOMAINS"]);
    let mut after = None;
    loop {
        match platform.ask(&ApiRequest::Tenants { tag: 1, after })? {
            ApiReply::Tenants { tenants, more, .. } => {
                after = tenants.last().map(|tenant| tenant.name.clone());
                for tenant in tenants {
                    table.add_row(row(&tenant));
                }
                if !more || after.is_none() {
                    break;
                }
            }
            other => return Err(unexpected(&other)),
        }
    }
    tell::raw(&tell::lines(&table))
}

fn row(tenant: &TenantInfo) -> [String; 6] {
    let state = match tenant.state {
        TenantState::Asleep => "asleep",
        TenantState::Starting => "starting",
        TenantState::Awake => "awake",
        TenantState::Draining => "draining",
        TenantState::Failed => "failed",
    };
    [
        tenant.name.to_string(),
        state.into(),
        tenant.queued.map_or_else(|| "-".into(), |queued| queued.to_string()),
        tenant.next_due_unix_ms.map_or_else(|| "-".into(), tell::time),
        tenant.accounts.to_string(),
        tell::cell(tenant.domains.join(" ")),
    ]
}
