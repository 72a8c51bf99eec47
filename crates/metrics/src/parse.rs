//! Reads a page, and takes nothing for one that is not.
//!
//! Stricter than scrapers are: every number stands below its family's `# HELP` and `# TYPE`, no name and no number comes twice, counters end in `_total`
//! and are not negative, histograms add up, timestamps and exemplars are not used.

use std::collections::HashSet;

use crate::page::{Family, Kind, Page, Sample};

/// The longest page: some fifty thousand numbers.
const LONGEST: usize = 8 << 20;

/// Not a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    /// Where, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Reads either [`Format`](crate::Format); which one is told by whether there is an end mark.
pub fn parse(text: &str) -> Result<Page, Malformed> {
    let lines = text.matches('\n').count();
    let of = |line, what| Malformed { line, what };
    if text.len() > LONGEST {
        return Err(of(lines, "too much for a page"));
    }
    let (body, open) = match text.strip_suffix("# EOF\n") {
        Some(body) => (body, true),
        None => (text, false),
    };
    if !body.is_empty() && !body.ends_with('\n') {
        return Err(of(lines + 1, "a line without an end"));
    }
    let mut reader = Reader { open, ..Reader::default() };
    for (number, line) in body.split_terminator('\n').enumerate() {
        reader.line(line).map_err(|what| of(number + 1, what))?;
    }
    reader.close().map_err(|what| of(lines, what))?;
    Ok(reader.page)
}

#[derive(Default)]
struct Reader {
    open: bool,
    page: Page,
    names: HashSet<String>,
    /// Of the family that is being read.
    series: HashSet<(&'static str, Vec<(String, String)>)>,
    help: Option<(String, String)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            self.close()?;
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            self.help = Some((name.to_owned(), unescaped(help)?));
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            return self.family(rest);
        }
        if line.starts_with('#') {
            return Err("neither HELP nor TYPE");
        }
        self.sample(line)
    }

    fn family(&mut self, rest: &str) -> Result<(), &'static str> {
        let (name, word) = rest.split_once(' ').ok_or("a TYPE without a type")?;
        let (helped, help) = self.help.take().ok_or("a TYPE without a HELP before it")?;
        let kinds = [Kind::Counter, Kind::Gauge, Kind::Histogram];
        let kind = kinds.into_iter().find(|kind| kind.word() == word).ok_or("a type that is not used here")?;
        let counter = kind == Kind::Counter;
        let name = if counter && self.open { format!("{name}_total") } else { name.to_owned() };
        if helped != rest[..rest.len() - word.len() - 1] {
            return Err("HELP and TYPE of different names");
        }
        if !is_name(&name) || counter != name.ends_with("_total") {
            return Err("not a name for this type");
        }
        if !self.names.insert(name.clone()) {
            return Err("a name that was there before");
        }
        self.page.families.push(Family { name, help, kind, samples: Vec::new() });
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), &'static str> {
        if self.help.is_some() {
            return Err("a HELP without a TYPE");
        }
        let family = self.page.families.last_mut().ok_or("a number without a family")?;
        let rest = line.strip_prefix(family.name.as_str()).ok_or("a number of another family")?;
        let suffixes: &[&str] = if family.kind == Kind::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
        let found = suffixes.iter().find_map(|suffix| Some((*suffix, rest.strip_prefix(suffix)?)));
        let (suffix, rest) = found.ok_or("a suffix that this type has not")?;
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        let value: f64 = rest.strip_prefix(' ').and_then(|value| value.parse().ok()).ok_or("not a number")?;
        if family.kind != Kind::Gauge && (value.is_nan() || value < 0.0) {
            return Err("not a count");
        }
        if !self.series.insert((suffix, labels.clone())) {
            return Err("a number that was there before");
        }
        family.samples.push(Sample { suffix, labels, value });
        Ok(())
    }

    /// The family that was being read is whole.
    fn close(&mut self) -> Result<(), &'static str> {
        self.series.clear();
        if self.help.is_some() {
            return Err("a HELP without a TYPE");
        }
        match self.page.families.last() {
            Some(family) if family.samples.is_empty() => Err("a family without numbers"),
            Some(family) if family.kind == Kind::Histogram => histogram(family),
            _ => Ok(()),
        }
    }
}

/// Every histogram of a family rises to its count.
fn histogram(family: &Family) -> Result<(), &'static str> {
    let mut samples = family.samples.iter().peekable();
    while samples.peek().is_some() {
        let (mut bound, mut below) = (f64::NEG_INFINITY, 0.0);
        while let Some(bucket) = samples.next_if(|sample| sample.suffix == "_bucket") {
            let le = bucket.labels.last().filter(|(name, _)| name == "le").ok_or("a bucket without its bound")?;
            let le: f64 = le.1.parse().map_err(|_| "a bound that is no number")?;
            if le <= bound || bucket.value < below {
                return Err("buckets that do not rise");
            }
            (bound, below) = (le, bucket.value);
        }
        let sum = samples.next().filter(|sample| sample.suffix == "_sum");
        let count = samples.next().filter(|sample| sample.suffix == "_count");
        let (Some(_), Some(count)) = (sum, count) else { return Err("a histogram without its sum and count") };
        if bound != f64::INFINITY || below != count.value {
            return Err("a histogram that does not add up");
        }
    }
    Ok(())
}

type Labels = Vec<(String, String)>;

