//! What operators do to a node that runs: look, watch, put to sleep, suspend, add, change, remove, upgrade. No mail is lost by any of it.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::images::copies;
use warren_scenarios::node::PATIENCE;
use warren_scenarios::{Node, Setup};

fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// Alice writes to an address, and it arrives there.
fn alice_writes(lab: &Lab, node: &Node<'_>, user: &str, subject: &str) {
    let to = format!("{user}@plain.example");
    let sent =
        node.submit("alice@acme.example", "alice@acme.example", &[&to], 587, &note("alice@acme.example", subject));
    assert!(sent.accepted, "{}", sent.text);
    arrives(lab, "plain.example", user, subject);
}

fn arrives(lab: &Lab, domain: &str, user: &str, subject: &str) {
    let fits = |m: &Message| m.header("Subject").as_deref() == Some(subject);
    lab.mailbox(domain, user).wait_for(fits, Duration::from_secs(60)).unwrap();
}

/// A tenant as `warren tenants --json` tells.
fn tenant(node: &Node<'_>, name: &str) -> serde_json::Value {
    let all = node.ask(&["tenants", "--json"]);
    let found = all.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    found.into_iter().find(|tenant| tenant["name"] == name).unwrap()
}

#[test]
fn a_suspended_tenant_is_shut_out_until_it_is_resumed() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup::default());
    alice_writes(&lab, &node, "dave", "before");
    let acme = tenant(&node, "acme");
    assert_eq!((&acme["state"], &acme["started"]["reason"]), (&"awake".into(), &"connection".into()), "{acme}");
    assert!(acme["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{acme}");
    assert!(acme["since_unix_ms"].is_u64() && acme["started"]["took_us"].is_u64(), "{acme}");

    node.ask(&["tenant", "suspend", "acme"]);
    let letter = note("alice@acme.example", "no");
    let refused = node.submit("alice@acme.example", "alice@acme.example", &["dave@plain.example"], 587, &letter);
    assert!(!refused.accepted && refused.text.contains("525"), "{}", refused.text);
    // Who does not know the password is told nothing.
    let guessed =
        node.submit_as("alice@acme.example", "guess", "alice@acme.example", &["dave@plain.example"], 587, &letter);
    assert!(!guessed.accepted && guessed.text.contains("535"), "{}", guessed.text);
    let inbound = node.inject("x@client.example", &["archive@acme.example"], &note("x@client.example", "in")).unwrap();
    assert!(inbound[1].starts_with("450 4.2.1"), "{inbound:?}");
    assert_eq!(node.state_of("acme").as_deref(), Some("suspended"));

    let log = node.ask(&["tenant", "logs", "acme"]);
    for said in ["frontdoor: session over", "msa: ", "refused: the tenant is suspended", "authentication failed"] {
        assert!(log.contains(said), "{said}: {log}");
    }

    // It survives the platform, and others do not notice.
    node.kill("warren-platform");
    let state = || node.warren(&["status"]).status.success().then(|| node.state_of("acme")).flatten();
    assert_eq!(node.wait_until("the platform", state), "suspended");
    let woken = node.warren(&["tenant", "wake", "acme"]);
    assert!(!woken.status.success() && told(&woken).contains("it is suspended"), "{}", told(&woken));
    let other = note("carol@globex.example", "other");
    let sent = node.submit("carol@globex.example", "carol@globex.example", &["erin@plain.example"], 465, &other);
    assert!(sent.accepted, "{}", sent.text);

    node.ask(&["tenant", "resume", "acme"]);
    alice_writes(&lab, &node, "dave", "after");
    let log = node.ask(&["tenant", "logs", "acme"]);
    assert!(log.contains("session over") && !log.contains("globex"), "{log}");
    node.stop();
}

/// What a command that goes on prints, line by line.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn of(mut command: Command) -> Following {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (said, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).all(|line| said.send(line).is_ok()));
        Following { child, lines }
    }

    /// The lines up to one that contains this.
    fn up_to(&self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains(text)) {
            let next = self.lines.recv_timeout(PATIENCE);
            seen.push(next.unwrap_or_else(|_| panic!("no {text:?} after {seen:?}")));
        }
        seen
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_operator_watches_a_tenant_and_puts_it_to_sleep() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup { idle: Duration::from_secs(300), ..Setup::default() });
    alice_writes(&lab, &node, "dave", "one");
    let row = |picture: &str, name: &str| {
        let row = picture.lines().find(|line| line.split_whitespace().next() == Some(name));
        row.unwrap_or_else(|| panic!("no {name} in\n{picture}")).to_owned()
    };
    let picture = node.ask(&["top", "--once"]);
    assert!(picture.starts_with("warren   2 tenants") && picture.contains("awake 1 "), "{picture}");
    assert!(row(&picture, "acme").contains("awake") && row(&picture, "acme").contains("connection"), "{picture}");
    assert!(picture.lines().any(|line| line.starts_with("cold starts") && line.contains("p50")), "{picture}");

    // Who follows the log is told what was, and then what comes, when it comes.
    let following = Following::of(node.command(&["tenant", "logs", "--follow", "acme"]));
    let before = following.up_to("session over");
    assert!(!before.iter().any(|line| line.contains("authentication failed")), "{before:?}");
    let letter = note("alice@acme.example", "no");
    let guessed =
        node.submit_as("alice@acme.example", "guess", "alice@acme.example", &["dave@plain.example"], 587, &letter);
    assert!(!guessed.accepted);
    following.up_to("authentication failed");
    drop(following);

    // It would be awake for minutes. Told to sleep it finishes what it does, and is there again for the next who comes.
    let msa = node.pids("warren-msa");
    assert_eq!(msa.len(), 1);
    assert!(node.ask(&["tenant", "sleep", "acme"]).starts_with("acme is asleep ("));
    assert_eq!((node.state_of("acme").as_deref(), node.pids("warren-msa").len()), (Some("asleep"), 0));
    let picture = node.ask(&["top", "--once"]);
    assert!(picture.contains("awake 0 ") && row(&picture, "acme").contains("asleep"), "{picture}");
    // Once more is no mistake; who is not there is one.
    assert!(node.ask(&["tenant", "sleep", "acme"]).starts_with("acme is asleep ("));
    let nobody = node.warren(&["tenant", "sleep", "nobody"]);
    assert!(!nobody.status.success() && told(&nobody).contains("there is no tenant nobody"), "{}", told(&nobody));
    alice_writes(&lab, &node, "dave", "two");
    assert!(node.pids("warren-msa").iter().all(|pid| !msa.contains(pid)));
    node.stop();
}

