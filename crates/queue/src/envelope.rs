//! What the queue knows of a message beside its content.

use crate::{MessageId, Next, QueueError, Retry};
use serde::{Deserialize, Serialize};

/// The envelope of a queued message, and how far its delivery has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The file format; [`Envelope::VERSION`].
    pub version: u32,
    /// The queue id, also the name of its file.
    pub id: MessageId,
    /// When it was accepted (unix milliseconds).
    pub arrived_ms: u64,
    /// Which entrance it came by.
    pub origin: Origin,
    /// The reverse-path without brackets; empty is the null reverse-path: no report will ever be sent.
    pub reverse_path: String,
    /// Where to, and how far each is.
    pub recipients: Vec<Recipient>,
    /// What the content needs of the next hop.
    pub content: Content,
    /// RFC 3461 RET.
    pub ret: Option<Ret>,
    /// RFC 3461 ENVID, decoded.
    pub envid: Option<String>,
}

/// Which way a message came into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// By a user of the tenant.
    Submission,
    /// Forwarded for the tenant.
    Relay,
    /// A delivery status notification made here.
    Report,
}

/// Size and needs of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Length of the content in bytes.
    pub bytes: u64,
    /// It was announced as `BODY=8BITMIME`, or has bytes over 127.
    pub eight_bit: bool,
    /// It was sent with `SMTPUTF8`.
    pub smtputf8: bool,
}

/// RFC 3461 RET: how much of the message a report returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header section.
    Headers,
}

/// RFC 3461 NOTIFY; all false is `NEVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// Report delivery.
    pub success: bool,
    /// Report failure.
    pub failure: bool,
    /// Report delay.
    pub delay: bool,
}

impl Notify {
    /// What holds when the sender asked for nothing. Delays are told to those who ask (RFC 3461 §4.1 leaves it open).
    pub const DEFAULT: Self = Self { success: false, failure: true, delay: false };
}

/// One forward-path and its fate so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path without brackets.
    pub path: String,
    /// RFC 3461 NOTIFY as asked for, if it was.
    pub notify: Option<Notify>,
    /// RFC 3461 ORCPT (`type;address`, decoded).
    pub orcpt: Option<String>,
    /// Where it stands.
    pub delivery: Delivery,
    /// Attempts made.
    pub attempts: u32,
    /// When a pending recipient is tried next (unix milliseconds).
    pub due_ms: u64,
    /// What the last attempt brought.
    pub last: Option<Attempt>,
    /// The sender has been told of its delivery or failure, or must not be told.
    pub reported: bool,
    /// The sender has been told of the delay.
    pub delay_reported: bool,
}

/// Where a recipient stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// To be tried (again).
    Pending,
    /// The next hop took it, and reports its further fate itself if asked to.
    Delivered,
    /// The next hop took it, but knows nothing of DSN: success is ours to report as "relayed".
    Relayed,
    /// Permanent failure, or its time ran out.
    Failed,
}

/// What an attempt brought: the last word of the next hop, or ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When (unix milliseconds).
    pub at_ms: u64,
    /// The MX that spoke, if one did. What is noted of it is cut at 255 bytes, as it is written.
    pub host: Option<String>,
    /// Enhanced status code, such as `4.4.1`. Likewise at 16.
    pub status: String,
    /// The reply's text, or what happened here; one line. Likewise at 512.
    pub text: String,
    /// The text is the next hop's reply, not ours.
    pub from_peer: bool,
}

impl Attempt {
    const HOST: usize = 255;
    const STATUS: usize = 16;
    const TEXT: usize = 512;

    /// With nothing longer than is noted.
    fn bounded(mut self) -> Self {
        self.host.iter_mut().for_each(|host| cut(host, Self::HOST));
        cut(&mut self.status, Self::STATUS);
        cut(&mut self.text, Self::TEXT);
        self
    }
}

/// Cuts a text whose JSON is longer than that.
fn cut(text: &mut String, most: usize) {
    let mut length = 0;
    let end = text.char_indices().find(|(_, c)| {
        length += match c {
            '"' | '\\' => 2,
            '\0'..='\x1f' => 6,
            other => other.len_utf8(),
        };
        length > most
    });
    if let Some((end, _)) = end {
        text.truncate(end);
    }
}

