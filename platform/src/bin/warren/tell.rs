//! How `warren` talks to people.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use warren_config::Problems;
use warren_daemon::escape;

/// Several things that are wrong at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Several(pub Vec<String>);

/// Prints an error to stderr: a line for each problem of a configuration (with the place shown at a terminal) or of the
/// machine, one line for others.
pub fn error(error: &anyhow::Error) {
    eprint!("{}", error_text(error, io::stderr().is_terminal()));
}

fn error_text(error: &anyhow::Error, terminal: bool) -> String {
    let told = |text: &str| format!("warren: {}\n", escape(text));
    if let Some(problems) = error.downcast_ref::<Problems>() {
        problems_text(problems, terminal)
    } else if let Some(Several(all)) = error.downcast_ref() {
        all.iter().map(|one| told(one)).collect()
    } else {
        told(&format!("{error:#}"))
    }
}

/// Prints to stderr what is allowed and yet should not be so.
pub fn warning(text: &str) {
    eprintln!("warren: warning: {}", escape(text));
}

/// A line for each problem, or the place in its file for people at a terminal.
fn problems_text(problems: &Problems, terminal: bool) -> String {
    if terminal {
        return problems.render(true);
    }
    problems.iter().map(|problem| format!("{}\n", escape(&problem.to_string()))).collect()
}

/// Prints a line to stdout. A reader that went away (`warren sessions | head`) is no error.
pub fn line(text: &str) -> anyhow::Result<()> {
    raw(&format!("{text}\n"))
}

/// Prints text to stdout as it is.
pub fn raw(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Prints a line to stdout; `false` if nobody reads any more.
pub fn heard(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// An empty table: ruled at a terminal, aligned columns alone in a pipe.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    if io::stdout().is_terminal() {
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header.iter().copied());
    table
}

/// The lines of a table, without spaces at their ends.
pub fn lines(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

/// A cell with text of a peer.
pub fn cell(text: impl AsRef<str>) -> String {
    escape(text.as_ref()).into_owned()
}

/// Microseconds as people read them.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// Bytes of memory as people read them.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// How long a time in unix milliseconds is ago.
pub fn ago(unix_ms: u64, now_unix_ms: u64) -> String {
    match now_unix_ms.saturating_sub(unix_ms) / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// The present, in unix milliseconds.
pub fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// A time in unix milliseconds, in UTC.
pub fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "?".into(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_has_a_line_of_its_own_and_can_make_no_other() {
        let several = Several(vec!["no user".into(), "a file\nwith a\u{1b}name".into()]).into();
        assert_eq!(error_text(&several, false), "warren: no user\nwarren: a file\\nwith a\\u{1b}name\n");
        let one = anyhow::anyhow!("inner").context("outer");
        assert_eq!(error_text(&one, false), "warren: outer: inner\n");
    }

    #[test]
    fn durations_and_times() {
        assert_eq!([micros(7), micros(1_500), micros(2_250_000)], ["7 µs", "1.5 ms", "2.2 s"]);
        assert_eq!(time(1_700_000_000_000), "2023-11-14 22:13:20Z");
        assert_eq!(time(u64::MAX), "?");
        assert_eq!([ago(5, 0), ago(0, 119_999), ago(0, 120_000)], ["0 s", "119 s", "2 min"]);
        assert_eq!([ago(0, 7_200_000), ago(0, 200_000_000)], ["2 h", "2 d"]);
        assert_eq!(mebibytes(1_500_000), "1.4 MiB");
    }
}
