//! What scrapers are told of the proxy: `docs/metrics.md` has the names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use warren_metrics::http::Source;
use warren_metrics::{Page, local};
use warren_session::recorder::Stats;

use crate::counts::{Counts, label};
use crate::egress::view::{DestinationView, Health};
use crate::egress::{Suspicion, View};
use crate::proxy::Proxy;

/// The states of an address towards a destination.
const STATES: [(Health, &str); 5] = [
    (Health::Healthy, "healthy"),
    (Health::Throttled, "throttled"),
    (Health::Rested, "rested"),
    (Health::Probing, "probing"),
    (Health::Warming, "warming"),
];
/// Levels of suspicion that are told; all others are [`Suspicion::Low`].
const SUSPECT: [Suspicion; 3] = [Suspicion::Raised, Suspicion::High, Suspicion::Severe];

/// The proxy's page.
pub fn page(proxy: &Proxy) -> Page {
    let stats = *proxy.recorder().stats().borrow();
    told(proxy.started(), &proxy.departures().view(), proxy.detector().counts(), stats)
}

fn told(started: SystemTime, view: &View, counts: &Counts, stats: Stats) -> Page {
    let mut page = Page::default();
    let help = "When the proxy was started, in Unix time.";
    page.gauge("warren_proxy_start_time_seconds", help).measure(&[], seconds(started));
    egress(&mut page, view);
    counts.tell(&mut page);
    records(&mut page, stats);
    page
}

fn egress(page: &mut Page, view: &View) {
    page.gauge("warren_egress_sessions", "Sessions with MX hosts that go on.").add(&[], view.sessions.into());
    page.gauge("warren_egress_waiting_sessions", "Sessions that wait for their turn.").add(&[], view.waiting.into());
    let family = page.gauge("warren_egress_address_sessions", "Sessions that go on from an egress address.");
    for address in &view.addresses {
        family.add(&[("address", &address.address.to_string())], address.sessions.into());
    }
    let family = page.gauge("warren_egress_address_rested", "Whether an egress address is used for no destination.");
    for address in &view.addresses {
        family.add(&[("address", &address.address.to_string())], address.rested.is_some().into());
    }
    destinations(page, &view.destinations);
    let family = page.gauge("warren_egress_suspect_senders", "Tenants and accounts that are not beyond doubt.");
    for level in SUSPECT {
        let count = view.senders.iter().filter(|sender| sender.suspicion == level).count();
        family.add(&[("suspicion", level.name())], count as u64);
    }
}

/// The destinations of one address that have one name in metrics.
#[derive(Default)]
struct Group {
    states: [u64; STATES.len()],
    sessions: u64,
    saturated: u64,
}

fn destinations(page: &mut Page, views: &[DestinationView]) {
    let mut groups = BTreeMap::<_, Group>::new();
    for view in views {
        let group = groups.entry((view.address.to_string(), label(&view.operator))).or_default();
        if let Some(place) = STATES.iter().position(|(health, _)| *health == view.health) {
            group.states[place] += 1;
        }
        group.sessions += u64::from(view.sessions);
        let full = view.sessions >= view.budget.sessions || view.begun >= view.budget.sessions_per_minute;
        group.saturated += u64::from(full);
    }
    let family = page.gauge("warren_egress_destinations", "Destinations by how an egress address is there.");
    for ((address, operator), group) in &groups {
        for ((_, state), count) in STATES.iter().zip(group.states) {
            family.add(&[("address", address), ("operator", operator), ("state", state)], count);
        }
    }
    let family =
        page.gauge("warren_egress_destination_sessions", "Sessions that go on, of the budgets of destinations.");
    for ((address, operator), group) in &groups {
        family.add(&[("address", address), ("operator", operator)], group.sessions);
    }
    let family = page.gauge("warren_egress_saturated_destinations", "Destinations whose budget is used up.");
    for ((address, operator), group) in &groups {
        family.add(&[("address", address), ("operator", operator)], group.saturated);
    }
}

