//! The table: what is most special stands first. Texts are in lower case, lines joined by a space.
//!
//! `sites` is read before `words`: a big site means by its words what it chose them to mean.

mod sites;
mod words;

use super::{About, Class, When};
pub(super) use sites::SITES;
pub(super) use words::WORDS;

/// One line of the table. An empty list asks for nothing.
pub(super) struct Rule {
    /// Its name in records, unique.
    pub(super) name: &'static str,
    /// When it speaks.
    pub(super) when: When,
    /// One of these stands in the text, at the beginning of a word.
    pub(super) words: &'static [&'static str],
    /// The enhanced code ends so.
    pub(super) status: &'static [&'static str],
    /// The site that keeps a list of its own.
    pub(super) list: Option<&'static str>,
    pub(super) class: Class,
    pub(super) about: About,
}

type Words = &'static [&'static str];

const fn words(name: &'static str, when: When, class: Class, about: About, words: Words) -> Rule {
    Rule { name, when, words, status: &[], list: None, class, about }
}

const fn status(name: &'static str, when: When, class: Class, about: About, status: Words) -> Rule {
    Rule { name, when, words: &[], status, list: None, class, about }
}

/// An address refused by the site's own reputation.
const fn listed(name: &'static str, list: &'static str, words: Words) -> Rule {
    Rule {
        name,
        when: When::Always,
        words,
        status: &[],
        list: Some(list),
        class: Class::BlockListed,
        about: About::Egress,
    }
}
