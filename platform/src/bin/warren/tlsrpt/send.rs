//! `warren tlsrpt send`: mails a day's reports to the domains that ask for them.
//!
//! ```text
//!   day ─▶ each domain ─▶ TXT _smtp._tls ─▶ mailto: places ─▶ quota ─▶ mail ─▶ submission ─▶ noted as sent
//! ```
//!
//! A report is sent once; one that failed is tried again by the next call. Nothing of a peer gets into a mail but the addresses and names that `rua` and
//! the proxy let pass; and nobody gets more of them in a day than the quota has, whoever names his address.

use anyhow::{Context, bail};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use warren_config::Node;
use warren_tlsrpt::folder::Sent;
use warren_tlsrpt::{Day, Folder, Quota, mail, rua};

use super::{load, submitter};
use crate::dns::Dns;
use crate::send::{Failure, Way, envelope, submit};
use crate::tell;

/// After so many refusals in a row it is not the recipients: a wrong password, say, which is not to be tried a thousand times.
const MANY: u32 = 3;

#[derive(clap::Args)]
pub struct Arguments {
    /// The UTC day [default: yesterday]
    day: Option<Date>,
    /// Only the report about this domain
    #[arg(long, value_name = "DOMAIN")]
    only: Option<String>,
    /// Say who would get a report, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Send again what was sent
    #[arg(long)]
    again: bool,
    /// Where to submit the mails [default: this node's submission]
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// Sender of the mails [default: the login]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    #[command(flatten)]
    way: Way,
}

pub fn run(mut arguments: Arguments, node: &Node, folder: &Folder) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let day = match arguments.day {
        Some(day) => day,
        None => Day::of(now).checked_sub(1.day())?,
    };
    if day >= Day::of(now) && !arguments.dry_run {
        bail!("{day} is not over yet (UTC): a report is about a whole day");
    }
    let day = load(folder, day)?;
    let from = match arguments.from.as_deref().or(arguments.way.user()) {
        Some(from) => from.to_owned(),
        None if arguments.dry_run => String::new(),
        None => bail!("who sends the reports? give --user LOGIN, or --from ADDRESS"),
    };
    let server = match arguments.server.take() {
        Some(server) => server,
        None => {
            arguments.way.expect_name(&node.hostname);
            own_submission(node)?
        }
    };
    let dns = Dns::of(node)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wanted = arguments.only.as_deref().map(str::to_ascii_lowercase);
    if let Some(domain) = wanted.as_ref().filter(|domain| !day.domains.contains_key(*domain)) {
        bail!("nothing was found about {domain} on {}", day.day);
    }
    let sent = if arguments.again { Default::default() } else { folder.sent(day.day)? };
    let domains = day.domains.keys().filter(|domain| wanted.as_ref().is_none_or(|wanted| wanted == *domain));
    let transport = if arguments.dry_run { None } else { Some(arguments.way.transport(&server)?) };
    let submitter = submitter(node);
    // An address that is none is told before the first domain is asked about.
    if transport.is_some() {
        envelope(&from, std::slice::from_ref(&from))?;
    }
    let today = folder.sent_on(Day::of(now))?;
    let mut quota = Quota::after(today.iter().map(|(domain, address)| (domain.as_str(), address.as_str())));
    let (mut failed, mut unlucky) = (Vec::new(), 0);
    for domain in domains.filter(|domain| !sent.contains_key(*domain)) {
        let to = match runtime.block_on(addresses(&dns, domain)) {
            Ok(to) => quota.admit(domain, to),
            Err(error) => {
                failed.push(format!("{domain}: {error:#}"));
                continue;
            }
        };
        if to.is_empty() {
            continue;
        }
        if let Some(transport) = &transport {
            let Some(report) = day.report(domain, &submitter) else { continue };
            let mail = mail::compose(&day, domain, &report, &submitter, &from, &to, now)?;
            match submit(transport, &server, &envelope(&from, &to)?, mail.as_bytes()) {
                Ok(_) => unlucky = 0,
                Err(Failure::Permanent(error)) => {
                    failed.push(format!("{domain}: {error:#}"));
                    unlucky += 1;
                    if unlucky == MANY {
                        break;
                    }
                    continue;
                }
                // The next would fare no better.
                Err(Failure::Temporary(error)) => {
                    failed.push(format!("{domain}: {error:#}"));
                    break;
                }
            }
            let note = Sent { to: to.clone(), at: Timestamp::now() };
            folder.note_sent(day.day, domain, note).context("noting what was sent")?;
        }
        tell::line(&format!("{}\t{}", tell::cell(domain), tell::cell(to.join(" "))))?;
    }
    for (address, reports) in quota.full() {
        tell::warning(&format!(
            "{address} has had its reports of today: {reports} more that name it are not sent there"
        ));
    }
    if failed.is_empty() { Ok(()) } else { Err(tell::Several(failed).into()) }
}

/// Where a domain wants its reports by mail.
async fn addresses(dns: &Dns, domain: &str) -> anyhow::Result<Vec<String>> {
    let records = dns.texts(&rua::name(domain)).await?;
    let mail = |place| match place {
        rua::Place::Mail(address) => Some(address),
        rua::Place::Https(_) => None,
    };
    Ok(rua::places(records.iter().map(String::as_str)).into_iter().filter_map(mail).collect())
}

/// Where this node takes submissions, seen from itself.
fn own_submission(node: &Node) -> anyhow::Result<String> {
    let listening = node.listen.submission.first().or(node.listen.submissions.first());
    let Some(mut at) = listening.copied() else {
        bail!("this node takes no submissions ([listen]): give --server HOST:PORT");
    };
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Ok(at.to_string())
}
