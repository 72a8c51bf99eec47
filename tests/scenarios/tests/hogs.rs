//! Whoever takes all there is, is held to its limits, and the others notice nothing.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use warren_control::{ApiReply, ApiRequest};
use warren_lab::{Lab, LabConfig, Message};
use warren_packet::Packets;
use warren_scenarios::corpus::note;
use warren_scenarios::images::{add, copies};
use warren_scenarios::{Node, Setup, Tenant};

const ALICE: &str = "alice@acme.example";
const SAMPLES: usize = 15;

/// One node at a time: another one's start is no hog.
static ALONE: Mutex<()> = Mutex::new(());

/// A tenant whose container runs the hog, with small limits.
fn hog(name: &str) -> Tenant {
    let mut tenant = Tenant::new(name, "mallory");
    let limits = "memory = \"48M\"\npids = 24\nopen_files = 96\nfile_size = \"16M\"\nvolume_size = \"32M\"";
    tenant.extra = format!("image = \"hog\"\n[limits]\n{limits}\n");
    tenant
}

/// Does something before everybody else: it is elsewhere in truth, and competes with nobody here for the processor.
fn elsewhere<T>(work: impl FnOnce() -> T) -> T {
    rustix::process::setpriority_process(None, -10).unwrap();
    let done = work();
    rustix::process::setpriority_process(None, 0).unwrap();
    done
}

/// Times from before the submission to the mailbox, in order.
fn delivery_times(lab: &Lab, node: &Node<'_>, round: &str) -> Vec<Duration> {
    let deliver = |n| {
        let subject = format!("{round} {n}");
        let from = Instant::now();
        let sent = node.submit(ALICE, ALICE, &["dave@plain.example"], 587, &note(ALICE, &subject));
        assert!(sent.accepted, "{}", sent.text);
        let submitted = from.elapsed();
        let fits = |m: &Message| m.header("Subject").as_deref() == Some(&subject);
        lab.mailbox("plain.example", "dave").wait_for(fits, Duration::from_secs(60)).unwrap();
        println!("{subject}: submitted after {submitted:?}, there after {:?}", from.elapsed());
        from.elapsed()
    };
    let mut times: Vec<Duration> = elsewhere(|| (0..SAMPLES).map(deliver).collect());
    times.sort();
    times
}

