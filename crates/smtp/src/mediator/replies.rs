//! Every reply that a mediator makes itself.

use crate::Reply;
use crate::line::LineError;

pub(super) fn say_hello_first() -> Reply {
    Reply::new(503, (5, 5, 1), "say EHLO first")
}

pub(super) fn session_refused() -> Reply {
    Reply::new(503, (5, 5, 1), "the server refused this session; only QUIT is left")
}

pub(super) fn ok() -> Reply {
    Reply::new(250, (2, 0, 0), "ok")
}

pub(super) fn bye() -> Reply {
    Reply::new(221, (2, 0, 0), "bye")
}

pub(super) fn no_tls_here() -> Reply {
    Reply::new(502, (5, 5, 1), "STARTTLS is not offered here")
}

pub(super) fn go_ahead() -> Reply {
    Reply::new(220, (2, 0, 0), "go ahead")
}

pub(super) fn under_tls_already() -> Reply {
    Reply::new(503, (5, 5, 1), "TLS is there already")
}

pub(super) fn not_in_a_transaction() -> Reply {
    Reply::new(503, (5, 5, 1), "not in a mail transaction")
}

/// RFC 3207 §4.
pub(super) fn starttls_first() -> Reply {
    Reply::new(530, (5, 7, 0), "must issue a STARTTLS command first")
}

pub(super) fn no_auth_here() -> Reply {
    Reply::new(503, (5, 5, 1), "AUTH is not possible now")
}

pub(super) fn no_xclient_here() -> Reply {
    Reply::new(550, (5, 7, 0), "not authorized")
}

pub(super) fn unknown_command() -> Reply {
    Reply::new(500, (5, 5, 2), "command not recognized")
}

pub(super) fn bad_line(error: LineError) -> Reply {
    match error {
        LineError::TooLong => Reply::new(500, (5, 5, 6), "line too long"),
        LineError::BareCr | LineError::BareLf | LineError::Nul => {
            Reply::new(500, (5, 5, 2), "bare CR, LF or NUL in a command")
        }
    }
}

pub(super) fn too_many_errors() -> Reply {
    Reply::new(421, (4, 7, 0), "too many errors")
}

pub(super) fn too_many_commands() -> Reply {
    Reply::new(421, (4, 7, 0), "too many commands without a message")
}

pub(super) fn talked_before_354() -> Reply {
    Reply::new(421, (4, 5, 0), "content before 354; closing")
}

pub(super) fn too_much_held() -> Reply {
    Reply::new(421, (4, 5, 0), "too much sent before the reply; closing")
}

pub(super) fn bad_chunk() -> Reply {
    Reply::new(421, (4, 5, 2), "BDAT malformed or out of place; closing")
}

pub(super) fn bare_line_end() -> Reply {
    Reply::new(550, (5, 6, 11), "bare CR or LF in the message")
}

pub(super) fn closing() -> Reply {
    Reply::new(421, (4, 3, 2), "closing this session")
}

pub(super) fn draining() -> Reply {
    Reply::new(421, (4, 3, 2), "going down; try again")
}

pub(super) fn server_lost() -> Reply {
    Reply::new(421, (4, 4, 2), "lost the connection to the server")
}

pub(super) fn server_garbled() -> Reply {
    Reply::new(421, (4, 5, 0), "the server broke the protocol")
}

pub(super) fn server_silent() -> Reply {
    Reply::new(421, (4, 4, 2), "the server does not answer")
}

pub(super) fn client_silent() -> Reply {
    Reply::new(421, (4, 4, 2), "timeout")
}

pub(super) fn tls_not_offered() -> Reply {
    Reply::new(421, (4, 7, 4), "TLS is required and the server does not offer it")
}

pub(super) fn tls_failed() -> Reply {
    Reply::new(421, (4, 7, 5), "TLS is required and could not be established")
}

pub(super) fn sender_ok() -> Reply {
    Reply::new(250, (2, 1, 0), "ok")
}

pub(super) fn nested_mail() -> Reply {
    Reply::new(503, (5, 5, 1), "there is a MAIL already")
}

pub(super) fn no_recipients() -> Reply {
    Reply::new(503, (5, 5, 1), "no valid recipients")
}

pub(super) fn requiretls() -> Reply {
    Reply::new(550, (5, 7, 30), "REQUIRETLS support required")
}

pub(super) fn weaker_tls() -> Reply {
    Reply::new(451, (4, 7, 5), "the server's TLS is weaker when reached from elsewhere")
}

pub(super) fn covers_less() -> Reply {
    Reply::new(451, (4, 3, 5), "the server offers less when reached from elsewhere")
}

/// Whatever closes or refuses another leg delays one message.
pub(super) fn not_over_this_leg(reason: &Reply) -> Reply {
    match reason.code {
        421 => Reply { code: 451, ..reason.clone() },
        451 => reason.clone(),
        _ => Reply::new(451, (4, 4, 1), reason.text()),
    }
}

pub(super) fn hand_over_refused() -> Reply {
    Reply::new(421, (4, 3, 2), "the mail service cannot take this session now")
}
