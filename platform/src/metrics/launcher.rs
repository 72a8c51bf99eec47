//! What the launcher told of itself.

use warren_launcher_api::{Durations, Role, Status};
use warren_metrics::{Buckets, Page};

use super::seconds;

/// Adds how the launcher is.
pub fn tell(page: &mut Page, status: &Status) {
    page.gauge("warren_launcher_containers", "Containers that belong to a tenant.").add(&[], status.cells);
    let family = page.gauge("warren_launcher_slots", "Slots: those that are ready, and as many as there should be.");
    family.add(&[("state", "ready")], status.slots_ready).add(&[("state", "wanted")], status.slots_wanted);
    page.gauge("warren_launcher_waiting_starts", "Starts that wait for a slot to be made.").add(&[], status.waiting);
    let help = "From the platform's request to the start of the tenant's program.";
    let family = page.histogram("warren_launcher_start_seconds", help);
    for (slot, count, Durations { up_to_us, sum_us }) in
        [("warm", status.woken_from_slot, &status.from_slot), ("none", status.woken_without_slot, &status.without_slot)]
    {
        let up_to: Vec<_> = up_to_us.iter().map(|(us, count)| (seconds(*us, 1e6), *count)).collect();
        family.spread(&[("slot", slot)], &Buckets { up_to: &up_to, count, sum: seconds(*sum_us, 1e6) });
    }
    for (name, help, count) in [
        ("warren_launcher_start_failures_total", "Starts that failed.", status.wakes_failed),
        ("warren_launcher_slots_made_total", "Slots made.", status.slots_made),
        ("warren_launcher_slot_failures_total", "Slots that could not be made.", status.slots_failed),
        ("warren_launcher_maker_restarts_total", "Times that what makes containers died.", status.maker_restarts),
    ] {
        page.counter(name, help).add(&[], count);
    }
    let family = page.gauge("warren_launcher_doors_held", "Whether a program holds the doors of the cells.");
    for (role, program) in [(Role::Proxy, "proxy"), (Role::Resolver, "resolver")] {
        family.add(&[("program", program)], status.holders.contains(&role).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use warren_metrics::{Format, outline, parse};

    #[test]
    fn what_is_told_is_what_is_documented() {
        let mut status = Status { woken_from_slot: 1, holders: vec![Role::Platform, Role::Proxy], ..Status::default() };
        status.from_slot.add(Duration::from_micros(1_500));
        let mut page = Page::default();
        tell(&mut page, &status);
        let text = page.render(Format::OpenMetrics);
        assert_eq!(parse(&text).as_ref(), Ok(&page));
        assert!(text.contains("warren_launcher_start_seconds_bucket{slot=\"warm\",le=\"0.002\"} 1\n"), "{text}");
        let held = |program| page.value("warren_launcher_doors_held", &[("program", program)]);
        assert_eq!((held("proxy"), held("resolver")), (Some(1.0), Some(0.0)));
        assert_eq!(page.outline(), outline(include_str!("../../../docs/metrics.md"), "## Launcher"));
    }
}
