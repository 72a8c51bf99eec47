//! The policy's state as rows, and back.
//!
//! The state is opaque; as JSON it is fields that hold lists and maps of many small things. An entry of a map becomes a row of its own, and so
//! does a piece of a list, so that a save writes what changed and not everything.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::egress::State;

/// All that is remembered, by field and part, as JSON.
pub type Rows = BTreeMap<(String, String), String>;

/// Entries of a list in one row: lists grow at their end and change anywhere.
const PIECE: usize = 32;
/// Before the number of a piece of a list.
const LIST: char = '#';
/// Before the key of an entry of a map.
const ENTRY: char = '.';

/// The rows of a state.
pub fn rows(state: &State) -> Rows {
    match serde_json::to_value(state) {
        Ok(Value::Object(fields)) => taken_apart(fields),
        // A state is a struct of plain values, so it is always an object.
        _ => Rows::new(),
    }
}

/// The state that these rows are of.
pub fn state(rows: &Rows) -> Result<State, serde_json::Error> {
    serde_json::from_value(Value::Object(put_together(rows)?))
}

fn taken_apart(fields: Map<String, Value>) -> Rows {
    let mut rows = Rows::new();
    for (field, value) in fields {
        match value {
            Value::Array(items) => {
                for (number, piece) in items.chunks(PIECE).enumerate() {
                    rows.insert((field.clone(), format!("{LIST}{number:08}")), Value::from(piece).to_string());
                }
            }
            Value::Object(entries) => {
                let entry =
                    |(key, value): (String, Value)| ((field.clone(), format!("{ENTRY}{key}")), value.to_string());
                rows.extend(entries.into_iter().map(entry));
            }
            value => {
                rows.insert((field, String::new()), value.to_string());
            }
        }
    }
    rows
}

fn put_together(rows: &Rows) -> Result<Map<String, Value>, serde_json::Error> {
    let mut fields = Map::new();
    for ((field, part), json) in rows {
        let value: Value = serde_json::from_str(json)?;
        match (part.chars().next(), value) {
            (Some(LIST), Value::Array(piece)) => {
                let list = fields.entry(field.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.extend(piece);
                }
            }
            (Some(ENTRY), value) => {
                let map = fields.entry(field.as_str()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(part[ENTRY.len_utf8()..].to_owned(), value);
                }
            }
            (_, value) => {
                fields.insert(field.clone(), value);
            }
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What survives: an empty list or map comes back as none, which a state takes for empty.
    fn without_empty(fields: Map<String, Value>) -> Map<String, Value> {
        let empty =
            |value: &Value| value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        fields.into_iter().filter(|(_, value)| !empty(value)).collect()
    }

    fn values() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![
            Just(Value::Null),
            any::<u32>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just(Value::Array(Vec::new()))
        ];
        let list = prop::collection::vec(plain.clone(), 0..3 * PIECE).prop_map(Value::Array);
        let map = prop::collection::btree_map(".*", plain.clone(), 0..5)
            .prop_map(|map| Value::Object(map.into_iter().collect()));
        prop_oneof![plain, list, map]
    }

    proptest! {
        #[test]
        fn what_was_taken_apart_is_put_together_again(fields in prop::collection::btree_map("[a-z#.]*", values(), 0..4)) {
            let fields: Map<String, Value> = fields.into_iter().collect();
            prop_assert_eq!(put_together(&taken_apart(fields.clone())).unwrap(), without_empty(fields));
        }
    }

    #[test]
    fn a_change_of_one_thing_changes_one_row() {
        let fields = |changed: usize| {
            let list: Vec<Value> = (0..1_000).map(|n| Value::from(u64::from(n == changed))).collect();
            [("list".to_owned(), Value::Array(list))].into_iter().collect::<Map<_, _>>()
        };
        let (before, after) = (taken_apart(fields(1_000)), taken_apart(fields(500)));
        assert_eq!(before.len(), 1_000_usize.div_ceil(PIECE));
        assert_eq!(before.iter().filter(|row| after.get(row.0) != Some(row.1)).count(), 1);
    }

    #[test]
    fn a_row_that_is_no_json_is_told() {
        let rows = Rows::from([(("health".to_owned(), "#0".to_owned()), "{".to_owned())]);
        assert!(state(&rows).is_err());
        assert_eq!(state(&Rows::new()).unwrap(), State::default());
    }
}
