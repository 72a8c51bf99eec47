//! `warren top`: the fleet, live in a terminal.
//!
//! ```text
//!   platform ──▶ Snapshot ──▶ draw ──▶ terminal, every second      q, Esc, Ctrl-C: end
//!                                └───▶ text, once (--once, or no terminal)
//! ```

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use warren_control::api::{Spread, Status, TenantInfo, TenantState};
use warren_control::{ApiReply, ApiRequest};

use crate::platform::{Platform, unexpected};
use crate::{Config, tell, tenants};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Print one picture as text and end; so it is too without a terminal
    #[arg(long)]
    once: bool,
}

/// How often the picture is drawn anew.
const EVERY: Duration = Duration::from_secs(1);
/// The picture without a terminal: all that the platform tells of.
const PLAIN: (u16, u16) = (110, 110);

/// The fleet at a moment.
struct Snapshot {
    status: Status,
    active: Vec<TenantInfo>,
    now_unix_ms: u64,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let platform = Platform::connect(&arguments.config)?;
    if arguments.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return tell::raw(&picture(PLAIN, &Ok(look(&platform)?)));
    }
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&mut terminal, platform, &arguments.config);
    // Whatever happened, the terminal is as it was.
    ratatui::restore();
    ended
}

fn watch(terminal: &mut ratatui::DefaultTerminal, platform: Platform, config: &Config) -> anyhow::Result<()> {
    let mut platform = Ok(platform);
    loop {
        let seen = match &platform {
            Ok(platform) => look(platform).map_err(|error| format!("{error:#}")),
            Err(reason) => Err(String::clone(reason)),
        };
        terminal.draw(|frame| draw(frame, &seen))?;
        if seen.is_err() {
            platform = Platform::connect(config).map_err(|error| format!("{error:#}"));
        }
        let next = Instant::now() + EVERY;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left)? {
                break;
            }
            match event::read()? {
                Event::Key(key) if ends(key) => return Ok(()),
                Event::Resize(..) => {
                    terminal.draw(|frame| draw(frame, &seen))?;
                }
                _ => {}
            }
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn look(platform: &Platform) -> anyhow::Result<Snapshot> {
    let status = match platform.ask(&ApiRequest::Status { tag: 1 })? {
        ApiReply::Status { status, .. } => *status,
        other => return Err(unexpected(&other)),
    };
    let active = match platform.ask(&ApiRequest::Active { tag: 2 })? {
        ApiReply::Tenants { tenants, .. } => tenants,
        other => return Err(unexpected(&other)),
    };
    Ok(Snapshot { status, active, now_unix_ms: tell::now() })
}

/// The picture as lines of text.
fn picture((width, height): (u16, u16), seen: &Result<Snapshot, String>) -> String {
    let Ok(mut terminal) = ratatui::Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw(frame, seen));
    let buffer = terminal.backend().buffer();
    let line = |cells: &[ratatui::buffer::Cell]| {
        let text: String = cells.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", text.trim_end())
    };
    let text: String = buffer.content.chunks(width.into()).map(line).collect();
    format!("{}\n", text.trim_end())
}

