//! What scrapers are told of the platform, and of the proxy that it asks: `docs/metrics.md` has the names.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{net::TcpListener, time::timeout};
use warren_control::{
    Verdict,
    api::{Lengths, Spread, StartReason, Status},
    egress::{EgressReply, EgressRequest},
};
use warren_metrics::{Buckets, Malformed, Page, Tally, http, parse};
use warren_packet::aio::AsyncPackets;

use crate::api::Api;

/// How long the proxy may take for its page.
const PROXY: Duration = Duration::from_secs(5);
/// The longest page of the proxy's that is read: a few thousand destinations.
const LONGEST: usize = 4 << 20;

/// What the receiver was answered.
const VERDICTS: [&str; 7] = ["forward", "srs", "no_such_user", "suspended", "over_limit", "not_local", "deferred"];
const REASONS: [(StartReason, &str); 4] = [
    (StartReason::Connection, "connection"),
    (StartReason::Forward, "forward"),
    (StartReason::Due, "due"),
    (StartReason::Hand, "hand"),
];

/// What the API answered, counted since the start.
#[derive(Debug)]
pub struct Asked {
    started: SystemTime,
    verdicts: Tally<&'static str>,
}

impl Default for Asked {
    fn default() -> Self {
        Self { started: SystemTime::now(), verdicts: Tally::new(&VERDICTS) }
    }
}

impl Asked {
    /// The receiver was told this of a recipient.
    pub fn recipient(&self, verdict: &Verdict) {
        self.verdicts.count(match verdict {
            Verdict::Forward { .. } => "forward",
            Verdict::Srs { .. } => "srs",
            Verdict::NoSuchUser => "no_such_user",
            Verdict::Suspended => "suspended",
            Verdict::OverLimit(_) => "over_limit",
            Verdict::NotLocal => "not_local",
            Verdict::Deferred => "deferred",
        });
    }

    /// Adds what was counted.
    pub fn tell(&self, page: &mut Page) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        page.gauge("warren_platform_start_time_seconds", "When the platform was started, in Unix time.")
            .measure(&[], started);
        let family =
            page.counter("warren_recipients_asked_total", "Recipients of inbound mail, by what becomes of it.");
        for (verdict, count) in self.verdicts.iter() {
            family.add(&[("verdict", verdict)], count);
        }
    }
}

/// Adds how the node is.
pub fn tell(page: &mut Page, status: &Status) {
    let running = status.starting + status.awake + status.draining + status.failed;
    let family = page.gauge("warren_tenants", "Tenants, by where in their lives they are.");
    for (state, count) in [
        ("asleep", status.provisioned.saturating_sub(running)),
        ("starting", status.starting),
        ("awake", status.awake),
        ("draining", status.draining),
        ("failed", status.failed),
    ] {
        family.add(&[("state", state)], count);
    }
    page.gauge("warren_tenants_suspended", "Tenants that are suspended.").add(&[], status.suspended);
    page.gauge("warren_tenants_due", "Sleeping tenants that have a time to be woken at.").add(&[], status.due);
    if let Some(due) = status.next_due_unix_ms {
        page.gauge("warren_next_due_timestamp_seconds", "The earliest of these times, in Unix time.")
            .measure(&[], seconds(due, 1e3));
    }
    let help = "Messages in the queues of tenants that run; of those that sleep only their time is known.";
    page.gauge("warren_queued_messages", help).add(&[], status.queued);
    page.gauge("warren_launcher_up", "Whether the launcher is there.").add(&[], status.launcher.into());
    page.gauge("warren_frontdoor_sessions", "Sessions at the front door.").add(&[], status.sessions);
    page.counter("warren_config_readings_total", "Readings of the configuration.").add(&[], status.readings.done);
    page.gauge("warren_config_good", "Whether the last reading of the configuration found nothing wrong.")
        .add(&[], status.readings.problems.is_none().into());
    starts(page, status);
}

