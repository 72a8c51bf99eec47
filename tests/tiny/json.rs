//! As much of JSON as control needs: a value, read whole.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// `None` for what is no JSON.
    pub fn parse(text: &str) -> Option<Json> {
        let mut rest = text.trim();
        let value = value(&mut rest, 16)?;
        rest.trim().is_empty().then_some(value)
    }

    pub fn get(&self, key: &str) -> Option<&Json> {
        let Json::Object(map) = self else { return None };
        map.get(key)
    }

    pub fn text(&self) -> Option<&str> {
        let Json::Text(text) = self else { return None };
        Some(text)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn number(&self) -> Option<u64> {
        let Json::Number(number) = self else { return None };
        Some(*number as u64)
    }

    pub fn texts(&self) -> Vec<String> {
        let Json::List(list) = self else { return Vec::new() };
        list.iter().filter_map(|item| item.text().map(str::to_owned)).collect()
    }
}

/// A string as JSON.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

fn value(rest: &mut &str, depth: u32) -> Option<Json> {
    let depth = depth.checked_sub(1)?;
    for (word, value) in [("null", Json::Null), ("true", Json::Flag(true)), ("false", Json::Flag(false))] {
        if let Some(after) = rest.strip_prefix(word) {
            *rest = after;
            return Some(value);
        }
    }
    match rest.as_bytes().first()? {
        b'"' => string(rest).map(Json::Text),
        b'[' => {
            let mut list = Vec::new();
            many(rest, ']', |rest| {
                list.push(value(rest, depth)?);
                Some(())
            })?;
            Some(Json::List(list))
        }
        b'{' => {
            let mut map = BTreeMap::new();
            many(rest, '}', |rest| {
                let key = string(rest)?;
                *rest = rest.trim_start().strip_prefix(':')?.trim_start();
                map.insert(key, value(rest, depth)?);
                Some(())
            })?;
            Some(Json::Object(map))
        }
        _ => {
            let end = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
            let (number, after) = rest.split_at(end);
            *rest = after;
            number.parse().ok().map(Json::Number)
        }
    }
}

/// What stands between brackets, with commas.
fn many(rest: &mut &str, close: char, mut item: impl FnMut(&mut &str) -> Option<()>) -> Option<()> {
    *rest = rest[1..].trim_start();
    if let Some(after) = rest.strip_prefix(close) {
        *rest = after;
        return Some(());
    }
    loop {
        item(rest)?;
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(close) {
            *rest = after;
            return Some(());
        }
        *rest = rest.strip_prefix(',')?.trim_start();
    }
}

fn string(rest: &mut &str) -> Option<String> {
    let mut text = String::new();
    let mut letters = rest.strip_prefix('"')?.chars();
    loop {
        match letters.next()? {
            '"' => {
                *rest = letters.as_str();
                return Some(text);
            }
            '\\' => match letters.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                'u' => {
                    let code: String = letters.by_ref().take(4).collect();
                    text.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?).unwrap_or('\u{fffd}'));
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}
