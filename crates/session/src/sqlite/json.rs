//! JSON, written at once where most texts need nothing done to them.

use std::borrow::Cow;

use crate::text::shown;

/// The list of arrays that was written, no larger than it is, and its place empty.
pub(super) fn taken(list: &mut String) -> String {
    list.push(']');
    let taken = list.clone();
    list.clear();
    taken
}

/// An array, as it grows within a list of arrays.
pub(super) struct Json<'a> {
    to: &'a mut String,
    first: bool,
}

impl<'a> Json<'a> {
    /// One more array at the end of a list of them, which is empty or open.
    pub(super) fn next(list: &'a mut String) -> Self {
        list.push_str(if list.is_empty() { "[[" } else { ",[" });
        Self { to: list, first: true }
    }

    /// A number.
    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.comma();
        self.digits(number);
        self
    }

    /// A text; NUL in it becomes what stands for it.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.comma();
        self.quoted(text);
        self
    }

    /// What may be absent.
    pub(super) fn option<T>(
        &mut self,
        value: Option<T>,
        write: impl for<'b> FnOnce(&'b mut Self, T) -> &'b mut Self,
    ) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => {
                self.comma();
                self.to.push_str("null");
                self
            }
        }
    }

    /// Texts under their numbers.
    pub(super) fn object<'b>(&mut self, members: impl Iterator<Item = (u32, &'b str)>) -> &mut Self {
        self.comma();
        self.to.push('{');
        for (place, (n, text)) in members.enumerate() {
            self.to.push_str(if place > 0 { ",\"" } else { "\"" });
            self.digits(n.into());
            self.to.push_str("\":");
            self.quoted(text);
        }
        self.to.push('}');
        self
    }

    /// That was all of it.
    pub(super) fn end(&mut self) {
        self.to.push(']');
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.to.push(',');
        }
    }

    fn digits(&mut self, mut number: u64) {
        let (mut digits, mut at) = ([0; 20], 20);
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.to.push_str(std::str::from_utf8(&digits[at..]).expect("digits are ASCII"));
    }

    fn quoted(&mut self, text: &str) {
        // Without a way out of the loop, so that it looks at many bytes at once.
        let odd = text.bytes().fold(false, |odd, byte| odd | (byte < 0x20) | (byte == b'"') | (byte == b'\\'));
        if odd {
            let text = match shown(text) {
                Cow::Borrowed(text) => serde_json::to_string(text),
                Cow::Owned(text) => serde_json::to_string(&text),
            };
            self.to.push_str(&text.expect("a text is JSON"));
        } else {
            self.to.push('"');
            self.to.push_str(text);
            self.to.push('"');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers in prop::collection::vec(any::<u64>(), 1..4), texts in prop::collection::vec("(\\PC|[\u{1}-\u{1f}]){0,20}", 1..4)) {
            let mut list = String::new();
            let mut expected = Vec::new();
            for (number, text) in numbers.iter().zip(&texts) {
                let members = [(7, text.as_str()), (12, "x")];
                Json::next(&mut list).number(*number).text(text).option(None, Json::text).option(Some(1), Json::number).object(members.into_iter()).end();
                expected.push(json!([number, text, null, 1, { "7": text, "12": "x" }]));
            }
            prop_assert_eq!(serde_json::from_str::<Value>(&taken(&mut list)).unwrap(), Value::Array(expected));
        }
    }

    #[test]
    fn a_nul_is_shown() {
        let mut list = String::new();
        Json::next(&mut list).text("a\0b").object([].into_iter()).end();
        assert_eq!(list, "[[\"a\u{2400}b\",{}]");
    }
}
