//! `warren tlsrpt`: TLS reports (RFC 8460).
//!
//! ```text
//!   (none)           the days that there is something of
//!   show DAY         the recipient domains of a day
//!   show DAY DOMAIN  the report about one of them, in JSON, as it is or was sent
//!   send [DAY]       by mail, to those domains that ask for it                                 send.rs
//! ```

mod send;

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::Timestamp;
use jiff::civil::Date;
use warren_config::Node;
use warren_tlsrpt::{Day, Folder, PolicyReport, PolicyType, Submitter};

use crate::{Config, tell};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Show a day, or the report about one domain
    Show {
        /// The UTC day, such as 2026-11-22
        day: Date,
        /// A recipient domain
        domain: Option<String>,
    },
    /// Mail the reports of a day to the domains that ask for them
    Send(send::Arguments),
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let node = Node::load(&arguments.config.directory)?;
    let path = node.paths.tls_reports();
    let folder = Folder::new(&path);
    let reading = || format!("reading {}", path.display());
    match arguments.action {
        None => list(&folder).with_context(reading),
        Some(Action::Show { day, domain }) => {
            let day = load(&folder, day).with_context(reading)?;
            match domain {
                None => show(&folder, &day).with_context(reading),
                Some(domain) => show_report(&day, &domain.to_ascii_lowercase(), &submitter(&node)),
            }
        }
        Some(Action::Send(arguments)) => send::run(arguments, &node, &folder),
    }
}

/// This node, as reports name it.
fn submitter(node: &Node) -> Submitter {
    let contact = node.postmaster.clone().unwrap_or_else(|| format!("postmaster@{}", node.hostname));
    Submitter { organization: node.hostname.clone(), domain: node.hostname.clone(), contact }
}

fn load(folder: &Folder, day: Date) -> anyhow::Result<Day> {
    match folder.load(day)? {
        Some(found) => Ok(found),
        None => {
            bail!("nothing was found on {day}; days are UTC, and kept for {} days", warren_tlsrpt::folder::KEEP_DAYS)
        }
    }
}

fn list(folder: &Folder) -> anyhow::Result<()> {
    let mut table = tell::table(&["DAY", "DOMAINS", "SUCCESSFUL", "FAILED", "LEFT OUT", "SENT"]);
    for day in folder.days()?.into_iter().rev() {
        let Some(found) = folder.load(day)? else { continue };
        let (good, bad) = found.sessions();
        let today = day == Day::of(Timestamp::now());
        table.add_row([
            if today { format!("{day} (today)") } else { day.to_string() },
            found.domains.len().to_string(),
            good.to_string(),
            bad.to_string(),
            found.left_out.to_string(),
            folder.sent(day)?.len().to_string(),
        ]);
    }
    tell::raw(&tell::lines(&table))
}

fn show(folder: &Folder, day: &Day) -> anyhow::Result<()> {
    let sent = folder.sent(day.day)?;
    let mut table = tell::table(&["DOMAIN", "POLICY", "SUCCESSFUL", "FAILED", "MOST OFTEN", "SENT"]);
    for (domain, policies) in &day.domains {
        for PolicyReport { policy, summary, failure_details } in policies {
            let worst = failure_details.iter().max_by_key(|details| details.failed_session_count);
            table.add_row([
                tell::cell(domain),
                match policy.policy_type {
                    PolicyType::Tlsa => "dane",
                    PolicyType::Sts => "mta-sts",
                    PolicyType::NoPolicyFound => "-",
                }
                .to_owned(),
                summary.total_successful_session_count.to_string(),
                summary.total_failure_session_count.to_string(),
                worst.map_or_else(|| "-".to_owned(), |details| details.result_type.to_string()),
                sent.get(domain).map_or_else(|| "-".to_owned(), |sent| tell::cell(sent.to.join(" "))),
            ]);
        }
    }
    tell::raw(&tell::lines(&table))
}

fn show_report(day: &Day, domain: &str, submitter: &Submitter) -> anyhow::Result<()> {
    let Some(report) = day.report(domain, submitter) else { bail!("nothing was found about {domain} on {}", day.day) };
    // JSON escapes control characters; what else a terminal might take for its own is escaped by hand.
    let json = serde_json::to_string_pretty(&report)?;
    tell::line(&json.lines().map(tell::cell).collect::<Vec<_>>().join("\n"))
}
