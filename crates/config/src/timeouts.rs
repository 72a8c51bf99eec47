//! `[proxy.timeouts]`: how long the proxy waits for MXs and MSAs (RFC 5321 §4.5.3.2).
//!
//! The defaults are the RFC's minimums as a client's, five minutes for the MSA as a server's. Shorter ones make mail fail at hosts that are slow on purpose; longer ones
//! hold sessions that are dead.

use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::checker::{Checker, Text};
use crate::values::parse_duration;

/// How long the proxy waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `greeting`: the MX's greeting. Five minutes (§4.5.3.2.1).
    pub greeting: Duration,
    /// `hello`: each of its replies to EHLO, HELO and STARTTLS. One minute: the MSA waits for all of them behind one EHLO.
    pub hello: Duration,
    /// `mail`: its reply to MAIL. Five minutes (§4.5.3.2.2).
    pub mail: Duration,
    /// `rcpt`: its reply to RCPT. Five minutes (§4.5.3.2.3).
    pub rcpt: Duration,
    /// `command`: its reply to anything else. Five minutes.
    pub command: Duration,
    /// `data`: its reply to DATA. Two minutes (§4.5.3.2.4).
    pub data: Duration,
    /// `content`: the next piece of content, either from the MSA or taken by the MX. Three minutes (§4.5.3.2.5).
    pub content: Duration,
    /// `transfer`: all content of a message, so that a byte a minute does not hold a session for days. An hour.
    pub transfer: Duration,
    /// `end_of_data`: the reply to the final dot. Ten minutes (§4.5.3.2.6): shorter ones make mail arrive twice.
    pub end_of_data: Duration,
    /// `client`: the MSA's next command. Five minutes (§4.5.3.2.7).
    pub client: Duration,
    /// `moving`: another connection that takes over from a refused one. Two minutes, within those of the MSA for MAIL and RCPT.
    pub moving: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            greeting: minutes(5),
            hello: minutes(1),
            mail: minutes(5),
            rcpt: minutes(5),
            command: minutes(5),
            data: minutes(2),
            content: minutes(3),
            transfer: minutes(60),
            end_of_data: minutes(10),
            client: minutes(5),
            moving: minutes(2),
        }
    }
}

type Value = Option<Spanned<Text>>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeoutsFile {
    greeting: Value,
    hello: Value,
    mail: Value,
    rcpt: Value,
    command: Value,
    data: Value,
    content: Value,
    transfer: Value,
    end_of_data: Value,
    client: Value,
    moving: Value,
}

const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(24 * 60 * 60);

impl TimeoutsFile {
    pub(crate) fn check(&self, check: &mut Checker) -> Timeouts {
        let default = Timeouts::default();
        let mut read = |raw: &Value, default: Duration| {
            check.value_or(raw.as_ref(), default, |text| match parse_duration(text)? {
                duration if (LEAST..=MOST).contains(&duration) => Ok(duration),
                _ => Err(format!("{text:?} is out of bounds, expected {LEAST:?} to {} s", MOST.as_secs())),
            })
        };
        Timeouts {
            greeting: read(&self.greeting, default.greeting),
            hello: read(&self.hello, default.hello),
            mail: read(&self.mail, default.mail),
            rcpt: read(&self.rcpt, default.rcpt),
            command: read(&self.command, default.command),
            data: read(&self.data, default.data),
            content: read(&self.content, default.content),
            transfer: read(&self.transfer, default.transfer),
            end_of_data: read(&self.end_of_data, default.end_of_data),
            client: read(&self.client, default.client),
            moving: read(&self.moving, default.moving),
        }
    }
}
