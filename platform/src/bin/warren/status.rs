//! `warren status`: how the node is.

use warren_control::api::{Spread, Status};
use warren_control::{ApiReply, ApiRequest};

use crate::platform::{Asking, Platform, unexpected};
use crate::tell;

pub fn run(asking: &Asking) -> anyhow::Result<()> {
    match Platform::connect(&asking.config)?.ask(&ApiRequest::Status { tag: 1 })? {
        ApiReply::Status { status, .. } if asking.json => tell::line(&serde_json::to_string(&status)?),
        ApiReply::Status { status, .. } => tell::raw(&text(&status)),
        other => Err(unexpected(&other)),
    }
}

fn text(status: &Status) -> String {
    let asleep = status.provisioned.saturating_sub(status.starting + status.awake + status.draining + status.failed);
    let launcher = if status.launcher { "there" } else { "away: nobody can be woken" };
    let mut text = format!(
        "tenants     {} provisioned: {asleep} asleep ({} of them with a time to wake), {} starting, {} awake, {} draining, {} failed\n\
         sessions    {} at the front door\nlauncher    {launcher}\n\n",
        status.provisioned, status.due, status.starting, status.awake, status.draining, status.failed, status.sessions
    );
    let mut table = tell::table(&["COLD START", "COUNT", "P50", "P99", "LONGEST"]);
    table.add_row(row("with a warm slot", status.cold_starts.warm));
    table.add_row(row("without", status.cold_starts.cold));
    for (name, spread) in &status.cold_starts.stages {
        table.add_row(row(&format!("  {}", tell::cell(name)), *spread));
    }
    text.push_str(&tell::lines(&table));
    if !status.counters.is_empty() {
        let mut table = tell::table(&["SINCE START", "COUNT"]);
        for (name, count) in &status.counters {
            table.add_row([tell::cell(name), count.to_string()]);
        }
        text.push('\n');
        text.push_str(&tell::lines(&table));
    }
    text
}

fn row(name: &str, spread: Spread) -> [String; 5] {
    let time = |us| if spread.count == 0 { "-".into() } else { tell::micros(us) };
    [name.into(), spread.count.to_string(), time(spread.p50_us), time(spread.p99_us), time(spread.max_us)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_control::api::ColdStarts;

    #[test]
    fn shows_counts_and_percentiles() {
        let warm = Spread { count: 3, p50_us: 1_100, p99_us: 2_500, max_us: 2_600 };
        let cold_starts = ColdStarts { warm, stages: vec![("bind".into(), warm)], ..ColdStarts::default() };
        let counters = vec![("submissions".into(), 7)];
        let shown =
            text(&Status { provisioned: 5, awake: 2, launcher: true, cold_starts, counters, ..Status::default() });
        assert!(
            shown.starts_with(
                "tenants     5 provisioned: 3 asleep (0 of them with a time to wake), 0 starting, 2 awake"
            ),
            "{shown}"
        );
        for part in ["with a warm slot", "1.1 ms", "2.5 ms", "bind", "submissions", "7"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
