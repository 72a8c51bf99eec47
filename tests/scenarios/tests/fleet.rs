//! The fleet under a storm, at the edge of sleep, and after the deaths of those who look after it.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::time::Duration;

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::images::{add, copies};
use warren_scenarios::visits::{Visit, counter, status, visit_all};
use warren_scenarios::{Node, Setup, Tenant};

const STORM: usize = 500;

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
    // One start for each tenant that was wanted, whatever the number of its visitors; the crasher is backed off.
    let status = status(&node);
    let starts = counter(&status, "starts_warm") + counter(&status, "starts_cold");
    println!("{starts} starts, {} of them from a warm slot", counter(&status, "starts_warm"));
    let of_crasher = starts - STORM as u64;
    assert!((1..=30).contains(&of_crasher), "{of_crasher} starts of the tenant that crashes");
    node.wait_until("everybody's sleep", || asleep(&node));
    node.stop();
}

/// Comes back to each tenant after about its idle time, again and again, a little earlier or later each time.
#[test]
fn who_comes_as_it_falls_asleep_is_served() {
    const ROUNDS: u64 = 60;
    const IDLE: Duration = Duration::from_millis(100);
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let tenants: Vec<Tenant> = ["acme", "globex", "initech", "hooli"].map(|name| Tenant::new(name, "alice")).into();
    let names: Vec<String> = tenants.iter().map(|tenant| tenant.name.clone()).collect();
    let node = Node::start(&lab, &Setup { tenants, idle: IDLE, ..Setup::default() });
    let mut hung_up = 0;
    for round in 0..ROUNDS {
        let visits = visit_all(&node, &names);
        assert!(failures(&visits).is_empty(), "round {round}: {:?}\n{}", failures(&visits), node.log());
        hung_up += visits.iter().map(|visit| visit.hung_up).sum::<usize>();
        // When to come is what this is about: from well before to well after its decision to sleep.
        std::thread::park_timeout(IDLE * u32::try_from(round % 20).unwrap() / 10);
    }
    let status = status(&node);
    let starts = counter(&status, "starts_warm") + counter(&status, "starts_cold");
    println!("{} visits, {starts} starts, {hung_up} visitors brought again", ROUNDS * names.len() as u64);
    assert!(starts > names.len() as u64, "nobody slept: nothing was tried");
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
