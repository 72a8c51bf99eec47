//! The pages of a node's programs in one, for scrapers.

use std::{
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use tokio::{net::TcpListener, time::timeout};
use warren_control::egress::{EgressReply, EgressRequest};
use warren_metrics::{Malformed, Page, http, local, parse};
use warren_packet::aio::AsyncPackets;

use crate::api::Api;

/// How long the proxy may take for its page.
const PROXY: Duration = Duration::from_secs(5);
/// The longest page of the proxy's that is read: a few thousand destinations.
const LONGEST: usize = 4 << 20;

/// The whole node, for scrapers by HTTP.
pub struct Node {
    /// The platform's part, and the launcher's.
    pub api: Arc<Api>,
    /// Where the proxy answers.
    pub proxy: PathBuf,
    /// Where the resolver does.
    pub resolver: PathBuf,
    /// Where the receiver does.
    pub receiver: PathBuf,
}

impl http::Source for Node {
    async fn page(&self) -> Page {
        let proxy = async {
            let page = timeout(PROXY, ask_proxy(&self.proxy)).await;
            page.unwrap_or_else(|_| Err(anyhow!("it takes too long")))
        };
        let (platform, proxy, resolver, receiver) =
            tokio::join!(self.api.page(), proxy, local::ask(&self.resolver), local::ask(&self.receiver));
        whole([
            ("platform", platform),
            ("proxy", told("proxy", proxy)),
            ("resolver", told("resolver", resolver)),
            ("receiver", told("receiver", receiver)),
        ])
    }
}

fn told<E: Display>(program: &str, page: Result<Page, E>) -> Option<Page> {
    page.inspect_err(|error| tracing::warn!(%error, "no metrics of the {program}")).ok()
}

/// The pages of programs in one, which says who answered.
pub fn whole(programs: impl IntoIterator<Item = (&'static str, Option<Page>)>) -> Page {
    let mut whole = Page::default();
    let mut pages = Vec::new();
    let family = whole.gauge("warren_up", "Whether a program answered.");
    for (program, page) in programs {
        family.add(&[("program", program)], page.is_some().into());
        pages.extend(page);
    }
    pages.into_iter().for_each(|page| whole.append(page));
    whole
}

/// Answers scrapers there, until dropped. Mail needs none.
pub async fn serve(address: SocketAddr, node: Node) {
    match TcpListener::bind(address).await {
        Ok(listener) => http::serve(listener, node).await,
        Err(error) => tracing::error!(%address, %error, "[metrics] listen: nobody answers scrapers"),
    }
}

async fn ask_proxy(socket: &Path) -> anyhow::Result<Page> {
    let packets = AsyncPackets::connect(socket)?;
    let mut pieces = Pieces::default();
    loop {
        packets.send(&pieces.request(), &[]).await?;
        let reply = packets.recv().await?.map(|(reply, _)| reply);
        if let Some(page) = pieces.take(reply)? {
            return Ok(page);
        }
    }
}

/// The proxy's page as it comes, piece by piece.
#[derive(Debug, Default)]
pub struct Pieces(String);

/// Why there is no page of the proxy's.
#[derive(Debug, thiserror::Error)]
pub enum NoPage {
    /// It closed the connection.
    #[error("the proxy closed the connection: it tells root and the platform")]
    Closed,
    /// It is of another version.
    #[error("the proxy answered something else")]
    Unexpected,
    /// It goes on and on.
    #[error("the proxy's page has no end")]
    Endless,
    /// It is no page.
    #[error("the proxy's page: {0}")]
    Malformed(#[from] Malformed),
}

impl Pieces {
    /// What to ask next.
    pub fn request(&self) -> EgressRequest {
        EgressRequest::Metrics { from: self.0.len() as u64 }
    }

    /// Takes the answer; the page, once it is whole.
    pub fn take(&mut self, reply: Option<EgressReply>) -> Result<Option<Page>, NoPage> {
        let (piece, more) = match reply {
            Some(EgressReply::Metrics { text, more }) => (text, more),
            Some(_) => return Err(NoPage::Unexpected),
            None => return Err(NoPage::Closed),
        };
        self.0.push_str(&piece);
        match more {
            false => Ok(Some(parse(&self.0)?)),
            true if piece.is_empty() || self.0.len() > LONGEST => Err(NoPage::Endless),
            true => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_metrics::Format;

    fn piece(text: &str, more: bool) -> Option<EgressReply> {
        Some(EgressReply::Metrics { text: text.into(), more })
    }

    #[test]
    fn pieces_become_a_page() {
        let mut page = Page::default();
        page.gauge("warren_egress_sessions", "Sessions.").add(&[], 3);
        let text = page.render(Format::Prometheus);
        let (first, second) = text.split_at(20);
        let mut pieces = Pieces::default();
        assert!(pieces.take(piece(first, true)).unwrap().is_none());
        assert_eq!(pieces.request(), EgressRequest::Metrics { from: 20 });
        assert_eq!(pieces.take(piece(second, false)).unwrap(), Some(page));
    }

    #[test]
    fn what_is_no_page_is_an_error() {
        let refused = |reply| Pieces::default().take(reply).unwrap_err();
        assert!(matches!(refused(piece("", true)), NoPage::Endless));
        assert!(matches!(refused(piece("nonsense", false)), NoPage::Malformed(_)));
        assert!(matches!(refused(None), NoPage::Closed));
        assert!(matches!(refused(Some(EgressReply::Done { changes: vec![] })), NoPage::Unexpected));
        let mut pieces = Pieces("x".repeat(LONGEST));
        assert!(matches!(pieces.take(piece("x", true)), Err(NoPage::Endless)));
    }

    #[test]
    fn a_program_that_is_away_is_told() {
        let mut proxy = Page::default();
        proxy.gauge("warren_egress_sessions", "Sessions.").add(&[], 3);
        let page = whole([("platform", None), ("proxy", Some(proxy))]);
        let up = |program| page.value("warren_up", &[("program", program)]);
        assert_eq!((up("platform"), up("proxy")), (Some(0.0), Some(1.0)));
        assert_eq!(page.value("warren_egress_sessions", &[]), Some(3.0));
    }
}