/// The labels behind `{`, and what stands behind `}`.
fn labels(mut rest: &str) -> Result<(Labels, &str), &'static str> {
    let mut labels = Labels::new();
    loop {
        let (name, value) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) || name.contains(':') || labels.iter().any(|(known, _)| known == name) {
            return Err("not a name for a label, or one twice");
        }
        let end = end_of_value(value).ok_or("a label's value without an end")?;
        labels.push((name.to_owned(), unescaped(&value[..end])?));
        rest = &value[end + 1..];
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok((labels, behind));
        }
        rest = rest.strip_prefix(',').ok_or("neither , nor } behind a label")?;
    }
}

/// Where the closing quote stands.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escape = false;
    text.bytes().position(|byte| {
        let quote = byte == b'"' && !escape;
        escape = byte == b'\\' && !escape;
        quote
    })
}

fn unescaped(text: &str) -> Result<String, &'static str> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(same @ ('\\' | '"')) => same,
                _ => return Err("an escape that is not known"),
            },
            other => other,
        });
    }
    Ok(plain)
}

fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || byte == b':';
    name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Buckets, Format};

    fn refused(text: &str) -> &'static str {
        parse(text).expect_err(text).what
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let family = "# HELP a_total A.\n# TYPE a_total counter\n";
        assert_eq!(refused("a 1\n"), "a number without a family");
        assert_eq!(refused(&format!("{family}a_total 1")), "a line without an end");
        assert_eq!(refused(&format!("{family}b_total 1\n")), "a number of another family");
        assert_eq!(refused(&format!("{family}a_total -1\n")), "not a count");
        assert_eq!(refused(&format!("{family}a_total NaN\n")), "not a count");
        assert_eq!(refused(&format!("{family}a_total one\n")), "not a number");
        assert_eq!(refused(&format!("{family}a_total 1 1700000000\n")), "not a number");
        assert_eq!(refused(&format!("{family}a_total 1\na_total 2\n")), "a number that was there before");
        assert_eq!(refused(&format!("{family}a_total 1\n{family}a_total 2\n")), "a name that was there before");
        assert_eq!(refused(family), "a family without numbers");
        assert_eq!(refused("# HELP a A.\n# TYPE a counter\na 1\n"), "not a name for this type");
        assert_eq!(refused("# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n"), "not a name for this type");
        assert_eq!(refused("# HELP a A.\n# TYPE b gauge\nb 1\n"), "HELP and TYPE of different names");
        assert_eq!(refused("# TYPE b gauge\nb 1\n"), "a TYPE without a HELP before it");
        assert_eq!(refused("# EOF\n# HELP a A.\n"), "neither HELP nor TYPE");
        let labelled = |labels: &str| refused(&format!("{family}a_total{{{labels}}} 1\n"));
        assert_eq!(labelled("b"), "a label without a value");
        assert_eq!(labelled("b=\"c"), "a label's value without an end");
        assert_eq!(labelled("b=\"c\"d=\"e\""), "neither , nor } behind a label");
        assert_eq!(labelled("1=\"c\""), "not a name for a label, or one twice");
        assert_eq!(labelled("b=\"c\",b=\"c\""), "not a name for a label, or one twice");
        assert_eq!(labelled("b=\"\\t\""), "an escape that is not known");
    }

    #[test]
    fn a_histogram_has_to_add_up() {
        let of = |rows: &str| parse(&format!("# HELP h H.\n# TYPE h histogram\n{rows}"));
        assert!(of("h_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n").is_ok());
        for (rows, what) in [
            ("h_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 3\n", "does not add up"),
            ("h_bucket{le=\"1.0\"} 1\nh_sum 3\nh_count 1\n", "does not add up"),
            ("h_bucket{le=\"1.0\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n", "do not rise"),
            ("h_bucket{le=\"+Inf\"} 2\nh_count 2\n", "without its sum"),
            ("h_bucket 2\nh_sum 3\nh_count 2\n", "without its bound"),
            ("h 2\n", "a suffix that this type has not"),
        ] {
            let refused = of(rows).expect_err(rows);
            assert!(refused.what.contains(what), "{rows}: {refused}");
        }
    }

    fn families() -> impl Strategy<Value = Vec<Family>> {
        let labels = || prop::collection::btree_map("[a-z_]{1,8}", ".*", 0..4);
        let sample = (labels(), 0.0..1e12);
        let kind = prop_oneof![Just(Kind::Counter), Just(Kind::Gauge), Just(Kind::Histogram)];
        let family = (kind, ".*", prop::collection::vec(sample, 1..4));
        prop::collection::vec(family, 0..5).prop_map(|families| {
            let mut page = Page::default();
            for (number, (kind, help, samples)) in families.into_iter().enumerate() {
                let total = if kind == Kind::Counter { "_total" } else { "" };
                let mut family = Family { name: format!("f{number}{total}"), help, kind, samples: Vec::new() };
                for (number, (labels, value)) in samples.into_iter().enumerate() {
                    let number = number.to_string();
                    let mut labels: Vec<_> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                    labels.retain(|(name, _)| *name != "le");
                    labels.push(("n0", &number));
                    let up_to = [(0.5, 1), (value + 1.0, 2)];
                    match kind {
                        Kind::Histogram => family.spread(&labels, &Buckets { up_to: &up_to, count: 3, sum: value }),
                        _ => family.measure(&labels, value),
                    };
                }
                page.families.push(family);
            }
            page.families
        })
    }

    proptest! {
        /// Whatever help and labels say.
        #[test]
        fn what_was_written_is_read_again(families in families()) {
            let page = Page { families };
            for format in [Format::Prometheus, Format::OpenMetrics] {
                prop_assert_eq!(parse(&page.render(format)).unwrap(), page.clone());
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "(# (HELP|TYPE|EOF)| |[a-z_{}\",=\\\\]|[0-9.]|\n)*") {
            let _ = parse(&text);
        }
    }
}
