//! What an MX's words mean for a recipient. Pure.

use warren_queue::{Attempt, Delivery, Envelope, Retry};
use warren_smtp::Reply;

/// What came of an attempt at one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The MX has it. `dsn`: and reports its further fate itself.
    Delivered {
        /// The MX offered DSN.
        dsn: bool,
    },
    /// Try again later.
    Later,
    /// Never.
    Never,
}

/// A verdict and the words it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it means.
    pub verdict: Verdict,
    /// What is remembered and reported.
    pub attempt: Attempt,
}

/// The words of an MX.
#[must_use]
pub fn of_reply(reply: &Reply, host: &str, dsn: bool, now_ms: u64) -> Outcome {
    let (verdict, class) = match reply.code {
        200..=299 => (Verdict::Delivered { dsn }, 2),
        // RFC 5321 §4.5.3.1.10: some servers say 552 for "too many recipients".
        552 if reply.status().is_some_and(|status| status.to_string() == "5.5.3") => (Verdict::Later, 4),
        500..=599 => (Verdict::Never, 5),
        _ => (Verdict::Later, 4),
    };
    let status =
        reply.status().map(|status| status.to_string()).filter(|status| status.starts_with(&class.to_string()));
    let attempt = Attempt {
        at_ms: now_ms,
        host: Some(host.to_owned()),
        status: status.unwrap_or_else(|| format!("{class}.0.0")),
        text: bounded(&reply.to_string()),
        from_peer: true,
    };
    Outcome { verdict, attempt }
}

/// Our own words: no MX took part, or it stopped making sense.
#[must_use]
pub fn of_trouble(permanent: bool, status: &str, text: &str, host: Option<&str>, now_ms: u64) -> Outcome {
    let attempt = Attempt {
        at_ms: now_ms,
        host: host.map(str::to_owned),
        status: status.to_owned(),
        text: bounded(text),
        from_peer: false,
    };
    Outcome { verdict: if permanent { Verdict::Never } else { Verdict::Later }, attempt }
}

fn bounded(text: &str) -> String {
    text.chars().take(400).collect()
}

/// Notes the outcome in the envelope; gives the recipient's new standing.
pub fn apply(envelope: &mut Envelope, index: usize, outcome: Outcome, retry: &Retry) -> Delivery {
    let Outcome { verdict, attempt } = outcome;
    match verdict {
        Verdict::Delivered { dsn: true } => envelope.settle(index, Delivery::Delivered, attempt),
        Verdict::Delivered { dsn: false } => envelope.settle(index, Delivery::Relayed, attempt),
        Verdict::Never => envelope.settle(index, Delivery::Failed, attempt),
        Verdict::Later => drop(envelope.defer(index, attempt, retry)),
    }
    envelope.recipients[index].delivery
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_mean_what_they_say() {
        for (reply, verdict, status) in [
            (Reply::new(250, (2, 1, 5), "ok"), Verdict::Delivered { dsn: true }, "2.1.5"),
            (Reply::plain(250, "ok"), Verdict::Delivered { dsn: true }, "2.0.0"),
            (Reply::new(451, (4, 7, 1), "greylisted"), Verdict::Later, "4.7.1"),
            (Reply::new(550, (5, 1, 1), "no such user"), Verdict::Never, "5.1.1"),
            (Reply::new(550, (4, 1, 1), "confused"), Verdict::Never, "5.0.0"),
            (Reply::new(552, (5, 5, 3), "too many recipients"), Verdict::Later, "4.0.0"),
            (Reply::new(552, (5, 2, 2), "mailbox full"), Verdict::Never, "5.2.2"),
            (Reply::plain(354, "what?"), Verdict::Later, "4.0.0"),
        ] {
            let outcome = of_reply(&reply, "mx.example", true, 1);
            assert_eq!((outcome.verdict, outcome.attempt.status.as_str()), (verdict, status), "{reply}");
        }
    }
}