#[test]
fn tenants_come_change_and_go_while_the_node_runs() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup::default());
    let add = ["tenant", "add", "initech", "--domain", "initech.example", "--account", "peter", "--forward"];
    let added = node.warren_with_input(&[&add[..], &["info=archive@plain.example"]].concat(), "stapler\n");
    assert!(added.status.success() && told(&added).contains("it is in force"), "{}", told(&added));
    let file = node.config_dir().join("tenants/initech.toml");
    let acme = node.config_dir().join("tenants/acme.toml").metadata().unwrap();
    let about = file.metadata().unwrap();
    assert_eq!((about.uid(), about.gid(), about.mode()), (acme.uid(), acme.gid(), acme.mode()));

    let peter = "peter@initech.example";
    let submit = |password: &str, subject: &str| {
        node.submit_as(peter, password, peter, &["milton@plain.example"], 587, &note(peter, subject))
    };
    let sent = submit("stapler", "one");
    assert!(sent.accepted, "{}", sent.text);
    arrives(&lab, "plain.example", "milton", "one");
    let changed = node.warren_with_input(&["tenant", "passwd", "initech", "peter"], "red stapler\n");
    assert!(changed.status.success(), "{}", told(&changed));
    assert!(submit("stapler", "two").text.contains("535"));
    assert!(submit("red stapler", "three").accepted);

    // Somebody else's domain: nothing changes, on disk or in the node.
    let stolen = node.warren(&["tenant", "add", "thief", "--domain", "acme.example"]);
    assert!(
        !stolen.status.success() && told(&stolen).contains("is a domain of tenant acme already"),
        "{}",
        told(&stolen)
    );
    assert!(!node.config_dir().join("tenants/thief.toml").exists());

    let hesitating = node.warren(&["tenant", "remove", "initech"]);
    assert!(!hesitating.status.success() && told(&hesitating).contains("--yes"), "{}", told(&hesitating));
    node.ask(&["tenant", "remove", "initech", "--yes"]);
    assert!(!file.exists() && node.config_dir().join("tenants/removed/initech.toml").exists());
    assert!(submit("red stapler", "four").text.contains("535"));
    assert_eq!(node.state_of("initech"), None);
    node.stop();
}

/// Puts a copy of the image's program in the place of the program, as a build does.
fn replace_image(images: &Path) {
    let program = images.join("msa/rootfs/warren-msa");
    let new = program.with_extension("new");
    std::fs::copy(&program, &new).unwrap();
    std::fs::rename(&new, &program).unwrap();
}

#[test]
fn a_plan_says_what_apply_does_and_a_replaced_image_is_rolled_out_without_losing_mail() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let images = copies(&["msa"]);
    let setup = Setup { idle: Duration::from_secs(60), images: Some(images.path().into()), ..Setup::default() };
    let node = Node::start(&lab, &setup);
    assert!(node.ask(&["plan"]).starts_with("nothing to do"));

    // Both are awake; acme has mail that its MX has put off.
    let letter = note("alice@acme.example", "put off");
    let sent = node.submit("alice@acme.example", "alice@acme.example", &["pat@later.example"], 587, &letter);
    assert!(sent.accepted, "{}", sent.text);
    node.ask(&["tenant", "wake", "globex"]);
    let before = node.wait_until("both programs", || Some(node.pids("warren-msa")).filter(|pids| pids.len() == 2));
    replace_image(images.path());
    let globex = node.config_dir().join("tenants/globex.toml");
    let text =
        std::fs::read_to_string(&globex).unwrap().replace("\"globex.example\"", "\"globex.example\", \"globex.test\"");
    std::fs::write(&globex, text).unwrap();

    let plan = node.ask(&["plan"]);
    assert!(plan.contains("~ globex: its MSA learns other settings"), "{plan}");
    for tenant in ["acme", "globex"] {
        assert!(plan.contains(&format!("^ {tenant}: runs an image that was replaced")), "{plan}");
    }
    assert_eq!(node.pids("warren-msa"), before, "a plan changes nothing");
    let applied = node.ask(&["apply"]);
    assert!(applied.contains("it is in force") && applied.contains("were drained of a replaced image"), "{applied}");
    assert!(node.ask(&["plan"]).starts_with("nothing to do"));
    assert!(node.pids("warren-msa").iter().all(|pid| !before.contains(pid)));
    arrives(&lab, "later.example", "pat", "put off");
    alice_writes(&lab, &node, "dave", "with the new image");

    // A broken file: nothing changes, and it is said where.
    std::fs::write(&globex, "domains = 7\n").unwrap();
    let broken = node.warren(&["apply"]);
    assert!(!broken.status.success() && told(&broken).contains("globex.toml:1:"), "{}", told(&broken));
    alice_writes(&lab, &node, "dave", "still here");
    node.stop();
}
