//! One session to a destination: finds an MX that will talk, hands over one message after the other.

use super::board::Job;
use super::conversation::{Conversation, Delivered};
use super::outcome::{self, Outcome, of_reply, of_trouble};
use super::route::{self, Hop, RouteError};
use super::{conclude, retry, settings};
use crate::Msa;
use crate::clock::{now_ms, random};
use std::net::IpAddr;
use warren_control::Level;
use warren_queue::{ContentReader, Delivery, Envelope, MessageId};
use warren_smtp::command::{BodyType, DsnReturn, MailParams, Notify, OriginalRecipient, RcptParams};
use warren_smtp::{ForwardPath, Host, client};

/// Why no MX could be talked to.
struct Trouble {
    permanent: bool,
    status: &'static str,
    text: String,
    host: Option<String>,
}

impl From<RouteError> for Trouble {
    fn from(error: RouteError) -> Self {
        Self { permanent: error.permanent, status: error.status, text: error.text, host: None }
    }
}

/// Delivers `first` and what else waits for the destination.
pub(super) async fn run(msa: &Msa, destination: &Host, first: Job) {
    let mut session = Session { msa, destination, job: Some(first) };
    if let Err(trouble) = session.deliver_all().await {
        session.give_back(&trouble).await;
    }
}

struct Session<'a> {
    msa: &'a Msa,
    destination: &'a Host,
    /// In hand; the others wait on the board.
    job: Option<Job>,
}

impl Session<'_> {
    /// Tries every address of every MX until there is nothing left to deliver.
    async fn deliver_all(&mut self) -> Result<(), Trouble> {
        let resolver = &*self.msa.deliveries.resolver;
        let hops = route::hops(resolver, self.destination, random()).await?;
        let mut last: Option<Trouble> = None;
        for hop in hops {
            let addresses = match route::addresses(resolver, &hop).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    // What may be there tomorrow outweighs what never was.
                    if last.as_ref().is_none_or(|known| known.permanent) {
                        last = Some(error.into());
                    }
                    continue;
                }
            };
            for address in addresses {
                let name = display(&hop, address);
                match self.talk_to(address, &name).await {
                    Ok(()) => return Ok(()),
                    Err(text) => {
                        self.msa.control.log(Level::Info, format!("{name}: {text}"));
                        last = Some(Trouble {
                            permanent: false,
                            status: "4.4.1",
                            text: format!("{name}: {text}"),
                            host: Some(name),
                        });
                    }
                }
                if *self.msa.control.draining().borrow() {
                    return Err(last.unwrap_or_else(nothing));
                }
            }
        }
        Err(last.unwrap_or_else(nothing))
    }

    /// Hands over messages to one MX. An error means that another MX should be tried with what is in hand.
    async fn talk_to(&mut self, address: IpAddr, name: &str) -> Result<(), String> {
        let stream =
            self.msa.deliveries.dialer.dial(address).await.map_err(|error| format!("cannot connect: {error}"))?;
        let mut conversation = Conversation::open(stream, &settings(self.msa).hostname).await?;
        while let Some(job) = self.job.take().or_else(|| self.msa.deliveries.board().next_job(self.destination)) {
            let Some(sending) = self.prepare(&job).await else { continue };
            let delivered = conversation.deliver(sending.0, sending.1).await;
            let (rest, why) = self.settle(job, &delivered, name, conversation.offers_dsn()).await;
            if let Some(rest) = rest {
                self.job = Some(rest);
                return Err(why);
            }
            if !conversation.is_open() || *self.msa.control.draining().borrow() {
                break;
            }
        }
        conversation.quit().await;
        Ok(())
    }

    /// The message as the client machine wants it. `None`: it could not be read; it waits for another time.
    async fn prepare(&self, job: &Job) -> Option<(client::Envelope, ContentReader)> {
        let envelope = self.msa.deliveries.board().envelope(&job.id)?;
        let opened = match self.msa.store.queue().await {
            Ok(queue) => queue.content(&job.id),
            Err(error) => Err(error),
        };
        match (opened, wire_envelope(&envelope, job)) {
            (Ok(content), Some(wire)) => Some((wire, content)),
            (Err(error), _) => {
                self.msa.control.log(Level::Error, format!("{}: {error}", job.id));
                self.note(job, |_| of_trouble(false, "4.3.0", "the message cannot be read at present", None, now_ms()))
                    .await;
                None
            }
            (_, None) => {
                self.note(job, |_| of_trouble(true, "5.1.3", "the address cannot be used", None, now_ms())).await;
                None
            }
        }
    }

    /// Notes what the MX said. Gives back the recipients that another MX may take, and why.
    async fn settle(&self, job: Job, delivered: &Delivered, name: &str, dsn: bool) -> (Option<Job>, String) {
        let now_ms = now_ms();
        let why = delivered.failure.clone().unwrap_or_else(|| "no answer".to_owned());
        let final_here = delivered.doubtful || delivered.unsendable;
        let mut answered = Job { id: job.id.clone(), recipients: Vec::new() };
        let mut rest = Job { id: job.id.clone(), recipients: Vec::new() };
        let mut outcomes: Vec<Outcome> = Vec::new();
        for (place, &index) in job.recipients.iter().enumerate() {
            match delivered.answers.get(place).and_then(Option::as_ref) {
                Some(reply) => outcomes.push(of_reply(reply, name, dsn, now_ms)),
                None if delivered.unsendable => outcomes.push(of_trouble(true, "5.6.0", &why, None, now_ms)),
                // It may have the message: another MX at once would make two of it.
                None if final_here => outcomes.push(of_trouble(false, "4.4.2", &why, Some(name), now_ms)),
                None => {
                    rest.recipients.push(index);
                    continue;
                }
            }
            answered.recipients.push(index);
        }
        if !answered.recipients.is_empty() {
            let places: Vec<usize> = answered.recipients.clone();
            self.note(&answered, |index| {
                let place =
                    places.iter().position(|known| *known == index).expect("every index of the job has an outcome");
                outcomes[place].clone()
            })
            .await;
        }
        (Some(rest).filter(|rest| !rest.recipients.is_empty()), why)
    }

    /// Nobody took it: what is in hand and what waits for the same destination comes back later, or never.
    async fn give_back(&mut self, trouble: &Trouble) {
        while let Some(job) = self.job.take().or_else(|| self.msa.deliveries.board().next_job(self.destination)) {
            self.note(&job, |_| {
                of_trouble(trouble.permanent, trouble.status, &trouble.text, trouble.host.as_deref(), now_ms())
            })
            .await;
        }
    }

    async fn note(&self, job: &Job, outcome_of: impl Fn(usize) -> Outcome) {
        let retry = retry(&settings(self.msa));
        let mut lines = Vec::new();
        self.msa.deliveries.board().finish(job, |envelope| {
            for &index in &job.recipients {
                let outcome = outcome_of(index);
                let text = outcome.attempt.text.clone();
                let standing = outcome::apply(envelope, index, outcome, &retry);
                lines.push((standing, describe(&job.id, &envelope.recipients[index].path, standing, &text)));
            }
        });
        for (standing, line) in lines {
            self.msa.deliveries.count(|stats| match standing {
                Delivery::Pending => stats.deferred += 1,
                Delivery::Failed => stats.bounced += 1,
                Delivery::Delivered | Delivery::Relayed => stats.delivered += 1,
            });
            self.msa.control.log(Level::Info, line);
        }
        conclude::conclude(self.msa, &job.id).await;
    }
}

