//! Asking the running platform.

use anyhow::{Context, bail};
use warren_config::Node;
use warren_control::{ApiReply, ApiRequest};
use warren_packet::Packets;

use crate::Config;

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
        Ok(Self(Packets::connect(&socket).with_context(asking)?))
    }

    /// One question, one answer.
    pub fn ask(&self, request: &ApiRequest) -> anyhow::Result<ApiReply> {
        self.0.send(request, &[]).context("asking the platform")?;
        match self.0.recv().context("hearing the platform")? {
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
