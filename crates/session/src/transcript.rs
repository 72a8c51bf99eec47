//! One session as people read it: what was said, which way, when, and how long the MX took.
//!
//! ```text
//! <-  reply of the MX, passed to the MSA        ->  command of the MSA, passed to the MX
//! |<  reply of the MX that ended at the proxy   >|  command of the MSA that ended at the proxy
//! <|  reply that the proxy gave of its own      |>  command that the proxy sent of its own
//! ==  a dial, or TLS with the MSA               !!  what was noticed about the MX
//! ```

use std::fmt::{self, Write};

use crate::{
    TlsFacts,
    escape::Escaped,
    reader::{EventRow, ExchangeRow, LegRow, MessageRow, RecipientRow, Recorded, SessionRow},
};

/// The transcript, safe to print whatever the peers said.
#[must_use]
pub fn render(recorded: &Recorded) -> String {
    let mut out = String::new();
    write(&mut out, recorded).expect("writing into a string does not fail");
    out
}

fn write(out: &mut String, recorded: &Recorded) -> fmt::Result {
    head(out, &recorded.session)?;
    let mut legs = recorded.legs.iter().peekable();
    let mut events = recorded.events.iter().peekable();
    writeln!(out, "\n        at       took")?;
    for exchange in &recorded.exchanges {
        while let Some(leg) = legs.next_if(|leg| leg.n <= exchange.leg) {
            dial(out, leg)?;
        }
        while let Some(event) = events.next_if(|event| event.at_us < exchange.at_us) {
            noticed(out, event)?;
        }
        said(out, exchange)?;
    }
    for leg in legs {
        dial(out, leg)?;
    }
    for event in events {
        noticed(out, event)?;
    }
    for message in &recorded.messages {
        let recipients = recorded.recipients.iter().filter(|recipient| recipient.message == message.n);
        carried(out, message, recipients)?;
    }
    Ok(())
}

fn head(out: &mut String, session: &SessionRow) -> fmt::Result {
    write!(out, "session {}  tenant {}", Escaped(&session.id), Escaped(&session.tenant))?;
    if let Some(cell) = session.cell {
        write!(out, "  cell {cell}")?;
    }
    let name = session.mx_name.as_deref().unwrap_or("unnamed");
    writeln!(out, "  to {} [{}]:{}", Escaped(name), Escaped(&session.mx_address), session.mx_port)?;
    match jiff::Timestamp::from_microsecond(session.started_us) {
        Ok(time) => write!(out, "{time:.6}")?,
        Err(_) => write!(out, "{} us", session.started_us)?,
    }
    match (&session.outcome, session.ended_us) {
        (Some(outcome), Some(ended)) => writeln!(
            out,
            "  {} after {} s, {} bytes of content",
            Escaped(outcome),
            seconds(ended.saturating_sub(session.started_us)),
            session.bytes.unwrap_or(0)
        ),
        _ => writeln!(out, "  not ended"),
    }
}

/// A line between what was said: the dial.
fn dial(out: &mut String, leg: &LegRow) -> fmt::Result {
    write!(out, "{:>10} {:>10}  ==  leg {} from {}", seconds(leg.started_us), "", leg.n, Escaped(&leg.egress))?;
    match (leg.connected_us, &leg.taken_from) {
        (_, Some(before)) => write!(out, ", taken over from session {}", Escaped(before))?,
        (Some(connected), None) => {
            write!(out, ", connected after {} s", seconds(connected.saturating_sub(leg.started_us)))?
        }
        (None, None) => write!(out, ", not connected")?,
    }
    match (&leg.tls_version, &leg.tls_cipher) {
        (Some(version), Some(cipher)) => {
            let trust = if leg.tls_trusted == Some(true) { "trusted" } else { "not trusted" };
            write!(out, ", {} {} {trust}", Escaped(version), Escaped(cipher))?;
        }
        _ if leg.connected_us.is_some() || leg.taken_from.is_some() => write!(out, ", in the clear")?,
        _ => {}
    }
    if let Some(error) = &leg.error {
        write!(out, ": {}", Escaped(error))?;
    }
    writeln!(out)?;
    policies(out, leg)
}

/// Under a dial: what each recipient domain asked of its TLS, and whether it got that.
fn policies(out: &mut String, leg: &LegRow) -> fmt::Result {
    let facts = leg.tls.as_deref().and_then(|json| serde_json::from_str::<TlsFacts>(json).ok());
    for policy in facts.iter().flat_map(|facts| &facts.policies) {
        write!(out, "{:>22} ==  TLS for {}: {}, ", "", Escaped(&policy.domain), Escaped(&policy.policy))?;
        match &policy.reason {
            _ if policy.satisfied => writeln!(out, "satisfied")?,
            Some(reason) => writeln!(out, "not satisfied: {}", Escaped(reason))?,
            None => writeln!(out, "not satisfied")?,
        }
    }
    Ok(())
}

/// A line between what was said: what it was taken for.
fn noticed(out: &mut String, event: &EventRow) -> fmt::Result {
    let kind = Escaped(&event.kind);
    write!(out, "{:>10} {:>10}  !!  {kind} by {}", seconds(event.at_us), "", Escaped(&event.operator))?;
    if let Some(list) = &event.list {
        write!(out, " ({})", Escaped(list))?;
    }
    writeln!(out, " of {}: {}", Escaped(&event.egress), Escaped(&event.evidence))
}

fn said(out: &mut String, exchange: &ExchangeRow) -> fmt::Result {
    let took = exchange.took_us.map(seconds).unwrap_or_default();
    write!(out, "{:>10} {took:>10}  {}  ", seconds(exchange.at_us), Escaped(&exchange.dir))?;
    let Some(code) = exchange.code else {
        return writeln!(out, "{}", Escaped(&exchange.text));
    };
    let mut lines = exchange.text.split('\n').peekable();
    let mut first = true;
    while let Some(line) = lines.next() {
        if !first {
            write!(out, "{:>10} {:>10}  {}  ", "", "", Escaped(&exchange.dir))?;
        }
        first = false;
        let mark = if lines.peek().is_some() { '-' } else { ' ' };
        let line = format!("{code:03}{mark}{}", Escaped(line));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn carried<'a>(
    out: &mut String,
    message: &MessageRow,
    recipients: impl Iterator<Item = &'a RecipientRow>,
) -> fmt::Result {
    write!(out, "\nmessage {}  from <{}>, {} bytes", message.n, Escaped(&message.reverse_path), message.size)?;
    if let Some(id) = &message.message_id {
        write!(out, ", {}", Escaped(id))?;
    }
    verdict(out, &message.class, message.list.as_deref(), message.code)?;
    writeln!(out)?;
    for recipient in recipients {
        write!(out, "  to <{}>", Escaped(&recipient.forward_path))?;
        verdict(out, &recipient.class, recipient.list.as_deref(), recipient.code)?;
        if !recipient.text.is_empty() {
            write!(out, " {}", Escaped(&recipient.text))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn verdict(out: &mut String, class: &str, list: Option<&str>, code: Option<i64>) -> fmt::Result {
    write!(out, ": {}", Escaped(class))?;
    if let Some(list) = list {
        write!(out, " ({})", Escaped(list))?;
    }
    if let Some(code) = code {
        write!(out, ", {code:03}")?;
    }
    Ok(())
}

/// Microseconds as seconds, all six places.
fn seconds(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, (micros % 1_000_000).abs())
}
