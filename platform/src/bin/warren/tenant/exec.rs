//! `warren tenant exec NAME PROGRAM …`: a program of the tenant's image, in its container.
//!
//! The container's own PID 1 runs it: nothing of the host goes in, no descriptor, no terminal, no binary, and what it prints comes out as
//! text. An image that is one static program, as Warren's own, has nothing to run.

use std::process::exit;

use anyhow::bail;
use warren_config::TenantName;
use warren_control::{ApiReply, ApiRequest};
use warren_daemon::escape;

use crate::platform::{Platform, unexpected};
use crate::{Config, tell};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// The tenant's name
    tenant: TenantName,
    /// Program of the image, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    args: Vec<String>,
}

/// Ends with the program's exit status.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let platform = Platform::connect(&arguments.config)?;
    let request = ApiRequest::Exec { tag: 1, tenant: arguments.tenant.clone(), args: arguments.args.clone() };
    let outcome = match platform.ask(&request)? {
        ApiReply::Executed { outcome, .. } => outcome,
        other => return Err(unexpected(&other)),
    };
    // A tenant's word: it draws nothing on the operator's terminal.
    for line in outcome.output.lines() {
        tell::line(&line.split('\t').map(escape).collect::<Vec<_>>().join("\t"))?;
    }
    if let Some(why) = outcome.failed {
        bail!("{}: {why}", arguments.args.join(" "));
    }
    match outcome.status {
        None | Some(0) => Ok(()),
        Some(status) => exit(status),
    }
}
