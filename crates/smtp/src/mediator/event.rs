//! What a mediator tells its observer: enough for the record of a session, in the order in which it happens.

use std::fmt;
use std::time::Instant;

use crate::command::Verb;
use crate::{ForwardPath, Reply, ReversePath};

/// Which way a command or reply went. The mediator stands between the client (left) and the server (right).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flow {
    /// `->`: the client's command, passed to the server.
    CommandPassed,
    /// `>|`: the client's command, which ended here.
    CommandEnded,
    /// `|>`: a command of our own to the server.
    CommandSent,
    /// `<-`: the server's reply, passed to the client.
    ReplyPassed,
    /// `|<`: the server's reply, which ended here.
    ReplyEnded,
    /// `<|`: a reply of our own to the client.
    ReplyMade,
}

impl Flow {
    /// The two characters of the notation.
    pub fn notation(self) -> &'static str {
        match self {
            Self::CommandPassed => "->",
            Self::CommandEnded => ">|",
            Self::CommandSent => "|>",
            Self::ReplyPassed => "<-",
            Self::ReplyEnded => "|<",
            Self::ReplyMade => "<|",
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.notation())
    }
}

/// What a command or reply is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The connection: the reply is the greeting, or came unasked.
    Greeting,
    /// A command; BDAT unless it is the last.
    Command(Verb),
    /// The dot that ends the content.
    EndOfData,
    /// BDAT LAST.
    LastChunk,
}

/// How the session ended. The first that applies is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With QUIT.
    Quit,
    /// The client closed or broke off.
    ClientLost,
    /// The server closed or broke off.
    ServerLost,
    /// The server said 421, or refused the session in its greeting.
    ServerRefused,
    /// The server was never reached.
    Unreachable,
    /// TLS was required and not to be had.
    TlsFailed,
    /// One side broke the protocol.
    Violation(&'static str),
    /// One side was silent for too long.
    TimedOut,
    /// We are going down.
    Drained,
}

/// One thing that happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A command, without its CRLF; credentials are already taken out. The end of data is `.`.
    Command {
        /// Which way it went.
        flow: Flow,
        /// What it is.
        topic: Topic,
        /// As it was written.
        line: &'a [u8],
    },
    /// A reply.
    Reply {
        /// Which way it went.
        flow: Flow,
        /// What it answers.
        topic: Topic,
        /// All of it.
        reply: &'a Reply,
    },
    /// The MAIL that was passed just now.
    Mail(&'a ReversePath),
    /// The RCPT that was passed just now.
    Rcpt(&'a ForwardPath),
    /// Content that was passed, as on the wire, the final dot included.
    Content(&'a [u8]),
    /// The content was passed to its end.
    ContentEnd,
    /// The server's EHLO reply: the name it gave itself, and what it offers, line by line.
    Offered {
        /// Its name.
        name: &'a str,
        /// Its extensions, unfiltered.
        lines: &'a [String],
    },
    /// The server sent something; told before what it means. A reply may take one of these or hundreds.
    Heard {
        /// How many bytes.
        bytes: usize,
    },
    /// The last words of a connection that was taken over, before it was of any use: they are about the session before.
    Stale {
        /// All of it.
        reply: &'a Reply,
    },
    /// Bytes behind the server's `220` to STARTTLS: dropped (CVE-2021-38371).
    Injected {
        /// How many.
        bytes: usize,
    },
    /// Bytes behind the client's STARTTLS: dropped (CVE-2011-0411).
    Pipelined {
        /// How many.
        bytes: usize,
    },
    /// Another leg is tried, because the server refused `topic` with `reply`, which ends here for now; or because the driver wanted it.
    /// [`Moved`](Self::Moved) or [`Stayed`](Self::Stayed) follows.
    Moving {
        /// What it is about.
        topic: Topic,
        /// The refusal, if that is why.
        reply: Option<&'a Reply>,
    },
    /// The new leg took over. Commands that it owes replies to are played again, in their order, as sent by us.
    Moved {
        /// The old one, set aside until now, is left with a QUIT.
        quit: bool,
    },
    /// The new leg was of no use. The old one goes on, where there is one.
    Stayed,
    /// The session is decided; what follows is farewell.
    Ended(Ending),
}

/// Where events go. Called in the midst of relaying: it must not block.
pub trait Observer {
    /// Takes one event that happened at `at`.
    fn event(&mut self, at: Instant, event: Event<'_>);
}

/// Nobody listens.
impl Observer for () {
    fn event(&mut self, _: Instant, _: Event<'_>) {}
}

impl<F: FnMut(Instant, Event<'_>)> Observer for F {
    fn event(&mut self, at: Instant, event: Event<'_>) {
        self(at, event);
    }
}
