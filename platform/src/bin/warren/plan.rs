//! `warren plan` and `warren apply`: what the files would change about the running node, and doing it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::thread;

use anyhow::{anyhow, bail};
use warren_config::{Directory, Node, TenantName};
use warren_control::api::{Names, Plan};
use warren_control::{ApiReply, ApiRequest};

use crate::platform::{Asking, Platform, unexpected};
use crate::{Config, reload, tell};

#[derive(clap::Args)]
pub struct ApplyArguments {
    #[command(flatten)]
    config: Config,
    /// Tenants with a replaced image that are drained at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    parallel: u8,
}

/// How often a tenant is drained that goes on running an old image.
const ATTEMPTS: u32 = 3;

pub fn plan(asking: &Asking) -> anyhow::Result<()> {
    check(&asking.config)?;
    let plan = ask(&Platform::connect(&asking.config)?)?;
    if asking.json { tell::line(&serde_json::to_string(&plan)?) } else { tell::raw(&text(&plan)) }
}

pub fn apply(arguments: &ApplyArguments) -> anyhow::Result<()> {
    let config = &arguments.config;
    check(config)?;
    let plan = ask(&Platform::connect(config)?)?;
    tell::raw(&text(&plan))?;
    if plan == Plan::default() {
        return Ok(());
    }
    if !reload::reload(config)? {
        bail!("the node went down meanwhile");
    }
    tell::line("the node has read it: it is in force")?;
    drain_outdated(config, arguments.parallel.into())?;
    if !plan.restart.is_empty() {
        tell::line(&format!("not yet in force, until `warren up` starts again: {}", plan.restart.join(", ")))?;
    }
    Ok(())
}

/// First by ourselves: at a terminal problems are shown in their place.
fn check(config: &Config) -> anyhow::Result<()> {
    let node = Node::load(&config.directory)?;
    Directory::load(&config.directory, &node)?;
    Ok(())
}

fn ask(platform: &Platform) -> anyhow::Result<Plan> {
    match platform.ask(&ApiRequest::Plan { tag: 1 })? {
        ApiReply::Plan { plan, .. } => Ok(*plan),
        other => Err(unexpected(&other)),
    }
}

fn text(plan: &Plan) -> String {
    if *plan == Plan::default() {
        return "nothing to do: the node runs what the files say\n".into();
    }
    let mut lines = Vec::new();
    let mut tell = |mark: char, names: &Names, what: &str| {
        lines.extend(names.first.iter().map(|name| format!("{mark} {name}: {what}")));
        let more = names.count - names.first.len() as u64;
        if more > 0 {
            lines.push(format!("{mark} {more} more: {what}"));
        }
    };
    tell('+', &plan.added, "new");
    tell('-', &plan.removed, "gone: its container ends, its volume stays");
    tell('~', &plan.container, "its container is made anew when its sessions are over");
    tell('~', &plan.settings, "its MSA learns other settings, nothing ends");
    tell('~', &plan.access, "other passwords, forwards or limits, nothing ends");
    tell('^', &plan.outdated, "runs an image that was replaced: it is drained, and wakes with the new one");
    if plan.node {
        lines.push("~ warren.toml: other settings of the node".into());
    }
    lines.extend(plan.restart.iter().map(|section| format!("! {section}: takes effect when `warren up` starts again")));
    lines.join("\n") + "\n"
}

/// Puts tenants with an old image to sleep, a few at once: sessions end by themselves within their time, the queue is on the volume,
/// and whoever has mail that is due wakes again by itself.
fn drain_outdated(config: &Config, parallel: usize) -> anyhow::Result<()> {
    let platform = Platform::connect(config)?;
    let mut attempts: BTreeMap<TenantName, u32> = BTreeMap::new();
    let mut drained = 0;
    loop {
        let outdated = ask(&platform)?.outdated;
        let again = |name: &TenantName| attempts.get(name).copied().unwrap_or(0) < ATTEMPTS;
        let names: VecDeque<TenantName> = outdated.first.iter().filter(|name| again(name)).cloned().collect();
        if names.is_empty() {
            return match outdated.count {
                0 if drained == 0 => Ok(()),
                0 => tell::line(&format!("{drained} tenants were drained of a replaced image")),
                left => Err(anyhow!("{left} tenants still run an image that was replaced: `warren plan` names them")),
            };
        }
        for name in &names {
            *attempts.entry(name.clone()).or_default() += 1;
        }
        drained += drain(config, parallel, names)?;
    }
}

fn drain(config: &Config, parallel: usize, names: VecDeque<TenantName>) -> anyhow::Result<usize> {
    let workers = parallel.min(names.len());
    let names = Mutex::new(names);
    let next = || names.lock().ok().and_then(|mut names| names.pop_front());
    let work = || {
        let platform = Platform::connect(config)?;
        let mut drained = 0;
        while let Some(tenant) = next() {
            // One that is just starting, or has gone, is looked at again.
            match platform.ask(&ApiRequest::Sleep { tag: 1, tenant: tenant.clone() }) {
                Ok(_) => drained += 1,
                Err(error) => eprintln!("warren: {tenant}: {}", tell::cell(format!("{error:#}"))),
            }
        }
        anyhow::Ok(drained)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a worker broke"))?).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_what_will_happen() {
        let names =
            |count, first: &[&str]| Names { count, first: first.iter().map(|name| name.parse().unwrap()).collect() };
        let plan = Plan {
            added: names(1, &["globex"]),
            removed: names(3, &["a", "b"]),
            outdated: names(1, &["acme"]),
            restart: vec!["[listen]".into()],
            ..Plan::default()
        };
        assert_eq!(
            text(&plan),
            "+ globex: new\n\
             - a: gone: its container ends, its volume stays\n\
             - b: gone: its container ends, its volume stays\n\
             - 1 more: gone: its container ends, its volume stays\n\
             ^ acme: runs an image that was replaced: it is drained, and wakes with the new one\n\
             ! [listen]: takes effect when `warren up` starts again\n"
        );
        assert_eq!(text(&Plan::default()), "nothing to do: the node runs what the files say\n");
    }
}
