//! The resolver of a node: answers the questions of all cells. See `warren_proxy::resolver`.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use clap::Parser;
use warren_config::{Node, Standalone};
use warren_daemon::{Inherited, Lifecycle, Signal};
use warren_proxy::{
    names,
    resolver::{Doors, Notes, Policies, Upstream, launcher, sts::fetch::Fetcher},
    standalone,
};

/// Answers the DNS questions of the tenants' cells; or, beside an MTA, that MTA's ([proxy.standalone] resolver).
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of warren.toml.
    #[arg(long, default_value = warren_config::DEFAULT_DIRECTORY)]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    warren_daemon::run("warren-resolver", start(arguments))
}

async fn start(arguments: Arguments) -> anyhow::Result<()> {
    let mut inherited = Inherited::adopt()?;
    let mut lifecycle = Lifecycle::start().context("cannot listen for signals")?;
    let node = Node::load(&arguments.config)?;
    let scrapers = warren_metrics::local::listen(&mut inherited, &node.paths.resolver_socket())?;
    inherited.finish()?;
    let notes = Notes::new(node.paths.run.join(names::SOCKET_NAME));
    let own = node.paths.own("resolver");
    let policies = |node: &Node| anyhow::Ok(Arc::new(Policies::new(fetcher(node)?, Some(&own))));
    let upstream = Upstream::new(&node.resolver)?;
    let (mut doors, policies) = match &node.proxy.standalone {
        None => {
            let policies = policies(&node)?;
            (Doors::new(upstream, Arc::clone(&policies), notes), policies)
        }
        Some(beside) => {
            std::fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
            let policies = policies(&node)?;
            (beside_an_mta(beside, Doors::of_hosts(upstream, Arc::clone(&policies), notes)).await?, policies)
        }
    };
    let asking = doors.asking();
    if let Some(scrapers) = scrapers {
        tokio::spawn(warren_metrics::local::serve(scrapers, asking.clone()));
    }
    let keeping = tokio::spawn(Arc::clone(&policies).keep({
        let asking = asking.clone();
        move || asking.upstream()
    }));
    let socket = node.paths.run.join(warren_launcher_api::SOCKET_NAME);
    let holding = async {
        match node.proxy.standalone {
            None => launcher::hold(&mut doors, &socket).await,
            Some(_) => std::future::pending().await,
        }
    };
    tokio::pin!(holding);
    warren_daemon::ready();
    loop {
        tokio::select! {
            () = &mut holding => {}
            signal = lifecycle.next() => match signal {
                Signal::Drain => {
                    keeping.abort();
                    policies.write(0).await;
                    return Ok(());
                }
                Signal::Reload => match reload(&arguments, &asking.upstream()) {
                    Ok((upstream, fetcher)) => {
                        asking.replace(upstream);
                        policies.replace(fetcher);
                    }
                    Err(error) => tracing::error!(error = format!("{error:#}"), "the old nameservers stay"),
                },
            }
        }
    }
}

/// Opens what the MTAs of a standalone proxy ask at.
async fn beside_an_mta(beside: &Standalone, mut doors: Doors) -> anyhow::Result<Doors> {
    let all = standalone::names(beside)?;
    if all.is_empty() {
        bail!(
            "the proxy stands beside an MTA, and nobody asks this resolver: expected resolver = … in [proxy.standalone]"
        );
    }
    for (cell, udp, tcp) in all {
        doors.open(cell, udp.into(), tcp.into()).await?;
    }
    Ok(doors)
}

/// The nameservers and roots as configured now.
fn reload(arguments: &Arguments, upstream: &Upstream) -> anyhow::Result<(Upstream, Fetcher)> {
    let node = Node::load(&arguments.config)?;
    Ok((upstream.reloaded(&node.resolver)?, fetcher(&node)?))
}

fn fetcher(node: &Node) -> anyhow::Result<Fetcher> {
    Fetcher::new(node.proxy.ca_file.as_deref(), node.egress.allow_networks.clone()).context("[proxy] ca_file")
}