impl Recipient {
    /// By how much one grows at most, from when it is new: what is noted of attempts, and names and digits.
    const GROWTH: usize = Attempt::HOST + Attempt::STATUS + Attempt::TEXT + 128;

    /// A recipient that has not been tried yet and is due at once.
    #[must_use]
    pub fn new(path: impl Into<String>, due_ms: u64) -> Self {
        Self {
            path: path.into(),
            notify: None,
            orcpt: None,
            delivery: Delivery::Pending,
            attempts: 0,
            due_ms,
            last: None,
            reported: false,
            delay_reported: false,
        }
    }

    /// What the sender wants to hear about this recipient.
    #[must_use]
    pub fn wants(&self) -> Notify {
        self.notify.unwrap_or(Notify::DEFAULT)
    }

    /// Still to be tried?
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.delivery == Delivery::Pending
    }
}

impl Envelope {
    /// The file format written by this version.
    pub const VERSION: u32 = 1;
    /// The largest envelope, about 5,000 recipients with long replies.
    pub const LIMIT: usize = 8 * 1024 * 1024;

    /// When the next pending recipient is due; `None` when none is pending.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.recipients.iter().filter(|recipient| recipient.is_pending()).map(|recipient| recipient.due_ms).min()
    }

    /// Nothing left to try. What is left may be a report to send.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.recipients.iter().all(|recipient| !recipient.is_pending())
    }

    /// Notes a temporary failure of recipient number `index` and decides what follows.
    pub fn defer(&mut self, index: usize, attempt: Attempt, retry: &Retry) -> Next {
        let (arrived, seed) = (self.arrived_ms, self.id.seed());
        let recipient = &mut self.recipients[index];
        recipient.attempts = recipient.attempts.saturating_add(1);
        let next = retry.next(arrived, recipient.attempts, attempt.at_ms, seed);
        match next {
            Next::At(due) => recipient.due_ms = due,
            Next::Expired => recipient.delivery = Delivery::Failed,
        }
        recipient.last = Some(attempt.bounded());
        next
    }

    /// Notes the end of recipient number `index`: delivered, relayed or failed.
    pub fn settle(&mut self, index: usize, delivery: Delivery, attempt: Attempt) {
        let recipient = &mut self.recipients[index];
        recipient.attempts = recipient.attempts.saturating_add(1);
        recipient.delivery = delivery;
        recipient.last = Some(attempt.bounded());
    }

    /// The envelope as it is written.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, QueueError> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|error| QueueError::Io { doing: "writing an envelope as JSON", source: error.into() })?;
        bytes.push(b'\n');
        if bytes.len() > Self::LIMIT {
            return Err(QueueError::EnvelopeTooLarge { bytes: bytes.len(), limit: Self::LIMIT });
        }
        Ok(bytes)
    }

    /// What a new envelope, so long now, comes to at most once all its recipients have been tried.
    pub(crate) fn longest(&self, encoded: usize) -> usize {
        encoded + self.recipients.len() * Recipient::GROWTH
    }

    /// Whether it is this message's, of whatever format.
    pub(crate) fn belongs_to(id: &MessageId, bytes: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Owner<'a> {
            #[serde(borrow)]
            id: std::borrow::Cow<'a, str>,
        }
        serde_json::from_slice::<Owner<'_>>(bytes).is_ok_and(|owner| owner.id == id.as_str())
    }

    /// Reads an envelope; the error says what is wrong with it.
    pub(crate) fn decode(id: &MessageId, bytes: &[u8]) -> Result<Self, String> {
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| format!("not an envelope: {error}"))?;
        if envelope.version != Self::VERSION {
            return Err(format!("format {} is not known, expected {}", envelope.version, Self::VERSION));
        }
        if envelope.id != *id {
            return Err(format!("it says that it belongs to {}", envelope.id));
        }
        if envelope.recipients.is_empty() {
            return Err("it has no recipient".to_owned());
        }
        Ok(envelope)
    }
}