fn draw(frame: &mut Frame<'_>, seen: &Result<Snapshot, String>) {
    let snapshot = match seen {
        Ok(snapshot) => snapshot,
        Err(reason) => return frame.render_widget(Paragraph::new(tell::cell(reason)), frame.area()),
    };
    let [head, table] = Layout::vertical([Constraint::Length(5), Constraint::Min(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(heading(&snapshot.status)), head);
    let rows = snapshot.active.iter().map(|tenant| row(tenant, snapshot.now_unix_ms));
    let widths = [24, 10, 8, 11, 7, 11, 9, 10].map(Constraint::Length);
    let header = ["TENANT", "STATE", "SINCE", "MEMORY", "QUEUED", "LAST START", "TOOK", "REASON"];
    let header = Row::new(header).style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_widget(Table::new(rows, widths).header(header), table);
}

fn heading(status: &Status) -> Vec<Line<'static>> {
    let up = status.starting + status.awake + status.draining + status.failed;
    let asleep = status.provisioned.saturating_sub(up);
    let cold = |name: &str, spread: Spread| match spread.count {
        0 => format!("{name} none yet"),
        count => {
            format!("{name} p50 {}  p99 {}  ({count})", tell::micros(spread.p50_us), tell::micros(spread.p99_us))
        }
    };
    let away = if status.launcher { "" } else { "   the launcher is away: nobody can be woken" };
    vec![
        Line::from(vec![
            Span::styled("warren", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("   {} tenants   {} sessions{away}", status.provisioned, status.sessions)),
        ]),
        Line::raw(format!(
            "awake {}   starting {}   draining {}   failed {}   asleep {asleep} ({} due)   suspended {}",
            status.awake, status.starting, status.draining, status.failed, status.due, status.suspended
        )),
        Line::raw(format!(
            "cold starts   {}   {}",
            cold("warm slot", status.cold_starts.warm),
            cold("without", status.cold_starts.cold)
        )),
        Line::styled("q quits", Style::new().add_modifier(Modifier::DIM)),
    ]
}

fn row(tenant: &TenantInfo, now: u64) -> Row<'static> {
    let colour = match tenant.state {
        TenantState::Awake => Color::Green,
        TenantState::Starting | TenantState::Draining => Color::Yellow,
        TenantState::Failed => Color::Red,
        TenantState::Suspended => Color::Magenta,
        TenantState::Asleep => Color::Reset,
    };
    let or_dash = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".into()));
    let start = tenant.started.as_ref();
    Row::new([
        Cell::new(tenant.name.to_string()),
        Cell::new(tenants::state(tenant.state)).style(Style::new().fg(colour)),
        or_dash(tenant.since_unix_ms.map(|since| tell::ago(since, now))),
        or_dash(tenant.memory_bytes.map(tell::mebibytes)),
        or_dash(tenant.queued.map(|queued| queued.to_string())),
        or_dash(start.map(|start| tell::ago(start.at_unix_ms, now))),
        or_dash(start.and_then(|start| start.took_us).map(tell::micros)),
        or_dash(start.map(|start| tenants::reason(start.reason).into())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_control::api::{ColdStarts, StartReason, Started};

    #[test]
    fn the_picture_shows_counts_cold_starts_and_tenants() {
        let warm = Spread { count: 12, p50_us: 1_100, p99_us: 2_500, max_us: 2_600 };
        let status = Status {
            provisioned: 100_000,
            awake: 1,
            suspended: 1,
            sessions: 7,
            launcher: true,
            cold_starts: ColdStarts { warm, ..ColdStarts::default() },
            ..Status::default()
        };
        let acme = TenantInfo {
            name: "acme".parse().unwrap(),
            state: TenantState::Awake,
            domains: vec![],
            accounts: 1,
            next_due_unix_ms: None,
            queued: Some(3),
            since_unix_ms: Some(990_000),
            memory_bytes: Some(1 << 20),
            started: Some(Started { at_unix_ms: 990_000, took_us: Some(1_300), reason: StartReason::Connection }),
        };
        let seen = Ok(Snapshot { status, active: vec![acme], now_unix_ms: 1_000_000 });
        assert_eq!(
            picture((100, 12), &seen),
            "warren   100000 tenants   7 sessions\n\
             awake 1   starting 0   draining 0   failed 0   asleep 99999 (0 due)   suspended 1\n\
             cold starts   warm slot p50 1.1 ms  p99 2.5 ms  (12)   without none yet\n\
             q quits\n\
             \n\
             TENANT                   STATE      SINCE    MEMORY      QUEUED  LAST START  TOOK      REASON\n\
             acme                     awake      10 s     1.0 MiB     3       10 s        1.3 ms    connection\n"
        );
    }

    #[test]
    fn a_small_terminal_and_a_platform_that_is_away_are_no_reason_to_break() {
        let seen = Ok(Snapshot { status: Status::default(), active: vec![], now_unix_ms: 0 });
        assert!(picture((10, 2), &seen).starts_with("warren"));
        assert_eq!(picture((20, 2), &Err("away \u{1b}[2J".into())), "away \\u{1b}[2J\n");
    }
}