/// Has a tenant woken, as often as the fleet lets it, until it is `over`. By the platform's socket: a command for each would burn more of the processor than
/// the hogs may.
fn keep_awake(node: &Node<'_>, name: &str, over: &AtomicBool) {
    let socket = node.run_dir().join("platform.sock");
    let tenant: warren_control::TenantName = name.parse().unwrap();
    let packets = Packets::connect(&socket).unwrap();
    while !over.load(Ordering::Relaxed) {
        packets.send(&ApiRequest::Wake { tag: 0, tenant: tenant.clone() }, &[]).unwrap();
        let (answer, _) = packets.recv::<ApiReply>().unwrap().expect("the platform runs");
        assert!(matches!(answer, ApiReply::Done { .. } | ApiReply::Unavailable { .. }), "{answer:?}");
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

/// Space that the volumes take, as the kernel counts it.
fn space(volumes: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(volumes).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// The threads of a process: their names and nice values.
fn threads(pid: u32) -> Vec<(String, i32)> {
    let all = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stat = |thread: PathBuf| fs::read_to_string(thread.join("stat")).unwrap();
    all.map(|thread| {
        let stat = stat(thread.unwrap().path());
        let (name, rest) = stat.split_once('(').and_then(|(_, named)| named.rsplit_once(") ")).unwrap();
        (name.to_owned(), rest.split(' ').nth(16).unwrap().parse().unwrap())
    })
    .collect()
}

#[test]
fn checks_of_passwords_go_before_the_rest_of_the_node_and_that_before_tenants() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup { idle: Duration::from_secs(60), ..Setup::default() });
    let sent = node.submit(ALICE, ALICE, &["dave@plain.example"], 587, &note(ALICE, "priorities"));
    assert!(sent.accepted, "{}", sent.text);

    let processors = std::thread::available_parallelism().unwrap().get();
    let platform = threads(node.pids("warren-platform")[0]);
    let rank = |name: &str| name.strip_prefix("password-").map(|rank| rank.parse::<usize>().unwrap());
    assert_eq!(platform.iter().filter(|(name, _)| rank(name).is_some()).count(), processors, "{platform:?}");
    for (name, nice) in &platform {
        // The first half of the processors is theirs; the other half of the threads takes its turn with everybody.
        let first = rank(name).is_some_and(|rank| rank < processors / 2);
        assert_eq!(*nice, if first { -20 } else { -10 }, "{platform:?}");
    }
    // The proxy writes its records behind everybody, by threads of their own.
    assert!(threads(node.pids("warren-proxy")[0]).contains(&("sessions-0".to_owned(), -10)));
    let tenant = threads(node.pids("warren-msa")[0]);
    assert!(tenant.iter().all(|(_, nice)| *nice == 0), "{tenant:?}");
    node.stop();
}

#[test]
fn hogs_are_held_and_their_neighbour_notices_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let images = copies(&["msa"]);
    add(images.path(), "hog", "probe/hog.rs");
    let lab = elsewhere(|| Lab::start_with(&LabConfig::personas_only()).unwrap());
    let names = ["forker", "filler", "littler", "eater", "opener", "flooder"];
    let mut tenants: Vec<Tenant> = names.into_iter().map(hog).collect();
    tenants.push(Tenant::acme());
    let images = Some(images.path().to_owned());
    let node = Node::start(&lab, &Setup { tenants, images, idle: Duration::from_secs(60), ..Setup::default() });
    let before = delivery_times(&lab, &node, "before");

    let over = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        for name in names {
            let (node, over) = (&node, &over);
            // Those that are ended come again.
            scope.spawn(move || keep_awake(node, name, over));
        }
        // All of them are at it: they have come to their limits.
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for line in ["of filler is ended", "of littler is ended"] {
                node.wait_for_log(line);
            }
            let report = |most: u32, what: &str| {
                node.wait_until(what, || {
                    fs::read_dir(node.state_dir().join("volumes")).ok()?.flatten().find_map(|volume| {
                        let got = fs::read_to_string(volume.path().join("report")).ok()?;
                        got.parse::<u32>().ok().filter(|got| (1..most).contains(got))
                    })
                })
            };
            report(24, "the forker's end of its processes");
            report(96, "the opener's end of its descriptors");
            node.wait_until("the eater's end", || {
                node.log().lines().any(|l| l.contains("eater") && l.contains("Signal(9)")).then_some(())
            });
            delivery_times(&lab, &node, "beside")
        }));
        over.store(true, Ordering::Relaxed);
        measured
    });
    let beside = beside.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    for name in names {
        node.ask(&["tenant", "suspend", name]);
    }
    let after = delivery_times(&lab, &node, "after");

    let (p50, p99) = (SAMPLES / 2, SAMPLES - 1);
    // What else the machine does comes and goes: what a mail takes without hogs is asked before and after.
    let quiet = if before[p50] < after[p50] { after } else { before };
    println!(
        "delivery beside nobody {:?} (p50) {:?} (p99), beside hogs {:?} (p50) {:?} (p99): p50 × {:.2}, p99 × {:.2}",
        quiet[p50],
        quiet[p99],
        beside[p50],
        beside[p99],
        beside[p50].as_secs_f64() / quiet[p50].as_secs_f64(),
        beside[p99].as_secs_f64() / quiet[p99].as_secs_f64(),
    );
    // Waiting for a hog to finish would take for ever, for its container's end and start seconds. Noise of a busy machine stays below.
    let bound = quiet[p50] * 4 + Duration::from_secs(2);
    assert!(beside[p50] < bound, "quiet {quiet:?}, beside hogs {beside:?}");
    // Two fillers wrote as fast as the disk goes. What they hold is a small multiple of their limits.
    let held = space(&node.state_dir().join("volumes"));
    assert!(held < 4 << 30, "the volumes hold {held} bytes");
    // Also after such guests nothing is left.
    node.stop();
}
