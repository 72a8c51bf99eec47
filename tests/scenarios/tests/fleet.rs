//! The fleet under a storm, at the edge of sleep, and after the deaths of those who look after it.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use warren_control::CellId;
use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::images::{add, copies};
use warren_scenarios::visits::{Visit, counter, status, visit_all};
use warren_scenarios::{Node, Setup, Tenant};

const STORM: usize = 500;
/// A start waits so long for its turn, by the node's configuration: whoever comes later was forgotten, however slow the machine is.
const STORM_BOUND: Duration = Duration::from_secs(60);
/// Starts under way at once, by the fleet's policy.
const AT_ONCE: u64 = 8;
/// The wait after a first crash, by the fleet's policy; each one after it takes twice as long.
const BACKOFF: Duration = Duration::from_millis(100);

/// The image `crash`: a program that ends as soon as it begins. `msa` beside it is the real one.
fn images_with_crash() -> tempfile::TempDir {
    let images = copies(&["msa"]);
    let source = images.path().join("crash.rs");
    std::fs::write(&source, "fn main() { std::process::exit(1) }").unwrap();
    add(images.path(), "crash", source.to_str().unwrap());
    images
}

fn asleep(node: &Node<'_>) -> Option<()> {
    let status = status(node);
    (status.awake + status.starting + status.draining == 0).then_some(())
}

fn failures(visits: &[Visit]) -> Vec<&Visit> {
    visits.iter().filter(|visit| visit.banner.is_err()).collect()
}

#[test]
fn five_hundred_tenants_wanted_at_once_are_all_served() {
    let images = images_with_crash();
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let mut tenants: Vec<Tenant> = (0..STORM).map(|n| Tenant::new(&format!("tenant{n}"), "alice")).collect();
    let mut crasher = Tenant::new("crasher", "mallory");
    crasher.extra = "image = \"crash\"".into();
    tenants.push(crasher);
    let setup =
        Setup { tenants, images: Some(images.path().to_owned()), idle: Duration::from_secs(5), ..Setup::default() };
    let node = Node::start(&lab, &setup);
    // Everybody is wanted twice in the same moment; the one that cannot start is wanted all over the crowd.
    let mut wanted: Vec<String> = (0..2 * STORM).map(|n| format!("tenant{}", n % STORM)).collect();
    for n in 0..40 {
        wanted.insert(n * 20, "crasher".into());
    }
    let began = Instant::now();
    let visits = visit_all(&node, &wanted);
    let (of_crasher, others): (Vec<Visit>, Vec<Visit>) = visits.into_iter().partition(|v| v.tenant == "crasher");
    assert!(failures(&others).is_empty(), "no banner: {:?}", failures(&others));
    assert_eq!(failures(&of_crasher).len(), of_crasher.len(), "a program that ends at once greeted somebody");
    let mut times: Vec<Duration> = others.iter().map(|v| *v.banner.as_ref().unwrap()).collect();
    times.sort();
    println!(
        "{} banners: first {:.1?}, median {:.1?}, last {:.1?}",
        times.len(),
        times[0],
        times[STORM],
        times[2 * STORM - 1]
    );
    assert!(times[2 * STORM - 1] < STORM_BOUND, "the last banner came after {:?}", times[2 * STORM - 1]);
    // One start for each tenant that was wanted, whatever the number of its visitors; the crasher is backed off, twice as long each time.
    let status = status(&node);
    let starts = counter(&status, "starts_warm") + counter(&status, "starts_cold");
    println!("{starts} starts, {} of them from a warm slot", counter(&status, "starts_warm"));
    let of_crasher = starts - STORM as u64;
    let doublings = (began.elapsed().as_secs_f64() / BACKOFF.as_secs_f64() + 1.0).log2().ceil();
    assert!(of_crasher >= 1 && of_crasher as f64 <= 1.0 + doublings, "{of_crasher} starts of the tenant that crashes");
    // As many at once as the policy allows, and no more.
    assert_eq!(counter(&status, "starts_at_once_most"), AT_ONCE, "{:?}", status.counters);
    node.wait_until("everybody's sleep", || asleep(&node));
    node.stop();
}

/// Who served last, and whether that container's process is still there.
struct Last {
    cell: CellId,
    process: Option<OwnedFd>,
}

impl Last {
    fn of(node: &Node<'_>, cell: CellId) -> Last {
        // It may be gone, and its record with it.
        let record = std::fs::read(node.run_dir().join("cells").join(cell.to_string())).ok();
        let record = record.and_then(|record| serde_json::from_slice::<serde_json::Value>(&record).ok());
        let pid = record.and_then(|record| Pid::from_raw(i32::try_from(record["pid"].as_i64()?).ok()?));
        Last { cell, process: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) }
    }

    fn lives(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = |process| poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)).unwrap() > 0;
        self.process.as_ref().is_some_and(|process| !ended(process))
    }
}