fn starts(page: &mut Page, status: &Status) {
    let family = page.counter("warren_starts_total", "Starts of tenants, by reason and whether a warm slot was found.");
    for (reason, word) in REASONS {
        for (warm, slot) in [(true, "warm"), (false, "none")] {
            let found = status.starts.iter().find(|start| (start.0, start.1) == (reason, warm));
            family.add(&[("reason", word), ("slot", slot)], found.map_or(0, |start| start.2));
        }
    }
    for (name, help, counter) in [
        ("warren_start_failures_total", "Starts of tenants that failed.", "starts_failed"),
        ("warren_wakes_refused_total", "Wishes for a tenant that came to nothing.", "wakes_refused"),
        ("warren_volumes_over_total", "Containers ended because their volume held too much.", "volumes_over"),
    ] {
        let found = status.counters.iter().find(|known| known.0 == counter);
        page.counter(name, help).add(&[], found.map_or(0, |known| known.1));
    }
    let help = "From the connection that wanted a tenant to its banner.";
    let family = page.histogram("warren_cold_start_seconds", help);
    let cold = &status.cold_starts;
    for (slot, Spread { count, .. }, Lengths { up_to_us, sum_us }) in
        [("warm", cold.warm, &cold.warm_lengths), ("none", cold.cold, &cold.cold_lengths)]
    {
        let up_to: Vec<_> = up_to_us.iter().map(|(us, count)| (seconds(*us, 1e6), *count)).collect();
        family.spread(&[("slot", slot)], &Buckets { up_to: &up_to, count, sum: seconds(*sum_us, 1e6) });
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
fn seconds(count: u64, of_a_second: f64) -> f64 {
    count as f64 / of_a_second
}

/// The whole node, for scrapers by HTTP.
pub struct Node {
    /// The platform's part.
    pub api: Arc<Api>,
    /// Where the proxy answers.
    pub proxy: PathBuf,
}

impl http::Source for Node {
    async fn page(&self) -> Page {
        let platform = self.api.page().await;
        let proxy = match timeout(PROXY, ask_proxy(&self.proxy)).await {
            Ok(Ok(page)) => Some(page),
            Ok(Err(error)) => {
                tracing::warn!(%error, "no metrics of the proxy");
                None
            }
            Err(_) => {
                tracing::warn!("no metrics of the proxy in time");
                None
            }
        };
        whole([("platform", platform), ("proxy", proxy)])
    }
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
    use warren_metrics::{Format, outline};

    use crate::frontdoor::counts::Counts;

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

    #[test]
    fn the_node_is_told_in_numbers() {
        let mut status =
            Status { provisioned: 10, awake: 2, failed: 1, next_due_unix_ms: Some(1_500), ..Status::default() };
        status.starts = vec![(StartReason::Due, true, 4)];
        status.counters = vec![("starts_failed".into(), 2)];
        status.cold_starts.warm.count = 3;
        status.cold_starts.warm_lengths = Lengths { up_to_us: vec![(1_000, 1), (3_000, 2)], sum_us: 7_500 };
        let mut page = Page::default();
        tell(&mut page, &status);
        assert_eq!(page.value("warren_tenants", &[("state", "asleep")]), Some(7.0));
        assert_eq!(page.value("warren_next_due_timestamp_seconds", &[]), Some(1.5));
        assert_eq!(page.value("warren_starts_total", &[("reason", "due"), ("slot", "warm")]), Some(4.0));
        assert_eq!(page.value("warren_start_failures_total", &[]), Some(2.0));
        let text = page.render(Format::Prometheus);
        assert!(text.contains("warren_cold_start_seconds_bucket{slot=\"warm\",le=\"0.003\"} 2\n"), "{text}");
        assert!(text.contains("warren_cold_start_seconds_sum{slot=\"warm\"} 0.0075\n"), "{text}");
        assert_eq!(parse(&text).unwrap(), page);
    }

    #[test]
    fn what_is_told_is_what_is_documented() {
        let mut page = Page::default();
        Asked::default().tell(&mut page);
        tell(&mut page, &Status { next_due_unix_ms: Some(0), ..Status::default() });
        Counts::default().tell(&mut page);
        assert_eq!(parse(&page.render(Format::OpenMetrics)).as_ref(), Ok(&page));
        let mut documented = outline(include_str!("../../docs/metrics.md"), "## Platform");
        let mut told = page.outline();
        documented.sort();
        told.sort();
        assert_eq!(told, documented);
    }
}
