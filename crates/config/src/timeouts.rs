//! `[proxy.timeouts]`: how long the proxy waits for MXs and MSAs (RFC 5321 §4.5.3.2). Keys are those of [`Deadlines`], which has the defaults and their reasons, too:
//! the RFC's minimums as a client's, five minutes for the MSA as a server's. Shorter ones make mail fail at hosts that are slow on purpose; longer ones hold sessions
//! that are dead.

use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;
use warren_smtp::mediator::Deadlines;

use crate::checker::{Checker, Text};
use crate::values::parse_duration;

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
    pub(crate) fn check(&self, check: &mut Checker) -> Deadlines {
        let default = Deadlines::default();
        let mut read = |raw: &Value, default: Duration| {
            check.value_or(raw.as_ref(), default, |text| match parse_duration(text)? {
                duration if (LEAST..=MOST).contains(&duration) => Ok(duration),
                _ => Err(format!("{text:?} is out of bounds, expected {LEAST:?} to {} s", MOST.as_secs())),
            })
        };
        Deadlines {
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
