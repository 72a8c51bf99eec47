//! `warren egress`: the addresses that mail leaves from.
//!
//! ```text
//!   (nothing)         addresses, pools, destinations, suspects      show.rs
//!   rest, restore     take an address out of use, or back in
//!   explain           which address would be chosen, and why        explain.rs
//! ```
//!
//! All of it asks the running proxy at `$run/proxy.sock`, which answers root alone.

mod explain;
mod show;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use warren_config::Node;
use warren_control::egress::{EgressReply, EgressRequest};
use warren_packet::Packets;

use crate::{Config, tell};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = false)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// One JSON object for each line of the picture
    #[arg(long, global = true)]
    json: bool,
    /// Also destinations where all is well and nothing goes on
    #[arg(long)]
    all: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Use an address no more, until it is restored
    Rest(Which),
    /// Use an address again, whoever or whatever had it rest
    Restore(Which),
    /// Show which address would be chosen for a destination now, among which, and why
    Explain(explain::Arguments),
}

#[derive(clap::Args)]
struct Which {
    /// One of `[egress] addresses`
    address: IpAddr,
    /// Only towards this destination, as `warren egress` names it
    #[arg(long, value_name = "D")]
    destination: Option<String>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let node = Node::load(&arguments.config.directory)?;
    let proxy = Proxy::connect(&node)?;
    match &arguments.action {
        None => show::run(&proxy, arguments.json, arguments.all),
        Some(Action::Rest(which)) => {
            let (address, destination) = which.both();
            by_hand(&proxy, &EgressRequest::Rest { address, destination }, "rests already")
        }
        Some(Action::Restore(which)) => {
            let (address, destination) = which.both();
            by_hand(&proxy, &EgressRequest::Restore { address, destination }, "is in use already")
        }
        Some(Action::Explain(asked)) => explain::run(&node, &proxy, asked, arguments.json),
    }
}

impl Which {
    fn both(&self) -> (IpAddr, Option<String>) {
        let destination = self.destination.as_ref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        (self.address.to_canonical(), destination)
    }
}

fn by_hand(proxy: &Proxy, request: &EgressRequest, nothing: &str) -> anyhow::Result<()> {
    match proxy.ask(request)? {
        EgressReply::Done { changes } if changes.is_empty() => tell::line(&format!("nothing changed: it {nothing}")),
        EgressReply::Done { changes } => changes.iter().try_for_each(|change| tell::line(&tell::cell(change))),
        other => Err(unexpected(&other)),
    }
}

/// The proxy has all that it needs for an answer at hand.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the proxy's socket.
pub struct Proxy(Packets);

impl Proxy {
    /// Connects to the proxy's socket.
    pub fn connect(node: &Node) -> anyhow::Result<Self> {
        let socket = node.paths.proxy_socket();
        let packets = Packets::connect(&socket).map_err(|error| {
            let asking =
                format!("cannot reach the proxy at {}: does it run (`warren up`), and are you root?", socket.display());
            // Its text says the cause already.
            anyhow::anyhow!("{asking}: {error}")
        })?;
        set_socket_timeout(&packets, Timeout::Recv, Some(PATIENCE)).context("bounding the wait for an answer")?;
        Ok(Self(packets))
    }

    /// One question, one answer.
    pub fn ask(&self, request: &EgressRequest) -> anyhow::Result<EgressReply> {
        self.0.send(request, &[]).context("asking the proxy")?;
        let answer = match self.0.recv() {
            Err(error) if error.would_block() => bail!("the proxy gave no answer within {} s", PATIENCE.as_secs()),
            answer => answer.context("hearing the proxy")?,
        };
        match answer {
            Some((EgressReply::Refused { reason }, _)) => bail!("{reason}"),
            Some((reply, _)) => Ok(reply),
            None => bail!("the proxy closed the connection: only root may ask it"),
        }
    }
}

/// An answer that does not belong to the question.
fn unexpected(reply: &EgressReply) -> anyhow::Error {
    anyhow::anyhow!("the proxy answered something else: {reply:?}; are `warren` and `warren-proxy` of one version?")
}
