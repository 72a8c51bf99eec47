//! A mail that was delivered: what most sessions carry.

use std::borrow::Cow;

use super::Message;

/// A message that the MX took, and recipients that it took it for: everything of it in one record, as most mails need no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail<'a> {
    /// Which transaction of the session, from 1.
    pub n: u32,
    /// The dial that carried it.
    pub leg: u16,
    /// The code of the reply to the end of content.
    pub code: u16,
    /// Bytes of content that were passed.
    pub size: u64,
    /// When MAIL, DATA, the first and the last byte of content were passed, and when the final reply came.
    pub times: [Option<u64>; 5],
    /// The reverse-path, without angle brackets; empty for `<>`.
    pub reverse_path: &'a str,
    /// Its Message-ID, where it was seen.
    pub message_id: Option<&'a str>,
    /// The final reply's enhanced status code.
    pub enhanced: Option<&'a str>,
    /// The final reply's text.
    pub text: &'a str,
    /// Which recipients of the message, from 1, and their forward-paths, without angle brackets.
    pub recipients: Cow<'a, [(u32, &'a str)]>,
}

impl<'a> Mail<'a> {
    /// Recipients that may be told together. Of messages to more of them the others are told one by one: a session's buffer is small.
    pub const RECIPIENTS: usize = 16;

    /// This message, to these recipients, of whom at most [`Mail::RECIPIENTS`] count.
    #[must_use]
    pub fn of(message: &'a Message, reply: (u16, Option<&'a str>, &'a str), recipients: &'a [(u32, &'a str)]) -> Self {
        let Message { n, leg, size, mail_us, data_us, content_us, sent_us, reply_us, .. } = *message;
        let (code, enhanced, text) = reply;
        Self {
            n,
            leg,
            code,
            size,
            times: [mail_us, data_us, content_us, sent_us, reply_us],
            reverse_path: &message.reverse_path,
            message_id: message.message_id.as_deref(),
            enhanced,
            text,
            recipients: Cow::Borrowed(&recipients[..recipients.len().min(Self::RECIPIENTS)]),
        }
    }
}
