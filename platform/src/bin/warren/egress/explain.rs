//! Which address would be chosen for a destination now, and why.

use std::net::IpAddr;

use anyhow::bail;
use clap::ValueEnum;
use warren_config::{Node, TenantName, parse_address, parse_domain};
use warren_control::egress::{EgressReply, EgressRequest, Explain, Explained, MailClass};

use super::{Proxy, unexpected};
use crate::dns::{Dns, Mx};
use crate::tell;

/// The first address of each family of an MX host is asked about: the others of that family would get the same answer.
#[derive(clap::Args)]
pub struct Arguments {
    /// Whose mail
    #[arg(long, value_name = "NAME")]
    tenant: TenantName,
    /// Its reverse-path, such as alice@acme.example
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    account: Option<String>,
    /// What kind of mail
    #[arg(long, value_enum, default_value = "submitted")]
    class: Class,
    /// Where to: a domain, whose MX hosts are looked up, or an MX host; NAME=ADDRESS looks nothing up
    #[arg(long, value_name = "D")]
    to: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Class {
    /// Written by one of the tenant's people
    Submitted,
    /// From elsewhere, passed on
    Forwarded,
}

pub fn run(node: &Node, proxy: &Proxy, arguments: &Arguments, json: bool) -> anyhow::Result<()> {
    for host in hosts(node, &arguments.to)? {
        for address in one_of_each_family(&host.addresses) {
            let asked = Explain {
                tenant: arguments.tenant.clone(),
                account: arguments.account.as_ref().map(|account| account.to_ascii_lowercase()),
                class: match arguments.class {
                    Class::Submitted => MailClass::Submitted,
                    Class::Forwarded => MailClass::Forwarded,
                },
                mx: host.name.clone(),
                address,
            };
            match proxy.ask(&EgressRequest::Explain(asked))? {
                EgressReply::Explained(told) if json => {
                    let told = serde_json::json!({ "mx": host.name, "address": address, "explained": told });
                    tell::line(&told.to_string())?;
                }
                EgressReply::Explained(told) => tell::raw(&text(&host.name, address, &told))?,
                other => return Err(unexpected(&other)),
            }
        }
    }
    Ok(())
}

/// Where mail goes that is meant for this.
fn hosts(node: &Node, to: &str) -> anyhow::Result<Vec<Mx>> {
    let name =
        |text: &str| parse_domain(text.trim_end_matches('.')).map_err(|problem| anyhow::anyhow!("--to {problem}"));
    if let Some((host, address)) = to.split_once('=') {
        let Ok(address) = address.parse::<IpAddr>() else { bail!("--to {to:?}: {address:?} is not an IP address") };
        return Ok(vec![Mx { name: name(host)?, addresses: vec![address.to_canonical()] }]);
    }
    let name = name(to)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Dns::of(node)?.mail_hosts(&name).await })
}

fn one_of_each_family(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let first = |ipv6| addresses.iter().copied().find(move |address| address.is_ipv6() == ipv6);
    first(false).into_iter().chain(first(true))
}

fn text(mx: &str, address: IpAddr, told: &Explained) -> String {
    let mut text = format!("{} [{address}], destination {}\n", tell::cell(mx), tell::cell(&told.destination));
    if let (Some(pool), Some(rule)) = (&told.pool, &told.rule) {
        let by = if rule == "default" { "as no rule fits".into() } else { format!("by {}", tell::cell(rule)) };
        text.push_str(&format!("  pool       {}, {by}\n", tell::cell(pool)));
    }
    text.push_str(&format!("  suspicion  {}\n", tell::cell(&told.suspicion)));
    let chosen = told.chosen.map_or_else(|| "none".into(), |chosen| chosen.to_string());
    text.push_str(&format!("  chosen     {chosen}: {}\n", tell::cell(&told.why)));
    let mut table = tell::table(&["CANDIDATE", "SCORE", "WHY"]);
    for candidate in &told.candidates {
        let score = candidate.score.map_or_else(|| "-".into(), |score| score.to_string());
        table.add_row([candidate.address.to_string(), score, tell::cell(&candidate.why)]);
    }
    if table.row_count() > 0 {
        tell::lines(&table).lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

/// A kind of mail in a word.
pub fn class_name(class: MailClass) -> &'static str {
    match class {
        MailClass::Submitted => "submitted",
        MailClass::Forwarded => "forwarded",
    }
}
