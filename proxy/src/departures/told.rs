//! What an operator is told of each change: one line, with what may be done.

use crate::egress::{Change, EgressAddr, Evidence, Operator, Suspicion};

/// Logs a change.
pub fn tell(change: &Change) {
    match change {
        Change::Rested { address, operator, evidence, .. } if evidence.what == BY_HAND => {
            tracing::info!(egress = %address, destination = towards(operator), "rests by hand until `{}`", restore(address, operator));
        }
        Change::Rested { address, operator, evidence, until: Some(_) } => {
            tracing::warn!(
                egress = %address, destination = towards(operator), what = evidence.what, list = evidence.list, reply = evidence.reply,
                "an egress address was turned away and rests; it is tried again by itself. Find out why it is listed; `{}` once that is mended",
                restore(address, operator)
            );
        }
        Change::Rested { address, operator, evidence, until: None } => {
            tracing::error!(
                egress = %address, destination = towards(operator), what = evidence.what, list = evidence.list, reply = evidence.reply,
                "an egress address was turned away and rests for good: mend that, then `{}`",
                restore(address, operator)
            );
        }
        Change::Readmitted { address, operator, by_hand } => {
            tracing::info!(egress = %address, destination = towards(operator), by_hand, "an egress address is used again");
        }
        Change::Throttled {
            address,
            operator,
            evidence: Evidence { what, reply, .. },
            sessions,
            sessions_per_minute,
        } => {
            tracing::info!(
                egress = %address, destination = %operator, what, reply, sessions, sessions_per_minute,
                "a destination wants less: mail for it goes slower for a while; nothing to do unless it stays so"
            );
        }
        Change::Recovered { address, operator } => {
            tracing::info!(egress = %address, destination = %operator, "a destination gets its whole budget again");
        }
        Change::Unbound { address } => {
            tracing::warn!(
                egress = %address,
                "an egress address cannot be used, and is passed over for a while: `ip address` must list it, or take it out of [egress] addresses"
            );
        }
        Change::Suspicion { tenant, account, from, to, why, .. } => {
            let account = account.as_deref().unwrap_or("all");
            let (from, to) = (from.name(), to.name());
            if worse(change) {
                tracing::warn!(
                    %tenant, account, from, to, why,
                    "a sender is suspect: `warren sessions --tenant {tenant}` shows its mail; a stolen password is changed by `warren tenant passwd`"
                );
            } else {
                tracing::info!(%tenant, account, from, to, why, "a sender is less suspect");
            }
        }
    }
}

/// What a rest by hand is taken for.
pub const BY_HAND: &str = "by hand";

fn worse(change: &Change) -> bool {
    matches!(change, Change::Suspicion { from, to, .. } if to > from && *to > Suspicion::Low)
}

fn towards(operator: &Option<Operator>) -> &str {
    operator.as_ref().map_or("all", Operator::as_str)
}

/// The command that undoes a rest.
fn restore(address: &EgressAddr, operator: &Option<Operator>) -> String {
    match operator {
        Some(operator) => format!("warren egress restore {address} --destination {operator}"),
        None => format!("warren egress restore {address}"),
    }
}
