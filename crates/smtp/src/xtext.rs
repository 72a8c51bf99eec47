//! xtext (RFC 3461 §4): printable ASCII with `+HH` for the rest.
//!
//! What comes out of [`decode`] never holds a control character, so that no decoded value can
//! smuggle a header or a command (CVE-2020-28021, CVE-2020-28026).

/// Why a value is not xtext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XtextError {
    /// A byte that must be encoded stands bare, or `+` is not followed by two hexadecimal digits.
    #[error("not xtext")]
    Syntax,
    /// The decoded value holds a control character.
    #[error("xtext hides a control character")]
    Control,
    /// The decoded value is not UTF-8.
    #[error("xtext is not UTF-8")]
    NotUtf8,
}

/// Decodes xtext. Raw UTF-8 is let through, as RFC 6533 allows it beside SMTPUTF8.
pub fn decode(text: &str) -> Result<String, XtextError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                let (high, low) = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = (high, low) else { return Err(XtextError::Syntax) };
                out.push(high << 4 | low);
            }
            b'=' | 0..=0x20 | 0x7f => return Err(XtextError::Syntax),
            other => out.push(other),
        }
    }
    let decoded = String::from_utf8(out).map_err(|_| XtextError::NotUtf8)?;
    if decoded.chars().any(char::is_control) {
        return Err(XtextError::Control);
    }
    Ok(decoded)
}

/// Encodes any text; the result is printable ASCII without `+`, `=` and blanks of its own.
pub fn encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x21..=0x7e).contains(&byte) && byte != b'+' && byte != b'=' {
            out.push(char::from(byte));
        } else {
            out.push('+');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    out
}

/// Upper case only, as the RFC has it, but Postfix and others send lower case as well.
fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_ends_cannot_be_smuggled() {
        assert_eq!(decode("QQ+0D+0AX-Evil:+20yes"), Err(XtextError::Control));
        assert_eq!(decode("a+0"), Err(XtextError::Syntax));
        assert_eq!(decode("a=b"), Err(XtextError::Syntax));
        assert_eq!(decode("a+C2+85"), Err(XtextError::Control), "NEL is a control character too");
        assert_eq!(decode("a+FF"), Err(XtextError::NotUtf8));
        assert_eq!(decode("a+2Bb+3dc").unwrap(), "a+b=c");
    }

    proptest! {
        #[test]
        fn round_trip(text in "\\PC{0,60}") {
            prop_assert_eq!(decode(&encode(&text)), Ok(text));
        }
    }
}
