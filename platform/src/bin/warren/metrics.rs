//! `warren metrics`: what the node counts, for the textfile collector of the node exporter and for people.

use clap::ValueEnum;
use warren_config::Node;
use warren_control::{ApiReply, ApiRequest};
use warren_metrics::{Format, Page, parse};
use warren_platform::metrics::{Pieces, whole};

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
    // A standalone proxy has no platform beside it.
    let platform = node.proxy.standalone.is_none().then(|| ("platform", answered(platform(&arguments.config))));
    let proxy = ("proxy", answered(proxy(&node)));
    let format = match arguments.format {
        Written::Prometheus => Format::Prometheus,
        Written::Openmetrics => Format::OpenMetrics,
    };
    tell::raw(&whole(platform.into_iter().chain([proxy])).render(format))
}

fn answered(page: anyhow::Result<Page>) -> Option<Page> {
    page.inspect_err(|error| tell::warning(&format!("{error:#}"))).ok()
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
