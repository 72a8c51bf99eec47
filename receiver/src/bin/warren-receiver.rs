//! `warren-receiver`: mail from other hosts on port 25.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::sync::watch;
use warren_config::Node;
use warren_daemon::{Inherited, Lifecycle, Signal};
use warren_receiver::counts::Told;
use warren_receiver::door::Door;
use warren_receiver::platform::Platform;
use warren_receiver::session::Patience;
use warren_receiver::settings::Settings;

/// Takes mail from other hosts and hands it to the tenants' MSAs.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory with warren.toml.
    #[arg(long, value_name = "DIR", default_value = warren_config::DEFAULT_DIRECTORY)]
    config: PathBuf,
    /// Listen here as well as on the inherited sockets named "smtp".
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    warren_daemon::run("warren-receiver", run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut inherited = Inherited::adopt()?;
    let mut listeners = inherited.take_tcp("smtp")?;
    for address in &arguments.listen {
        listeners.push(TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?);
    }
    anyhow::ensure!(
        !listeners.is_empty(),
        "nothing to listen on: start this program by `warren up`, or give --listen ADDRESS:PORT"
    );
    let node = Node::load(&arguments.config)?;
    let scrapers = warren_metrics::local::listen(&mut inherited, &node.paths.receiver_socket())?;
    inherited.finish()?;
    let platform = Arc::new(Platform::at(node.paths.platform_socket()));
    let (current, settings) = watch::channel(Arc::new(Settings::of(&node)?));
    let mut lifecycle = Lifecycle::start().context("listening for signals")?;
    let door = Door::new(settings, platform, Patience::default(), lifecycle.draining());
    if let Some(scrapers) = scrapers {
        tokio::spawn(warren_metrics::local::serve(scrapers, Told(Arc::clone(door.counts()))));
    }
    let mut serving = tokio::spawn(door.serve(listeners));
    warren_daemon::ready();
    loop {
        tokio::select! {
            signal = lifecycle.next() => match signal {
                Signal::Reload => reload(&arguments.config, &current),
                Signal::Drain => tracing::info!("draining"),
            },
            ended = &mut serving => return ended.context("serving"),
        }
    }
}

/// New sessions get the new settings; a configuration that does not load changes nothing.
fn reload(directory: &Path, current: &watch::Sender<Arc<Settings>>) {
    let loaded = Node::load(directory).map_err(anyhow::Error::from).and_then(|node| Ok(Settings::of(&node)?));
    match loaded {
        Ok(settings) => {
            current.send_replace(Arc::new(settings));
            tracing::info!("configuration reloaded");
        }
        Err(error) => tracing::error!("configuration not reloaded, the old one stays: {error:#}"),
    }
}
