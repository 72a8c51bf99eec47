//! AUTH PLAIN (RFC 4616) and LOGIN, without a socket: base64 in, credentials or a challenge out.
//!
//! What is refused here is refused like a wrong password: a NUL in a name, an authzid that is not the login, names and passwords
//! beyond [`MAX_FIELD`]. Only base64 that is none is called malformed.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::passwords::Password;

/// Longest login and longest password, in bytes.
pub const MAX_FIELD: usize = 255;
/// Longest response, in base64: a PLAIN response with three fields of the longest kind.
const MAX_RESPONSE: usize = 4 * MAX_FIELD.div_ceil(3) * 3 + 16;

/// `Username:` in base64, as every client expects it.
const ASK_NAME: &str = "VXNlcm5hbWU6";
/// `Password:` in base64.
const ASK_PASSWORD: &str = "UGFzc3dvcmQ6";

/// A login and a password. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// As given: `alice@acme.example`.
    pub login: String,
    /// As given.
    pub password: Password,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// An exchange that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// PLAIN waits for its one response.
    Plain,
    /// LOGIN waits for the name.
    LoginName,
    /// LOGIN waits for the password.
    LoginPassword {
        /// The name; `None`: one that cannot be, to be refused once the password came.
        login: Option<String>,
    },
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask the client for more, with this challenge in base64.
    Challenge(&'static str, Exchange),
    /// Somebody to verify.
    Verify(Credentials),
    /// Refuse as a wrong password is refused.
    Refuse,
    /// Not base64: 501.
    Malformed,
}

impl Exchange {
    /// Begins with what AUTH said. `None`: not a mechanism of ours.
    pub fn begin(mechanism: &str, initial: Option<&str>) -> Option<Next> {
        let (exchange, first) = match mechanism {
            "PLAIN" => (Exchange::Plain, ""),
            "LOGIN" => (Exchange::LoginName, ASK_NAME),
            _ => return None,
        };
        Some(match initial {
            None => Next::Challenge(first, exchange),
            // RFC 4954 §4: "=" is a response of no bytes.
            Some("=") => exchange.response(""),
            Some(initial) => exchange.response(initial),
        })
    }

    /// Goes on with the client's response.
    pub fn response(self, base64: &str) -> Next {
        if base64.len() > MAX_RESPONSE {
            return Next::Refuse;
        }
        let Ok(bytes) = STANDARD.decode(base64).map(Zeroizing::new) else { return Next::Malformed };
        match self {
            Exchange::Plain => plain(&bytes).map_or(Next::Refuse, Next::Verify),
            Exchange::LoginName => Next::Challenge(ASK_PASSWORD, Exchange::LoginPassword { login: login(&bytes) }),
            Exchange::LoginPassword { login } => match (login, password(&bytes)) {
                (Some(login), Some(password)) => Next::Verify(Credentials { login, password }),
                _ => Next::Refuse,
            },
        }
    }
}

/// `[authzid] NUL authcid NUL password`.
fn plain(bytes: &[u8]) -> Option<Credentials> {
    let mut fields = bytes.split(|byte| *byte == 0);
    let (authzid, name, secret) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || !(authzid.is_empty() || authzid == name) {
        return None;
    }
    Some(Credentials { login: login(name)?, password: password(secret)? })
}

fn login(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let fits = (1..=MAX_FIELD).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

fn password(bytes: &[u8]) -> Option<Password> {
    let fits = (1..=MAX_FIELD).contains(&bytes.len()) && !bytes.contains(&0);
    fits.then(|| bytes.to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(message: &str) -> Next {
        Exchange::begin("PLAIN", Some(&STANDARD.encode(message))).unwrap()
    }

    fn alice(password: &str) -> Next {
        Next::Verify(Credentials { login: "alice@acme.example".into(), password: password.as_bytes().to_vec().into() })
    }

    #[test]
    fn plain_with_and_without_initial_response() {
        assert_eq!(plain("\0alice@acme.example\0secret"), alice("secret"));
        assert_eq!(plain("alice@acme.example\0alice@acme.example\0secret"), alice("secret"));
        assert_eq!(Exchange::begin("PLAIN", None), Some(Next::Challenge("", Exchange::Plain)));
        assert_eq!(Exchange::Plain.response(&STANDARD.encode("\0alice@acme.example\0s")), alice("s"));
    }

    #[test]
    fn login_in_two_steps_or_with_the_name_at_once() {
        let Some(Next::Challenge("VXNlcm5hbWU6", name)) = Exchange::begin("LOGIN", None) else { panic!() };
        let Next::Challenge("UGFzc3dvcmQ6", secret) = name.response("YWxpY2VAYWNtZS5leGFtcGxl") else { panic!() };
        assert_eq!(secret.response("c2VjcmV0"), alice("secret"));
        let Some(Next::Challenge(_, secret)) = Exchange::begin("LOGIN", Some("YWxpY2VAYWNtZS5leGFtcGxl")) else {
            panic!()
        };
        assert_eq!(secret.response("c2VjcmV0"), alice("secret"));
    }

    #[test]
    fn what_is_refused_like_a_wrong_password() {
        for message in [
            "",
            "\0",
            "\0\0",
            "\0alice\0",
            "\0\0secret",
            "bob\0alice\0secret",
            "\0alice\0sec\0ret",
            "\0ali\nce\0secret",
            "alice\0secret",
        ] {
            assert_eq!(plain(message), Next::Refuse, "{message:?}");
        }
        assert_eq!(plain(&format!("\0{}\0x", "a".repeat(256))), Next::Refuse);
        assert_eq!(plain(&format!("\0a\0{}", "x".repeat(256))), Next::Refuse);
        assert_eq!(plain(&"x".repeat(100_000)), Next::Refuse);
        assert_eq!(
            Exchange::LoginPassword { login: Some("a".into()) }.response(&STANDARD.encode("a\0b")),
            Next::Refuse
        );
        assert_eq!(Exchange::begin("PLAIN", Some("=")), Some(Next::Refuse));
        // A bad name is not told before the password came.
        let Next::Challenge(_, secret) = Exchange::LoginName.response("AAAA") else { panic!() };
        assert_eq!(secret.response("c2VjcmV0"), Next::Refuse);
    }

    #[test]
    fn what_is_no_base64() {
        for text in ["*", "a", "YQ", "Y Q==", "YQ==\u{e9}"] {
            assert_eq!(Exchange::begin("PLAIN", Some(text)), Some(Next::Malformed), "{text:?}");
        }
        assert_eq!(Exchange::begin("CRAM-MD5", None), None);
    }
}
