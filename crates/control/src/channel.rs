//! The control channel: who the tenant is, and when it must be woken.
//!
//! The platform connects right after the container started and says [`ToMsa::Settings`] before it connects
//! any entrance. The MSA greets nobody before it has them. A new connection replaces the old one, which is
//! how a restarted platform takes over; without one the MSA delivers and sleeps all the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use warren_launcher_api::TenantName;

/// From the platform to the MSA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMsa {
    /// Everything the MSA must know; replaces what was said before. Sessions that are open keep what they began with.
    Settings(Settings),
    /// Take no new sessions, finish those that are open, then sleep.
    Drain,
    /// Run a program of the image in the container, and tell how it went. For operators; no mail depends on it.
    Exec {
        /// Returned with the outcome.
        id: u64,
        /// The program and its arguments.
        args: Vec<String>,
    },
}

/// Longest output of a program that is told, in bytes as JSON: it travels on to the command line in one packet.
pub const MAX_OUTPUT: usize = 96 * 1024;

/// How a program went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it printed, stdout and stderr as they came; cut after [`MAX_OUTPUT`].
    pub output: String,
    /// Its exit status; `None` if it has none.
    pub status: Option<i32>,
    /// Why it has none: it is not there, it was killed, it took too long, the image runs no programs.
    pub failed: Option<String>,
}

impl Outcome {
    /// The outcome of what could not be run.
    pub fn failed(why: impl Into<String>) -> Outcome {
        Outcome { failed: Some(why.into()), ..Outcome::default() }
    }

    /// The same within [`MAX_OUTPUT`], whoever made it.
    #[must_use]
    pub fn bounded(mut self) -> Outcome {
        // A control character is the longest in JSON: six bytes.
        let escaped =
            |letter: char| if letter.is_control() || matches!(letter, '"' | '\\') { 6 } else { letter.len_utf8() };
        let mut left = MAX_OUTPUT;
        let fits = |(_, letter): &(usize, char)| left.checked_sub(escaped(*letter)).map(|rest| left = rest).is_none();
        if let Some((end, _)) = self.output.char_indices().find(fits) {
            self.output.truncate(end);
            self.output.push_str("\n[cut]\n");
        }
        self.failed = self.failed.map(|why| why.chars().take(1_000).collect());
        self
    }
}

/// What an MSA knows of its tenant. The volume never carries this: a tenant could write it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The tenant's name, for logs.
    pub tenant: TenantName,
    /// The name in the greeting, the EHLO reply and `Received: … by`.
    pub hostname: String,
    /// The tenant's domains, lower case.
    pub domains: Vec<String>,
    /// Login (`alice@acme.example`) to the addresses it may write as (domains in lower case).
    pub accounts: BTreeMap<String, Vec<String>>,
    /// The SIZE that is announced and enforced.
    pub max_message_bytes: u64,
    /// Recipients of one transaction; more get `452 4.5.3`.
    pub max_recipients: u32,
    /// What the queue may hold, in bytes of content and envelopes; mail beyond it gets `452 4.3.1`.
    #[serde(default = "unlimited")]
    pub max_queue_bytes: u64,
    /// How long nothing may happen before the MSA sleeps.
    pub idle_ms: u64,
    /// When deferred mail is tried again.
    pub retry: Retry,
    /// `Received` headers at which a message counts as looping.
    pub hop_limit: u32,
}

fn unlimited() -> u64 {
    u64::MAX
}

/// The schedule of deferred mail: `first · (factor/100)ⁿ`, at most `max`, until `expire` after arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Wait before the second attempt.
    pub first_ms: u64,
    /// Growth from one wait to the next, in percent: 200 doubles.
    pub factor_percent: u32,
    /// The longest wait.
    pub max_ms: u64,
    /// Age at which a message is given back to its sender.
    pub expire_ms: u64,
}

/// From the MSA to the platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMsa {
    /// Settings are in force; entrances are served.
    Ready,
    /// The time of the next delivery attempt changed.
    Due {
        /// Unix milliseconds, or nothing due.
        next_due_unix_ms: Option<u64>,
    },
    /// The last word before exit 0.
    Sleeping {
        /// When to wake the tenant, in unix milliseconds, or nothing due.
        next_due_unix_ms: Option<u64>,
    },
    /// A line for the node's log. The sender limits their rate; the platform limits it again.
    Log {
        /// How loud.
        level: Level,
        /// What happened; control characters are escaped by the reader.
        text: String,
    },
    /// Counters, now and then.
    Stats(Stats),
    /// How a program went that was to be run.
    Executed {
        /// That of [`ToMsa::Exec`].
        id: u64,
        /// How it went.
        outcome: Outcome,
    },
}

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For whoever debugs the MSA.
    Debug,
    /// Ordinary life.
    Info,
    /// Something did not work and will be tried again.
    Warn,
    /// Something did not work.
    Error,
}

/// What an MSA counts since it started, except `queued`, which is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Messages in the queue.
    pub queued: u64,
    /// Messages accepted.
    pub accepted: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Delivery attempts put off.
    pub deferred: u64,
    /// Recipients given up.
    pub bounced: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text on the wire is the contract with other images: it changes only on purpose.
    #[test]
    fn wire_text() {
        let text = |m: &FromMsa| serde_json::to_string(m).unwrap();
        assert_eq!(text(&FromMsa::Ready), r#""Ready""#);
        assert_eq!(text(&FromMsa::Due { next_due_unix_ms: Some(5) }), r#"{"Due":{"next_due_unix_ms":5}}"#);
        assert_eq!(
            text(&FromMsa::Log { level: Level::Warn, text: "x".into() }),
            r#"{"Log":{"level":"warn","text":"x"}}"#
        );
        assert_eq!(serde_json::to_string(&ToMsa::Drain).unwrap(), r#""Drain""#);
        assert_eq!(
            serde_json::from_str::<FromMsa>(r#"{"Stats":{"queued":3}}"#).unwrap(),
            FromMsa::Stats(Stats { queued: 3, ..Stats::default() })
        );
    }
}
