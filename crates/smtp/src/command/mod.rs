//! Commands, parsed to exact values and written from them.
//!
//! [`Command::parse`] takes a line without its CRLF, as [`crate::line::LineBuffer`] hands it out.
//! What does not parse carries the reply it deserves: [`CommandError::reply`].
//!
//! Parameters that this crate knows are typed; the others are kept as written in `other`, so that
//! a program that ends the session refuses them (555) and one that passes it on can decide.

mod params;
mod parse;
mod xclient;

use std::fmt;

pub use params::{BodyType, DsnReturn, MailParams, Notify, OriginalRecipient, Param, RcptParams};
pub use xclient::{Xclient, XclientProtocol};

use crate::address::{AddressError, ForwardPath, ReversePath};
use crate::reply::Reply;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `EHLO name`, as the client wrote the name (bounded, printable).
    Ehlo(String),
    /// `HELO name`.
    Helo(String),
    /// `MAIL FROM:<path> params`.
    Mail {
        /// Where failures go.
        from: ReversePath,
        /// Its parameters.
        params: MailParams,
    },
    /// `RCPT TO:<path> params`.
    Rcpt {
        /// Where the message goes.
        to: ForwardPath,
        /// Its parameters.
        params: RcptParams,
    },
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]`.
    Bdat {
        /// Bytes in this chunk.
        size: u64,
        /// No chunk follows.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`, whatever follows it.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY text`.
    Vrfy(String),
    /// `EXPN text`.
    Expn(String),
    /// `HELP`, whatever follows it.
    Help,
    /// `STARTTLS`.
    StartTls,
    /// `AUTH mechanism [initial-response]`.
    Auth {
        /// In upper case.
        mechanism: String,
        /// Base64 as sent; `=` is an empty response.
        initial: Option<String>,
    },
    /// `XCLIENT attributes`.
    Xclient(Xclient),
    /// Anything else: the verb, in upper case and bounded.
    Unknown(String),
}

/// Why a line is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The line is not UTF-8, or holds a control character.
    #[error("command with illegal characters")]
    Characters,
    /// Arguments that the verb does not take, or missing ones; what was expected instead.
    #[error("syntax error, expected {0}")]
    Syntax(&'static str),
    /// The path of MAIL.
    #[error("bad reverse-path: {0}")]
    From(AddressError),
    /// The path of RCPT.
    #[error("bad forward-path: {0}")]
    To(AddressError),
    /// A parameter whose value is malformed, or that stands twice.
    #[error("bad value for {0}")]
    Parameter(&'static str),
}

impl CommandError {
    /// What to answer.
    pub fn reply(self) -> Reply {
        let text = self.to_string();
        match self {
            Self::Characters => Reply::new(500, (5, 5, 2), text),
            Self::Syntax(_) => Reply::new(501, (5, 5, 4), text),
            Self::Parameter(_) => Reply::new(501, (5, 5, 4), text),
            Self::From(AddressError::SourceRoute) => Reply::new(553, (5, 1, 7), text),
            Self::From(_) => Reply::new(501, (5, 1, 7), text),
            Self::To(AddressError::SourceRoute) => Reply::new(553, (5, 1, 3), text),
            Self::To(_) => Reply::new(501, (5, 1, 3), text),
        }
    }
}

impl Command {
    /// Parses a line without its CRLF.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        parse::command(line)
    }

    /// The verb.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Ehlo(_) => Verb::Ehlo,
            Self::Helo(_) => Verb::Helo,
            Self::Mail { .. } => Verb::Mail,
            Self::Rcpt { .. } => Verb::Rcpt,
            Self::Data => Verb::Data,
            Self::Bdat { .. } => Verb::Bdat,
            Self::Rset => Verb::Rset,
            Self::Noop => Verb::Noop,
            Self::Quit => Verb::Quit,
            Self::Vrfy(_) => Verb::Vrfy,
            Self::Expn(_) => Verb::Expn,
            Self::Help => Verb::Help,
            Self::StartTls => Verb::StartTls,
            Self::Auth { .. } => Verb::Auth,
            Self::Xclient(_) => Verb::Xclient,
            Self::Unknown(_) => Verb::Unknown,
        }
    }
}

impl fmt::Display for Command {
    /// The line for the wire, without CRLF.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ehlo(name) => write!(f, "EHLO {name}"),
            Self::Helo(name) => write!(f, "HELO {name}"),
            Self::Mail { from, params } => write!(f, "MAIL FROM:<{from}>{params}"),
            Self::Rcpt { to, params } => write!(f, "RCPT TO:<{to}>{params}"),
            Self::Bdat { size, last } => write!(f, "BDAT {size}{}", if *last { " LAST" } else { "" }),
            Self::Vrfy(text) => write!(f, "VRFY {text}"),
            Self::Expn(text) => write!(f, "EXPN {text}"),
            Self::Auth { mechanism, initial: Some(initial) } => write!(f, "AUTH {mechanism} {initial}"),
            Self::Auth { mechanism, initial: None } => write!(f, "AUTH {mechanism}"),
            Self::Xclient(attributes) => write!(f, "XCLIENT{attributes}"),
            Self::Unknown(verb) => f.write_str(verb),
            other => f.write_str(other.verb().as_str()),
        }
    }
}

/// The first word of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Verb {
    Ehlo,
    Helo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    StartTls,
    Auth,
    Xclient,
    Unknown,
}

impl Verb {
    const ALL: [Self; 15] = [
        Self::Ehlo,
        Self::Helo,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Bdat,
        Self::Rset,
        Self::Noop,
        Self::Quit,
        Self::Vrfy,
        Self::Expn,
        Self::Help,
        Self::StartTls,
        Self::Auth,
        Self::Xclient,
    ];

    /// As it stands on the wire; `*` for an unknown one.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ehlo => "EHLO",
            Self::Helo => "HELO",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Bdat => "BDAT",
            Self::Rset => "RSET",
            Self::Noop => "NOOP",
            Self::Quit => "QUIT",
            Self::Vrfy => "VRFY",
            Self::Expn => "EXPN",
            Self::Help => "HELP",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Xclient => "XCLIENT",
            Self::Unknown => "*",
        }
    }

    /// The verb that a line begins with, even if the rest does not parse.
    pub fn of(line: &[u8]) -> Self {
        let word = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        Self::ALL.into_iter().find(|verb| verb.as_str().as_bytes().eq_ignore_ascii_case(word)).unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
