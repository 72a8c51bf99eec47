//! From what the mediator says to what the record says.

use warren_session::{Dir, Recipient, Said, Text, Verdict, classify};
use warren_smtp::Reply;
use warren_smtp::mediator::Flow;

use super::Open;

pub(super) fn recipient(
    open: &Open,
    n: u32,
    verdict: Verdict,
    reply: Option<(&Reply, &str)>,
    reply_us: Option<u64>,
) -> Recipient {
    let index = usize::try_from(n).unwrap_or(usize::MAX).saturating_sub(1);
    Recipient {
        id: open.message.id,
        message: open.message.n,
        n,
        forward_path: open.recipients.get(index).cloned().unwrap_or_default(),
        verdict,
        code: reply.map(|(reply, _)| reply.code),
        enhanced: reply.and_then(|(reply, _)| reply.status()).map(|code| code.to_string()),
        text: reply.map(|(_, lines)| Text::from(lines)).unwrap_or_default(),
        reply_us,
    }
}

pub(crate) fn verdict(verb: &str, reply: &Reply, lines: &str) -> Verdict {
    // A positive reply is what its code says.
    let enhanced = reply.status().filter(|_| reply.code >= 400).map(|code| code.to_string());
    classify(&Said { verb, code: reply.code, enhanced: enhanced.as_deref(), text: lines })
}

/// The lines of a reply without their codes, as the record has them.
pub(crate) fn lines(reply: &Reply) -> String {
    let enhanced = reply.enhanced.map(|code| format!("{code} ")).unwrap_or_default();
    let length: usize = reply.lines.iter().map(|line| enhanced.len() + line.len() + 1).sum();
    let mut text = String::with_capacity(length);
    for (n, line) in reply.lines.iter().enumerate() {
        if n > 0 {
            text.push('\n');
        }
        text.push_str(&enhanced);
        text.push_str(line);
    }
    text
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
