//! `warren tenant wake|sleep|suspend|resume NAME`.

use std::time::Instant;

use warren_config::TenantName;
use warren_control::{ApiReply, ApiRequest};

use crate::platform::{Platform, unexpected};
use crate::{Config, tell};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// The tenant's name
    tenant: TenantName,
}

pub fn wake(arguments: &Arguments) -> anyhow::Result<()> {
    ask(arguments, &ApiRequest::Wake { tag: 1, tenant: arguments.tenant.clone() }, "awake")
}

pub fn sleep(arguments: &Arguments) -> anyhow::Result<()> {
    ask(arguments, &ApiRequest::Sleep { tag: 1, tenant: arguments.tenant.clone() }, "asleep")
}

pub fn suspend(arguments: &Arguments) -> anyhow::Result<()> {
    ask(arguments, &ApiRequest::Suspend { tag: 1, tenant: arguments.tenant.clone() }, "suspended")
}

pub fn resume(arguments: &Arguments) -> anyhow::Result<()> {
    ask(arguments, &ApiRequest::Resume { tag: 1, tenant: arguments.tenant.clone() }, "no longer suspended")
}

fn ask(arguments: &Arguments, request: &ApiRequest, state: &str) -> anyhow::Result<()> {
    let platform = Platform::connect(&arguments.config)?;
    let asked = Instant::now();
    match platform.ask(request)? {
        ApiReply::Done { .. } => {
            let us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
            tell::line(&format!("{} is {state} ({})", arguments.tenant, tell::micros(us)))
        }
        other => Err(unexpected(&other)),
    }
}
