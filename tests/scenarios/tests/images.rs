//! Images: a third one, made by the contract alone, and all of them as OCI image layouts that standard tools understand.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use warren_lab::{Lab, LabConfig, Message};
use warren_scenarios::corpus::note;
use warren_scenarios::images::{add, built, copies, workspace};
use warren_scenarios::{Node, Setup, Tenant};

const ALICE: &str = "alice@acme.example";
const LONG: Duration = Duration::from_secs(60);

fn subject(text: &str) -> impl Fn(&Message) -> bool {
    move |m| m.header("Subject").as_deref() == Some(text)
}

/// Runs a program; what it prints.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_contract_is_all_that_an_image_must_know() {
    let images = copies(&["msa"]);
    add(images.path(), "tiny", "tiny/main.rs");
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let mut acme = Tenant::new("acme", "alice").forward("info", &["erin@plain.example"]);
    acme.extra = "image = \"tiny\"".into();
    let setup =
        Setup { tenants: vec![acme, Tenant::globex()], images: Some(images.path().to_owned()), ..Setup::default() };
    let node = Node::start(&lab, &setup);
    let asleep = || node.wait_until("sleep", || (node.state_of("acme").as_deref() == Some("asleep")).then_some(()));

    // Submission, with the fix-ups of RFC 6409.
    let letter = [b"Bcc: hidden@plain.example\r\n".as_slice(), &note(ALICE, "one")].concat();
    let sent = node.submit(ALICE, ALICE, &["dave@plain.example"], 587, &letter);
    assert!(sent.accepted, "{}", sent.text);
    let got = lab.mailbox("plain.example", "dave").wait_for(subject("one"), LONG).unwrap();
    assert!(got.has_body_of(&letter));
    assert!(got.header("Date").is_some() && got.header("Message-ID").is_some() && got.header("Bcc").is_none());

    // Nobody writes as somebody else.
    let forged = node.submit(ALICE, ALICE, &["dave@plain.example"], 587, &note("carol@globex.example", "forged"));
    assert!(!forged.accepted && forged.text.contains("5.7.1"), "{}", forged.text);

    // Forwarded mail, with nothing changed but what is on top.
    let letter = note("someone@plain.example", "two");
    let replies = node.inject("someone@plain.example", &["info@acme.example"], &letter).unwrap();
    assert!(replies.iter().all(|r| r.starts_with("250")), "{replies:?}");
    let got = lab.mailbox("plain.example", "erin").wait_for(subject("two"), LONG).unwrap();
    assert!(got.ends_with(&letter), "{}", String::from_utf8_lossy(&got.raw));

    // Deferred: it sleeps until it is due, is woken for that, and sleeps.
    let sent = node.submit(ALICE, ALICE, &["later@later.example"], 465, &note(ALICE, "three"));
    assert!(sent.accepted, "{}", sent.text);
    asleep();
    lab.mailbox("later.example", "later").wait_for(subject("three"), LONG).unwrap();
    asleep();

    // Its sessions are recorded like any other's.
    let sessions = node.ask(&["sessions", "--tenant", "acme"]);
    assert!(sessions.lines().filter(|line| line.contains("198.51.100.")).count() >= 3, "{sessions}");
    node.stop();
}

#[test]
fn images_are_oci_layouts_and_come_back_from_them() {
    let images = copies(&["msa", "postfix"]);
    for name in ["msa", "postfix"] {
        let image = images.path().join(name);
        let layout = format!("oci:{}:latest", image.join("oci").display());
        let told = run(Command::new("skopeo").arg("inspect").arg(&layout));
        assert!(told.contains("warren.image") && told.contains("\"Os\": \"linux\""), "{told}");
        run(Command::new("umoci").args(["stat", "--image"]).arg(format!("{}:latest", image.join("oci").display())));

        // The same image makes the same bytes.
        let digest = |of: &Path| std::fs::read(of.join("oci/index.json")).unwrap();
        let before = digest(&image);
        run(Command::new(workspace().join("msa-image/oci")).arg(&image));
        assert_eq!(digest(&image), before);

        // Through another tool and back: the same files, rights, owners, and the same to run.
        let elsewhere = images.path().join(format!("{name}-pushed"));
        run(Command::new("skopeo").arg("copy").arg(&layout).arg(format!("oci:{}:v1", elsewhere.display())));
        let back = images.path().join(format!("{name}-back"));
        let import = workspace().join("msa-image/import");
        run(Command::new(&import).arg(format!("{}:v1", elsewhere.display())).arg(&back));
        assert_eq!(listing(&back.join("rootfs")), listing(&image.join("rootfs")));
        let compact = |of: &Path| run(Command::new("jq").arg("-cS").arg(".").arg(of.join("image.json")));
        assert_eq!(compact(&back), compact(&image));

        let missing = Command::new(&import).arg(format!("{}:v2", elsewhere.display())).arg(&back).output().unwrap();
        assert!(!missing.status.success());
        assert!(String::from_utf8_lossy(&missing.stderr).contains("no image with the tag v2"));
    }
    assert!(built().join("msa/oci/oci-layout").is_file());
}

/// Every file with its kind, rights, owners, target and content.
fn listing(root: &Path) -> String {
    let files = "find . -printf '%p %y %m %U %G %l\\n' | sort; find . -type f -exec sha256sum {} + | sort -k2";
    run(Command::new("sh").arg("-c").arg(files).current_dir(root))
}
