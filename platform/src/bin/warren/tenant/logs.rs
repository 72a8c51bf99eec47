//! `warren tenant logs NAME`: what the node said of a tenant lately.

use warren_config::TenantName;
use warren_control::api::LogLine;
use warren_control::{ApiReply, ApiRequest, Level};

use crate::platform::{Platform, unexpected};
use crate::{Config, tell};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// The tenant's name
    tenant: TenantName,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let platform = Platform::connect(&arguments.config)?;
    let (mut after, mut wait) = (0, false);
    loop {
        let request = ApiRequest::Logs { tag: 1, tenant: arguments.tenant.clone(), after, wait };
        let lines = match platform.ask(&request)? {
            ApiReply::Logs { lines, .. } => lines,
            other => return Err(unexpected(&other)),
        };
        for line in &lines {
            if !tell::heard(&text(line))? {
                return Ok(());
            }
        }
        match lines.last() {
            Some(line) => after = line.number,
            None if arguments.follow => wait = true,
            None => return Ok(()),
        }
    }
}

fn text(line: &LogLine) -> String {
    let level = match line.level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    format!("{} {level:<5} {}: {}", tell::time(line.at_unix_ms), tell::cell(&line.source), tell::cell(&line.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tenant_says_is_escaped() {
        let said = "all is well\n2023-11-14 22:13:20Z error fleet: \u{1b}[2J\u{202e}";
        let line = LogLine {
            number: 1,
            at_unix_ms: 1_700_000_000_000,
            level: Level::Warn,
            source: "msa".into(),
            text: said.into(),
        };
        let shown = text(&line);
        assert!(shown.starts_with("2023-11-14 22:13:20Z warn  msa: all is well\\n2023"), "{shown}");
        assert!(shown.is_ascii() && !shown.contains(['\n', '\u{1b}']), "{shown}");
    }
}
