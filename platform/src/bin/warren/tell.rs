//! How `warren` talks to people.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use warren_config::Problems;
use warren_daemon::escape;

/// Prints an error to stderr: a line for each problem of a configuration (with the place shown at a terminal), one line
/// for others.
pub fn error(error: &anyhow::Error) {
    match error.downcast_ref::<Problems>() {
        Some(problems) => eprint!("{}", problems_text(problems, io::stderr().is_terminal())),
        None => eprintln!("warren: {}", escape(&format!("{error:#}"))),
    }
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

/// A time in unix milliseconds, in UTC.
pub fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "?".into(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times() {
        assert_eq!([micros(7), micros(1_500), micros(2_250_000)], ["7 µs", "1.5 ms", "2.2 s"]);
        assert_eq!(time(1_700_000_000_000), "2023-11-14 22:13:20Z");
        assert_eq!(time(u64::MAX), "?");
    }
}
