//! Reading one file: its text, and the problems found in it.

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error, Visitor};
use serde_spanned::Spanned;

use crate::problem::{Problem, Problems};

/// A file being read.
pub(crate) struct Checker {
    file: PathBuf,
    text: Arc<str>,
    problems: Problems,
}

impl Checker {
    /// Reads and parses a file; unknown keys and wrong types are problems already here.
    pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<(Self, T), Problem> {
        let bytes = std::fs::read(file).map_err(|error| Problem::of_file(file, format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Problem::of_file(file, format!("line {line} is not UTF-8, expected UTF-8 text"))
        })?;
        Self::parse(file, &text)
    }

    /// As [`Checker::read`], of a text at hand.
    pub(crate) fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<(Self, T), Problem> {
        let text: Arc<str> = text.into();
        match toml::from_str(&text) {
            Ok(value) => Ok((Self { file: file.into(), text, problems: Problems::default() }, value)),
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                Err(Problem::at(file, &text, span, error.message().trim().replace('\n', ", ")))
            }
        }
    }

    /// Notes a problem at a place.
    pub(crate) fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.problems.push(Problem::at(&self.file, &self.text, span, message));
    }

    /// The value that a text stands for, or a noted problem.
    pub(crate) fn value<T, E: Display>(
        &mut self,
        raw: &Spanned<Text>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(&raw.get_ref().0) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(raw.span(), error.to_string());
                None
            }
        }
    }

    /// The value that a text stands for, or the default if there is none.
    pub(crate) fn value_or<T, E: Display>(
        &mut self,
        raw: Option<&Spanned<Text>>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> T {
        raw.and_then(|raw| self.value(raw, parse)).unwrap_or(default)
    }

    /// All values of a list, each of which may stand there once.
    pub(crate) fn list<T: PartialEq, E: Display>(
        &mut self,
        raw: &[Spanned<Text>],
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut values = Vec::with_capacity(raw.len());
        for item in raw {
            match self.value(item, &parse) {
                Some(value) if values.contains(&value) => {
                    self.problem(item.span(), format!("{:?} stands here twice", item.get_ref().0));
                }
                Some(value) => values.push(value),
                None => {}
            }
        }
        values
    }

    /// A number within bounds, or the default if there is none.
    pub(crate) fn number(
        &mut self,
        raw: Option<&Spanned<i64>>,
        default: u32,
        bounds: std::ops::RangeInclusive<u32>,
    ) -> u32 {
        let Some(raw) = raw else { return default };
        match u32::try_from(*raw.get_ref()) {
            Ok(number) if bounds.contains(&number) => number,
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                self.problem(raw.span(), format!("{} is out of bounds, expected {least} to {most}", raw.get_ref()));
                default
            }
        }
    }

    /// Ends the reading.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, Problems> {
        self.problems.or(value)
    }

    /// The file and its text, for problems that show only when all files are read.
    pub(crate) fn source(&self) -> (PathBuf, Arc<str>) {
        (self.file.clone(), Arc::clone(&self.text))
    }
}

/// A text, or a bare number that is taken as its digits: `message_size = 1000` means what `"1000"` means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.into()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}