fn records(page: &mut Page, stats: Stats) {
    for (name, help, count) in [
        ("warren_records_stored_total", "Session records written to the database.", stats.stored),
        ("warren_records_spooled_total", "Session records that went to the spool file.", stats.spooled),
        ("warren_records_loaded_total", "Session records loaded from the spool file.", stats.loaded),
        ("warren_records_dropped_total", "Session records that were lost.", stats.dropped),
        ("warren_records_store_failures_total", "Times the session database failed or was slow.", stats.failures),
    ] {
        page.counter(name, help).add(&[], count);
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A standalone proxy, which has nobody to speak for it, and speaks for the resolver beside it.
pub struct Standalone {
    /// The proxy.
    pub proxy: Arc<Proxy>,
    /// Where the resolver answers, if MTAs ask one.
    pub resolver: Option<PathBuf>,
}

impl Source for Standalone {
    async fn page(&self) -> Page {
        let mut whole = Page::default();
        let up = whole.gauge("warren_up", "Whether a program answered.");
        up.add(&[("program", "proxy")], 1);
        let resolver = match &self.resolver {
            Some(path) => {
                local::ask(path).await.inspect_err(|error| tracing::warn!(%error, "no metrics of the resolver"))
            }
            None => Ok(Page::default()),
        };
        if self.resolver.is_some() {
            up.add(&[("program", "resolver")], resolver.is_ok().into());
        }
        whole.append(page(&self.proxy));
        whole.append(resolver.unwrap_or_default());
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::view::AddressView;
    use crate::egress::{Budget, EgressAddr, Operator};
    use warren_metrics::{Format, outline, parse};

    fn destination(operator: &str, health: Health, sessions: u32) -> DestinationView {
        DestinationView {
            address: EgressAddr([203, 0, 113, 10].into()),
            operator: Operator::named(operator),
            health,
            since: None,
            until: None,
            by_hand: false,
            evidence: Vec::new(),
            sessions,
            begun: sessions,
            budget: Budget { sessions: 20, sessions_per_minute: 600 },
            waiting: 0,
            warming: None,
        }
    }

    #[test]
    fn destinations_are_told_by_big_provider_and_all_others_together() {
        let mut views =
            vec![destination("gmail.com", Health::Rested, 0), destination("yahoo.com", Health::Healthy, 20)];
        views.extend((0..2_000).map(|n| destination(&format!("{n}.example"), Health::Healthy, 1)));
        let mut page = Page::default();
        destinations(&mut page, &views);
        let of = |operator, state| {
            let labels = [("address", "203.0.113.10"), ("operator", operator), ("state", state)];
            page.value("warren_egress_destinations", &labels)
        };
        assert_eq!((of("google.com", "rested"), of("google.com", "healthy")), (Some(1.0), Some(0.0)));
        assert_eq!(of("other", "healthy"), Some(2_000.0));
        let full = |operator| {
            page.value("warren_egress_saturated_destinations", &[("address", "203.0.113.10"), ("operator", operator)])
        };
        assert_eq!((full("yahoo.com"), full("other")), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn what_is_told_is_what_is_documented() {
        let address = EgressAddr([203, 0, 113, 10].into());
        let view = View {
            at: UNIX_EPOCH,
            sessions: 1,
            waiting: 0,
            addresses: vec![AddressView {
                address,
                pools: Vec::new(),
                sessions: 1,
                rested: None,
                until: None,
                warming_day: None,
            }],
            destinations: vec![destination("gmail.com", Health::Healthy, 1)],
            senders: Vec::new(),
        };
        let page = told(UNIX_EPOCH, &view, &Counts::default(), Stats::default());
        assert_eq!(parse(&page.render(Format::OpenMetrics)).as_ref(), Ok(&page));
        assert_eq!(page.outline(), outline(include_str!("../../docs/metrics.md"), "## Proxy"));
    }
}
