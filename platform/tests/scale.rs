//! A hundred thousand tenants, all asleep: what they cost the platform, and what a change of one of them costs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fmt::Write as _, fs, path::Path, sync::Arc, time::Instant};

use warren_launcher_api::TenantName;
use warren_platform::{
    books::Books,
    fleet::{self, Doors, Setup, policy::Policy},
    suspended::Suspended,
};

const TENANTS: usize = 100_000;
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";
/// Of the whole process, with everything that it holds.
const MOST_MIB: usize = 200;

fn file(n: usize, more: &str) -> String {
    let mut text = format!("domains = [\"tenant{n}.example\"]\n[accounts]\n");
    for account in ["alice", "bob"] {
        writeln!(text, "{account} = {HASH:?}").unwrap();
    }
    writeln!(text, "[forward]\ninfo = [\"someone@elsewhere{n}.example\"]\n{more}").unwrap();
    text
}

fn resident_mib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() >> 10
}

fn write(directory: &Path, n: usize, more: &str) {
    fs::write(directory.join(format!("tenants/tenant{n}.toml")), file(n, more)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_tenants_asleep() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("tenants")).unwrap();
    fs::write(
        directory.path().join("warren.toml"),
        "hostname = \"mail.example.net\"\n[egress]\naddresses = [\"203.0.113.10\"]\n",
    )
    .unwrap();
    (0..TENANTS).for_each(|n| write(directory.path(), n, ""));

    let began = Instant::now();
    let books = Arc::new(Books::open(directory.path()).unwrap());
    let read = began.elapsed();
    let names: Vec<TenantName> = books.current().directory.tenants().map(|tenant| tenant.name.clone()).collect();
    assert_eq!(names.len(), TENANTS);
    let register = {
        let books = Arc::clone(&books);
        Arc::new(move |tenant: &_| books.current().launch(tenant))
    };
    let setup = Setup {
        launcher: directory.path().join("launcher.sock"),
        store: directory.path().join("due.jsonl"),
        suspended: Arc::new(Suspended::open(&directory.path().join("suspended")).unwrap()),
        start_deadline: books.current().node.fleet.start_deadline,
        policy: Policy::default(),
        doors: Doors::default(),
    };
    let handle = fleet::start(setup, register, &names).unwrap();
    drop(names);
    assert_eq!(handle.status().await.unwrap().awake, 0);
    let resident = resident_mib();
    assert!(resident <= MOST_MIB, "{resident} MiB for {TENANTS} tenants asleep");

    let before = books.current();
    write(directory.path(), 77_777, "sales = [\"someone@elsewhere.example\"]");
    write(directory.path(), 55_555, "");
    let began = Instant::now();
    let changes = books.reload().unwrap();
    let reload = began.elapsed();
    // A forward is nothing to a running MSA, and all others are what they were, not equals of it.
    assert_eq!(changes, fleet::Changes::default());
    let others: Vec<_> = before
        .directory
        .differences(&books.current().directory)
        .map(|(_, new)| new.unwrap().name.to_string())
        .collect();
    assert_eq!(others, ["tenant77777"]);
    println!("{TENANTS} tenants: read in {read:.2?}, {resident} MiB in all; one changed: read again in {reload:.2?}");
}
