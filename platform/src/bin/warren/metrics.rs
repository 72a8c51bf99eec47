//! `warren metrics`: what the node counts, for the textfile collector of the node exporter and for people.

use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use warren_config::Node;
use warren_control::{ApiReply, ApiRequest};
use warren_metrics::{Format, Page, local, parse};
use warren_platform::metrics::node::{Pieces, whole};

use crate::egress::Proxy;
use crate::platform::{Platform, unexpected};
use crate::{Config, tell};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// How to write them
    #[arg(long, value_enum, default_value = "prometheus")]
    format: Written,
}

#[derive(Clone, Copy, ValueEnum)]
enum Written {
    /// Prometheus' text format, version 0.0.4
    Prometheus,
    /// OpenMetrics 1.0
    Openmetrics,
}

/// Tells what can be told: a program that is away is a number, too.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let node = Node::load(&arguments.config.directory)?;
    let mut programs = vec![("proxy", answered("proxy", proxy(&node)))];
    match &node.proxy.standalone {
        None => {
            programs.insert(0, ("platform", answered("platform", platform(&arguments.config))));
            programs.push(("resolver", answered("resolver", asked(&node.paths.resolver_socket()))));
            programs.push(("receiver", answered("receiver", asked(&node.paths.receiver_socket()))));
        }
        // Nobody else is beside it, and the resolver only if MTAs ask one.
        Some(standalone) if standalone.resolver.is_empty() => {}
        Some(_) => programs.push(("resolver", answered("resolver", asked(&node.paths.resolver_socket())))),
    }
    let format = match arguments.format {
        Written::Prometheus => Format::Prometheus,
        Written::Openmetrics => Format::OpenMetrics,
    };
    tell::raw(&whole(programs).render(format))
}

fn answered(program: &str, page: anyhow::Result<Page>) -> Option<Page> {
    page.inspect_err(|error| tell::warning(&format!("{program}: {error:#}"))).ok()
}

/// The page of a program that tells nothing else.
fn asked(socket: &Path) -> anyhow::Result<Page> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(local::ask(socket)).with_context(|| socket.display().to_string())
}

fn platform(config: &Config) -> anyhow::Result<Page> {
    match Platform::connect(config)?.ask(&ApiRequest::Metrics { tag: 1 })? {
        ApiReply::Metrics { text, .. } => Ok(parse(&text)?),
        other => Err(unexpected(&other)),
    }
}

fn proxy(node: &Node) -> anyhow::Result<Page> {
    let proxy = Proxy::connect(node)?;
    let mut pieces = Pieces::default();
    loop {
        let reply = proxy.ask(&pieces.request())?;
        if let Some(page) = pieces.take(Some(reply))? {
            return Ok(page);
        }
    }
}
