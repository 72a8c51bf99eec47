//! What MXs and MSAs say in every session, whatever the test is about.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use warren_wire::MaybeTls;

use super::Peer;

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// An MX greets, and offers this.
    pub async fn greets(&mut self, offer: &str) {
        self.say("220 mx").await;
        self.hears("EHLO out.example").await;
        self.say(offer).await;
    }

    /// An MX is left.
    pub async fn is_left(&mut self) {
        self.hears("QUIT").await;
        self.say("221 bye").await;
    }

    /// An MSA is greeted, and offered this.
    pub async fn is_greeted(&mut self, offer: &str) {
        self.hears("220 mx").await;
        self.say("EHLO msa").await;
        self.hears(offer).await;
    }

    /// An MSA leaves.
    pub async fn leaves(&mut self) {
        self.say("QUIT").await;
        self.hears("221 bye").await;
    }
}

impl Peer<MaybeTls<TcpStream>> {
    /// An MX that offered STARTTLS is asked for it, and offers this inside.
    pub async fn starts_tls(mut self, tls: &Arc<rustls::ServerConfig>, offer: &str) -> Self {
        self.hears("STARTTLS").await;
        self.say("220 go").await;
        let mut inside = self.accept_tls(tls).await;
        inside.hears("EHLO out.example").await;
        inside.say(offer).await;
        inside
    }
}