#[cfg(test)]
pub(crate) fn sample(now_ms: u64) -> Envelope {
    Envelope {
        version: Envelope::VERSION,
        id: MessageId::make(now_ms, 0),
        arrived_ms: now_ms,
        origin: Origin::Submission,
        reverse_path: "alice@acme.example".into(),
        recipients: vec![
            Recipient::new("bob@postfix.example", now_ms),
            Recipient::new("carol@exim.example", now_ms + 5),
        ],
        content: Content { bytes: 0, eight_bit: false, smtputf8: false },
        ret: Some(Ret::Headers),
        envid: Some("QQ314159".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attempt(at_ms: u64) -> Attempt {
        Attempt {
            at_ms,
            host: Some("mx1.postfix.example".into()),
            status: "4.2.0".into(),
            text: "451 later".into(),
            from_peer: true,
        }
    }

    #[test]
    fn due_is_the_earliest_pending() {
        let mut envelope = sample(1_000);
        assert_eq!(envelope.due_ms(), Some(1_000));
        envelope.settle(0, Delivery::Delivered, attempt(1_001));
        assert_eq!(envelope.due_ms(), Some(1_005));
        assert!(matches!(envelope.defer(1, attempt(2_000), &Retry::default()), Next::At(_)));
        assert!(envelope.due_ms() > Some(200_000) && !envelope.is_settled());
        envelope.settle(1, Delivery::Failed, attempt(3_000));
        assert_eq!((envelope.due_ms(), envelope.is_settled(), envelope.recipients[1].attempts), (None, true, 2));
    }

    #[test]
    fn a_foreign_or_future_file_is_refused() {
        let envelope = sample(1_000);
        let text = String::from_utf8(envelope.encode().unwrap()).unwrap();
        assert_eq!(Envelope::decode(&envelope.id, text.as_bytes()), Ok(envelope.clone()));
        assert!(Envelope::decode(&MessageId::make(9, 9), text.as_bytes()).is_err());
        assert!(Envelope::decode(&envelope.id, text.replace("\"version\":1", "\"version\":2").as_bytes()).is_err());
    }

    #[test]
    fn a_huge_envelope_is_refused_before_it_is_written() {
        let mut envelope = sample(1_000);
        envelope.recipients = (0..100_000).map(|n| Recipient::new(format!("{n}@{}", "x".repeat(200)), 0)).collect();
        assert!(matches!(envelope.encode(), Err(QueueError::EnvelopeTooLarge { .. })));
    }

    proptest! {
        #[test]
        fn any_text_survives(path in ".*", reply in ".*", envid in proptest::option::of(".*")) {
            let mut envelope = sample(5);
            envelope.envid = envid;
            envelope.recipients[0].path = path;
            envelope.recipients[0].last = Some(Attempt { text: reply, ..attempt(9) });
            prop_assert_eq!(Envelope::decode(&envelope.id, &envelope.encode().unwrap()), Ok(envelope.clone()));
        }

        #[test]
        fn whatever_is_noted_stays_within_what_was_foreseen(
            texts in proptest::collection::vec(("(?s).{0,300}|[\\x00-\\x1f\"\\\\]{0,600}|.{500,700}", any::<bool>(), any::<u64>()), 1..8),
            recipients in 1..4_usize,
        ) {
            let mut envelope = sample(5);
            envelope.recipients = (0..recipients).map(|n| Recipient::new(format!("{n}@postfix.example"), 0)).collect();
            let longest = envelope.longest(envelope.encode().unwrap().len());
            for (n, (text, settles, at_ms)) in texts.into_iter().enumerate() {
                let said = Attempt { at_ms, host: Some(text.clone()), status: text.clone(), text, from_peer: settles };
                let index = n % recipients;
                // As often as can be, and as late.
                envelope.recipients[index].attempts = u32::MAX;
                if settles {
                    envelope.settle(index, Delivery::Delivered, said);
                } else {
                    let never = Retry { expire_ms: u64::MAX, max_ms: u64::MAX, first_ms: u64::MAX, ..Retry::default() };
                    envelope.defer(index, said, &never);
                }
                prop_assert!(envelope.encode().unwrap().len() <= longest);
            }
        }

        #[test]
        fn junk_is_an_error(bytes: Vec<u8>) {
            prop_assert!(Envelope::decode(&MessageId::make(1, 1), &bytes).is_err());
        }
    }
}
