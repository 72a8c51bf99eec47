//! Cold start: a tenant sleeps, somebody connects. How long until the MSA's banner?
//!
//! Four ways, one after the other in every round, so that whatever else the machine does meets all of them alike. Containers are ended
//! and slots made again between the measurements, outside the measured time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::launcher::{Launcher, Wake};
use crate::report::{Report, Row, Stages};
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

const WARM: &str = "warren, warm slot";
const COLD: &str = "warren, no slot";

/// Rounds before those that count: page cache, volumes, branch predictors.
const WARM_UP: u32 = 3;

/// Measures and tells.
pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "this makes containers, so run it as root");
    let own = std::env::current_exe().context("find this program")?;
    let launcher = own.with_file_name("warren-launcher");
    ensure!(launcher.is_file(), "{} is missing: cargo build -p warren-launcher", launcher.display());
    let images = match &options.images {
        Some(images) => std::path::absolute(images).context("the images' directory")?,
        None => own.with_file_name("images"),
    };
    ensure!(
        images.join("msa/image.json").is_file(),
        "there is no image msa in {}: build it by msa-image/build, or tell --images",
        images.display()
    );
    let home = tempfile::Builder::new().prefix("wb").tempdir().context("make a directory for the run")?;
    let report = measure(options, &launcher, &images, home.path())?;
    print!("{}", report.table());
    if let Some(path) = &options.json {
        let mut text = serde_json::to_string_pretty(&report).context("write the results")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn measure(options: &Options, program: &Path, images: &Path, home: &Path) -> anyhow::Result<Report> {
    let mut with_slots = Launcher::start(program, &home.join("warm"), images, 4)?;
    let mut without = Launcher::start(program, &home.join("cold"), images, 0)?;
    let mut runtimes = Vec::new();
    for name in ["crun", "runc"].iter().filter(|_| !options.alone) {
        match Runtime::find(name, home, images)? {
            Some(runtime) => runtimes.push((runtime, Vec::new())),
            None => eprintln!("warren-bench: {name} is not installed and is left out (Debian: apt-get install {name})"),
        }
    }
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + options.n {
        let counts = round >= WARM_UP;
        with_slots.settle()?;
        keep(&mut warm, counts, with_slots.wake()?, true)?;
        // The pool fills again before others are measured.
        with_slots.settle()?;
        keep(&mut cold, counts, without.wake()?, false)?;
        for (runtime, times) in &mut runtimes {
            let time = runtime.start()?;
            if counts {
                times.push(time);
            }
        }
    }
    let mut rows = vec![total(WARM, &warm), total(COLD, &cold)];
    rows.extend(runtimes.into_iter().map(|(runtime, times)| Row::new(&format!("{} run", runtime.name()), times)));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    Ok(Report {
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        kernel,
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        rows,
        stages: vec![stages(WARM, &warm), stages(COLD, &cold)],
    })
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
