//! Cold start: a tenant sleeps, somebody connects. How long until the MSA's banner?
//!
//! Four ways, one after the other in every round, so that whatever else the machine does meets all of them alike. Containers are ended
//! and slots made again between the measurements, outside the measured time.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use warren_launcher_api::TenantName;

use crate::interrupt::Interrupt;
use crate::launcher::{Launcher, Wake};
use crate::msa;
use crate::place::Place;
use crate::report::{Goal, Machine, Report, Row, Stages};
use crate::runtime::Runtime;

/// How it is measured.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; each measures every way once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    n: u32,
    /// Where the results go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of images, with `msa` in it [default: `images` beside this program]
    #[arg(long, value_name = "DIR", env = "WARREN_IMAGES")]
    images: Option<PathBuf>,
    /// Do not compare with crun and runc
    #[arg(long)]
    alone: bool,
}

/// Names of the ways, in the table and in the JSON file.
const WARM: &str = "slot";
const COLD: &str = "no-slot";

/// Rounds before those that count: page cache, volumes, branch predictors.
const WARM_UP: u32 = 3;
/// Before each measurement.
const REST: Duration = Duration::from_millis(100);

/// Measures and tells.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<()> {
    let place = Place::new(options.images.as_ref())?.with_image()?;
    let report = measure(options, &place, interrupt)?;
    print!("{}", report.table());
    report.save(options.json.as_deref())
}

fn measure(options: &Options, place: &Place, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let tenant = msa::tenant("bench")?;
    let mut with_slots = Launcher::start(place, "warm", 4)?;
    let mut without = Launcher::start(place, "cold", 0)?;
    let mut runtimes = Vec::new();
    for name in ["crun", "runc"].iter().filter(|_| !options.alone) {
        match Runtime::find(name, place)? {
            Some(runtime) => runtimes.push((runtime, Vec::new())),
            None => eprintln!("warren-bench: {name} is not installed and is left out (Debian: apt-get install {name})"),
        }
    }
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + options.n {
        let counts = round >= WARM_UP;
        interrupt.check()?;
        rest(&mut with_slots)?;
        keep(&mut warm, counts, wake_and_stop(&mut with_slots, &tenant)?, true)?;
        rest(&mut with_slots)?;
        keep(&mut cold, counts, wake_and_stop(&mut without, &tenant)?, false)?;
        for (runtime, times) in &mut runtimes {
            interrupt.check()?;
            rest(&mut with_slots)?;
            let time = runtime.start()?;
            if counts {
                times.push(time);
            }
        }
    }
    let mut rows = vec![total(WARM, &warm), total(COLD, &cold)];
    rows.extend(runtimes.into_iter().map(|(runtime, times)| Row::new(runtime.name(), times)));
    Ok(Report {
        machine: Machine::this(),
        goals: goals(&rows),
        rows,
        stages: vec![stages(WARM, &warm), stages(COLD, &cold)],
    })
}

/// Before each measurement the pool is full, and then nothing happens for a while: the kernel still works at what ended before, and the
/// first move into a control group waits for a grace period that one soon after another does not.
fn rest(pool: &mut Launcher) -> anyhow::Result<()> {
    pool.settle()?;
    std::thread::park_timeout(REST);
    Ok(())
}

fn wake_and_stop(launcher: &mut Launcher, tenant: &TenantName) -> anyhow::Result<Wake> {
    let wake = launcher.wake(tenant)?;
    launcher.stop(wake.cell)?;
    Ok(wake)
}

/// What Warren promises, and whether this run held it.
fn goals(rows: &[Row]) -> Vec<Goal> {
    let find = |name| rows.iter().find(|row| row.name == name);
    let mut goals = Vec::new();
    if let (Some(warm), Some(cold)) = (find(WARM), find(COLD)) {
        goals.push(Goal::at_most("slot: median, ms", warm.median_ms, 3.0));
        goals.push(Goal::at_most("slot: p99, ms", warm.p99_ms, 15.0));
        goals.push(Goal::at_most("no slot: median, ms", cold.median_ms, 25.0));
        if let Some(crun) = find("crun") {
            goals.push(Goal::at_least("slot: times faster than crun", crun.median_ms / warm.median_ms, 8.0));
            goals.push(Goal::at_least("no slot: times faster than crun", crun.median_ms / cold.median_ms, 1.5));
        }
    }
    goals
}

fn keep(wakes: &mut Vec<Wake>, counts: bool, wake: Wake, slot: bool) -> anyhow::Result<()> {
    if wake.slot != slot {
        bail!("a wake {} a slot, where the opposite was to be measured", if wake.slot { "found" } else { "lacked" });
    }
    if counts {
        wakes.push(wake);
    }
    Ok(())
}

fn total(name: &str, wakes: &[Wake]) -> Row {
    Row::new(name, wakes.iter().map(|wake| wake.total).collect())
}

/// The launcher's stages in its own words, then the way of its answer, then the MSA's part.
fn stages(of: &str, wakes: &[Wake]) -> Stages {
    let mut names: Vec<&str> = Vec::new();
    for stage in wakes.iter().flat_map(|wake| &wake.stages) {
        if !names.contains(&stage.name.as_str()) {
            names.push(&stage.name);
        }
    }
    let mut rows: Vec<Row> = names
        .iter()
        .map(|name| {
            let all = wakes.iter().flat_map(|wake| &wake.stages).filter(|stage| stage.name == *name);
            Row::new(name, all.map(|stage| Duration::from_micros(stage.micros)).collect())
        })
        .collect();
    let told = |wake: &Wake| wake.stages.iter().map(|stage| Duration::from_micros(stage.micros)).sum::<Duration>();
    rows.push(Row::new("message there and back", wakes.iter().map(|w| w.answered.saturating_sub(told(w))).collect()));
    rows.push(Row::new("settings and banner", wakes.iter().map(|w| w.total.saturating_sub(w.answered)).collect()));
    Stages { of: of.to_owned(), rows }
}
