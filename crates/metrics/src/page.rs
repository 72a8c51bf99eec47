//! What is told at one moment, and how it is written.

use std::fmt::Write;

/// The two text formats. They differ in how a counter's family is named, and in whether the end is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Version 0.0.4, which every scraper and the textfile collector of the node exporter read.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows, and begins anew with its program. Its name ends in `_total`.
    Counter,
    /// How much there is now.
    Gauge,
    /// How many were at most how large.
    Histogram,
}

impl Kind {
    /// The word in the text.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Families, each of another name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    pub(crate) families: Vec<Family>,
}

/// Numbers of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Its name; a counter's with `_total`.
    pub name: String,
    /// What it means.
    pub help: String,
    /// What its numbers are.
    pub kind: Kind,
    /// Its numbers. A family without any is not written.
    pub samples: Vec<Sample>,
}

/// A number.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Behind the family's name: `_bucket`, `_sum` and `_count` of histograms, else empty.
    pub suffix: &'static str,
    /// What it is a number of, in this order.
    pub labels: Vec<(String, String)>,
    /// The number.
    pub value: f64,
}

/// A histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Buckets<'a> {
    /// How many were at most so large, in rising order.
    pub up_to: &'a [(f64, u64)],
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub sum: f64,
}

/// The rows of the table below a heading, as [`Page::outline`] has them: so that a test can hold one against the other.
#[must_use]
pub fn outline(document: &str, heading: &str) -> Vec<String> {
    let below = document.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("##"));
    let rows = below.filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split(" |").take(3).collect::<Vec<_>>().join(" |").trim_end().to_owned()).collect()
}

