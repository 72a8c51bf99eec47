//! From what the mediator says to what the record says.

use std::borrow::Cow;

use warren_session::{Dir, Recipient, Said, Verdict, classify};
use warren_smtp::mediator::Flow;
use warren_smtp::reply::WrittenCode;
use warren_smtp::{EnhancedCode, Reply};

use super::Open;

/// What decided on recipients: a reply, or none.
pub(super) struct Given<'a> {
    reply: Option<(&'a Reply, &'a str)>,
    enhanced: Option<WrittenCode>,
    reply_us: Option<u64>,
}

impl<'a> Given<'a> {
    /// By this reply, with its lines, that came then.
    pub(super) fn by(reply: Option<(&'a Reply, &'a str)>, at_us: u64) -> Self {
        let enhanced = reply.and_then(|(reply, _)| reply.status()).map(EnhancedCode::written);
        Self { reply, enhanced, reply_us: reply.map(|_| at_us) }
    }

    /// The enhanced status code of the reply.
    pub(super) fn enhanced(&self) -> Option<&str> {
        self.enhanced.as_deref()
    }

    /// The record of recipient `n` of a message.
    pub(super) fn recipient<'b>(&'b self, open: &'b Open, n: u32, verdict: &'b Verdict) -> Recipient<'b> {
        Recipient {
            message: open.message.n,
            n,
            forward_path: open.recipients.get(n).unwrap_or_default(),
            verdict: Cow::Borrowed(verdict),
            code: self.reply.map(|(reply, _)| reply.code),
            enhanced: self.enhanced.as_deref(),
            text: self.reply.map_or("", |(_, lines)| lines),
            reply_us: self.reply_us,
        }
    }
}

pub(crate) fn verdict(verb: &str, reply: &Reply, lines: &str) -> Verdict {
    // A positive reply is what its code says.
    let enhanced = reply.status().filter(|_| reply.code >= 400).map(EnhancedCode::written);
    classify(&Said { verb, code: reply.code, enhanced: enhanced.as_deref(), text: lines })
}

/// [`Reply::coded_lines`], which many replies simply are.
pub(super) fn lines(reply: &Reply) -> Cow<'_, str> {
    match (&reply.lines[..], reply.enhanced) {
        ([line], None) => Cow::Borrowed(line),
        _ => Cow::Owned(reply.coded_lines()),
    }
}

pub(super) fn dir(flow: Flow) -> Dir {
    match flow {
        Flow::CommandPassed => Dir::CommandPassed,
        Flow::CommandEnded => Dir::CommandEnded,
        Flow::CommandSent => Dir::SentByProxy,
        Flow::ReplyPassed => Dir::ReplyPassed,
        Flow::ReplyEnded => Dir::ReplyEnded,
        Flow::ReplyMade => Dir::AnsweredByProxy,
    }
}