fn nothing() -> Trouble {
    Trouble { permanent: false, status: "4.4.1", text: "no mail host could be tried".to_owned(), host: None }
}

fn display(hop: &Hop, address: IpAddr) -> String {
    match hop {
        Hop::Name(name) => format!("{name}[{address}]"),
        Hop::Address(_) => format!("[{address}]"),
    }
}

fn describe(id: &MessageId, path: &str, standing: Delivery, text: &str) -> String {
    let standing = match standing {
        Delivery::Pending => "deferred",
        Delivery::Failed => "failed",
        Delivery::Delivered | Delivery::Relayed => "delivered",
    };
    format!("{id}: {path}: {standing}: {text}")
}

/// The queue's envelope in the client machine's words. `None` when an address of it is none.
fn wire_envelope(envelope: &Envelope, job: &Job) -> Option<client::Envelope> {
    let content = envelope.content;
    let recipients = job.recipients.iter().map(|&index| {
        let recipient = envelope.recipients.get(index)?;
        let to = ForwardPath::Mailbox(recipient.path.parse().ok()?);
        let notify = recipient.notify.map(|notify| Notify {
            success: notify.success,
            failure: notify.failure,
            delay: notify.delay,
        });
        let orcpt = recipient.orcpt.as_ref().and_then(|orcpt| orcpt.split_once(';'));
        let orcpt = orcpt
            .map(|(kind, address)| OriginalRecipient { address_type: kind.to_owned(), address: address.to_owned() });
        Some((to, RcptParams { notify, orcpt, other: Vec::new() }))
    });
    let recipients = recipients.collect::<Option<Vec<_>>>()?;
    let params = MailParams {
        size: Some(content.bytes),
        body: content.eight_bit.then_some(BodyType::EightBitMime),
        smtputf8: content.smtputf8,
        ret: envelope.ret.map(|ret| match ret {
            warren_queue::Ret::Full => DsnReturn::Full,
            warren_queue::Ret::Headers => DsnReturn::Headers,
        }),
        envid: envelope.envid.clone(),
        ..MailParams::default()
    };
    Some(client::Envelope {
        from: warren_smtp::ReversePath::parse_inner(&envelope.reverse_path).ok()?,
        params,
        recipients,
    })
}
