//! `warren sessions`: what the proxy recorded.

use std::time::SystemTime;

use clap::Subcommand;
use warren_config::{Node, parse_duration};
use warren_session::detect::EventKind;
use warren_session::reader::{EventCount, EventRow, Replay, SessionRow, SummaryRow};
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
    /// What was noticed about MX hosts: tarpits, throttles, listings, greylisting, addresses served late
    Events {
        /// Only of one kind: tarpit, throttle, slow_address, listing, greylisting
        #[arg(long, value_name = "KIND", value_parser = kind)]
        kind: Option<EventKind>,
        /// Count them by kind, operator and address
        #[arg(long, conflicts_with = "kind")]
        count: bool,
    },
    /// Show which recorded refusals today's rules classify otherwise; changes nothing
    Reclassify,
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
            Some(Action::Events { count: true, .. }) => event_counts(&reader.event_counts(&filter).await?),
            Some(Action::Events { kind, .. }) => events(&reader.events(&filter, *kind).await?),
            Some(Action::Reclassify) => reclassified(&reader.reclassify(&filter).await?),
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
            when(session.started_us),
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

fn kind(name: &str) -> Result<EventKind, String> {
    let names = EventKind::ALL.map(EventKind::name).join(", ");
    EventKind::from_name(name).ok_or_else(|| format!("one of {names}"))
}

fn events(rows: &[EventRow]) -> anyhow::Result<()> {
    let mut table = tell::table(&["SESSION", "WHEN", "TENANT", "EVENT", "OPERATOR", "FROM", "AT", "LIST", "EVIDENCE"]);
    for row in rows {
        table.add_row([
            tell::cell(&row.session),
            when(row.started_us + row.at_us),
            tell::cell(&row.tenant),
            tell::cell(&row.kind),
            tell::cell(&row.operator),
            tell::cell(&row.egress),
            match row.verb.as_str() {
                "" => "greeting".into(),
                "." => "content".into(),
                verb => tell::cell(verb),
            },
            shown(row.list.as_deref()),
            tell::cell(&row.evidence),
        ]);
    }
    tell::raw(&tell::lines(&table))
}

fn event_counts(rows: &[EventCount]) -> anyhow::Result<()> {
    let mut table = tell::table(&["EVENT", "OPERATOR", "FROM", "LIST", "EVENTS", "LAST"]);
    for row in rows {
        table.add_row([
            tell::cell(&row.kind),
            tell::cell(&row.operator),
            tell::cell(&row.egress),
            shown(row.list.as_deref()),
            row.events.to_string(),
            when(row.last_us),
        ]);
    }
    tell::raw(&tell::lines(&table))
}

fn reclassified(replay: &Replay) -> anyhow::Result<()> {
    let class = |class: &str, list: Option<&str>| match list {
        Some(list) => tell::cell(format!("{class} ({list})")),
        None => tell::cell(class),
    };
    let mut table = tell::table(&["WAS", "WOULD BE", "RULE", "RECIPIENTS", "SESSION", "REPLY"]);
    for change in &replay.changes {
        table.add_row([
            class(&change.was, change.was_list.as_deref()),
            class(&change.class, change.list.as_deref()),
            tell::cell(&change.rule),
            change.recipients.to_string(),
            tell::cell(&change.session),
            tell::cell(&change.reply),
        ]);
    }
    let changed: u64 = replay.changes.iter().map(|change| change.recipients).sum();
    let total = replay.recipients;
    tell::raw(&format!(
        "{}{changed} of {total} refused recipients would be classified otherwise\n",
        tell::lines(&table)
    ))
}

fn when(us: i64) -> String {
    tell::time(u64::try_from(us / 1_000).unwrap_or(0))
}

fn shown(text: Option<&str>) -> String {
    text.map_or_else(|| "-".into(), tell::cell)
}

fn span(us: Option<i64>) -> String {
    us.and_then(|us| u64::try_from(us).ok()).map_or_else(|| "-".into(), tell::micros)
}
