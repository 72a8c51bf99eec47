//! Asking the running platform.

use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use warren_config::Node;
use warren_control::{ApiReply, ApiRequest};
use warren_packet::Packets;

use crate::Config;

/// The longest question is to let a tenant sleep, which finishes what it is delivering.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the commands have in common that print an answer of the platform.
#[derive(clap::Args)]
pub struct Asking {
    #[command(flatten)]
    pub config: Config,
    /// Print JSON: an object, or one a line where there are many
    #[arg(long)]
    pub json: bool,
}

/// A connection to the platform's socket.
pub struct Platform(Packets);

impl Platform {
    /// Connects to the platform of the node that the configuration describes.
    pub fn connect(config: &Config) -> anyhow::Result<Self> {
        let socket = Node::load(&config.directory)?.paths.platform_socket();
        let asking = || {
            format!(
                "cannot reach the platform at {}: is the node up (`warren up`), and are you root?",
                socket.display()
            )
        };
        // Its text says the cause already.
        let packets = Packets::connect(&socket).map_err(|error| anyhow::anyhow!("{}: {error}", asking()))?;
        set_socket_timeout(&packets, Timeout::Recv, Some(PATIENCE)).context("bounding the wait for an answer")?;
        Ok(Self(packets))
    }

    /// One question, one answer.
    pub fn ask(&self, request: &ApiRequest) -> anyhow::Result<ApiReply> {
        self.0.send(request, &[]).context("asking the platform")?;
        let answer = match self.0.recv() {
            Err(error) if error.would_block() => bail!("the platform gave no answer within {} s", PATIENCE.as_secs()),
            answer => answer.context("hearing the platform")?,
        };
        match answer {
            Some((ApiReply::Unavailable { reason, .. }, _)) => bail!("{reason}"),
            Some((reply, _)) => Ok(reply),
            None => bail!("the platform closed the connection: only root may ask it"),
        }
    }
}

/// An answer that does not belong to the question.
pub fn unexpected(reply: &ApiReply) -> anyhow::Error {
    anyhow::anyhow!(
        "the platform answered something else: {reply:?}; are `warren` and `warren-platform` of one version?"
    )
}