impl Page {
    /// A family of counters; its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> &mut Family {
        self.family(Kind::Counter, name, help)
    }

    /// A family of gauges.
    pub fn gauge(&mut self, name: &str, help: &str) -> &mut Family {
        self.family(Kind::Gauge, name, help)
    }

    /// A family of histograms.
    pub fn histogram(&mut self, name: &str, help: &str) -> &mut Family {
        self.family(Kind::Histogram, name, help)
    }

    fn family(&mut self, kind: Kind, name: &str, help: &str) -> &mut Family {
        self.families.push(Family { name: name.into(), help: help.into(), kind, samples: Vec::new() });
        self.families.last_mut().expect("pushed above")
    }

    /// All families.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The number of this name with exactly these labels, in whatever order.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = self.families.iter().find(|family| family.name == name)?;
        let fits = |sample: &&Sample| {
            let known = |(name, value): &(&str, &str)| sample.labels.iter().any(|(n, v)| n == name && v == value);
            sample.suffix.is_empty() && sample.labels.len() == labels.len() && labels.iter().all(known)
        };
        family.samples.iter().find(fits).map(|sample| sample.value)
    }

    /// Adds another program's families. Those whose name is taken are left out: a name twice would spoil the whole page.
    pub fn append(&mut self, other: Self) {
        for family in other.families {
            if self.families.iter().all(|known| known.name != family.name) {
                self.families.push(family);
            }
        }
    }

    /// Each family as a table of it begins: name, type, labels.
    #[must_use]
    pub fn outline(&self) -> Vec<String> {
        let row = |family: &Family| {
            let labels = family.samples.first().map(|sample| &sample.labels[..]).unwrap_or_default();
            let labels = labels.iter().filter(|(name, _)| name != "le").map(|(name, _)| format!("`{name}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            format!("| `{}` | {} | {labels}", family.name, family.kind.word()).trim_end().to_owned()
        };
        self.families.iter().map(row).collect()
    }

    /// The text.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        let mut text = String::new();
        for family in self.families.iter().filter(|family| !family.samples.is_empty()) {
            family.render(format, &mut text);
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

impl Family {
    /// A number.
    pub fn add(&mut self, labels: &[(&str, &str)], number: u64) -> &mut Self {
        #[expect(clippy::cast_precision_loss, reason = "the format's numbers are these; 2^53 is far away")]
        self.measure(labels, number as f64)
    }

    /// A number with a fraction.
    pub fn measure(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.push("", labels, value);
        self
    }

    /// A histogram.
    pub fn spread(&mut self, labels: &[(&str, &str)], buckets: &Buckets<'_>) -> &mut Self {
        #[expect(clippy::cast_precision_loss, reason = "the format's numbers are these")]
        for (bound, count) in buckets.up_to.iter().copied().chain([(f64::INFINITY, buckets.count)]) {
            let bound = number(bound);
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.push("_bucket", &labels, count as f64);
        }
        self.push("_sum", labels, buckets.sum);
        #[expect(clippy::cast_precision_loss, reason = "the format's numbers are these")]
        self.push("_count", labels, buckets.count as f64);
        self
    }

    fn push(&mut self, suffix: &'static str, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.push(Sample { suffix, labels, value });
    }

    fn render(&self, format: Format, text: &mut String) {
        let named = match format {
            Format::OpenMetrics if self.kind == Kind::Counter => self.name.strip_suffix("_total"),
            _ => None,
        };
        let (named, word) = (named.unwrap_or(&self.name), self.kind.word());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {named} {}\n# TYPE {named} {word}", escaped(&self.help));
        for sample in &self.samples {
            text.push_str(&self.name);
            text.push_str(sample.suffix);
            for (place, (name, value)) in sample.labels.iter().enumerate() {
                let _ = write!(text, "{}{name}=\"{}\"", if place == 0 { '{' } else { ',' }, escaped(value));
            }
            let _ = writeln!(text, "{} {}", if sample.labels.is_empty() { "" } else { "}" }, value(sample.value));
        }
    }
}

/// A value: whole numbers without a fraction.
fn value(value: f64) -> String {
    if value.is_infinite() { number(value) } else { value.to_string() }
}

/// A bound in its canonical form, with a fraction.
fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        value => format!("{value:?}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut page = Page::default();
        page.counter("warren_starts_total", "Starts of containers.").add(&[("reason", "due")], 7);
        page.gauge("warren_empty", "Nothing of this.");
        page.gauge("warren_up", "Whether it answered.").add(&[("program", "a\"b\\c\nd")], 1);
        let buckets = Buckets { up_to: &[(0.0025, 2), (1.0, 3)], count: 4, sum: 7.5 };
        page.histogram("warren_cold_start_seconds", "How long.").spread(&[("slot", "warm")], &buckets);
        page
    }

    const REST: &str = "# HELP warren_up Whether it answered.\n# TYPE warren_up gauge\nwarren_up{program=\"a\\\"b\\\\c\\nd\"} 1\n\
        # HELP warren_cold_start_seconds How long.\n# TYPE warren_cold_start_seconds histogram\n\
        warren_cold_start_seconds_bucket{slot=\"warm\",le=\"0.0025\"} 2\nwarren_cold_start_seconds_bucket{slot=\"warm\",le=\"1.0\"} 3\n\
        warren_cold_start_seconds_bucket{slot=\"warm\",le=\"+Inf\"} 4\nwarren_cold_start_seconds_sum{slot=\"warm\"} 7.5\n\
        warren_cold_start_seconds_count{slot=\"warm\"} 4\n";

    #[test]
    fn is_written_in_both_formats() {
        let counter = "warren_starts_total{reason=\"due\"} 7\n";
        let plain = format!(
            "# HELP warren_starts_total Starts of containers.\n# TYPE warren_starts_total counter\n{counter}{REST}"
        );
        assert_eq!(page().render(Format::Prometheus), plain);
        let open =
            format!("# HELP warren_starts Starts of containers.\n# TYPE warren_starts counter\n{counter}{REST}# EOF\n");
        assert_eq!(page().render(Format::OpenMetrics), open);
    }

    #[test]
    fn a_name_is_there_once() {
        let mut both = page();
        let mut other = Page::default();
        other.gauge("warren_up", "Another.").add(&[], 0);
        other.gauge("warren_more", "More.").add(&[], 2);
        both.append(other);
        assert_eq!(both.families().len(), page().families().len() + 1);
        assert_eq!(both.value("warren_more", &[]), Some(2.0));
        assert_eq!(both.value("warren_up", &[]), None, "other labels");
        assert_eq!(both.value("warren_starts_total", &[("reason", "due")]), Some(7.0));
    }
}
