//! What scrapers are told of the node: `docs/metrics.md` has the names.
//!
//! - here: the platform's own numbers. - [`launcher`]: the launcher's, which has told the platform. - [`node`]: the programs' pages in one.

pub mod launcher;
pub mod node;

use std::time::{SystemTime, UNIX_EPOCH};

use warren_control::{
    Verdict,
    api::{Lengths, Spread, StartReason, Status},
};
use warren_metrics::{Buckets, Page, Tally};

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

#[cfg(test)]
mod tests {
    use super::*;
    use warren_metrics::{Format, outline, parse};

    use crate::frontdoor::counts::Counts;

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
        let mut documented = outline(include_str!("../../../docs/metrics.md"), "## Platform");
        let mut told = page.outline();
        documented.sort();
        told.sort();
        assert_eq!(told, documented);
    }
}
