//! `warren sessions`: what the proxy recorded.

use std::time::SystemTime;

use clap::Subcommand;
use warren_config::{Node, parse_duration};
use warren_session::reader::{SessionRow, SummaryRow};
use warren_session::{Filter, Reader};

use crate::{Config, tell};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = false)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Only this tenant's
    #[arg(long, value_name = "NAME", global = true)]
    tenant: Option<String>,
    /// At most so many, the newest [default: 50]
    #[arg(long, value_name = "N", global = true)]
    limit: Option<u32>,
    /// Only those that began so long ago at most, such as 2h
    #[arg(long, value_name = "DURATION", global = true, value_parser = parse_duration)]
    since: Option<std::time::Duration>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Print the transcript of a session
    Show {
        /// Its id, or as much of its beginning or end as is unique
        id: String,
    },
    /// Count sessions and reply times by tenant and destination
    Summary,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let node = Node::load(&arguments.config.directory)?;
    let filter = Filter {
        tenant: arguments.tenant.clone(),
        since: arguments.since.and_then(|ago| SystemTime::now().checked_sub(ago)),
        limit: arguments.limit,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut reader = Reader::open(&node.paths.sessions_database()).await?;
        match &arguments.action {
            None => list(&reader.list(&filter).await?),
            Some(Action::Show { id }) => tell::raw(&reader.show(id).await?),
            Some(Action::Summary) => summary(&reader.summary(&filter).await?),
        }
    })
}

fn list(sessions: &[SessionRow]) -> anyhow::Result<()> {
    let mut table = tell::table(&["SESSION", "BEGAN", "TENANT", "TO", "FROM", "TLS", "OUTCOME", "BYTES", "TOOK"]);
    for session in sessions {
        let to = match &session.mx_name {
            Some(name) => format!("{name} [{}]", session.mx_address),
            None => format!("[{}]", session.mx_address),
        };
        table.add_row([
            tell::cell(&session.id),
            tell::time(u64::try_from(session.started_us / 1_000).unwrap_or(0)),
            tell::cell(&session.tenant),
            tell::cell(to),
            shown(session.egress.as_deref()),
            shown(session.tls_version.as_deref()),
            shown(session.outcome.as_deref()),
            shown(session.bytes.map(|bytes| bytes.to_string()).as_deref()),
            span(session.ended_us.map(|ended| ended - session.started_us)),
        ]);
    }
    tell::raw(&tell::lines(&table))
}

fn summary(rows: &[SummaryRow]) -> anyhow::Result<()> {
    let mut table = tell::table(&["TENANT", "DESTINATION", "TLS", "OUTCOME", "SESSIONS", "REPLIES", "P50", "P99"]);
    for row in rows {
        table.add_row([
            tell::cell(&row.tenant),
            tell::cell(&row.destination),
            shown(row.tls_version.as_deref()),
            shown(row.outcome.as_deref()),
            row.sessions.to_string(),
            row.replies.to_string(),
            span(row.p50_us),
            span(row.p99_us),
        ]);
    }
    tell::raw(&tell::lines(&table))
}

fn shown(text: Option<&str>) -> String {
    text.map_or_else(|| "-".into(), tell::cell)
}

fn span(us: Option<i64>) -> String {
    us.and_then(|us| u64::try_from(us).ok()).map_or_else(|| "-".into(), tell::micros)
}
