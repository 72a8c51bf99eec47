//! Lines to commands.

use super::params::{MailParams, RcptParams};
use super::xclient::Xclient;
use super::{Command, CommandError, Verb};
use crate::address::{ForwardPath, ReversePath};

/// Longest name taken in EHLO, HELO and of an unknown verb.
const MAX_WORD: usize = 255;

pub(super) fn command(line: &[u8]) -> Result<Command, CommandError> {
    let text = std::str::from_utf8(line).map_err(|_| CommandError::Characters)?;
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(CommandError::Characters);
    }
    let text = text.trim_end_matches([' ', '\t']);
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim_start_matches(' ');
    match Verb::of(word.as_bytes()) {
        Verb::Ehlo => Ok(Command::Ehlo(name(rest)?)),
        Verb::Helo => Ok(Command::Helo(name(rest)?)),
        Verb::Mail => mail(rest),
        Verb::Rcpt => rcpt(rest),
        Verb::Data => alone(rest, Command::Data),
        Verb::Bdat => bdat(rest),
        Verb::Rset => alone(rest, Command::Rset),
        Verb::Noop => Ok(Command::Noop),
        Verb::Quit => alone(rest, Command::Quit),
        Verb::Vrfy => Ok(Command::Vrfy(rest.to_owned())),
        Verb::Expn => Ok(Command::Expn(rest.to_owned())),
        Verb::Help => Ok(Command::Help),
        Verb::StartTls => alone(rest, Command::StartTls),
        Verb::Auth => auth(rest),
        Verb::Xclient => Xclient::parse(rest).map(Command::Xclient),
        Verb::Unknown => unknown(word),
    }
}

/// Upper case in ASCII only: beyond it there are letters that become ASCII, and a verb that nobody knows (`ſtarttls`) would read as one that all know. So would one of which a tab
/// is cut off.
fn unknown(word: &str) -> Result<Command, CommandError> {
    if word.contains('\t') {
        return Err(CommandError::Characters);
    }
    Ok(Command::Unknown(word[..word.floor_char_boundary(MAX_WORD)].to_ascii_uppercase()))
}

fn alone(rest: &str, command: Command) -> Result<Command, CommandError> {
    if rest.is_empty() { Ok(command) } else { Err(CommandError::Syntax("no argument")) }
}

/// Clients send all kinds of names; one printable word is enough for a trace header.
fn name(rest: &str) -> Result<String, CommandError> {
    if rest.is_empty() || rest.len() > MAX_WORD || rest.contains([' ', '\t']) {
        return Err(CommandError::Syntax("one host name"));
    }
    Ok(rest.to_owned())
}

fn mail(rest: &str) -> Result<Command, CommandError> {
    let (inner, params) = path(rest, "FROM:", "MAIL FROM:<address>")?;
    let from = ReversePath::parse_inner(inner).map_err(CommandError::From)?;
    Ok(Command::Mail { from, params: MailParams::parse(params)? })
}

fn rcpt(rest: &str) -> Result<Command, CommandError> {
    let (inner, params) = path(rest, "TO:", "RCPT TO:<address>")?;
    let to = inner.parse::<ForwardPath>().map_err(CommandError::To)?;
    Ok(Command::Rcpt { to, params: RcptParams::parse(params)? })
}

/// Takes `FROM:<inner> params` apart. A blank behind the colon is what many clients send.
fn path<'a>(rest: &'a str, keyword: &str, expected: &'static str) -> Result<(&'a str, &'a str), CommandError> {
    let syntax = CommandError::Syntax(expected);
    let found = rest.get(..keyword.len()).is_some_and(|word| word.eq_ignore_ascii_case(keyword));
    let behind = if found { rest[keyword.len()..].trim_start_matches(' ') } else { return Err(syntax) };
    let inner = behind.strip_prefix('<').ok_or(syntax)?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                let params = &inner[at + 1..];
                if !params.is_empty() && !params.starts_with(' ') {
                    return Err(syntax);
                }
                return Ok((&inner[..at], params));
            }
            _ => {}
        }
    }
    Err(syntax)
}

fn bdat(rest: &str) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("BDAT size [LAST]");
    let mut words = rest.split_ascii_whitespace();
    let digits = words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit())).ok_or(syntax)?;
    let size = digits.parse().map_err(|_| syntax)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(syntax),
    };
    if words.next().is_some() { Err(syntax) } else { Ok(Command::Bdat { size, last }) }
}

fn auth(rest: &str) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("AUTH mechanism [initial-response]");
    let mut words = rest.split_ascii_whitespace();
    let mechanism = words.next().ok_or(syntax)?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if mechanism.len() > 20 || !mechanism.bytes().all(legal) {
        return Err(syntax);
    }
    let initial = words.next().map(str::to_owned);
    if words.next().is_some() {
        Err(syntax)
    } else {
        Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase(), initial })
    }
}
