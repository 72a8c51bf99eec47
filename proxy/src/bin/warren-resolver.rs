//! The resolver of a node: answers the questions of all cells. See `warren_proxy::resolver`.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use warren_config::Node;
use warren_daemon::{Lifecycle, Signal};
use warren_proxy::{
    names,
    resolver::{Doors, Notes, Policies, Upstream, launcher, sts::fetch::Fetcher},
};

/// Answers the DNS questions of the tenants' cells.
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
    let mut lifecycle = Lifecycle::start().context("cannot listen for signals")?;
    let node = Node::load(&arguments.config)?;
    let notes = Notes::new(node.paths.run.join(names::SOCKET_NAME));
    let policies = Arc::new(Policies::new(fetcher(&node)?, Some(&node.paths.own("resolver"))));
    let mut doors = Doors::new(Upstream::new(&node.resolver)?, Arc::clone(&policies), notes);
    let asking = doors.asking();
    let keeping = tokio::spawn(Arc::clone(&policies).keep({
        let asking = asking.clone();
        move || asking.upstream()
    }));
    let socket = node.paths.run.join(warren_launcher_api::SOCKET_NAME);
    let holding = launcher::hold(&mut doors, &socket);
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
                Signal::Reload => match reload(&arguments) {
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

/// The nameservers and roots as configured now.
fn reload(arguments: &Arguments) -> anyhow::Result<(Upstream, Fetcher)> {
    let node = Node::load(&arguments.config)?;
    Ok((Upstream::new(&node.resolver)?, fetcher(&node)?))
}

fn fetcher(node: &Node) -> anyhow::Result<Fetcher> {
    Fetcher::new(node.resolver.policy_ca.as_deref(), node.egress.allow_networks.clone()).context("[resolver] policy_ca")
}
