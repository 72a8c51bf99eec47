//! What is wrong with a configuration: where, what, and what was expected.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use thiserror::Error;

/// One error. Displays as a line, `file:line:column: what`.
#[derive(Debug, Clone, Error)]
pub struct Problem {
    file: PathBuf,
    message: String,
    /// Boxed: problems are rare and travel through many results.
    place: Option<Box<Place>>,
}

/// Where in the file.
#[derive(Debug, Clone)]
struct Place {
    text: NamedSource<Arc<str>>,
    span: Range<usize>,
    line: usize,
    column: usize,
}

impl Problem {
    /// A problem of the file as a whole: it is missing, not readable, not named as it should be.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.into(), message: message.into(), place: None }
    }

    /// A problem at a place within the file's text.
    pub fn at(file: &Path, text: &Arc<str>, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let place = Place {
            text: NamedSource::new(file.display().to_string(), Arc::clone(text)),
            span: start..span.end.max(start),
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
        };
        Self { file: file.into(), message: message.into(), place: Some(Box::new(place)) }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Line and column, from 1.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.position() {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl Diagnostic for Problem {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|place| &place.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = LabeledSpan::new(None, place.span.start, place.span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

/// All that is wrong; never empty as an error. Displays as one line each.
#[derive(Debug, Clone, Default, Error)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems, in the order of files and lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Adds those of another.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// `value` if there is no problem.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by(|a, b| (&a.file, a.position()).cmp(&(&b.file, b.position())));
        Err(self)
    }

    /// For people at a terminal: the line in question with a mark under the place.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_context_lines(1);
        let mut text = String::new();
        for problem in &self.0 {
            if handler.render_report(&mut text, problem).is_err() {
                text.push_str(&format!("{problem}\n"));
            }
        }
        text
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