/// Comes back to each tenant just as it falls asleep, again and again: a little later than the time before if that was too early, else a little
/// earlier. It counts how often that came about: the process was still there when the visitor set out, and it was the next one that served.
#[test]
fn who_comes_as_it_falls_asleep_is_served() {
    const RACES: usize = 40;
    /// So many visits must be enough for that.
    const VISITS: usize = 100 * RACES;
    const IDLE: Duration = Duration::from_millis(100);
    const STEP: Duration = Duration::from_millis(1);
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let tenants: Vec<Tenant> = ["acme", "globex", "initech", "hooli"].map(|name| Tenant::new(name, "alice")).into();
    let names: Vec<String> = tenants.iter().map(|tenant| tenant.name.clone()).collect();
    let node = Node::start(&lab, &Setup { tenants, idle: IDLE, ..Setup::default() });
    let [races, visits, hung_up] = [const { AtomicUsize::new(0) }; 3];
    std::thread::scope(|scope| {
        for name in &names {
            let (node, races, visits, hung_up) = (&node, &races, &visits, &hung_up);
            scope.spawn(move || {
                let (mut last, mut pause) = (None::<Last>, IDLE);
                while races.load(Ordering::Relaxed) < RACES && visits.fetch_add(1, Ordering::Relaxed) < VISITS {
                    // When to come is what this is about.
                    std::thread::park_timeout(pause);
                    let lived = last.as_ref().is_some_and(Last::lives);
                    let visit = visit_all(node, std::slice::from_ref(name)).remove(0);
                    assert!(visit.banner.is_ok(), "{visit:?}\n{}", node.log());
                    hung_up.fetch_add(visit.hung_up, Ordering::Relaxed);
                    let cell = visit.cell.unwrap();
                    if last.as_ref().is_some_and(|last| last.cell == cell) {
                        pause += STEP;
                        continue;
                    }
                    races.fetch_add(usize::from(lived), Ordering::Relaxed);
                    pause = pause.saturating_sub(STEP);
                    last = Some(Last::of(node, cell));
                }
            });
        }
    });
    let (races, visits) = (races.into_inner(), visits.into_inner());
    println!("of {visits} visitors {races} came while the last process was there and were served by the next");
    println!("{} of them had been connected to the last before it went", hung_up.into_inner());
    assert!(races >= RACES, "only {races} races in {visits} visits");
    node.stop();
}

/// Deferred mail of a sleeping tenant is delivered when it is due, without a visitor, whoever died meanwhile.
#[test]
fn due_times_outlive_everybody() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let setup = Setup { idle: Duration::from_secs(1), retry: Duration::from_secs(8), ..Setup::default() };
    let mut node = Node::start(&lab, &setup);
    for death in ["nobody", "warren-platform", "warren-launcher", "the machine"] {
        let (subject, recipient) = (format!("deferred while {death} dies"), death.replace(' ', "-"));
        let sent = node.submit(
            "alice@acme.example",
            "alice@acme.example",
            &[&format!("{recipient}@later.example")],
            587,
            &note("alice@acme.example", &subject),
        );
        assert!(sent.accepted, "{}", sent.text);
        // Refused at first, it waits, and for that no process is needed.
        node.wait_until("sleep with a due time", || (asleep(&node).is_some() && status(&node).due == 1).then_some(()));
        assert_eq!(node.pids("warren-msa"), [0; 0], "deferred mail keeps a process");
        match death {
            "nobody" => {}
            "the machine" => node.reboot(),
            program => node.kill(program),
        }
        let fits = |m: &Message| m.header("Subject").as_deref() == Some(&subject);
        let arrived = lab.mailbox("later.example", &recipient).wait_for(fits, Duration::from_secs(90));
        arrived.unwrap_or_else(|e| panic!("{death}: {e}\n{}", node.log()));
    }
    node.stop();
}

/// A tenant that is awake goes on serving when platform or launcher come back; after everything else died it is replaced.
#[test]
fn those_awake_are_adopted_or_replaced() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let mut node = Node::start(&lab, &Setup { idle: Duration::from_secs(60), ..Setup::default() });
    let acme = ["acme".to_owned()];
    let visit = |node: &Node<'_>| {
        let visits = visit_all(node, &acme);
        assert!(failures(&visits).is_empty(), "{:?}\n{}", failures(&visits), node.log());
    };
    visit(&node);
    let msa = node.pids("warren-msa");
    assert_eq!(msa.len(), 1);
    for program in ["warren-platform", "warren-launcher"] {
        node.kill(program);
        node.wait_until(&format!("{program} again"), || (!node.pids(program).is_empty()).then_some(()));
        node.wait_until("the fleet", || node.warren(&["status"]).status.success().then_some(()));
        visit(&node);
        assert_eq!(node.pids("warren-msa"), msa, "its container did not outlive {program}");
    }
    node.crash(false);
    node.restart();
    visit(&node);
    assert_eq!(node.pids("warren-msa").len(), 1, "two containers of one tenant, or none");
    node.reboot();
    assert_eq!(node.pids("warren-msa"), [0; 0]);
    visit(&node);
    node.stop();
}
